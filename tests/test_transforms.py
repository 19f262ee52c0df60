"""Transforms alone and in pipelines, over every transform there is."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import embstore
from embstore import errors, kernels, native, pipeline, registry
from embstore.arrays import Arrays, TableShape
from embstore.budgets import choose
from embstore.method import nbytes
from embstore.testing import MemoryRows, check_pipeline, make_rows

BARE = {"truncate": "truncate5"}
ALONE = [f"{BARE.get(name, name)},float32" for name in registry.transform_names()]
CHAINS = [
    "center,rotate,int4",
    "pca7,rotate,nf4",
    "truncate9,pca4,int8",
    "whiten5,float16",
    "rotate,rotate,int2",
    "pca6",
]


@pytest.mark.parametrize("dim", [9, 16, 31, 50, 64, 128, 300])
@pytest.mark.parametrize("spec", ALONE + CHAINS)
def test_every_transform(spec, dim):
    check_pipeline(spec, rows=131 if dim < 100 else 67, dim=dim)


@given(st.sampled_from(ALONE + CHAINS), st.integers(1, 60), st.integers(9, 80), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_any_shape(spec, rows, dim, seed):
    check_pipeline(spec, rows, dim, seed)


@pytest.mark.parametrize("isa", ["avx2", "ref"])
def test_other_instruction_sets(isa):
    if isa not in native.require("the test").usable_isas():
        pytest.skip(f"this processor has no {isa}")
    code = f"from embstore.testing import check_pipeline\nfor s in {ALONE + CHAINS}: check_pipeline(s, 40, 50)\n"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "EMBSTORE_ISA": isa}, check=True, timeout=300)


@pytest.mark.parametrize("spec", ALONE + CHAINS)
def test_on_disk(spec, tmp_path):
    rows = make_rows(3000, 50, hostile=False)
    table = embstore.compress(rows, tmp_path / "t", spec)
    assert [t.id for t in table.transforms] == [t.id for t in pipeline.create(spec).transforms]
    assert table.verify() == []
    reopened = embstore.open(tmp_path / "t")
    ids = np.random.default_rng(0).integers(0, 3000, 500)
    reference = embstore.Table(reopened._stored, backend="numpy").lookup(ids)
    assert np.array_equal(reopened.lookup(ids), reference)
    assert np.array_equal(reopened[7], reopened.lookup([7])[0])
    assert "transforms" in table.metadata["requires"]


@pytest.mark.parametrize("dim", [1, 2, 13, 16, 32, 64, 100, 128, 256, 512, 700, 1024, 2048])
@pytest.mark.parametrize("isa", [None, "avx2", "ref"])
def test_rotations_are_the_reference_bit_for_bit(dim, isa, monkeypatch):
    if isa not in (None, *native.require("the test").usable_isas()):
        pytest.skip(f"this processor has no {isa}")
    if isa is not None:
        monkeypatch.setenv("EMBSTORE_ISA", isa)
    rows = make_rows(37, dim, hostile=False)
    rows[3] = 1e-40  # subnormal
    for spec in ("rotate,float32", "rotate,rotate,float32", "center,rotate,float32"):
        made = pipeline.create(spec, {"stages": 3} if spec == "rotate,float32" else None).resolve(TableShape(37, dim))
        shared = made.fit(MemoryRows(rows), np.random.default_rng(dim))
        codes = made.apply(shared, rows)
        assert kernels.apply(made, shared, rows).tobytes() == codes.tobytes()
        bound, _ = kernels.bind(made, TableShape(37, dim), 1 << 40, [Arrays({"values": codes})], shared)
        out = np.empty_like(rows)
        bound.lookup(np.arange(37), out, 1)
        assert out.tobytes() == made.undo(shared, codes).tobytes()


@pytest.mark.parametrize("dim", [50, 128])
def test_large_outputs_that_bypass_the_cache(dim):
    made = pipeline.create("center,rotate,int8").resolve(TableShape(100, dim))
    rows = make_rows(100, dim, hostile=False)
    shared = made.fit(MemoryRows(rows), np.random.default_rng(0))
    encoded = Arrays(made.encode(shared, np.arange(100), rows))
    bound, _ = kernels.bind(made, TableShape(100, dim), 1 << 40, [encoded], shared)
    small = np.empty_like(rows)
    bound.lookup(np.arange(100), small, 1)
    ids = np.random.default_rng(1).integers(0, 100, (9 << 20) // (4 * dim))
    buffer = np.empty(len(ids) * dim + 1, np.float32)
    for start in (0, 1):  # one of them is not aligned to a cache line
        out = buffer[start : start + len(ids) * dim].reshape(-1, dim)
        assert bound.lookup(ids, out, 2) == -1
        assert np.array_equal(out, small[ids])


def test_pca_keeps_what_it_promises():
    """The rows' variance outside the kept components is all that is lost."""
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((2000, 20)) @ rng.standard_normal((20, 20)) + 2).astype(np.float32)
    made = pipeline.create("pca6").resolve(TableShape(2000, 20))
    shared = made.fit(MemoryRows(rows), rng)
    lost = np.square(made.undo(shared, made.apply(shared, rows)) - rows).sum()
    centered = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    values = np.linalg.eigvalsh(centered.T @ centered)
    assert lost == pytest.approx(values[:14].sum(), rel=1e-4)


def test_whiten_gives_unit_covariance():
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((4000, 12)) @ rng.standard_normal((12, 12))).astype(np.float32)
    made = pipeline.create("whiten").resolve(TableShape(4000, 12))
    z = made.apply(made.fit(MemoryRows(rows), rng), rows)
    np.testing.assert_allclose(z.T @ z / 4000, np.eye(12), atol=5e-3)


def test_rotation_is_orthogonal_and_flattens():
    for dim in (64, 50, 300):
        made = pipeline.create("rotate,float32").resolve(TableShape(dim, dim))
        eye = np.eye(dim, dtype=np.float32)
        shared = made.fit(MemoryRows(eye), np.random.default_rng(0))
        turned = made.apply(shared, eye)
        np.testing.assert_allclose(turned @ turned.T, eye, atol=1e-5)
        assert np.abs(turned).max() < 0.75, "no value keeps to itself"


@pytest.mark.parametrize(
    ("spec", "config", "text"),
    [
        ("foo", {}, "found 'foo'"),
        ("int4,pca", {}, "must come last"),
        ("pca16x3,int8", {}, "'pca' takes the numbers dim"),
        ("int8x4", {}, "found 'int8x4'"),
        ("center,truncate8,int8", {}, "must come first"),
        ("pca90,int8", {}, "at most the 50 values"),
        ("truncate,int8", {}, "truncate needs dim"),
        ("truncate51", {}, "at most the 50 values"),
        ("pca0,int8", {}, "positive integer"),
        ("rotate,int8", {"stages": 0}, "between 1 and 16"),
        ("rotate,int8", {"nothing": 0}, "unknown field 'nothing'"),
        ("whiten,int8", {"eps": 2.0}, "between 0 and 1"),
        ("", {}, "found ''"),
    ],
)
def test_refused(spec, config, text, tmp_path):
    with pytest.raises(errors.ConfigError, match=text):
        embstore.compress(make_rows(60, 50, hostile=False), tmp_path / "t", spec, **config)
    assert not (tmp_path / "t").exists()


def test_config_finds_its_owner():
    made = pipeline.parse("rotate,int4", {"stages": 3, "block_size": 8})
    assert made.transforms[0].stages == 3 and made.method.block_size == 8


@pytest.mark.parametrize(
    ("spec", "config", "m", "bits"),
    [
        ("opq,pq8x4", {}, 8, 4), ("opq,pq", {"m": 5, "bits": 6}, 5, 6), ("opq8,pq", {"bits": 5}, 8, 5),
        ("opq8", {}, 8, 8), ("opq10x20,pq", {}, 10, 8), ("opq,mgqe5", {"bits": 6, "cold_bits": 3}, 5, 6),
        ("opq,int8", {}, 10, 8), ("opq", {}, 10, 8),
    ],
)  # fmt: skip
def test_opq_learns_for_the_slices_of_its_method(spec, config, m, bits):
    made = pipeline.create(spec, config).resolve(TableShape(3000, 40))
    assert (made.transforms[0].m, made.transforms[0].bits) == (m, bits)
    assert getattr(made.method, "m", m) == m and made.method.config().get("bits", bits) == bits
    assert made.resolve(TableShape(3000, 40)) == made
    shown = pipeline.create(str(made), config).resolve(TableShape(3000, 40))
    assert shown.method == made.method


def test_opq_of_other_slices_than_its_method_is_what_was_asked_for():
    made = pipeline.create("opq4,pq10").resolve(TableShape(3000, 40))
    assert (made.transforms[0].m, made.method.m) == (4, 10)


def test_opq_follows_what_a_budget_chose(tmp_path):
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((4000, 48)) @ rng.standard_normal((48, 48))).astype(np.float32)
    table = embstore.compress(rows, tmp_path / "t", "opq,pq", budget="3bpd")
    opq = table.transforms[0]
    assert (opq.m, opq.bits) == (table.method.m, table.method.bits) and opq.m != 12


def test_budget_counts_the_transforms(tmp_path):
    rows = make_rows(500, 32, hostile=False)
    table = embstore.compress(rows, tmp_path / "t", "pca,int8", budget=500 * 44 + 4 * 32 * 33)
    assert table.nbytes <= 500 * 44 + 4 * 32 * 33
    with pytest.raises(errors.BudgetError, match="bytes for 500 x 32, 4,224 of them for its transforms") as refused:
        embstore.compress(rows, tmp_path / "u", "pca,int8", budget=1000)
    floor = refused.value.floor
    assert f"pca,int8 needs at least {floor:,} bytes" in str(refused.value)
    assert embstore.compress(rows, tmp_path / "u", "pca,int8", budget=floor).nbytes == floor
    with pytest.raises(errors.BudgetError):
        embstore.compress(rows, tmp_path / "v", "pca,int8", budget=floor - 1)


@pytest.mark.parametrize("spec", ["int8", "pq", "rq", "opq,pq", "pca,tcq", "svd", "tt", "mgqe", "subspace", "nf4"])
def test_the_floor_that_is_named_can_be_reached_and_nothing_less(spec):
    shape = TableShape(3000, 24)
    with pytest.raises(errors.BudgetError) as refused:
        choose(spec, shape, 10, {})
    floor = refused.value.floor
    assert f"{floor:,} bytes" in str(refused.value)
    assert nbytes(choose(spec, shape, floor, {}), shape) == floor
    with pytest.raises(errors.BudgetError):
        choose(spec, shape, floor - 1, {})


def test_a_reader_without_transforms_would_refuse(tmp_path):
    """What the format promises to older readers: the feature is named in `requires`."""
    table = embstore.compress(make_rows(100, 8, hostile=False), tmp_path / "t", "center,int8")
    assert table.metadata["requires"] == ["transforms"]
    plain = embstore.compress(make_rows(100, 8, hostile=False), tmp_path / "u", "int8")
    assert plain.metadata["requires"] == []
