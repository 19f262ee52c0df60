"""Transforms undone by CUDA's kernels, compiled for the host, have the bits of the native ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import embstore
from embstore import errors, native, pipeline, registry
from embstore.cuda import GpuTable, driver, to_device
from embstore.testing import make_rows
from embstore.testing.laws import same

if not driver.built():
    pytest.skip("embstore._cuda was not built: nvcc was not found, or EMBSTORE_CUDA=off", allow_module_level=True)

from host import HostDriver
from pair import Pair

# Transforms that a native kernel undoes and none on CUDA, and why.
WITHOUT_KERNEL: dict[str, str] = {}

ALONE = [f"{'truncate5' if name == 'truncate' else name},float32" for name in registry.transform_names()]
CHAINS = [
    "center,rotate,int4",
    "pca7,rotate,nf4",
    "truncate9,pca4,int8",
    "whiten5,float16",
    "center,rotate,pca7,rotate,int8",
    "rotate,rabitq4",
    "center,svd3",
    "pca8,rq2x4",
    "center,tt",
    "center,rotate,pruned",
]


def pair_of(spec: str, rows: int, dim: int) -> Pair:
    return Pair(HostDriver(), pipeline.create(spec), rows, dim)


def test_every_native_transform_has_one_for_cuda_or_a_reason() -> None:
    of_native = {name for name in registry.transform_names() if native.require("the test").has_transform(name)}
    of_cuda = {name for name in registry.transform_names() if driver.extension().has_transform(name)}
    assert of_native - of_cuda == set(WITHOUT_KERNEL)


@pytest.mark.parametrize("dim", [9, 16, 31, 64, 97, 128, 300])
@pytest.mark.parametrize("spec", ALONE + CHAINS)
def test_every_transform(spec: str, dim: int) -> None:
    pair_of(spec, 45, dim).check()


@pytest.mark.parametrize("dim", [1, 2, 3, 700, 1024, 4400])
@pytest.mark.parametrize("spec", ["center,float32", "rotate,float32"])
def test_widths_that_need_no_fit(spec: str, dim: int) -> None:
    pair_of(spec, 21, dim).check()


@pytest.mark.parametrize("spec", ["center,rotate,int8", "pca7,float32", "svd", "fourier"])
@pytest.mark.parametrize("wide", [True, False])
def test_ids_out_of_range_are_skipped_and_the_first_is_told(spec: str, wide: bool) -> None:
    pair = pair_of(spec, 40, 24)
    ids, good = np.array([3, 40, 5, 39, -1]), [0, 2, 3]
    weights = np.arange(5, dtype=np.float32)
    rows = pair.lookup(ids, wide=wide)
    assert same(rows[good], pair.lookup(ids[good]))
    assert (rows[[1, 4]] == 77).all()
    assert pair.fault == [1, 1, 40]
    for mode, given in (("sum", weights), ("max", None)):
        pair.clear_fault()
        bags = pair.bag(ids, [0, 3, 5], mode, given, wide=wide)
        assert same(bags, pair.bag(ids[good], [0, 2, 3], mode, None if given is None else given[good]))
        assert pair.fault == [1, 1, 40]


# Rows so wide that a chunk of them is few: 16 MB / 4 bytes / 4400 values.
CHUNK = (16 << 20) // (4 * 4400)


@pytest.mark.parametrize("spec", ["center,int8", "rotate,center,int8"])
def test_calls_of_many_chunks(spec: str) -> None:
    pair = pair_of(spec, 30, 4400)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 30, 2 * CHUNK + 77)
    assert same(pair.lookup(ids), pair.native_lookup(ids))
    bad = ids.copy()
    bad[[CHUNK + 5, 2 * CHUNK + 1]] = 30
    pair.lookup(bad)
    assert pair.fault == [1, CHUNK + 5, 30]
    pair.clear_fault()
    # A bag over all of a chunk and more, empty ones at a chunk's edge, and short ones.
    edges = [0, 3, CHUNK - 1, CHUNK, CHUNK, CHUNK, CHUNK + 9, 2 * CHUNK + 30, len(ids), len(ids)]
    for half in (False, True):
        with np.errstate(over="ignore"):
            want = pair.native_bag(ids, edges, "max", None).astype(np.float16 if half else np.float32)
        assert same(pair.bag(ids, edges, "max", None, half=half), want)
    even, starts = len(ids) // 101 * 101, np.arange(0, len(ids), 101)
    assert same(pair.bag(ids[:even], None, "max", None, length=101), pair.native_bag(ids[:even], starts, "max", None))
    assert same(pair.bag(ids, edges, "mean", None), pair.native_bag(ids, edges, "mean", None))
    assert pair.fault[0] == 0


def test_more_bags_than_a_chunk_has_rows() -> None:
    pair = pair_of("center,rotate,int8", 30, 4400)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 30, 2 * CHUNK + 77)
    offsets = np.minimum(np.arange(len(ids) + 1), len(ids) - 3)
    weights = rng.standard_normal(len(ids), dtype=np.float32)
    assert same(pair.bag(ids, offsets, "sum", weights), pair.native_bag(ids, offsets, "sum", weights))
    assert same(pair.bag(ids, None, "sum", None, length=1), pair.native_bag(ids, np.arange(len(ids) + 1), "sum", None))
    wrong = offsets.copy()
    wrong[CHUNK + 3] = 0
    pair.bag(ids, wrong, "sum", None)
    assert pair.fault[:2] == [2, CHUNK + 2]


def test_calls_without_ids() -> None:
    for spec in ("center,int8", "fourier"):
        pair = pair_of(spec, 5, 8)
        assert pair.lookup(np.array([], np.int64)).shape == (0, 8)
        for mode in ("sum", "max"):
            assert pair.bag(np.array([], np.int64), [0, 0, 0], mode, None).tolist() == [[0.0] * 8] * 2


@pytest.mark.parametrize("spec", ["center,rotate,int4", "truncate9,pca4,int8"])
def test_a_table_with_transforms(spec: str, tmp_path: Path) -> None:
    table = embstore.compress(make_rows(3000, 50, hostile=False), tmp_path / "t", spec)
    ids = np.random.default_rng(0).integers(0, 3000, (7, 30))
    host = HostDriver()
    gpu = to_device(table, 0, host)
    assert isinstance(gpu, GpuTable)
    with gpu:
        assert gpu.embedding_dim == table.embedding_dim
        assert same(gpu.lookup(ids).numpy(), table.lookup(ids))
        assert same(gpu.bag(ids, mode="mean").numpy(), table.bag(ids, mode="mean"))
        queries = table.lookup(ids[0])
        scores, found = gpu.search(queries, 5, "ip")
        assert np.allclose(scores.numpy(), np.sort(queries @ table[:].T)[:, :-6:-1], rtol=1e-5)
        assert same(found.numpy()[:, 0], np.argmax(queries @ table[:].T, axis=1))
        del scores, found  # they are memory of the device too
    assert host.held == {}


def test_a_transform_without_a_kernel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = embstore.compress(make_rows(50, 8, hostile=False), tmp_path / "t", "center,int8")
    monkeypatch.setattr("embstore.cuda.table.has_transform", lambda name: False)
    with pytest.raises(errors.ConfigError, match="for its transforms, found none for center"):
        to_device(table, "cuda", HostDriver())
