"""Gradual magnitude pruning while training; stored as `pruned`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ._pruning import Gradual, largest
from .base import Stage


class DeepLight(Gradual):
    """DeepLight (Deng et al., WSDM 2021): the smallest weights of the whole table become zero, more and more of them.

    Pruned weights may grow back between two decisions; at the end of the stage the mask is decided and stays.

    Options
    -------
    steps, warm_up, every : see `Gradual`.
    regrow : False masks pruned weights for good. What grows back is partly the work of Adam's moments, which go on
        moving a weight that was set to zero, partly of gradients that want it: on balance the better for it.
    """

    id: ClassVar[str] = "deeplight"
    prunes: ClassVar[str] = "prune"
    # What is left has the last quarter to learn to do without the others.
    schedule: ClassVar[tuple[float, float]] = (0.25, 0.5)
    options: ClassVar[Mapping[str, Any]] = {**Gradual.options, "regrow": True}

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("prune", advice="as the uncompressed model; tell begin_stage how many steps that is"),)

    def scores(self) -> Tensor:
        return torch.where(self.mask, self.weight.abs(), -1)

    def prune_to(self, kept: int) -> None:
        keep = largest(self.scores(), kept)
        if self.option["regrow"]:
            self.weight.masked_fill_(~keep, 0)
        else:
            self.mask.copy_(keep)
