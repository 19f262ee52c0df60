"""Every CUDA functor, compiled for the host and run by the same skeletons, has the bits of the native kernels."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embstore import errors, native, registry
from embstore.cuda import driver
from embstore.method import RowMethod
from embstore.testing.laws import same

if not driver.built():
    pytest.skip("embstore._cuda was not built: nvcc was not found, or EMBSTORE_CUDA=off", allow_module_level=True)

from host import HostDriver
from pair import NOT_SO_WIDE, WITHOUT_KERNEL, Pair, configurations, method_for

WITH_KERNEL = driver.extension().methods()
CONFIGURED = configurations()


@pytest.mark.parametrize("method", CONFIGURED, ids=repr)
def test_every_config(method: RowMethod) -> None:
    Pair(HostDriver(), method, 67, 50).check()


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 16, 31, 64, 97, 128, 129, 300, 1030])
@pytest.mark.parametrize("name", WITH_KERNEL)
def test_every_dim(name: str, dim: int) -> None:
    Pair(HostDriver(), method_for(name, dim), 33, dim).check()


@pytest.mark.parametrize("name", [name for name in WITH_KERNEL if name not in NOT_SO_WIDE])
def test_rows_wider_than_a_block_has_threads_for(name: str) -> None:
    Pair(HostDriver(), method_for(name, 4400), 5, 4400).check()


@pytest.mark.parametrize(("name", "seed"), list(itertools.product(WITH_KERNEL, range(4))))
def test_any_shape(name: str, seed: int) -> None:
    rng = np.random.default_rng([seed, *name.encode()])
    own = [m for m in CONFIGURED if m.id == name]
    for _ in range(6):
        method, rows, dim = own[rng.integers(len(own))], int(rng.integers(1, 90)), int(rng.integers(1, 200))
        try:
            pair = Pair(HostDriver(), method, rows, dim, int(rng.integers(1 << 31)))
        except errors.ConfigError:
            continue  # three parts of a row of two values, say
        pair.check(seed)


# Arrays that say where values lie: of a damaged file they may say anything, and no kernel may read elsewhere for it.
DAMAGED: list[tuple[str, dict[str, Any], list[str]]] = [
    ("dedup", {"block_dims": 16}, ["place"]),
    ("dedup", {"block_rows": 3}, ["place"]),
    ("dedup", {"block_dims": 16, "place_dtype": "uint16"}, ["place"]),
    ("dedup", {"block_rows": 3, "place_dtype": "uint8"}, ["place"]),
    ("pruned", {"index": "bitmap"}, ["start"]),
    ("pruned", {"index": "bitmap", "rows_per_start": 16}, ["start", "mask"]),
    ("pruned", {"index": "columns"}, ["start", "count"]),
    ("pruned", {"index": "columns", "start_dtype": "uint64"}, ["start"]),
    ("pruned", {"index": "cells", "rows_per_start": 64}, ["start"]),
    ("mixed_dim", {"blocks": 3}, ["ranks"]),
    ("mixed_dim", {"blocks": 3}, ["tags"]),
    ("mixed_dim", {"blocks": 3, "values": "int8"}, ["ranks", "tags"]),
    ("mgqe", {}, ["tags", "ranks"]),
    ("svd", {"groups": 3}, ["group", "start"]),
    ("svd", {"groups": 3, "factor": "int8"}, ["start"]),
    ("subspace", {"kind": "cluster"}, ["codes", "member"]),
    ("adapt", {}, ["map"]),
    ("adapt", {"map": "hot_ids"}, ["hot_ids"]),
]


@pytest.mark.parametrize(("name", "config", "arrays"), DAMAGED)
def test_damaged_tables_are_read_as_on_the_host(name: str, config: dict[str, Any], arrays: list[str]) -> None:
    pair = Pair(HostDriver(), registry.get(name)(**config), 150, 40, damaged=arrays)
    ids = np.arange(150)
    assert same(pair.lookup(ids), pair.native_lookup(ids))
    assert pair.fault[0] == 0


@pytest.mark.parametrize("name", WITH_KERNEL)
@pytest.mark.parametrize("wide", [True, False])
def test_ids_out_of_range_are_skipped_and_the_first_is_told(name: str, wide: bool) -> None:
    pair = Pair(HostDriver(), registry.get(name)(), 40, 24)
    ids = np.array([3, 40, 5, -1, 39])
    rows = pair.lookup(ids, wide=wide)
    assert same(rows[[0, 2, 4]], pair.lookup(ids[[0, 2, 4]]))
    assert (rows[[1, 3]] == 77).all()
    assert pair.fault == [1, 1, 40]
    pair.clear_fault()
    bags = pair.bag(ids, [0, 3, 5], "sum", None, wide=wide)
    assert pair.fault == [1, 1, 40]
    assert same(bags, pair.bag(ids[[0, 2, 4]], [0, 2, 3], "sum", None))


def test_offsets_that_do_not_fit_are_told() -> None:
    pair = Pair(HostDriver(), registry.get("int8")(), 40, 24)
    ids = np.arange(6)
    for offsets, position in (([0, 4, 2, 6], 1), ([0, 3, 7], 1), ([1, 6], 0), ([0, -2, 6], 0)):
        pair.clear_fault()
        pair.bag(ids, offsets, "sum", None)
        assert pair.fault[:2] == [2, position]


def test_bags_of_one_length_need_no_offsets() -> None:
    pair = Pair(HostDriver(), registry.get("int8")(), 40, 24)
    ids = np.arange(20)
    out = pair.bag(ids, None, "sum", None, length=5)
    assert same(out, pair.native_bag(ids, [0, 5, 10, 15, 20], "sum", None))


def test_calls_without_ids() -> None:
    pair = Pair(HostDriver(), registry.get("int8")(), 1, 8)
    empty = pair.lookup(np.array([], np.int64))
    assert empty.shape == (0, 8)
    assert pair.bag(np.array([], np.int64), [0, 0, 0], "mean", None).tolist() == [[0.0] * 8] * 2


def test_the_native_kernels_are_there() -> None:
    """Without them every comparison above would be of numpy."""
    assert native.available()
    assert set(WITH_KERNEL) >= {"float32", "float16", "bfloat16", "int16", "int8", "int4", "int2", "nf4", "dynamic8"}


def test_every_native_kernel_has_one_for_cuda_or_a_reason() -> None:
    of_native = {name for name in registry.names() if native.require("the test").has_kernel(name)}
    assert of_native - set(WITH_KERNEL) == set(WITHOUT_KERNEL)
    assert set(WITH_KERNEL) <= set(registry.names())


def test_every_kernel_is_compared() -> None:
    assert {method.id for method in CONFIGURED} == set(WITH_KERNEL)


def test_the_page_names_every_method_with_a_kernel() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cuda.md").read_text()
    told = page.partition("## What runs there")[2].partition("##")[0]
    assert set(WITH_KERNEL) <= set(re.findall(r"`(\w+)`", told))
