"""mixed_dim beyond the laws: the rule, the blocks, counts, budgets, damage, a real table; and rows in groups."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embstore
from embstore import errors, kernels
from embstore.arrays import TableShape
from embstore.methods import _groups
from embstore.methods.mixed_dim import MixedDim, block_bounds, popular_dims
from embstore.testing import MemoryRows, make_counts, make_rows

DATA = Path(os.environ.get("EMBSTORE_TEST_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))

# Rows of the 26 categorical fields of Criteo Kaggle.
CRITEO = np.array(
    [1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306, 10, 5652,
     2173, 4, 7046547, 18, 15, 286181, 105, 142572]
)  # fmt: skip


def test_the_rule_gives_the_dims_of_criteo() -> None:
    """The list the survey of embedding compression plots for a tenth of Criteo at 16 dimensions: each field a block."""
    assert CRITEO.sum() == 33_762_577
    dims = popular_dims(1 / CRITEO, 16, alpha=0.1602, powers=True)
    assert dims.tolist() == [8, 8, 1, 2, 8, 8, 4, 8, 16, 4, 4, 1, 4, 8, 4, 2, 16, 4, 8, 16, 2, 16, 16, 4, 8, 4]
    taken = (CRITEO * dims + np.where(dims < 16, 16 * dims, 0)).sum() / (16 * CRITEO.sum())
    assert taken == pytest.approx(0.0929, abs=1e-4)


def test_the_rule_at_its_ends() -> None:
    popularity = np.array([1.0, 0.1, 0.01, 0.0])
    assert popular_dims(popularity, 64, 0.0).tolist() == [64, 64, 64, 64]
    assert popular_dims(popularity, 64, 0.5).tolist() == [64, 20, 6, 1]
    assert popular_dims(popularity, 64, 0.5, powers=True).tolist() == [64, 16, 8, 1]
    assert popular_dims(popularity, 50, 0.5, scale=0.5).tolist() == [25, 8, 2, 1]
    assert popular_dims(popularity, 50, 0.0, powers=True).tolist() == [50] * 4
    assert popular_dims(np.zeros(3), 8, 0.5).tolist() == [8, 8, 8]


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 9, 100, 12_345, 2**31])
def test_blocks_double_and_none_is_empty(n: int) -> None:
    for blocks in (1, 2, 5, 8, 16):
        if n and blocks > n:
            continue
        sizes = np.diff(block_bounds(n, blocks))
        assert sizes.sum() == n and (n == 0 or sizes.min() >= 1)
        if n > 10_000:
            np.testing.assert_allclose(sizes[1:] / sizes[:-1], 2, rtol=1 if blocks == 16 else 0.02)


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 5, 16])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 1000])
def test_rows_are_found_in_their_groups(groups: int, n: int) -> None:
    group = np.random.default_rng(n).integers(0, groups, n).astype(np.uint8)
    for given in (group, np.sort(group)):
        arrays = _groups.build(given, groups)
        sizes = _groups.free_sizes(TableShape(n, 1), groups, _groups.consecutive(given))
        assert (len(arrays["tags"]), len(arrays["ranks"])) == (sizes["tag_bytes"], sizes["tag_runs"])
        found, place = _groups.locate(arrays, np.arange(n))
        assert np.array_equal(found, given)
        for g in range(groups):
            assert np.array_equal(place[given == g], np.arange((given == g).sum()))


def test_without_counts_the_cure_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match=r"pass counts= \(--counts"):
        embstore.compress(make_rows(10, 4, hostile=False), tmp_path / "t", "mixed_dim")


def test_rows_in_order_of_use_need_no_map(tmp_path: Path) -> None:
    rows, counts = make_rows(1000, 16, hostile=False), np.sort(make_counts(1000))[::-1]
    order = np.random.default_rng(0).permutation(1000)
    sorted_ = embstore.compress(rows, tmp_path / "a", "mixed_dim", counts=counts)
    mixed = embstore.compress(rows[order], tmp_path / "b", "mixed_dim", counts=counts[order])
    assert mixed.nbytes - sorted_.nbytes == 16 * (32 + 4 * 8)  # half a byte a row, and the ranks of each 64
    # Ties are broken by id, so only rows of counts that no other has are sure to be in the same block.
    np.testing.assert_allclose(mixed.lookup(np.argsort(order)[:30]), sorted_.lookup(np.arange(30)), atol=0.02)


def test_the_most_used_rows_are_whole(tmp_path: Path) -> None:
    rows, counts = make_rows(2000, 24, hostile=False), make_counts(2000, 5)
    table = embstore.compress(rows, tmp_path / "t", "mixed_dim", counts=counts, values="float32", blocks=4)
    out = table.lookup(np.arange(2000))
    order = np.argsort(-counts, kind="stable")
    first, last = order[: 2000 // 15], order[-1000:]
    assert np.array_equal(out[first], rows[first])
    error = np.square(out - rows).sum(axis=1) / np.square(rows).sum(axis=1)
    assert error[last].mean() > 0.3


def test_projections_are_the_best_of_their_width(tmp_path: Path) -> None:
    """One block at a lower width is the truncated SVD of the table."""
    rows = make_rows(300, 20, hostile=False)
    table = embstore.compress(
        rows, tmp_path / "t", "mixed_dim", counts=np.ones(300), blocks=1, alpha=0.0, values="float32",
        limit=4 * 300 * 5 + 4 * 20 * 5 + 8 + 4,
    )  # fmt: skip
    u, s, v = np.linalg.svd(rows.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(table.lookup(np.arange(300)), (u[:, :5] * s[:5]) @ v[:5], atol=1e-3 * s[0] / 20)


@pytest.mark.parametrize(
    "fields",
    [{}, {"alpha": 0.2}, {"powers": True}, {"blocks": 16}, *({"values": v} for v in ("float32", "int8", "int4"))],
)
@pytest.mark.parametrize("budget", [0.1, 0.25, 0.45])
def test_a_budget_is_kept(tmp_path: Path, fields: dict[str, Any], budget: float) -> None:
    rows, counts = make_rows(20_000, 32, hostile=False), make_counts(20_000)
    table = embstore.compress(rows, tmp_path / "t", "mixed_dim", counts=counts, budget=budget, **fields)
    assert table.nbytes <= budget * rows.nbytes
    if "powers" not in fields:
        assert table.nbytes >= 0.8 * min(budget * rows.nbytes, 20_000 * table.method.coding.nbytes(32))


def test_budgets_out_of_reach(tmp_path: Path) -> None:
    rows, counts = make_rows(1000, 32, hostile=False), make_counts(1000)
    with pytest.raises(errors.BudgetError, match=r"needs at least .* for 1,000 x 32"):
        embstore.compress(rows, tmp_path / "t", "mixed_dim", counts=counts, budget=2000)
    with pytest.raises(errors.BudgetError, match="for these counts, found a budget of 4,200"):
        embstore.compress(rows, tmp_path / "t", "mixed_dim", counts=counts, budget=4200)


def test_mistakes() -> None:
    for fields in (
        {"blocks": 0}, {"blocks": 17}, {"blocks": True}, {"alpha": -1}, {"alpha": "0.3"}, {"powers": 1},
        {"weighted": None}, {"values": "int16"}, {"limit": 0},
    ):  # fmt: skip
        with pytest.raises(errors.ConfigError, match="of mixed_dim must be"):
            MixedDim(**fields)  # type: ignore[arg-type]
    with pytest.raises(errors.ConfigError, match="fewer than 2"):
        MixedDim().resolve(TableShape(2**32, 8))


@pytest.mark.parametrize("values", ["float16", "int8", "int4"])
def test_too_large_for_float16(tmp_path: Path, values: str) -> None:
    rows = np.ones((40, 4), np.float32)
    rows[7] = 1e5
    with pytest.raises(errors.ConfigError, match="found row 7 of length 200000; use values='float32'"):
        embstore.compress(rows, tmp_path / "t", "mixed_dim", counts=np.ones(40), values=values)


@pytest.mark.parametrize(("values", "least", "most"), [("int8", 1e-6, 5e-5), ("int4", 1e-3, 2e-2)])
def test_codes_are_near_the_floats(tmp_path: Path, values: str, least: float, most: float) -> None:
    """A step is a 255th or a 15th of the range of a row's few values, and its error a 12th of its square."""
    rows, counts = make_rows(2000, 32, hostile=False), make_counts(2000)
    tables = {
        kind: embstore.compress(rows, tmp_path / kind, "mixed_dim", counts=counts, values=kind, alpha=0.3)
        for kind in ("float32", values)
    }
    floats, codes = (table.lookup(np.arange(2000)) for table in tables.values())
    lost = np.square(codes - floats).sum(axis=1) / np.square(floats).sum(axis=1)
    assert least < lost.mean() < most
    assert tables[values].nbytes < 0.6 * tables["float32"].nbytes


def test_nan_in_codes(tmp_path: Path) -> None:
    rows = make_rows(40, 8, hostile=False)
    rows[3, 2], rows[30, 1] = np.nan, np.inf
    table = embstore.compress(
        rows, tmp_path / "t", "mixed_dim", counts=np.arange(40, 0, -1), values="int8", blocks=2, nonfinite="keep"
    )
    assert np.isnan(table.lookup([3, 30])).all()
    assert np.isfinite(table.lookup([i for i in range(40) if i not in (3, 30)])).all()


@pytest.mark.parametrize("values", ["float16", "int8", "int4"])
def test_damaged_arrays_are_refused_or_stay_inside(values: str) -> None:
    rows, shape = make_rows(200, 24, hostile=False), TableShape(200, 24)
    method = MixedDim.from_config({"blocks": 5, "values": values}).resolve(shape)
    fitted = method.fit(MemoryRows(rows, make_counts(200)), np.random.default_rng(0))
    shared = {k: v for k, v in fitted.items() if k[0] != "_"} | method.encode(fitted, np.arange(200), rows)
    rng = np.random.default_rng(1)
    for name in ("group_rows", "dims"):
        for change in (1, -1, 2**30):
            damaged = shared[name].copy()
            damaged[2] += change
            with pytest.raises(ValueError, match="restore"):
                kernels.bind(method, shape, 1 << 40, [], {**shared, name: damaged}, "native")
    for name in ("tags", "ranks"):
        noise = rng.integers(0, 256, shared[name].nbytes, dtype=np.uint8).view(shared[name].dtype)
        bound, _ = kernels.bind(method, shape, 1 << 40, [], {**shared, name: noise.reshape(shared[name].shape)})
        out = np.full((200, 24), np.nan, np.float32)
        assert bound.lookup(np.arange(200), out, 1) == -1
        assert np.isfinite(out).all()
        with pytest.raises(ValueError, match="restore"):
            kernels.bind(method, shape, 1 << 40, [], {**shared, name: shared[name][:-1]}, "native")


@pytest.mark.skipif(not (DATA / "words").is_dir(), reason="GloVe is absent; set EMBSTORE_TEST_DATA")
def test_words(tmp_path: Path) -> None:
    """GloVe words, in the order of their frequency: less error than pca of the same bytes, half of it by use."""
    rows = np.load(next((DATA / "words").glob("*.npy")))
    counts = 1 / np.arange(1, len(rows) + 1)
    squares = np.square(rows).sum(axis=1)
    found = {}
    for name in ("mixed_dim", "pca25,float16"):
        budget = {"budget": 0.25} if name == "mixed_dim" else {}
        table = embstore.compress(rows, tmp_path / name, name, counts=counts, **budget)
        assert table.nbytes < 0.251 * rows.nbytes
        lost = np.square(table.lookup(np.arange(len(rows))) - rows).sum(axis=1)
        found[name] = np.array([lost.sum() / squares.sum(), (lost * counts).sum() / (squares * counts).sum()])
    ratio = found["mixed_dim"] / found["pca25,float16"]
    assert ratio[0] < 1 and ratio[1] < 0.5
