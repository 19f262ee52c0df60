"""The first version of `AutoSrh`, with gates of blocks of dims; stored as `pruned`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .autosrh import AutoSrh
from .base import Stage


class Dnis(AutoSrh):
    """DNIS (Cheng, Shen and Huang, 2020): `AutoSrh` that searches from the first step on, without warm-up, with a gate
    for each of four blocks of dims, five groups of unequal sizes, and no weight on the magnitudes of gates.
    """

    id: ClassVar[str] = "dnis"
    options: ClassVar[Mapping[str, Any]] = {
        **AutoSrh.options,
        "groups": (0.1, 0.2, 0.2, 0.2, 0.3),
        "blocks": 4,
        "l1": 0.0,
    }

    def stages(self) -> tuple[Stage, ...]:
        return super().stages()[1:]
