"""svd, tt and subspace against what numpy makes of the same table."""

import os
from pathlib import Path

import numpy as np
import pytest

import embstore
from embstore import errors
from embstore.arrays import TableShape
from embstore.method import nbytes
from embstore.methods.subspace import Subspace
from embstore.methods.svd import SVD
from embstore.methods.tt import TT
from embstore.testing import MemoryRows, check_pipeline, make_rows


def error(decoded, rows):
    """Squared error, relative to the squares of the rows."""
    wide = rows.astype(np.float64)
    return float(np.square(decoded - wide).sum() / np.square(wide).sum())


def needs_faiss(method):
    """Skip where clusters cannot be fitted."""
    if getattr(method, "kind", "") == "cluster":
        pytest.importorskip("faiss")


def decoded(rows, method, tmp_path, **config):
    table = embstore.compress(rows, tmp_path / "t", method, overwrite=True, **config)
    return table.lookup(np.arange(len(rows)))


def normal(n, dim, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


# svd ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "dim"), [(500, 40), (20, 40), (300, 1)])
def test_svd_is_numpys(n, dim, tmp_path):
    rows = normal(n, dim) * np.linspace(1, 3, dim, dtype=np.float32)
    u, s, v = np.linalg.svd(rows.astype(np.float64), full_matrices=False)
    for rank in {1, min(7, dim), min(20, dim)}:
        want = (u[:, :rank] * s[:rank]) @ v[:rank]
        got = decoded(rows, SVD(rank=rank, factor="float32"), tmp_path)
        np.testing.assert_allclose(got, want, atol=1e-4)
        assert error(got, rows) == pytest.approx(np.square(s[rank:]).sum() / np.square(s).sum(), abs=1e-6)


@pytest.mark.parametrize(("config", "bound"), [({"factor": "float16"}, 1e-7), ({"basis": "float16"}, 2e-4)])
def test_svd_rounds_little(config, bound, tmp_path):
    """A table of rank 6 stays what it is: factors are fitted to the basis as it is stored."""
    rows = normal(400, 6) @ normal(6, 30, 1)
    assert error(decoded(rows, SVD(rank=6, **config), tmp_path), rows) < bound


def test_svd_bags_add_factors(tmp_path):
    rows = normal(200, 30)
    table = embstore.compress(rows, tmp_path / "t", "svd12")
    reference = embstore.Table(table._stored, backend="numpy")
    ids = np.random.default_rng(0).integers(0, 200, (50, 9))
    weights = normal(50, 9)
    for mode, w in (("sum", None), ("mean", None), ("sum", weights)):
        got = table.bag(ids, mode=mode, per_sample_weights=w)
        assert np.array_equal(got, reference.bag(ids, mode=mode, per_sample_weights=w))
        picked = table.lookup(ids.reshape(-1)).reshape(50, 9, 30) * (1 if w is None else w[:, :, None])
        np.testing.assert_allclose(got, picked.mean(1) if mode == "mean" else picked.sum(1), atol=2e-5)


def grouped_rows():
    """Rows of two kinds, long ones of rank 4 and short ones of rank 12, in different directions."""
    long, short = 5 * normal(300, 4) @ normal(4, 40, 1), 0.1 * normal(3000, 12, 2) @ normal(12, 40, 3)
    rows = np.concatenate([long, short])
    return rows[np.random.default_rng(4).permutation(len(rows))]


@pytest.mark.parametrize("factor", ["float32", "float16", "int8"])
def test_groups_have_ranks_of_their_own(factor, tmp_path):
    rows = grouped_rows()
    table = embstore.compress(rows, tmp_path / "t", SVD(rank=10, factor=factor, groups=4))
    shared = table._stored.shared
    assert sorted(set(shared["ranks"].tolist()))[0] < 10 < max(shared["ranks"])
    assert len(shared["basis"]) == shared["ranks"].sum()
    plain = embstore.compress(rows, tmp_path / "plain", SVD(rank=10, factor=factor))
    assert table.nbytes <= plain.nbytes + 5 * len(rows) + 4 * 4
    ids = np.arange(len(rows))
    assert error(table.lookup(ids), rows) <= error(plain.lookup(ids), rows)


def test_groups_beat_one_basis(tmp_path):
    rows = np.concatenate([normal(1500, 4) @ normal(4, 40, 1), 3 * normal(500, 4, 2) @ normal(4, 40, 3)])
    one, two = (decoded(rows, SVD(rank=4, factor="float32", groups=g), tmp_path) for g in (1, 2))
    assert error(two, rows) < 0.6 * error(one, rows)


@pytest.mark.parametrize(("name", "width"), [("start", 4), ("group", 1)])
def test_damaged_starts_of_groups_give_nan(name, width, tmp_path):
    table = embstore.compress(grouped_rows(), tmp_path / "t", SVD(groups=2, factor="int8"))
    assert np.isfinite(table.lookup([5])).all()
    file = tmp_path / "t" / name / "c" / "0"
    data = bytearray(file.read_bytes())
    data[5 * width : 6 * width] = b"\xff" * width
    file.write_bytes(data)
    assert np.isnan(embstore.open(tmp_path / "t").lookup([5])).all()


def test_svd_refuses(tmp_path):
    with pytest.raises(errors.ConfigError, match="at most the 4 values of a row, found 5"):
        SVD(rank=5).resolve(TableShape(10, 4))
    with pytest.raises(errors.ConfigError, match="at most 4,096 values, found 5,000"):
        SVD().resolve(TableShape(10, 5000))
    with pytest.raises(errors.ConfigError, match="at most 16 for rows of 1,000 values, found 17"):
        SVD(groups=17).resolve(TableShape(10, 1000))
    large = np.full((10, 4), 1e5, np.float32)
    large[:3] = 1
    for groups in (1, 2):
        with pytest.raises(errors.ConfigError, match="those of row 3 are too large"):
            embstore.compress(large, tmp_path / "t", SVD(factor="float16", rank=1, groups=groups))


# tt -----------------------------------------------------------------------------------------------------------

LETTERS = "abcdefgh"


def dense(cores):
    """The table of cores [n, r, q, r], by einsum: rows of padding and values of padding too."""
    terms = [f"{LETTERS[i]}{'uvwxy'[i]}{'klmn'[i]}{'uvwxy'[i + 1]}" for i in range(len(cores))]
    out = LETTERS[: len(cores)] + "klmn"[: len(cores)]
    full = np.einsum(",".join(terms) + "->" + "u" + out + "uvwxy"[len(cores)], *cores)
    n, q = (int(np.prod([c.shape[axis] for c in cores])) for axis in (0, 2))
    return full.reshape(n, q)


def cores_of(method, shape, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(spec.sizes()) for spec in method.layout(shape)]


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize(("n", "dim"), [(343, 60), (100, 31), (5, 3), (1, 1)])
def test_tt_is_einsum(count, n, dim, tmp_path):
    rows = normal(n, dim)
    table = embstore.compress(rows, tmp_path / "t", TT(rank=5, cores=count))
    want = dense([np.asarray(c, np.float64) for c in table._stored.shared.values()])[:n, :dim]
    np.testing.assert_allclose(table.lookup(np.arange(n)), want, atol=1e-5)
    assert not table._stored.shards and table.nbytes == nbytes(table.method, TableShape(n, dim))


@pytest.mark.parametrize("dim", [60, 64])
@pytest.mark.parametrize(("count", "n"), [(2, 19**2), (3, 7**3), (4, 4**4)])
def test_tt_finds_a_tensor_train(count, n, dim, tmp_path):
    """A table that is a tensor train of some rank is kept whole by that rank, and not by less."""
    made = TT(rank=4, cores=count)
    rows = dense(cores_of(made, TableShape(n, dim))).astype(np.float32)
    assert rows.shape == (n, dim)
    assert error(decoded(rows, made, tmp_path), rows) < 1e-9
    assert error(decoded(rows, TT(rank=2, cores=count), tmp_path), rows) > 1e-2


@pytest.mark.parametrize("count", [2, 3, 4])
def test_tt_error_is_bounded_by_what_is_cut_off(count, tmp_path):
    """Oseledets (2011): the squared error is at most the sum of what each unfolding loses; and of one, at least."""
    n, dim = (36**2, 64) if count == 2 else (6**3, 64) if count == 3 else (4**4, 81)
    rows = normal(n, dim).cumsum(axis=0)
    shape = TableShape(n, dim)
    last = 1.0
    for rank in (2, 6, 12):
        method = TT(rank=rank, cores=count)
        ns, qs = method.row_sizes(shape), method.value_sizes(shape)
        tensor = rows.astype(np.float64).reshape(*ns, *qs)
        tensor = tensor.transpose([axis for i in range(count) for axis in (i, count + i)])
        lost = []
        for i in range(1, count):
            left = int(np.prod(ns[:i]) * np.prod(qs[:i]))
            lost.append(
                np.square(np.linalg.svd(tensor.reshape(left, -1), compute_uv=False)[method.ranks(shape)[i] :]).sum()
            )
        total = np.square(tensor).sum()
        found = error(decoded(rows, method, tmp_path), rows)
        assert max(lost) / total - 1e-9 <= found <= sum(lost) / total + 1e-9
        assert found < last
        last = found


def test_tt_streams(tmp_path):
    """Blocks of any length give one fit."""

    class Blocks(MemoryRows):
        def blocks(self):
            for start in range(0, len(self._rows), 37):
                yield self._rows[start : start + 37]

    rows = normal(500, 24)
    method = TT(rank=6).resolve(TableShape(500, 24))
    rng = np.random.default_rng
    for a, b in zip(
        method.fit(MemoryRows(rows), rng(0)).values(), method.fit(Blocks(rows), rng(0)).values(), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize(
    ("dim", "want"),
    [(1, (1, 1, 1)), (64, (4, 4, 4)), (300, (6, 5, 10)), (31, (4, 2, 4)), (128, (4, 4, 8)), (97, (7, 2, 7))],
)
def test_tt_value_sizes(dim, want):
    assert TT().value_sizes(TableShape(10, dim)) == want


@pytest.mark.parametrize("count", [2, 3, 4])
def test_tt_of_codes_loses_little_more(count, tmp_path):
    rows = normal(2000, 32).cumsum(axis=0)
    lost = {}
    for kind in ("float32", "int8"):
        table = embstore.compress(rows, tmp_path / kind, TT(rank=12, cores=count, core_dtype=kind))
        assert table.nbytes == nbytes(table.method, TableShape(2000, 32))
        lost[kind] = error(table.lookup(np.arange(2000)), rows), table.nbytes
    assert lost["float32"][0] < lost["int8"][0] < lost["float32"][0] + 2e-4
    assert lost["int8"][1] < 0.32 * lost["float32"][1]


def test_tt_refuses_what_it_cannot_fit(tmp_path):
    with pytest.raises(errors.ConfigError, match=r"at most 8,192 rows and 4 GiB, found 80,000 rows"):
        TT(cores=2, rank=8).check_fit(TableShape(10**8, 64))
    for method in ("tt", "subspace"):
        rows = normal(20, 6)
        rows[7, 2] = np.inf
        with pytest.raises(errors.ConfigError, match="found NaN or inf in row 7"):
            embstore.compress(rows, tmp_path / "t", method, nonfinite="keep")


# subspace -----------------------------------------------------------------------------------------------------


def test_dispersed_entries_are_means(tmp_path):
    rows = normal(120, 10)
    table = embstore.compress(rows, tmp_path / "t", "subspace3")
    base = 5  # 5 ** 3 >= 120 > 4 ** 3
    assert table._stored.shared["parts"].shape == (base, 10)
    got = table.lookup(np.arange(120))
    for part, columns in enumerate((slice(0, 3), slice(3, 6), slice(6, 10))):
        digit = np.arange(120) // base ** (2 - part) % base
        for d in np.unique(digit):
            mean = rows[digit == d, columns].astype(np.float64).mean(axis=0)
            np.testing.assert_allclose(
                got[digit == d, columns], np.broadcast_to(mean, got[digit == d, columns].shape), atol=1e-6
            )


def test_one_part_is_the_table(tmp_path):
    rows = normal(50, 7)
    assert np.array_equal(decoded(rows, "subspace1", tmp_path), rows)


def test_clusters_tell_rows_apart(tmp_path):
    pytest.importorskip("faiss")
    rows = normal(1000, 12)
    rows[100:400] = rows[0]
    table = embstore.compress(rows, tmp_path / "t", Subspace(parts=3, kind="cluster"))
    shard = table._stored.shards[0]
    codes = np.concatenate([shard["codes"].astype(np.int64), shard["member"][:, None]], axis=1)
    assert len(np.unique(codes, axis=0)) == 1000
    assert len(table._stored.shared["members"]) >= 301
    assert np.array_equal(codes[100:400, :2], np.broadcast_to(codes[0, :2], (300, 2)))


def test_clusters_are_near(tmp_path):
    pytest.importorskip("faiss")
    rows = normal(2000, 16)
    few, many = (decoded(rows, Subspace(parts=p, kind="cluster"), tmp_path) for p in (2, 8))
    assert error(many, rows) < 0.02 < error(few, rows)


# all ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        SVD(),
        SVD(factor="float16", basis="float16"),
        SVD(groups=4),
        TT(),
        TT(cores=4),
        Subspace(),
        Subspace(kind="cluster"),
    ],
    ids=repr,
)
def test_budgets_are_kept_and_used(method, tmp_path):
    needs_faiss(method)
    rows = make_rows(300, 20, hostile=False)
    shape = TableShape(300, 20)
    with pytest.raises(errors.BudgetError, match=r"needs at least [\d,]+ bytes for 300 x 20, found a budget of 9"):
        method.for_budget(shape, 9)
    sizes = []
    for ratio in (0.9, 0.7, 0.5):
        budget = int(shape.nbytes_float32 * ratio)
        try:
            table = embstore.compress(rows, tmp_path / f"{ratio}", method, budget=budget)
        except errors.BudgetError:
            assert method.id == "subspace" and method.kind == "cluster"  # its centroids alone are larger
            continue
        assert table.nbytes <= budget
        sizes.append(table.nbytes)
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    "method",
    [SVD(), SVD(groups=3), SVD(groups=2, factor="float16"), TT(), Subspace(), Subspace(kind="cluster")],
    ids=repr,
)
def test_search_is_that_of_decoded_rows(method, tmp_path):
    needs_faiss(method)
    rows = normal(1500, 33)
    table = embstore.compress(rows, tmp_path / "t", method)
    queries = normal(20, 33, 1)
    scores = queries.astype(np.float64) @ table.lookup(np.arange(1500)).T.astype(np.float64)
    found, ids = table.search(queries, 10, "ip")
    np.testing.assert_allclose(found, np.take_along_axis(scores, ids, axis=1), atol=1e-4)
    np.testing.assert_allclose(found, -np.sort(-scores, axis=1)[:, :10], atol=1e-4)


@pytest.mark.parametrize("spec", ["center,svd9", "rotate,svd9", "pca20,svd9", "pca20,tt8", "rotate,subspace4"])
def test_behind_transforms(spec):
    check_pipeline(spec)


def test_words(tmp_path):
    """GloVe, 100,000 x 50: errors next to those of numpy's SVD of the same table."""
    root = Path(os.environ.get("EMBSTORE_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    file = root / "words" / "glove.6B.50d.top100k.npy"
    if not file.exists():
        pytest.skip("GloVe is absent; set EMBSTORE_TEST_DATA")
    rows = np.load(file).astype(np.float32)
    squares = np.square(np.linalg.svd(rows.astype(np.float64), compute_uv=False))
    best = squares[25:].sum() / squares.sum()
    assert error(decoded(rows, SVD(rank=25, factor="float32"), tmp_path), rows) == pytest.approx(best, rel=1e-4)
    assert error(decoded(rows, SVD(rank=25), tmp_path), rows) == pytest.approx(best, rel=1e-3)
    assert error(decoded(rows, "tt", tmp_path), rows) == pytest.approx(0.82, abs=0.01)
    assert error(decoded(rows, "subspace", tmp_path), rows) == pytest.approx(0.984, abs=0.002)
