"""CAFE (Zhang et al., SIGMOD 2024, arXiv 2312.03256): rows of their own for ids that matter now; stored as `adapt`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..methods.adapt import Adapt as AdaptMethod
from ._hashing import reduce, scramble
from ._signs import SignedEmbedding
from .adapt import cold_rows, signed_cold
from .base import array

SLOTS = 4
MEAN_DECAY = 0.99


class Cafe(SignedEmbedding):
    """As `Adapt` with a list of hot ids, which a sketch finds while training: it needs no counts and follows drift.

    The sketch has a bucket for each hot row, of 4 slots: an id, its score and its hot row. The score of an id grows by
    the norm of its row's gradient, over the running mean of all. An id without a slot takes a free one of its bucket,
    or the one of least score among those without a row, whose score it inherits (SpaceSaving). From `threshold` on an
    id gets a free hot row, which begins as a copy of its shared row; an optimizer's state of that row is another id's.

    Options
    -------
    threshold : score that makes an id hot; about how many average gradients. 10 suits a half of the full table, 500 a
        thousandth.
    decay, decay_every : scores are multiplied by `decay` every so many steps; who then is below the threshold loses
        its row, and what it learned apart from the others.
    """

    id: ClassVar[str] = "cafe"
    preset: ClassVar[Mapping[str, Any]] = {"map": "hot_ids"}
    options: ClassVar[Mapping[str, Any]] = {"threshold": 10.0, "decay": 0.98, "decay_every": 1000}

    sketch_ids: Tensor
    sketch_scores: Tensor
    sketch_rows: Tensor
    mean_norm: Tensor

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        for name, low, high in (("threshold", 0, np.inf), ("decay", 0, 1), ("decay_every", 1, np.inf)):
            if not isinstance(self.option[name], (int, float)) or not low <= self.option[name] <= high:
                raise ConfigError(
                    f"{name} of cafe must be a number from {low} to {high}, found {self.option[name]!r}; the default "
                    f"is {self.options[name]}"
                )
        hot, cold = cast(AdaptMethod, self.method).rows
        self.table = self._uniform(hot + cold, self.embedding_dim, bound=self._bound)
        buckets = max(1, hot)
        self._build_signs()
        self.register_buffer("sketch_ids", torch.full((buckets, SLOTS), -1))
        self.register_buffer("sketch_scores", torch.zeros(buckets, SLOTS))
        self.register_buffer("sketch_rows", torch.full((buckets, SLOTS), -1))
        self.register_buffer("mean_norm", torch.zeros(()))

    def rows(self, ids: Tensor) -> Tensor:
        bucket = self._bucket(ids)
        found = torch.where(self.sketch_ids[bucket] == ids[:, None], self.sketch_rows[bucket], -1).amax(dim=1)
        at = torch.where(found >= 0, found, cold_rows(cast(AdaptMethod, self.method), ids))
        rows = nn.functional.embedding(at, self._read(self.table))
        if self._signed:
            rows = signed_cold(self, rows, ids, at)
        if self.training and rows.requires_grad:
            rows.register_hook(lambda grad: self._observe(ids, grad))
        return rows

    def _bucket(self, ids: Tensor) -> Tensor:
        # No seed of a shared row is 2**32 or more, so the two hashes differ.
        return reduce(scramble(ids, cast(AdaptMethod, self.method).seed + 2**32), len(self.sketch_ids))

    def _observe(self, ids: Tensor, grad: Tensor | None) -> None:
        """Add the norms of one backward pass to the sketch."""
        if grad is None:
            return
        norms = grad.detach().float().norm(dim=1)
        if not len(ids) or not torch.isfinite(norms).all():  # as when AMP's loss scale was too large
            return
        mean = norms.mean()
        self.mean_norm.copy_(
            torch.where(self.mean_norm > 0, torch.lerp(mean, self.mean_norm.float(), MEAN_DECAY), mean)
        )
        unique, inverse = torch.unique(ids, return_inverse=True)
        scores = torch.zeros(len(unique), device=norms.device).index_add_(0, inverse, norms)
        self._insert(unique, (scores / self.mean_norm.clamp(min=1e-30)).to(self.sketch_scores.dtype))

    def _insert(self, ids: Tensor, scores: Tensor) -> None:
        """Add scores of distinct ids to the sketch."""
        bucket = self._bucket(ids)
        match = self.sketch_ids[bucket] == ids[:, None]
        known = match.any(dim=1)
        slot = match.int().argmax(dim=1)
        self.sketch_scores[bucket[known], slot[known]] += scores[known]
        ids, scores, bucket = ids[~known], scores[~known], bucket[~known]
        while len(ids):
            # The first new id of each bucket, then the next ones.
            order = torch.argsort(bucket, stable=True)
            ids, scores, bucket = ids[order], scores[order], bucket[order]
            first = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
            first[1:] = bucket[1:] != bucket[:-1]
            at = bucket[first]
            # Free slots have the score 0; those with a row are not to be had.
            worth = torch.where(self.sketch_rows[at] >= 0, torch.inf, self.sketch_scores[at])
            least, slot = worth.min(dim=1)
            taken = torch.isfinite(least)
            at, slot = at[taken], slot[taken]
            self.sketch_ids[at, slot] = ids[first][taken]
            self.sketch_scores[at, slot] = least[taken] + scores[first][taken]
            ids, scores, bucket = ids[~first], scores[~first], bucket[~first]

    def after_step(self, step: int) -> None:
        with torch.no_grad():
            self._assign(step)

    def _assign(self, step: int) -> None:
        """Take rows from ids below the threshold where it is time to, and give free rows to the best without one."""
        if (step + 1) % self.option["decay_every"] == 0:
            self.sketch_scores.mul_(self.option["decay"])
            self.sketch_rows[self.sketch_scores < self.option["threshold"]] = -1
        hot = cast(AdaptMethod, self.method).rows[0]
        free = torch.ones(hot, dtype=torch.bool, device=self.sketch_rows.device)
        free[self.sketch_rows[self.sketch_rows >= 0]] = False
        rows = free.nonzero()[:, 0]
        wants = (self.sketch_rows < 0) & (self.sketch_ids >= 0) & (self.sketch_scores >= self.option["threshold"])
        places = wants.reshape(-1).nonzero()[:, 0]
        best = torch.argsort(self.sketch_scores.reshape(-1)[places], descending=True, stable=True)[: len(rows)]
        places, rows = places[best], rows[: len(best)]
        self.sketch_rows.view(-1)[places] = rows
        ids = self.sketch_ids.reshape(-1)[places]
        at = cold_rows(cast(AdaptMethod, self.method), ids)
        self.table[rows] = signed_cold(self, self.table[at], ids, at) if self._signed else self.table[at]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Hot rows that no id has are listed under ids beyond the table's: the list is of one size."""
        method = cast(AdaptMethod, self.method)
        hot = method.rows[0]
        owned = self.sketch_rows >= 0
        ids, rows = self.sketch_ids[owned].cpu(), self.sketch_rows[owned].cpu()
        free = torch.ones(hot, dtype=torch.bool)
        free[rows] = False
        others = free.nonzero()[:, 0]
        dtype = next(spec.dtype for spec in method.layout(self.shape) if spec.name == "hot_ids")
        if self.num_embeddings + len(others) - 1 > np.iinfo(dtype).max:
            raise ConfigError(
                f"cafe of {self.num_embeddings} rows must have used all hot rows, {len(others)} are free; train longer"
            )
        ids = torch.cat([ids, self.num_embeddings + torch.arange(len(others))])
        rows = torch.cat([rows, others])
        order = torch.argsort(ids)
        table = self.table.detach().cpu()
        return {
            "table": method.coding.encode(array(torch.cat([table[rows[order]], table[hot:]]))),
            "hot_ids": array(ids[order]).astype(dtype),
        }
