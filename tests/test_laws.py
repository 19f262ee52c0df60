"""The laws of docs/design.md §8 over the whole registry."""

import dataclasses
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import embstore
from embstore import errors, format, native, registry
from embstore.arrays import TableShape
from embstore.method import RowMethod
from embstore.testing import check_method, make_counts, make_rows, pooled

CONFIGS = {
    "block_size": (None, 16, 24, 64),
    "symmetric": (False, True),
    "scale_dtype": ("float16", "float32", "uint8"),
    "range": ("lse", "minmax"),
    "factor": ("int8", "float16", "float32"),
    "basis": ("float32", "float16"),
    "groups": (1, 3),
    "cores": (2, 3, 4),
    "core_dtype": ("float32", "int8"),
    "kind": ("dispersed", "cluster"),
    "block_rows": (1, 3),
    "block_dims": (None, 16),
    "tolerance": (0.0, 0.2),
    "blocks": (1, 3, 8),
    "alpha": (0, 0.5, 2.0),
    "powers": (False, True),
    "m": (None, 3),
    "cold_bits": (6, 3),
    "by": ("counts", "norm"),
    "index": ("bitmap", "columns"),
    "values": ("float16", "float32", "int8"),
}

# Further configurations of single methods; fields above are crossed, these are not.
MORE = {
    "rabitq": [{"bits": 1}, {"bits": 3, "search": "exact"}, {"bits": 8, "scale_dtype": "float32"}],
    "turboquant": [{"bits": 1}, {"bits": 2}, {"bits": 3, "scale_dtype": "float32"}],
    "svd": [{"rank": 1}, {"rank": 11, "factor": "float16", "groups": 2}],
    "tt": [{"rank": 1}, {"rank": 5, "cores": 4}, {"rank": 23, "cores": 3, "core_dtype": "int8"}],
    "subspace": [{"parts": 1}, {"parts": 4, "kind": "cluster"}],
    "pq": [{"bits": 4}, {"bits": 1, "m": 5}, {"bits": 11, "m": 2}, {"codebook_dtype": "float16", "bits": 5}],
    "rq": [
        {"bits": 4, "beam": 1},
        {"bits": 1, "m": 9, "beam": 3},
        {"bits": 9, "m": 2},
        {"codebook_dtype": "float16", "bits": 5, "beam": 16},
    ],
    "tcq": [{"row_bytes": 1}, {"row_bytes": 13, "window": 6}, {"row_bytes": 40, "window": 9}, {"window": 10}],
    "pruned": [
        {"density": 1.0},
        {"density": 0.03, "start_dtype": "uint64"},
        {"density": 0.1, "rows_per_start": 16, "index": "bitmap"},
        {"density": 0.02, "rows_per_start": 64, "index": "cells", "values": "int8", "start_dtype": "uint64"},
    ],
    "dedup": [{"limit": 10**6}, {"place_dtype": "uint16"}, {"place_dtype": "uint8", "block_rows": 9}],
    "mixed_dim": [
        {"weighted": True},
        {"limit": 10_000},
        {"limit": 10**6, "alpha": 0.4, "weighted": True},
        {"values": "int4"},
        {"values": "int4", "blocks": 3, "alpha": 2.0},
    ],
    "mgqe": [{"bits": 7}, {"hot": 0.5, "bits": 3, "cold_bits": 1}, {"hot": 0.0}, {"hot": 1.0, "m": 7}],
}


def variants(method_id: str) -> list[RowMethod]:
    cls = registry.get(method_id)
    fields = [f for f in CONFIGS if f in cls.__dataclass_fields__]
    found = []
    for values in itertools.product(*(CONFIGS[f] for f in fields)):
        try:
            found.append(cls.from_config(dict(zip(fields, values, strict=True))))
        except errors.ConfigError:
            assert {"uint8", "int8"} & set(values)  # the values that only some methods take
    return found + [cls.from_config(config) for config in MORE.get(method_id, ())]


ALL = [m for name in registry.fitted() for m in variants(name)]
ALL += [registry.get(name)(symmetric=True, step=0.02) for name in ("int16", "int8")]
ALL += [registry.get(name)(step=0.04, offset=-5.0) for name in ("int16", "int8")]


@pytest.mark.parametrize("name", registry.fitted())
def test_every_field_is_varied(name):
    """The laws see each config field of each method at another value than its default."""
    cls = registry.get(name)
    given = [m for m in ALL if type(m) is cls]
    same = [f.name for f in dataclasses.fields(cls) if {getattr(m, f.name) for m in given} <= {f.default}]
    if name in ("int4", "int2"):
        same = [name for name in same if name not in ("step", "offset")]  # refused for less than 8 bits
    assert not same, f"add values of {same} to CONFIGS or MORE"


def test_fields_that_came_later_change_no_config():
    """Tables and hashes of configs from before there were such fields stay what they are."""
    affine = {"block_size": None, "symmetric": False}
    as_before = {
        "tt": {"rank": None, "cores": 3},
        "int8": {**affine, "scale_dtype": "float16", "range": "lse"},
        "int16": {**affine, "scale_dtype": "float32", "range": "minmax"},
        "hash": {"rows": None, "hash": "mod", "seed": 0},
        "compo": {"op": "multiply", "partitions": None, "collisions": None},
        "memcom": {"rows": None, "bias": False},
        "adapt": {"hot": None, "cold": None, "map": None, "seed": 0},
        "robe": {"size": None, "chunk": None, "wrap": False, "sign": False, "seed": 0},
    }
    assert {name: registry.get(name)().config() for name in as_before} == as_before
    for name in registry.names():
        cls = registry.get(name)
        assert set(cls.later) <= {field.name for field in dataclasses.fields(cls)}
    assert registry.get("tt")(core_dtype="int8").config()["core_dtype"] == "int8"


@pytest.mark.parametrize("method", ALL, ids=repr)
def test_every_config(method):
    check_method(method, rows=67, dim=50)


@pytest.mark.parametrize("dim", [1, 3, 16, 31, 64, 97, 128, 129, 300])
@pytest.mark.parametrize("name", registry.fitted())
def test_every_dim(name, dim):
    check_method(registry.get(name)(), rows=33, dim=dim)


@given(st.sampled_from(ALL), st.integers(0, 40), st.integers(1, 150), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_any_shape(method, rows, dim, seed):
    try:
        method.resolve(TableShape(rows, dim))
    except errors.ConfigError:
        reject()  # three parts of a row of two values, say
    check_method(method, rows, dim, seed)


def test_large_outputs_that_bypass_the_cache():
    for dim in (50, 128):
        n = (9 << 20) // (4 * dim)
        check_method(registry.get("int8")(), rows=n, dim=dim)


@pytest.mark.parametrize("isa", ["avx2", "ref"])
def test_other_instruction_sets(isa):
    if isa not in native.require("the test").usable_isas():
        pytest.skip(f"this processor has no {isa}")
    code = (
        "from embstore import registry\nfrom embstore.testing import check_method\n"
        "for name in registry.fitted():\n    for dim in (5, 50, 128): check_method(registry.get(name)(), 40, dim)\n"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "EMBSTORE_ISA": isa}, check=True, timeout=300)


@pytest.mark.parametrize("name", registry.fitted())
def test_on_disk(name, tmp_path):
    """Mapped = in memory = reference; layout bytes = bytes on disk; same seed, same bytes, any thread count."""
    rows = make_rows(3000, 50, hostile=False)
    embstore.set_num_threads(1)
    counts = make_counts(3000)
    table = embstore.compress(rows, tmp_path / "one", method=name, counts=counts)
    embstore.set_num_threads(2)
    embstore.compress(rows, tmp_path / "two", method=name, counts=counts)
    embstore.set_num_threads(None)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path / "two") for p in (tmp_path / "two").rglob("*") if p.is_file())
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    stored = format.open_table(tmp_path / "one")
    assert (
        sum(a.nbytes for s in stored.shards for a in s.values()) + sum(a.nbytes for a in stored.shared.values())
        == table.nbytes
    )
    ids = np.random.default_rng(0).integers(0, 3000, 500)
    reference = embstore.Table(stored, backend="numpy").lookup(ids)
    assert np.array_equal(table.lookup(ids), reference)
    assert np.array_equal(embstore.open(tmp_path / "one", mmap=False).lookup(ids), reference)
    assert np.array_equal(table[7], table.lookup([7])[0])
    assert table.verify() == []


def test_bags_mean_what_torch_means(tmp_path):
    torch = pytest.importorskip("torch")
    rows = make_rows(500, 24, hostile=False)
    table = embstore.compress(rows, tmp_path / "t", method="int8")
    weight = torch.from_numpy(table.lookup(np.arange(500)))
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 500, 200)
    weights = rng.standard_normal(200).astype(np.float32)
    for offsets, last in (([0, 0, 7, 7, 60, 200], True), ([0, 0, 7, 7, 60, 200], False), ([0], False)):
        for mode, w in (("sum", None), ("mean", None), ("max", None), ("sum", weights)):
            want = torch.nn.functional.embedding_bag(
                torch.from_numpy(ids), weight, torch.tensor(offsets), mode=mode, include_last_offset=last,
                per_sample_weights=None if w is None else torch.from_numpy(w),
            )  # fmt: skip
            got = table.bag(ids, offsets, mode, w, last)
            np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-5 * float(np.abs(rows).max()))
            bounds = np.append(offsets, 200)[: len(got) + 1]
            assert np.array_equal(got, pooled(table.lookup(ids), bounds, mode, w))
    square = ids.reshape(20, 10)
    want = torch.nn.functional.embedding_bag(torch.from_numpy(square), weight, mode="sum")
    np.testing.assert_allclose(table.bag(square), want.numpy(), rtol=1e-4, atol=1e-4)
