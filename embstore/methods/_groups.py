"""Rows in groups that are stored apart: of which group a row is, and the how manieth of it.

For methods whose rows differ in size by group. Stored are `group_rows` int64 (G), the rows of each group, and, unless
the groups follow each other in the order of ids, the groups of all rows as `tags` (1, 2 or 4 bits a row) with `ranks`,
for every 64 rows how many of each group came before. So a row is found by counting among at most 64 tags: for 8 groups
that is 1 byte a row, where a map of places would take 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays import ArraySpec, TableShape
from ..errors import ConfigError
from ..method import Ids, Named
from ._bits import pack, unpack

U8 = npt.NDArray[np.uint8]

MAX_GROUPS = 16
_RUN = 64


def tag_bits(groups: int) -> int:
    return 1 if groups <= 2 else 2 if groups <= 4 else 4


def specs(groups: int) -> tuple[ArraySpec, ...]:
    return (
        ArraySpec("group_rows", "int64", (groups,), "shared"),
        ArraySpec("tags", "uint8", ("tag_bytes",), "shared"),
        ArraySpec("ranks", "uint32", ("tag_runs", groups), "shared"),
    )


def free_sizes(shape: TableShape, groups: int, consecutive: bool) -> dict[str, int]:
    runs = 0 if consecutive else -(-shape.num_embeddings // _RUN)
    return {"tag_bytes": runs * _RUN * tag_bits(groups) // 8, "tag_runs": runs}


def check_rows(method_id: str, shape: TableShape) -> None:
    """`ConfigError` for more rows than `ranks` can count."""
    if shape.num_embeddings >= 2**32:
        raise ConfigError(f"{method_id} holds fewer than 2**32 rows, found {shape.num_embeddings}; split the table")


def consecutive(group: U8) -> bool:
    return bool((group[1:] >= group[:-1]).all())


def build(group: U8, groups: int) -> Named:
    """The stored arrays for the group of each row."""
    named: Named = {"group_rows": np.bincount(group, minlength=groups).astype(np.int64)}
    if consecutive(group):
        return named | {"tags": np.zeros(0, np.uint8), "ranks": np.zeros((0, groups), np.uint32)}
    runs = -(-len(group) // _RUN)
    padded = np.zeros((runs, _RUN), np.uint8)
    padded.reshape(-1)[: len(group)] = group
    ranks = np.empty((runs, groups), np.uint32)
    for g in range(groups):
        totals = np.cumsum((padded == g).sum(axis=1))
        ranks[0, g], ranks[1:, g] = 0, totals[:-1]
    return named | {"tags": pack(padded, tag_bits(groups)).reshape(-1), "ranks": ranks}


def locate(arrays: Mapping[str, npt.NDArray[Any]], ids: Ids) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(group, place in it) of each id."""
    sizes = arrays["group_rows"]
    ends = np.cumsum(sizes)
    if not len(arrays["tags"]):
        group = np.searchsorted(ends, ids, side="right")
        return group, ids - (ends - sizes)[group]
    bits = tag_bits(len(sizes))
    run, at = ids // _RUN, ids % _RUN
    tags = unpack(arrays["tags"].reshape(-1, _RUN * bits // 8)[run], bits, _RUN)
    own = np.take_along_axis(tags, at[:, None], axis=1)
    before = ((tags == own) & (np.arange(_RUN) < at[:, None])).sum(axis=1)
    group = own[:, 0].astype(np.int64)
    return group, arrays["ranks"][run, group].astype(np.int64) + before
