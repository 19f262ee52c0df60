"""Gates of frequency groups, learned on validation data, decide what is pruned; stored as `pruned`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ._pruning import Pruning
from .base import Stage


class AutoSrh(Pruning):
    """AutoSrh (Kong et al., TKDE 2023): a row is its weights times the gates of its frequency group, one a dim.

    After a warm-up with all gates 1, `search` alternates: a training batch teaches the weights, a validation batch the
    gates. Those have an update of their own: the gradient plus `l1`, divided by its mean magnitude in the group, times
    `gate_lr`, and then they are cut to [0, 1]. The second-order term of the bilevel problem is left out. After the
    search the products of weight and gate that are largest in magnitude over the whole table stay, the gates stand
    still, and `retrain` teaches the weights that are left.

    The paper prunes after retraining and stops. Here the mask is decided before: at small budgets most values go, and
    the others have to learn to do without them.

    Options
    -------
    groups : how many groups of ids by frequency, of equal size; or the share of each, the most frequent first. Ids of
        equal counts stay together, in the group of the middle one.
    blocks : gates of a group, each of a run of dims; None for one a dim.
    gate_lr, l1 : learning rate of the gates; weight of the sum of their magnitudes.
    """

    id: ClassVar[str] = "autosrh"
    prunes: ClassVar[str] = "search"
    needs_counts: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Any]] = {**Pruning.options, "groups": 6, "blocks": None, "gate_lr": 1e-3, "l1": 1e-5}

    gates: Tensor
    group: Tensor
    block: Tensor

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        super()._build(counts)
        if counts is None:
            raise ConfigError(f"method {self.id!r} needs counts, how often each id occurs; pass counts=")
        self._check_number("blocks", 1)
        self._check_number("gate_lr", 0, (int, float))
        self._check_number("l1", 0, (int, float))
        shares = self._shares()
        blocks = min(self.option["blocks"] or self.embedding_dim, self.embedding_dim)
        self.register_buffer("gates", torch.ones(len(shares), blocks))
        self.register_buffer("group", torch.from_numpy(frequency_groups(counts, shares)))
        self.register_buffer("block", torch.arange(self.embedding_dim) * blocks // self.embedding_dim, persistent=False)
        self._leaf: Tensor | None = None

    def _shares(self) -> tuple[float, ...]:
        """The share of ids in each group."""
        groups = self.option["groups"]
        if type(groups) is int and 1 <= groups <= 256:
            return (1 / groups,) * groups
        if not isinstance(groups, (tuple, list)) or not 1 <= len(groups) <= 256 or abs(sum(groups) - 1) > 1e-6:
            raise ConfigError(
                f"groups of {self.id} must be an integer from 1 to 256 or shares that add up to 1, found {groups!r}; "
                f"the default is {self.options['groups']}"
            )
        return tuple(groups)

    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage("warm-up", advice="a quarter of the uncompressed model's training or more"),
            Stage("search", needs="validation", advice="a validation batch after each one of training data"),
            Stage("retrain", advice="as the uncompressed model"),
        )

    def values(self, ids: Tensor) -> Tensor:
        weight, gates = self.weight, self.gates
        if self._leaf is not None:
            weight, gates = weight.detach(), self._leaf
        own = gates.index_select(1, self.block).index_select(0, self.group.index_select(0, ids).int())
        return nn.functional.embedding(ids, weight) * own

    def scores(self) -> Tensor:
        return self.values(torch.arange(self.num_embeddings, device=self.weight.device)).abs()

    def before_step(self, step: int, validation: bool = False) -> None:
        self._leaf = self.gates.clone().requires_grad_() if validation and not self.pruned else None

    def after_step(self, step: int) -> None:
        super().after_step(step)
        leaf, self._leaf = self._leaf, None
        if leaf is not None and leaf.grad is not None:
            gradient = leaf.grad + self.option["l1"]
            gradient /= gradient.abs().mean(dim=1, keepdim=True) + 1e-8
            self.gates.sub_(gradient, alpha=self.option["gate_lr"]).clamp_(0, 1)


def frequency_groups(counts: npt.NDArray[Any], shares: Sequence[float]) -> npt.NDArray[np.uint8]:
    """The group of each id, 0 the most frequent; equal counts share the group of the middle one of them."""
    key = -counts.astype(np.float64)
    order = np.sort(key)
    middle = (np.searchsorted(order, key) + np.searchsorted(order, key, side="right") - 1) / 2
    ends = np.rint(np.cumsum(shares)[:-1] * len(counts))
    return np.searchsorted(ends, middle, side="right").astype(np.uint8)
