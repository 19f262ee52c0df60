"""Shared by float32, float16, bfloat16: one value per element, array `values`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..method import FloatRows, Ids, Named, RowMethod


@dataclass(frozen=True)
class FloatMethod(RowMethod):
    """No config: the element type says all."""

    dtype: ClassVar[str]

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        return (ArraySpec("values", self.dtype, (shape.num_embeddings, shape.embedding_dim), "rows"),)

    def encode(self, shared: Mapping[str, npt.NDArray[Any]], ids: Ids, rows: FloatRows) -> Named:
        return {"values": rows.astype(self.dtype)}

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        out[:] = arrays["values"][ids - arrays.start]
