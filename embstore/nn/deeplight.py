"""Gradual magnitude pruning while training; stored as `pruned`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy.typing as npt
import torch
from torch import Tensor

from ._pruning import Pruning, largest
from .base import Stage


class DeepLight(Pruning):
    """DeepLight (Deng et al., WSDM 2021): the smallest weights of the whole table become zero, more and more of them.

    After a warm-up, every `every` steps, the share S (1 - 0.99^(t / 100)) of the values is set to zero, t counting from
    the end of the warm-up, S being the sparsity in the end. That comes within a thousandth of S after 68,732 steps:
    `steps` stretches or shrinks t so that it takes as many. Pruned weights may grow back between two decisions; at the
    end of the stage the mask is decided and stays. A training that ends early prunes the rest there at one blow.

    Options
    -------
    steps : of the schedule, until it is within a thousandth of S; None for half of those that `begin_stage` is told,
        or 68,732.
    warm_up : steps before the first pruning; None for a quarter of those that `begin_stage` is told, or 0.
    every : steps between two decisions, each of which orders all values of the table.
    regrow : False masks pruned weights for good. Grown back they are partly the work of Adam's moments, which go on
        moving a weight that was set to zero, partly of gradients that want them: on balance the better for it.
    """

    id: ClassVar[str] = "deeplight"
    prunes: ClassVar[str] = "prune"
    options: ClassVar[Mapping[str, Any]] = {
        **Pruning.options,
        "steps": None,
        "warm_up": None,
        "every": 10,
        "regrow": True,
    }

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        super()._build(counts)
        self._check_number("steps", 1)
        self._check_number("warm_up", 0)
        self._check_number("every", 1)

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("prune", advice="as the uncompressed model; tell begin_stage how many steps that is"),)

    def scores(self) -> Tensor:
        return torch.where(self.mask, self.weight.abs(), -1)

    def after_step(self, step: int) -> None:
        super().after_step(step)
        warm_up = self.option["warm_up"]
        past = self._step - (self._steps // 4 if warm_up is None else warm_up)
        if not self.pruned and past > 0 and past % self.option["every"] == 0:
            with torch.no_grad():
                keep = largest(self.scores(), self._kept_now(past))
                if self.option["regrow"]:
                    self.weight.masked_fill_(~keep, 0)
                else:
                    self.mask.copy_(keep)
