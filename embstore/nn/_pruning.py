"""Shared by deeplight, pep, autosrh and dnis: a weight for each value, and a mask of those that a budget pays for."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..method import Method, nbytes
from ..methods.pruned import Pruned
from ._all_fields import AllFields
from .base import Asked, array

# Where 0.99^(t / 100) is a thousandth.
SETTLED = 68_732


class Pruning(AllFields):
    """Base of the modules that are stored as `pruned`.

    One mask over the whole table, so over all fields, keeps as many values as the method's density allows: exactly so
    many, of equal scores the first, so that the stored bytes are known from the start. Rows are masked in the forward
    pass, so Adam's moments, which go on moving a pruned weight, cannot bring it back. In evaluation mode rows are
    rounded as they are stored.

    Subclasses define `stages`, `prunes`, `scores` and, where a row is more than its weights, `values`.
    """

    # The stage at whose end the mask is decided.
    prunes: ClassVar[str]

    mask: Tensor

    @classmethod
    def solve(cls, asked: Asked) -> Method:
        fields = asked.option["fields"] or ()
        method = super().solve(asked)
        if asked.limit is None or not _more_starts(cast(Pruned, method), fields):
            return method
        # No index has more starts that fields do not share than there are fields.
        return super().solve(dataclasses.replace(asked, limit=asked.limit - _start_bytes(method) * len(fields)))

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        self._stage = self._step = self._steps = 0
        self._seed = self._generator.initial_seed() % 2**63
        self.weight = nn.Parameter(self._first_values())
        self.register_buffer("mask", torch.ones(self.num_embeddings, self.embedding_dim, dtype=torch.bool))

    def _first_values(self) -> Tensor:
        """The initial weights, U(±sqrt(1 / rows)) in each field: the same whenever they are drawn."""
        generator = torch.Generator().manual_seed(self._seed)
        values = torch.empty(self.num_embeddings, self.embedding_dim).uniform_(-1, 1, generator=generator)
        for part in values.split(self.field_sizes):
            part.mul_(max(len(part), 1) ** -0.5)
        return values

    # What a subclass defines -----------------------------------------------------------------------------------

    @abc.abstractmethod
    def scores(self) -> Tensor:
        """What decides who stays, (num_embeddings, embedding_dim): the values of largest score do."""

    def values(self, ids: Tensor) -> Tensor:
        """Rows (n, embedding_dim) before the mask."""
        return nn.functional.embedding(ids, self.weight)

    # Training --------------------------------------------------------------------------------------------------

    @property
    def pruned(self) -> bool:
        """Whether the mask is decided."""
        return self._stage > [stage.name for stage in self.stages()].index(self.prunes)

    @property
    def kept(self) -> int:
        """How many values are kept in the end."""
        return int(self.method.free_sizes(self.shape)["kept"])

    def begin_stage(self, name: str, steps: int | None = None) -> None:
        self._steps = steps or 0

    def after_step(self, step: int) -> None:
        self._step += 1

    def end_of_stage(self, name: str) -> None:
        """Raises `ConfigError` where another stage comes first."""
        names = [stage.name for stage in self.stages()]
        if self._stage == len(names):
            return
        if name != names[self._stage]:
            wanted = names[self._stage]
            raise ConfigError(f"the stage of {self.id!r} must be {wanted!r}, found {name!r}; end that first")
        if name == self.prunes:
            with torch.no_grad():
                self.mask.copy_(largest(self.scores(), self.kept))
        self._stage, self._step, self._steps = self._stage + 1, 0, 0

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self._stage, self._step, self._steps, self._seed])

    def set_extra_state(self, state: Tensor) -> None:
        self._stage, self._step, self._steps, self._seed = state.tolist()

    # Use -------------------------------------------------------------------------------------------------------

    def rows(self, ids: Tensor) -> Tensor:
        rows = torch.where(self.mask.index_select(0, ids), self.values(ids), 0)
        return rows if self.training else self._stored(rows)

    def _stored(self, rows: Tensor) -> Tensor:
        """Rows as a lookup gives them: the operations of `Pruned` in their order, so that no bit differs."""
        kind = cast(Pruned, self.method).values
        if kind == "float32":
            return rows
        if kind == "float16":
            return rows.half().to(rows.dtype)
        # Divided by a tensor: some devices multiply by the reciprocal of a number.
        scale = (rows.abs().amax(dim=1, keepdim=True) / torch.full_like(rows[:1, :1], 127)).half()
        usable = torch.isfinite(scale) & (scale > 0)
        step = torch.where(usable, scale, 1).to(rows.dtype)
        return torch.where(usable, (rows / step).round().clamp(-127, 127) * step, 0) + 0.0

    def nbytes_inference(self) -> int:
        method = cast(Pruned, self.method)
        return nbytes(method, self.shape) + _start_bytes(method) * _more_starts(method, self.field_sizes)

    def part(self, first: int, last: int) -> tuple[Method, dict[str, npt.NDArray[Any]]]:
        """Raises `ConfigError` before the mask is decided, and for values that float16 cannot hold."""
        if not self.pruned:
            raise ConfigError(
                f"{self.id!r} is exported after its stage {self.prunes!r}, found that unfinished; call "
                f"end_of_stage({self.prunes!r}) first"
            )
        keep = self.mask[first:last]
        values = torch.where(keep, self.values(torch.arange(first, last, device=keep.device)), 0)
        rows, kept = array(values.float()), int(keep.sum())
        method = cast(Pruned, self.method)
        if last - first < self.num_embeddings:
            method = dataclasses.replace(method, density=_density(kept, keep.numel()))
        packed = method.pack(array(keep), rows, np.arange(last - first))
        method.check_encoded(packed, rows, first)
        return method, packed

    # For subclasses --------------------------------------------------------------------------------------------

    def _check_number(self, name: str, low: float, kind: type | tuple[type, ...] = int) -> None:
        """Refuse an option that is no number of at least `low`; None passes where it is the default."""
        found = self.option[name]
        if found is None and self.options[name] is None:
            return
        if isinstance(found, bool) or not isinstance(found, kind) or not low <= cast(float, found) < np.inf:
            what = "an integer" if kind is int else "a number"
            raise ConfigError(
                f"{name} of {self.id} must be {what} from {low} on, found {found!r}; the default is "
                f"{self.options[name]}"
            )


class Gradual(Pruning):
    """Base of deeplight and pep, which prune more and more.

    After a warm-up, every `every` steps, the sparsity becomes S (1 - 0.99^(t / 100)), the adaptive sparse rate of
    DeepLight, t counting from the end of the warm-up, S being the sparsity in the end. That comes within a thousandth
    of S after 68,732 steps: `steps` stretches or shrinks t so that it takes as many. A stage that ends early prunes the
    rest at one blow.

    Options
    -------
    warm_up : steps before the first pruning; None for the first of the shares `schedule` of the steps that
        `begin_stage` is told, or 0.
    steps : of the schedule, until it is within a thousandth of S; None for the second of these shares, or 68,732.
    every : steps between two decisions, each of which orders all values of the table.
    """

    options: ClassVar[Mapping[str, Any]] = {**Pruning.options, "steps": None, "warm_up": None, "every": 10}
    schedule: ClassVar[tuple[float, float]]

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        super()._build(counts)
        self._check_number("steps", 1)
        self._check_number("warm_up", 0)
        self._check_number("every", 1)

    @abc.abstractmethod
    def prune_to(self, kept: int) -> None:
        """Prune for the time being, so that `kept` values are left."""

    def after_step(self, step: int) -> None:
        super().after_step(step)
        warm_up = self.option["warm_up"]
        past = self._step - (int(self._steps * self.schedule[0]) if warm_up is None else warm_up)
        if not self.pruned and past > 0 and past % self.option["every"] == 0:
            with torch.no_grad():
                self.prune_to(self._kept_after(past))

    def _kept_after(self, steps: int) -> int:
        settled = float(self.option["steps"] or self._steps * self.schedule[1] or SETTLED)
        cells: int = self.weight.numel()
        return cells - int((cells - self.kept) * (1 - 0.99 ** (steps * SETTLED / settled / 100)))


def largest(scores: Tensor, kept: int) -> Tensor:
    """A mask of the `kept` largest scores; of equal ones the first. NaN is the largest."""
    if not 0 < kept < scores.numel():
        return torch.full_like(scores, kept > 0, dtype=torch.bool)
    scores = torch.where(scores.isnan(), torch.inf, scores)
    least = scores.flatten().kthvalue(scores.numel() - kept + 1).values
    mask = scores > least
    ties = (scores == least).flatten().nonzero()[:, 0]
    mask.view(-1)[ties[: kept - int(mask.sum())]] = True
    return mask


def _more_starts(method: Pruned, fields: Sequence[int]) -> int:
    """How many starts tables of the fields have more than one table of all rows."""
    run = method.rows_per_start
    return sum(-(-rows // run) for rows in fields) - -(-sum(fields) // run)


def _start_bytes(method: Method) -> int:
    return np.dtype(cast(Pruned, method).start_dtype).itemsize


def _density(kept: int, cells: int) -> float:
    """A density with which `Pruned` keeps so many of so many values; above 0 where none are kept."""
    found = max(kept, 0.5) / cells
    return found if int(found * cells) == kept else float(np.nextafter(found, 2))
