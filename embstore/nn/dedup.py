"""Shared blocks of rows (Zhou et al., PVLDB 2022): see `embstore.methods.dedup`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..arrays import TableShape
from ..errors import BudgetError, ConfigError
from ..method import Method, nbytes
from ..methods.dedup import PLACES
from ..methods.dedup import Dedup as DedupMethod
from ..methods.pq import gaussian_distortion
from .base import Asked, CompressedEmbedding, Stage, array

Floats = npt.NDArray[np.float64]


class Dedup(CompressedEmbedding):
    """A full table that is cut into blocks after a warm-up; blocks that are alike are merged, and trained on as one.

    As many blocks are kept as the budget has room for. The paper merges pairs that hashing finds until there are few
    enough. Here all blocks begin as one group, and groups are cut in two, where that leaves the least variance along
    their widest dimension, down to single blocks; the budget sets the threshold of squared error below which a group is
    not cut. So the budget is met exactly, and blocks that are alike are merged first, untrained rows before others.
    With `counts` the error of a block weighs as often as its rows occur. A merged block starts as the mean.

    Training keeps the full table until the blocks are merged. Without a budget or `limit` a tenth of the bytes is
    taken, or a tenth of the blocks where their size is given. Where `block_rows` and `block_dims` are left out, the
    budget chooses the size of blocks at which Gaussian values lose least: small ones cost more for the map, and large
    ones are less alike. `place_dtype` is then the narrowest that tells as many blocks apart as there is room for.
    """

    id: ClassVar[str] = "dedup"
    preset: ClassVar[Mapping[str, Any]] = {"tolerance": 0.0, "values": "float32"}

    @classmethod
    def solve(cls, asked: Asked) -> Method:
        shape = asked.shape
        limit = asked.limit if asked.limit is not None else asked.config.get("limit")
        ways = list(_ways(asked.config, shape))
        floors = [nbytes(way, shape, unique=1) for way in ways]
        if limit is None and _sized(asked.config):
            tenth = -(-max(way.free_sizes(shape)["unique"] for way in ways) // 10)
            limit = min(nbytes(way, shape, unique=tenth) for way in ways if PLACES[way.place_dtype] >= tenth)
        elif limit is None:
            limit = max(shape.nbytes_float32 // 10, min(floors))
        if limit < min(floors):
            raise BudgetError(
                f"method {cls.id!r} needs at least {min(floors):,} bytes for {shape.num_embeddings:,} x "
                f"{shape.embedding_dim}, found a budget of {limit:,}; raise it or use larger blocks"
            )
        fitting = [way for way, floor in zip(ways, floors, strict=True) if floor <= limit]
        limited = [dataclasses.replace(way, limit=limit) for way in fitting]
        return min(limited, key=lambda way: _distortion(way, shape))

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        self.weight: nn.Parameter | None = self._uniform(self.num_embeddings, self.embedding_dim, bound=self._bound)
        self.register_parameter("blocks", None)
        self.register_buffer("place", None)
        weights = None if counts is None else torch.from_numpy(counts.astype(np.float32))
        self.register_buffer("counts", weights, persistent=False)

    @property
    def _blocks(self) -> int:
        """How many blocks are kept."""
        return cast(DedupMethod, self.method).free_sizes(self.shape)["unique"]

    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage("warm-up", advice="as the uncompressed model; blocks are merged at its end"),
            Stage("retrain", advice="as the uncompressed model, until validation ends it"),
        )

    def end_of_stage(self, name: str) -> None:
        if name == "warm-up" and self.weight is not None:
            cells, weight = self._cells()
            place = merged(cells, weight, self._blocks)
            self._share(torch.from_numpy(place), torch.from_numpy(_means(cells, weight, place, self._blocks)))

    def _cells(self) -> tuple[Floats, Floats]:
        """Every block of the full table (cells, values), and how much its error weighs."""
        method = cast(DedupMethod, self.method)
        rows, dims = method.block_rows, method.block_dims or self.embedding_dim
        table = cast(nn.Parameter, self.weight).detach().cpu().double().numpy()
        height, columns = -(-self.num_embeddings // rows), -(-self.embedding_dim // dims)
        padding = ((0, height * rows - self.num_embeddings), (0, columns * dims - self.embedding_dim))
        cells = np.pad(table, padding).reshape(height, rows, columns, dims).transpose(0, 2, 1, 3)
        counts = np.zeros(self.num_embeddings) if self.counts is None else cast(Tensor, self.counts).cpu().numpy()
        # One more, so that rows that were never seen weigh something too.
        weight = np.pad(counts.astype(np.float64), padding[0]).reshape(height, rows).sum(axis=1) + 1
        return cells.reshape(height * columns, rows * dims), np.repeat(weight, columns)

    def _share(self, place: Tensor, blocks: Tensor) -> None:
        """Go on with shared blocks in place of the full table."""
        full = cast(nn.Parameter, self.weight)
        columns = -(-self.embedding_dim // (cast(DedupMethod, self.method).block_dims or self.embedding_dim))
        # int32 halves what training keeps; torch has no lookup by uint32.
        small = torch.int32 if len(blocks) * cast(DedupMethod, self.method).block_rows < 2**31 else torch.int64
        self.place = place.reshape(-1, columns).to(full.device, small)
        self.blocks = nn.Parameter(blocks.to(full.device, full.dtype))
        self.weight = self.counts = None

    def rows(self, ids: Tensor) -> Tensor:
        if self.weight is not None:
            return nn.functional.embedding(ids, self.weight)
        size = cast(DedupMethod, self.method).block_rows
        place = cast(Tensor, self.place)[ids // size if size > 1 else ids]
        if size > 1:
            place = place * size + (ids % size)[:, None]
        parts = nn.functional.embedding(place, cast(Tensor, self.blocks).reshape(len(self.blocks) * size, -1))
        return parts.flatten(1)[:, : self.embedding_dim]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        if self.weight is not None:
            raise ConfigError("dedup must be past its warm-up, found a full table; call end_of_stage('warm-up')")
        blocks = cast(Tensor, self.blocks)
        size = cast(DedupMethod, self.method).block_rows
        return {
            "blocks": array(blocks.reshape(len(blocks), size, -1).float()),
            "place": array(cast(Tensor, self.place)).astype(cast(DedupMethod, self.method).place_dtype),
        }

    def nbytes_inference(self) -> int:
        return nbytes(self.method, self.shape)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Take the stage that the state is of."""
        if self.weight is not None and prefix + "blocks" in state_dict:
            place, blocks = state_dict[prefix + "place"], state_dict[prefix + "blocks"]
            self._share(torch.zeros_like(place), torch.zeros_like(blocks))
        elif self.weight is None and prefix + "weight" in state_dict:
            blocks = cast(Tensor, self.blocks)
            self.weight = nn.Parameter(blocks.new_zeros(self.num_embeddings, self.embedding_dim))
            self.blocks = self.place = None
        super()._load_from_state_dict(state_dict, prefix, *others)


def _ways(config: dict[str, Any], shape: TableShape) -> Iterator[DedupMethod]:
    """Sizes of blocks to choose from: those asked for, or parts of a row, rows, and 2, 4, … rows; and of the map."""
    for place_dtype in [config["place_dtype"]] if "place_dtype" in config else PLACES:
        given = DedupMethod.from_config({**config, "limit": None, "place_dtype": place_dtype})
        if _sized(config):
            yield given.resolve(shape)
            continue
        dim = shape.embedding_dim
        for dims in sorted({-(-dim // columns) for columns in range(1, dim + 1)}):
            yield dataclasses.replace(given, block_dims=dims).resolve(shape)
        for power in range(1, max(1, shape.num_embeddings).bit_length() + 1):
            yield dataclasses.replace(given, block_rows=1 << power).resolve(shape)


def _sized(config: dict[str, Any]) -> bool:
    return "block_rows" in config or "block_dims" in config


def _distortion(method: DedupMethod, shape: TableShape) -> float:
    """Squared error of Gaussian blocks of variance 1, of which as many are kept as the limit allows."""
    kept = method.free_sizes(shape)["unique"]
    if kept >= dataclasses.replace(method, limit=None).free_sizes(shape)["unique"]:
        return 0.0
    values = method.block_rows * (method.block_dims or shape.embedding_dim)
    return gaussian_distortion(math.log2(kept) / values, values)


def merged(cells: Floats, weight: Floats, kept: int) -> npt.NDArray[np.int64]:
    """Which of `kept` groups each of the cells (n, values) is in; every group has some.

    Groups are runs of an order that cuts refine level by level, so that a group is known by where it is cut: the
    `kept` - 1 cuts of the groups of largest squared error are what the threshold lets pass.
    """
    order = np.arange(len(cells))
    starts, ends = np.array([0]), np.array([len(cells)])
    errors, cuts = [np.zeros(0)], [np.zeros(0, np.int64)]
    while True:
        large = ends - starts > 1
        starts, ends = starts[large], ends[large]
        if not len(starts):
            break
        sizes = ends - starts
        first = np.cumsum(sizes) - sizes
        group = np.repeat(np.arange(len(sizes)), sizes)
        at = np.arange(len(group)) + (starts - first)[group]
        own, w = cells[order[at]], weight[order[at]]
        mass = np.add.reduceat(w, first)
        away = own - (np.add.reduceat(own * w[:, None], first) / mass[:, None])[group]
        squares = np.add.reduceat(np.square(away) * w[:, None], first)
        along = away[np.arange(len(group)), squares.argmax(axis=1)[group]]
        ranked = np.lexsort((along, group))
        order[at] = order[at][ranked]
        cut = starts + _halves(along[ranked], w[ranked], first, sizes)
        errors.append(squares.sum(axis=1))
        cuts.append(cut)
        known = np.concatenate(errors)
        # Parts of a group have no more error than it has: those of one that will not be cut need not be looked at.
        least = np.partition(known, len(known) - kept + 1)[len(known) - kept + 1] if 1 < kept <= len(known) else 0.0
        halves = np.stack([starts, cut, cut, ends], axis=1)[errors[-1] >= least]
        starts, ends = halves[:, ::2].ravel(), halves[:, 1::2].ravel()
    chosen = np.argsort(-np.concatenate(errors), kind="stable")[: kept - 1]
    place = np.zeros(len(cells), np.int64)
    place[order] = np.searchsorted(np.sort(np.concatenate(cuts)[chosen]), np.arange(len(cells)), side="right")
    return place


def _halves(
    along: Floats, weight: Floats, first: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """How many of each group's sorted values, which have a mean of 0, are below the cut that leaves least variance."""
    group = np.repeat(np.arange(len(first)), sizes)
    mass, moment = np.cumsum(weight), np.cumsum(weight * along)
    total = np.add.reduceat(weight, first)
    below = mass - (mass[first] - weight[first])[group]
    above = np.maximum(total[group] - below, np.finfo(float).tiny)
    gain = np.square(moment - (moment[first] - weight[first] * along[first])[group]) / below / above
    gain[first + sizes - 1] = -1
    best = np.maximum.reduceat(gain, first)
    where = np.flatnonzero(gain == best[group])
    found = where[np.unique(group[where], return_index=True)[1]] - first + 1
    # Equal values, up to rounding, are cut in the middle.
    return np.where(best > 0, found, sizes // 2)


def _means(cells: Floats, weight: Floats, place: npt.NDArray[np.int64], kept: int) -> Floats:
    """The weighted mean of each group."""
    mass = np.bincount(place, weight, kept)
    sums = [np.bincount(place, weight * column, kept) for column in cells.T]
    return np.stack(sums, axis=1) / mass[:, None]
