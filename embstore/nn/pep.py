"""Learned thresholds decide what is pruned; stored as `pruned`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ._pruning import Gradual
from .base import Stage

PER = ("global", "dim", "field", "field-dim", "feature", "feature-dim")


class Pep(Gradual):
    """PEP (Liu et al., ICLR 2021): a value is sign(v) relu(|v| - g), its threshold g = scale * sigmoid(s), s learned.

    In `search` weights v and thresholds s are trained together; what is above its threshold in the end is kept. Then
    all weights get their initial values again, as the layers around the module should, and `retrain` teaches those that
    are kept (a lottery ticket).

    Nothing in PEP leads thresholds to a budget. So `scale`, a constant there, grows: at every decision it becomes what
    leaves as many values above their thresholds as the schedule allows. s decides who goes, the schedule how many. And
    s begins at 0, where a sigmoid moves most: from the -150 of one implementation it would never move, its gradient
    being 0 in float32. A value below its threshold has no gradient either, so the warm-up matters: who is pruned before
    it has learned anything is lost.

    Options
    -------
    steps, warm_up, every : see `Gradual`.
    per : one threshold for all values ("global"), or one for each "dim", "field", "field-dim", "feature" (row) or
        "feature-dim" (value).
    rewind : False keeps the weights of the search for `retrain`, with their thresholds taken off.
    """

    id: ClassVar[str] = "pep"
    prunes: ClassVar[str] = "search"
    schedule: ClassVar[tuple[float, float]] = (0.5, 0.3)
    options: ClassVar[Mapping[str, Any]] = {**Gradual.options, "per": "dim", "rewind": True}

    scale: Tensor

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        super()._build(counts)
        per = self.option["per"]
        if per not in PER:
            raise ConfigError(f"per of pep must be one of {', '.join(map(repr, PER))}, found {per!r}; choose one")
        rows = {"field": len(self.field_sizes), "feature": self.num_embeddings}.get(per.split("-")[0], 1)
        self.thresholds = nn.Parameter(torch.zeros(rows, self.embedding_dim if per.endswith("dim") else 1))
        self.register_buffer("scale", torch.zeros(()))

    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage("search", advice="as the uncompressed model; tell begin_stage how many steps that is"),
            Stage("retrain", advice="as the uncompressed model", fresh=bool(self.option["rewind"])),
        )

    def _sigmoids(self, ids: Tensor) -> Tensor:
        """sigmoid(s) of rows `ids`, of a shape that broadcasts to theirs."""
        unit, found = self.option["per"].split("-")[0], torch.sigmoid(self.thresholds)
        if unit == "feature":
            return nn.functional.embedding(ids, found)
        if unit == "field":
            ends = torch.tensor(self.field_sizes, device=ids.device).cumsum(0)
            return nn.functional.embedding(torch.bucketize(ids, ends, right=True), found)
        return found

    def values(self, ids: Tensor) -> Tensor:
        values = super().values(ids)
        return values if self.pruned else self._shrunk(values, ids)

    def _shrunk(self, values: Tensor, ids: Tensor) -> Tensor:
        return values.sign() * torch.relu(values.abs() - self.scale * self._sigmoids(ids))

    def scores(self) -> Tensor:
        """The scale at which a value would be at its threshold."""
        ids = torch.arange(self.num_embeddings, device=self.weight.device)
        return self.weight.abs() / self._sigmoids(ids).clamp(min=1e-30)

    def prune_to(self, kept: int) -> None:
        if kept < self.weight.numel():
            self.scale.copy_(self.scores().flatten().kthvalue(self.weight.numel() - kept).values)

    def end_of_stage(self, name: str) -> None:
        searching = not self.pruned
        super().end_of_stage(name)
        if searching and self.pruned:
            with torch.no_grad():
                ids = torch.arange(self.num_embeddings, device=self.weight.device)
                self.weight.copy_(self._first_values() if self.option["rewind"] else self._shrunk(self.weight, ids))
