"""Fields that are decided together: what a method of learned or unequal dimensions tells `FieldEmbedding`."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..arrays import TableShape

if TYPE_CHECKING:
    from .base import CompressedEmbedding

LAST = 2.0**-40  # the width of the last interval of a bisection


class Joint(abc.ABC):
    """The decisions of a method over all fields; a module class names its own as `joint`.

    Parameters
    ----------
    fields : the modules of the fields that are compressed, or the one module of a single table.
    limit : bytes of their tables together; None for no limit.
    seed : of random decisions.
    """

    def __init__(self, fields: Sequence[CompressedEmbedding], limit: int | None, seed: int) -> None:
        self.fields, self.limit, self.seed = list(fields), limit, seed

    @classmethod
    @abc.abstractmethod
    def plan(
        cls, shapes: Sequence[TableShape], limit: int | None, config: Mapping[str, Any]
    ) -> list[dict[str, Any] | None]:
        """The config of each field's module; None leaves the field full. `BudgetError` names the floor."""

    # As the hooks of `CompressedEmbedding`, called once for all fields.

    def end_of_stage(self, name: str) -> None:  # noqa: B027 - a rule decides nothing later
        """Decide what a stage was for."""

    def candidates(self) -> Iterator[Any]:
        """What is to be evaluated, put in force one after the other."""
        return iter(())

    def score(self, candidate: Any, value: float) -> None:  # noqa: B027 - most ask for no scores
        """The value of a candidate."""


def least(fits: Callable[[float], bool], tolerance: float = LAST) -> float:
    """The least t in [0, 1] that fits, within `tolerance`, where 1 fits and whatever is above what fits does too."""
    if fits(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while high - low > tolerance:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
