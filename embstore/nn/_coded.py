"""Modules whose weights a table stores as codes: float32 in training, in evaluation what the codes stand for."""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..methods._table_rows import RowCoding
from .base import CompressedEmbedding

F32 = npt.NDArray[np.float32]


class CodedEmbedding(CompressedEmbedding):
    """Subclasses read each stored weight through `_read`, and say in `_round_trip` what storing makes of it."""

    @abc.abstractmethod
    def _round_trip(self, values: F32) -> F32:
        """Weights to their stored form and back."""

    @property
    @abc.abstractmethod
    def _coded(self) -> bool:
        """Whether the weights are stored as codes."""

    def _read(self, weights: Tensor) -> Tensor:
        if self.training or not self._coded:
            return weights
        decoded = self._decoded_weights(weights)
        if torch.is_grad_enabled() and weights.requires_grad:
            return _Through.apply(weights, decoded)
        return decoded

    # numpy makes the codes, which is not torch's to trace.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _decoded_weights(self, weights: Tensor) -> Tensor:
        # Decoded again only when the weights have changed, by the count that torch keeps of their changes.
        made: dict[int, tuple[Any, Tensor]] = self.__dict__.setdefault("_decoded", {})
        state = (weights.data_ptr(), weights._version, weights.device, weights.dtype)
        if id(weights) not in made or made[id(weights)][0] != state:
            values = self._round_trip(weights.detach().float().cpu().numpy())
            made[id(weights)] = state, torch.from_numpy(values).to(weights)
        return made[id(weights)][1]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_decoded"}


class CodedTables(CodedEmbedding):
    """Of the storage methods whose `coding` says how rows of their tables are stored."""

    @property
    def _coding(self) -> RowCoding:
        method: Any = self.method
        found: RowCoding = method.coding
        return found

    @property
    def _coded(self) -> bool:
        return self._coding.coded

    def _round_trip(self, values: F32) -> F32:
        return self._coding.decode(self._coding.encode(values), values.shape[1])


class _Through(torch.autograd.Function):
    """The decoded values, whose gradient goes to the weights as if they were the same."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, decoded: Tensor) -> Tensor:
        return decoded.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
