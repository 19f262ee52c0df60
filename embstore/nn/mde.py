"""Mixed-dimension embeddings (Ginart et al., ISIT 2021): see `embstore.methods.mixed_dim`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..arrays import TableShape
from ..errors import ConfigError
from ..method import Method
from ..methods._table_rows import check_table_dtype
from ..methods.mixed_dim import MixedDim, popular_dims
from ._coded import CodedTables
from ._joint import Joint, least
from ._narrow import check_floor, first_projection, narrow_arrays, narrow_nbytes
from .base import Asked, array

_ALPHA = 0.3  # the steepest of its own accord: beyond it one field keeps all values while another has next to none


class MdeFields(Joint):
    """Dimensions of fields by the popularity rule: a row of a field of n rows is used once in n samples.

    So the smallest field keeps all `embedding_dim` values, and one of n rows gets embedding_dim * (n_min / n) ** alpha.
    A budget raises alpha from 0 up to 0.3; where that is not enough, as for fields of like sizes, alpha stays there and
    all dimensions are multiplied by one factor, down to 1 value a row. A given alpha stays and the factor alone follows
    the budget. Fields that a narrow table with its projection does not make smaller stay full.
    """

    @classmethod
    def plan(
        cls, shapes: Sequence[TableShape], limit: int | None, config: Mapping[str, Any]
    ) -> list[dict[str, Any] | None]:
        taken = sorted(set(config) - {"alpha", "powers", "table_dtype"})
        if taken:
            raise ConfigError(
                f"mde of several fields has alpha, powers and table_dtype, found {taken[0]!r}; make each table alone"
            )
        dim, alpha, powers = shapes[0].embedding_dim, config.get("alpha"), config.get("powers", False)
        kind = config.get("table_dtype", "float32")
        popularity = 1.0 / np.array([shape.num_embeddings for shape in shapes])

        def at(t: float) -> npt.NDArray[np.int64]:
            """From all there is, t = 0, to the least, t = 1."""
            if alpha is not None:
                return popular_dims(popularity, dim, alpha, float(dim) ** (1 - 2 * t), powers)
            return popular_dims(popularity, dim, _ALPHA * min(1.0, 2 * t), float(dim) ** -max(0.0, 2 * t - 1), powers)

        def cost(dims: npt.NDArray[np.int64]) -> int:
            costs = (narrow_nbytes(shape, int(d), kind) for shape, d in zip(shapes, dims, strict=True))
            return sum(min(shape.nbytes_float32, c) for shape, c in zip(shapes, costs, strict=True))

        if limit is None:
            dims = popular_dims(popularity, dim, _ALPHA if alpha is None else alpha, 1.0, powers)
        else:
            check_floor("mde", cost(at(1.0)), limit)
            dims = at(least(lambda t: cost(at(t)) <= limit))
        return [
            {"dims": int(d), "table_dtype": kind} if narrow_nbytes(shape, int(d), kind) < shape.nbytes_float32 else None
            for shape, d in zip(shapes, dims, strict=True)
        ]


class Mde(CodedTables):
    """Narrow rows times a projection of their block, which starts as `first_projection` says.

    With `counts` the blocks are those of `mixed_dim`, by frequency. Several fields have a block each, whose dimensions
    are decided together: see `MdeFields`. Projections get a gradient from every row, so where they run ahead of the
    rows give them a smaller learning rate.

    Options
    -------
    dims : one block of rows of so many values, which needs no counts; so does blocks=1, for as many as the budget
        allows. None for blocks by frequency.
    table_dtype : "float32", "int8" or "int4", of the narrow tables, as `embstore.methods._table_rows.CodedTables` has
        it; the `values` of `mixed_dim`.
    """

    id: ClassVar[str] = "mde"
    preset: ClassVar[Mapping[str, Any]] = {"values": "float32"}
    options: ClassVar[Mapping[str, Any]] = {"dims": None, "table_dtype": "float32"}
    joint: ClassVar[type[Joint] | None] = MdeFields

    @classmethod
    def solve(cls, asked: Asked) -> Method:
        shape, dims, kind = asked.shape, asked.option["dims"], asked.option["table_dtype"]
        check_table_dtype(cls.id, kind)
        config = {**asked.config, "values": kind}
        if dims is not None:
            if type(dims) is not int or not 1 <= dims <= shape.embedding_dim:
                raise ConfigError(f"dims of mde must be from 1 to {shape.embedding_dim}, found {dims!r}; leave it out")
            if config.get("blocks", 1) != 1:
                raise ConfigError(f"dims of mde are those of one block, found blocks {config['blocks']}; drop one")
            config = {**config, "blocks": 1}
        if config.get("blocks") != 1:
            return super().solve(dataclasses.replace(asked, config=config))
        method = asked.stored.from_config({**config, "limit": asked.limit}).resolve(shape)
        check_floor(cls.id, narrow_nbytes(shape, dims or 1, kind), asked.limit)
        return method

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        method, n = cast(MixedDim, self.method), self.num_embeddings
        if method.blocks == 1:
            group = np.zeros(n, np.uint8)
            dims = np.array([self.option["dims"] or self._widest(method.limit)])
        else:
            if counts is None:
                raise ConfigError(
                    "mde needs to know how often each id occurs, or one block; pass counts=, field_sizes= or dims="
                )
            group, dims = method.blocks_of(self.shape, counts.astype(np.float64))
        order = np.argsort(group, kind="stable")
        place = np.empty(n, np.int64)
        rows = np.bincount(group, minlength=len(dims))
        place[order] = np.arange(n) - np.repeat(np.cumsum(rows) - rows, rows)
        if len(dims) > 1:
            self.register_buffer("group", torch.from_numpy(group))
            self.register_buffer("place", torch.from_numpy(place.astype(np.int32 if n < 2**31 else np.int64)))
        sizes = [(int(r), int(d)) for r, d in zip(rows, dims, strict=True)]
        self.tables = nn.ParameterList([self._uniform(r, d, bound=self._bound) for r, d in sizes])
        narrow = [d for _, d in sizes if d < self.embedding_dim]
        self.projections = nn.ParameterList([nn.Parameter(first_projection(d, self.embedding_dim)) for d in narrow])

    def _widest(self, limit: int | None) -> int:
        """The most values of a row within the limit."""
        sizes = range(1, self.embedding_dim + 1)
        kind = cast(MixedDim, self.method).values
        return max(d for d in sizes if limit is None or narrow_nbytes(self.shape, d, kind) <= limit)

    def rows(self, ids: Tensor) -> Tensor:
        if len(self.tables) == 1:
            return self._block(0, ids)
        group, place = cast(Tensor, self.group)[ids], cast(Tensor, self.place)[ids].long()
        members = [(group == g).nonzero()[:, 0] for g in range(len(self.tables))]
        parts = torch.cat([self._block(g, place[at]) for g, at in enumerate(members)])
        return torch.empty_like(parts).index_copy(0, torch.cat(members), parts)

    def _block(self, g: int, place: Tensor) -> Tensor:
        """Rows of one block, by their places in it."""
        values = nn.functional.embedding(place, self._read(self.tables[g]))
        projection = self._projections()[g]
        return values if projection is None else values @ projection

    def _projections(self) -> list[nn.Parameter | None]:
        """The projection of each block; None for a block of full rows."""
        stored = iter(self.projections)
        return [next(stored) if table.shape[1] < self.embedding_dim else None for table in self.tables]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        one = len(self.tables) == 1
        group = np.zeros(self.num_embeddings, np.uint8) if one else array(cast(Tensor, self.group))
        projections = [None if p is None else array(p) for p in self._projections()]
        tables = [array(table) for table in self.tables]
        return narrow_arrays(group, tables, projections, self.embedding_dim, self._coding)
