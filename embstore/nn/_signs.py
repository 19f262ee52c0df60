"""The signs of embstore/methods/_signs.py in torch."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import torch
from torch import Tensor

from ..method import Method
from ..methods._signs import SignedTables, hadamard
from ._coded import CodedTables
from .base import Asked


class SignedEmbedding(CodedTables):
    """Of the storage methods that are `SignedTables`: rows are shared under different signs unless sign=False."""

    @classmethod
    def solve(cls, asked: Asked) -> Method:
        return super().solve(dataclasses.replace(asked, config={"sign": True, **asked.config}))

    @property
    def _signed(self) -> bool:
        return cast(SignedTables, self.method).sign

    def _build_signs(self) -> None:
        if self._signed:  # known from the shape: no part of state_dict
            self.register_buffer("signs", torch.from_numpy(hadamard(self.embedding_dim).copy()), persistent=False)

    def _with_signs(self, rows: Tensor, patterns: Tensor) -> Tensor:
        signs: Any = self.signs
        return rows * signs[patterns & (len(signs) - 1)]
