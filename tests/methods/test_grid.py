"""rabitq, turboquant, binary: laws, the errors their papers promise, the search for the scale, scores, FAISS."""

import dataclasses
import math
import os
import subprocess
import sys

import numpy as np
import pytest

import embstore
from embstore import errors, native, pipeline
from embstore.arrays import Arrays, TableShape
from embstore.kernels import ScanTerms
from embstore.method import nbytes
from embstore.methods.binary import Binary
from embstore.methods.rabitq import RaBitQ
from embstore.methods.turboquant import TurboQuant
from embstore.testing import check_method, check_pipeline

RABITQ = [RaBitQ(bits, search=search) for bits in range(1, 9) for search in ("fast", "exact")]
TURBOQUANT = [TurboQuant(bits) for bits in (1, 2, 3, 4)]
BINARY = [Binary(), Binary("float32"), Binary(None)]
WIDE = [RaBitQ(3, "float32"), TurboQuant(3, "float32")]


def decoded(method, rows):
    out = np.empty_like(rows)
    method.lookup(Arrays(method.encode({}, np.arange(len(rows)), rows)), np.arange(len(rows)), out)
    return out


def unit_rows(n, dim, seed=0):
    rows = np.random.default_rng(seed).standard_normal((n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def lost(method, rows):
    return float(np.square(decoded(method, rows) - rows).sum() / np.square(rows).sum())


def scanned(table, queries, k):
    """Queries as the scorer takes them, and ids of its k best by inner product, before any is scored again."""
    constants = None
    if isinstance(table._method, pipeline.Pipeline):
        queries, constants = table._method.adjoint(table._stored.shared, queries)
    found = np.empty((len(queries), k), np.int64)
    table._bound.scan(queries, k, ScanTerms(constants=constants), found, 2)
    return queries, found


@pytest.mark.parametrize("dim", [1, 7, 16, 50, 128, 300])
@pytest.mark.parametrize("method", RABITQ + TURBOQUANT + BINARY + WIDE, ids=repr)
def test_laws(method, dim):
    if method.config().get("search") != "exact" or method.bits <= 6:
        check_method(method, rows=41, dim=dim)


@pytest.mark.parametrize("isa", ["avx2", "ref"])
def test_laws_of_other_instruction_sets(isa):
    if isa not in native.require("the test").usable_isas():
        pytest.skip(f"this processor has no {isa}")
    code = (
        "from embstore.methods.rabitq import RaBitQ\nfrom embstore.methods.turboquant import TurboQuant\n"
        "from embstore.testing import check_method\n"
        "for m in [*map(RaBitQ, range(1, 9)), *map(TurboQuant, (1, 2, 3, 4)), RaBitQ(3, search='exact')]:\n"
        "    for dim in (5, 64, 150): check_method(m, 40, dim)\n"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "EMBSTORE_ISA": isa}, check=True, timeout=300)


@pytest.mark.parametrize("spec", ["rabitq1", "rabitq5", "center,rotate,rabitq4", "turboquant3", "center,rotate,binary"])
def test_in_pipelines(spec):
    for dim in (50, 64, 128, 600):
        check_pipeline(spec, rows=70, dim=dim)


def test_what_a_string_stands_for():
    assert str(pipeline.create("rabitq")) == "rotate,rabitq4"
    assert str(pipeline.create("center,rabitq2")) == "center,rotate,rabitq2"
    assert str(pipeline.create("turboquant3")) == "rotate,turboquant3"
    assert pipeline.create("binary") == Binary()


@pytest.mark.parametrize(("bits", "error"), [(1, 0.3634), (2, 0.1175), (3, 0.0345), (4, 0.0095)])
def test_turboquant_error_is_the_papers(bits, error):
    """Zandieh et al., 2025: relative squared error on unit vectors, dim large."""
    assert lost(TurboQuant(bits), unit_rows(500, 2048)) == pytest.approx(error, rel=0.05)


@pytest.mark.parametrize(
    ("bits", "error"), [(1, 0.3634), (2, 0.1188), (3, 0.03744), (4, 0.01154), (5, 0.003495), (6, 0.001041)]
)
def test_rabitq_error_is_that_of_uniform_codes_on_normal_values(bits, error):
    """1 bit: 1 - 2/pi. More: Max's uniform quantizers of N(0, 1), which the best grid point tends to as dim grows."""
    assert lost(RaBitQ(bits, search="exact"), unit_rows(60, 8192)) == pytest.approx(error, rel=0.05)


def test_rabitq_cosine_and_estimator_error_are_the_papers():
    """Gao and Long, 2024: a = <obar, o> averages 0.8; the estimate of <o, q> errs by sqrt((1 - a²) / (a² (D - 1)))."""
    dim = 256
    rows, queries = unit_rows(4000, dim), unit_rows(8, dim, 1)
    points = decoded(RaBitQ(1, "float32"), rows)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    cosine = (points * rows).sum(axis=1)
    assert cosine.mean() == pytest.approx(math.sqrt(2 / math.pi), rel=0.01)
    miss = queries @ (points / cosine[:, None] - rows).T
    assert abs(miss.mean()) < 4 * miss.std() / math.sqrt(miss.size)
    assert miss.std() == pytest.approx(np.sqrt(((1 - cosine**2) / cosine**2).mean() / (dim - 1)), rel=0.05)


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_fast_search_loses_little(bits):
    for dim in (32, 128, 1024):
        rows = unit_rows(60, dim)
        fast, exact = lost(RaBitQ(bits, "float32"), rows), lost(RaBitQ(bits, "float32", "exact"), rows)
        assert exact <= fast * 1.0001 and fast <= exact * (1.003 if bits <= 4 and dim >= 128 else 1.06)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_the_exact_search_finds_the_least_angle(bits):
    """Against every grid point of 5 dims."""
    rows = unit_rows(30, 5)
    axis = np.arange(2**bits) - (2**bits - 1) / 2
    grid = np.stack(np.meshgrid(*[axis] * 5), axis=-1).reshape(-1, 5)
    best = (rows @ (grid / np.linalg.norm(grid, axis=1, keepdims=True)).T).max(axis=1)
    found = decoded(RaBitQ(bits, "float32", "exact"), rows)
    np.testing.assert_allclose((found * rows).sum(axis=1) / np.linalg.norm(found, axis=1), best, rtol=1e-6)


@pytest.mark.parametrize("method", [*map(RaBitQ, range(1, 9)), *TURBOQUANT, Binary()], ids=repr)
def test_the_scale_is_the_least_squares_one(method):
    rows = unit_rows(50, 100)
    found = decoded(dataclasses.replace(method, scale_dtype="float32"), rows).astype(np.float64)
    np.testing.assert_allclose((found * rows).sum(axis=1), np.square(found).sum(axis=1), rtol=1e-5)


def test_levels_of_turboquant_are_lloyd_max():
    """Each level is the mean of the normal values nearest to it."""

    def density(x):
        return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    for bits in (1, 2, 3, 4):
        levels = TurboQuant(bits).levels().astype(np.float64)
        edges = [0.0, *((levels[1:] + levels[:-1]) / 2), math.inf]
        for level, low, high in zip(levels, edges, edges[1:], strict=False):
            mass = (math.erfc(low / math.sqrt(2)) - math.erfc(high / math.sqrt(2))) / 2
            assert level == pytest.approx((density(low) - density(high)) / mass, rel=1e-6)


def test_binary_without_a_scale_is_signs():
    rows = np.array([[0.5, -2, 0, -0.0, 1e-40]], np.float32)
    assert decoded(Binary(None), rows).tolist() == [[1, -1, 1, 1, 1]]
    assert decoded(Binary("float32"), rows[:, :2]).tolist() == [[1.25, -1.25]]


def test_rows_of_any_magnitude():
    rows = unit_rows(20, 64)
    for factor in (2.0**-126, 2.0**-60, 2.0**60, 2.0**120):
        for method in (RaBitQ(4, "float32"), TurboQuant(4, "float32")):
            big = rows * np.float32(factor)
            wanted = big.astype(np.float64)
            assert np.linalg.norm(decoded(method, big) - wanted) < 0.12 * np.linalg.norm(wanted)
    with pytest.raises(errors.ConfigError, match="float16"):
        method = RaBitQ(4)
        method.check_encoded(method.encode({}, np.arange(20), rows * np.float32(1e9)), rows, 0)


@pytest.mark.parametrize("cls", [RaBitQ, TurboQuant, Binary])
def test_budgets(cls):
    shape = TableShape(1000, 100)
    floor = min(nbytes(o, shape) for o in cls().options())
    for budget in (floor, floor + 4000, 30_000, 10**6):
        assert nbytes(cls().for_budget(shape, budget), shape) <= budget
    assert cls().for_budget(shape, 10**6).bits == cls.largest_bits
    with pytest.raises(errors.BudgetError, match=f"{floor:,}"):
        cls().for_budget(shape, floor - 1)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: RaBitQ(9), "from 1 to 8"),
        (lambda: RaBitQ(True), "from 1 to 8"),
        (lambda: RaBitQ(search="best"), "'fast' or 'exact'"),
        (lambda: RaBitQ(scale_dtype="uint8"), "scale_dtype"),
        (lambda: TurboQuant(5), "from 1 to 4"),
        (lambda: Binary("uint8"), "or None"),
    ],
)
def test_refused(make, text):
    with pytest.raises(errors.ConfigError, match=text):
        make()


SCORED = [*(f"rabitq{b}" for b in range(1, 9)), *(f"turboquant{b}" for b in (1, 2, 3, 4)), "binary", "center,binary"]


@pytest.mark.parametrize("dim", [20, 128, 1100])
@pytest.mark.parametrize("spec", SCORED)
def test_scores_are_within_their_bound(spec, dim, tmp_path):
    """A scan may prefer a row only where rounding the query (to 127ths or, on AVX2, 64ths) could have put it first."""
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((1500, dim)) * rng.uniform(0.5, 2, (1500, 1)) + 0.1).astype(np.float32)
    table = embstore.compress(rows, tmp_path / "t", spec)
    queries = rng.standard_normal((9, dim), dtype=np.float32)
    queries[4] = 0
    values = table.lookup(np.arange(1500)).astype(np.float64)
    exact = queries @ values.T
    turned, found = scanned(table, queries, 30)
    codes = values
    if isinstance(table._method, pipeline.Pipeline):
        codes = table._method.apply(table._stored.shared, table.lookup(np.arange(1500)))
    bound = np.abs(turned).max(axis=1)[:, None] / 64 / 2 * np.abs(codes).sum(axis=1)
    if "turboquant" in spec:  # whose levels are rounded too, to 254 steps of their range
        bound += np.abs(turned).sum(axis=1)[:, None] * np.abs(codes).max(axis=1) * 2 / 254
    least = -np.sort(-(exact - bound), axis=1)[:, 29:30]
    assert (np.take_along_axis(exact + bound, found, axis=1) >= least - 1e-3).all()


@pytest.mark.parametrize("isa", ["avx2", "ref"])
def test_scores_of_other_instruction_sets(isa):
    if isa not in native.require("the test").usable_isas():
        pytest.skip(f"this processor has no {isa}")
    some = "within_their_bound and (rabitq3 or rabitq8 or turboquant4 or binary) and (20 or 1100)"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", some]
    subprocess.run(command, env={**os.environ, "EMBSTORE_ISA": isa}, check=True, timeout=300)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("spec", ["rabitq1", "rabitq4", "rabitq8", "turboquant2", "turboquant4", "binary"])
def test_search_agrees_with_exact_scores_of_decoded_rows(spec, metric, tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((20_000, 128), dtype=np.float32)
    table = embstore.compress(rows, tmp_path / "t", spec)
    queries = rng.standard_normal((50, 128), dtype=np.float32)
    values = table.lookup(np.arange(len(rows))).astype(np.float64)
    exact = queries @ values.T
    if metric == "cosine":
        exact /= np.linalg.norm(values, axis=1)
    if metric == "l2":
        exact -= np.square(values).sum(axis=1) / 2
    truth = np.argsort(-exact, axis=1)[:, :10]
    _, ids = table.search(queries, 10, metric)
    agreement = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids.tolist(), truth.tolist(), strict=True)])
    assert agreement >= 0.99


def test_against_faiss():
    """IndexRaBitQ decodes with the unbiased factor: its error is ours over one minus ours, for 24 bytes to our 18."""
    faiss = pytest.importorskip("faiss")
    rows = np.random.default_rng(0).standard_normal((5000, 128), dtype=np.float32)
    index = faiss.IndexRaBitQ(128, faiss.METRIC_L2)
    index.train(rows)
    index.add(rows)
    theirs = np.square(index.reconstruct_n(0, len(rows)) - rows).sum() / np.square(rows).sum()
    ours = lost(RaBitQ(1), rows - rows.mean(axis=0))
    assert theirs == pytest.approx(ours / (1 - ours), rel=0.05)
    assert nbytes(RaBitQ(1), TableShape(1, 128)) == 18 < index.code_size
