"""A small table that has every kind of array, and a method to compress with, neither of them from the product."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from embstore.arrays import ArraySpec, TableShape
from embstore.format import TableWriter
from embstore.method import RowMethod
from embstore.sources.base import Chunk


def specs_for(rows: int, dim: int) -> tuple[ArraySpec, ...]:
    return (
        ArraySpec("codes", "uint8", (rows, dim), "rows"),
        ArraySpec("affine", "float16", (rows, 1, 2), "rows"),
        ArraySpec("scalar", "int32", (rows,), "rows"),
        ArraySpec("book", "float32", (4, "k"), "shared"),
    )


def content(rows: int, dim: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "codes": rng.integers(0, 256, (rows, dim), dtype=np.uint8),
        "affine": rng.random((rows, 1, 2)).astype("f2"),
        "scalar": rng.integers(-9, 9, rows, dtype=np.int32),
        "book": rng.random((4, 7)).astype("f4"),
    }


def make(path: Path, rows: int = 3000, dim: int = 33, step: int = 701, seed: int = 0, **options: Any) -> dict[str, Any]:
    data = content(rows, dim, seed)
    with TableWriter(
        path,
        shape=TableShape(rows, dim),
        method_id="toy",
        method_version=1,
        config={"block": 33, "clip": 0.5},
        specs=specs_for(rows, dim),
        **options,
    ) as writer:
        writer.write_shared({"book": data["book"]})
        writer.beside.add_file("notes/readme.txt", b"a file")
        for at in range(writer.resume_row, rows, step):
            writer.append({n: data[n][at : at + step] for n in ("codes", "affine", "scalar")})
        writer.finish({"source": "x.npy"})
    return data


@dataclass(frozen=True)
class Toy(RowMethod):
    """Affine uint8 by row, in float32."""

    id: ClassVar[str] = "toy"
    block: int = 0

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        n = shape.num_embeddings
        return (
            ArraySpec("codes", "uint8", (n, shape.embedding_dim), "rows"),
            ArraySpec("affine", "float32", (n, 1, 2), "rows"),
        )

    def encode(self, shared: Any, ids: Any, rows: Any) -> dict[str, Any]:
        low, high = rows.min(1, initial=np.inf), rows.max(1, initial=-np.inf)
        scale = np.maximum((high - low) / np.float32(255), np.float32(1e-20))
        codes = np.rint((rows - low[:, None]) / scale[:, None]).astype(np.uint8)
        return {"codes": codes, "affine": np.stack([scale, low], 1)[:, None].astype(np.float32)}

    def lookup(self, arrays: Any, ids: Any, out: Any) -> None:
        at = ids - arrays.start
        out[:] = arrays["codes"][at] * arrays["affine"][at, :, 0] + arrays["affine"][at, :, 1]


@dataclass
class ArraySource:
    """A source in memory that can be made to stop."""

    values: np.ndarray
    after: Callable[[int], None] = lambda row: None
    name: str = "array"
    format: str = "array"
    dtype: str = "float32"
    key_type: str | None = None
    num_keys: int = 0
    subwords: Any = None
    fingerprint: str = "one"

    @property
    def shape(self) -> TableShape:
        return TableShape(*self.values.shape)

    def chunks(self, max_rows: int, start: int = 0) -> Iterator[Chunk]:
        for at in range(start, len(self.values), max_rows):
            self.after(at)
            yield Chunk(at, self.values[at : at + max_rows], None)

    def close(self) -> None: ...

    def __enter__(self) -> ArraySource:
        return self

    def __exit__(self, *exc: object) -> None: ...
