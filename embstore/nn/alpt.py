"""Low-precision training with a learned step for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy.typing as npt
import torch
from torch import Tensor

from .. import registry
from ..errors import ConfigError
from ..method import RowMethod
from ._low_precision import REACH, LowPrecision
from .base import Asked, array


class ALPT(LowPrecision):
    """Adaptive low-precision training (Li et al., AAAI 2023): integer codes and a step Delta per row, both learned.

    After a step of the optimizer the rows are floats w for a moment. The gradient of Delta is that of learned step
    size quantization (LSQ): the upstream gradient times round(w / Delta) - w / Delta, or ± the largest code where w is
    beyond it, summed over the row. Delta moves against it, and w is rounded to multiples of the new Delta,
    stochastically.

    As in the paper the upstream gradient comes from a second forward pass of the same batch at the nearest multiples of
    Delta: call `second_pass(loss)` after each step of the optimizer. A loop that does not call it gets Delta's
    gradient from the gradient of the first pass, which is one step old, at no cost.

    Options
    -------
    bits : 8 or 16.
    first_step : Delta at the start; None for 1.27 / the largest code.
    step_lr : learning rate of Delta, on LSQ's scale 1 / sqrt(ids in the batch * dim * largest code). Delta moves by at
        most a tenth of itself at once: it has no optimizer that would bound a rare large gradient.
    sparse : see `OneStep`.
    """

    id: ClassVar[str] = "alpt"
    options: ClassVar[Mapping[str, Any]] = {"bits": 8, "first_step": None, "step_lr": 100.0, "sparse": False}

    @classmethod
    def _codes(cls, asked: Asked) -> RowMethod:
        bits = asked.option["bits"]
        if bits not in (8, 16):
            raise ConfigError(f"bits of alpt must be 8 or 16, found {bits!r}; choose one")
        if asked.config:
            raise ConfigError(
                f"'alpt' has {', '.join(cls.options)}, found the unknown field {next(iter(asked.config))!r}; drop it"
            )
        return registry.get(f"int{bits}").from_config({"symmetric": True, "scale_dtype": "float32"})

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        bits = int(self.option["bits"])
        first = self.option["first_step"] or REACH / (2 ** (bits - 1) - 1)
        self._build_rows(bits, torch.full((self.num_embeddings, 1), float(first)))
        self._least = float(first) / 1000
        self._leaf: Tensor | None = None
        self._ids = 1

    def rows(self, ids: Tensor) -> Tensor:
        if self._leaf is None:
            self._ids = max(len(ids), 1)
            return super().rows(ids)
        step = self._leaf.detach()[ids]
        codes, residual = _nearest(self.store.rows(ids), step, self.store.top)
        return codes * step + residual * (self._leaf[ids] - step)

    def begin_second_pass(self) -> list[Tensor]:
        if self.store.pending is None:
            return []
        self._leaf = self.store.step.detach().clone().requires_grad_()
        return [self._leaf]

    def end_second_pass(self, gradients: Sequence[Tensor | None]) -> None:
        self._leaf = None
        self._move(gradients[0])
        self.store.settle()

    def after_step(self, step: int) -> None:
        floats, upstream = self.store.floats(), self.weight.grad
        if floats is not None and upstream is not None:
            ids = floats[0]
            if upstream.is_sparse:
                upstream = upstream.coalesce().values()
            residual = _nearest(floats[1], self.store.step_of(ids), self.store.top)[1]
            found = (upstream * residual).sum(1, keepdim=True)
            whole = found if ids is None else torch.zeros_like(self.store.step).index_copy_(0, ids, found)
            self._move(whole)
        self.store.settle()

    def _move(self, gradient: Tensor | None) -> None:
        """One step of Delta against its gradient, (num_embeddings, 1)."""
        if gradient is not None:
            rate = float(self.option["step_lr"]) / (self._ids * self.embedding_dim * self.store.top) ** 0.5
            bound = self.store.step / 10
            self.store.step.sub_((gradient * rate).clamp(-bound, bound)).clamp_(min=self._least)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        self.store.settle()
        return {"codes": array(self.store.codes), "scale": array(self.store.step.float())}


def _nearest(values: Tensor, step: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The nearest codes of values, and the derivative of code * step with respect to the step."""
    quotient = values / step
    codes = quotient.round().clamp(-top, top)
    return codes, torch.where(quotient.abs() > top, codes, codes - quotient)
