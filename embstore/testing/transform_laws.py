"""The laws of transforms; `check_pipeline` holds a pipeline, so any transform, to them."""

from __future__ import annotations

import numpy as np

from .. import kernels
from ..arrays import Arrays, TableShape, check
from ..method import nbytes
from ..pipeline import Pipeline, create, parse
from .laws import MemoryRows, config_survives, make_rows, pooled, same, stored


def check_pipeline(spec: str, rows: int = 131, dim: int = 50, seed: int = 0) -> None:
    """Hold the pipeline that `spec` names to the laws; an `AssertionError` says which broke."""
    data = make_rows(rows, dim, seed, hostile=False)
    shape = TableShape(rows, dim)
    pipeline = create(spec).resolve(shape)
    assert isinstance(pipeline, Pipeline)
    assert pipeline.resolve(shape) == pipeline, "resolve is idempotent"
    assert [t.id for t in parse(str(pipeline)).transforms] == [t.id for t in pipeline.transforms], "it can be spelt"  # type: ignore[attr-defined]
    for t in pipeline.transforms:
        config_survives(t)
    shared = pipeline.fit(MemoryRows(data), np.random.default_rng(seed))
    again = pipeline.fit(MemoryRows(data), np.random.default_rng(seed))
    assert all(same(shared[k], again[k]) for k in shared), "the same seed fits the same arrays"
    kept = stored(shared)
    check(pipeline.layout(shape), kept, partition="shared")

    before = data.copy()
    codes = pipeline.apply(shared, data)
    assert same(data, before), "apply leaves its argument alone"
    back = pipeline.undo(shared, codes)
    row_shape = TableShape(rows, pipeline.row_dim(dim))
    assert back.shape == (rows, row_shape.embedding_dim) and back.dtype == np.float32
    if pipeline.code_shape(shape).embedding_dim == dim:
        np.testing.assert_allclose(back, data, rtol=0, atol=2e-5 * float(np.abs(data).max()))

    rng = np.random.default_rng(seed + 1)
    queries = rng.standard_normal((7, row_shape.embedding_dim), dtype=np.float32)
    p, c = pipeline.adjoint(shared, queries)
    assert p.shape == (7, codes.shape[1]) and c.shape == (7,)
    size = np.linalg.norm(queries, axis=1)[:, None] * (np.linalg.norm(back, axis=1) + np.linalg.norm(data.mean(axis=0)))
    assert (np.abs(p @ codes.T + c[:, None] - queries @ back.T) <= 1e-4 * size + 1e-6).all(), "adjoint keeps products"

    encoded = kernels.encoder(pipeline)(shared, np.arange(rows, dtype=np.int64), data)
    assert sum(a.nbytes for a in (*encoded.values(), *kept.values())) == nbytes(pipeline, shape), "layout counts all"
    _check_reading(pipeline, row_shape, Arrays(encoded), kept, rng)


def _check_reading(
    pipeline: Pipeline, shape: TableShape, encoded: Arrays, shared: dict[str, np.ndarray], rng: np.random.Generator
) -> None:
    n, dim = shape.num_embeddings, shape.embedding_dim
    ids = rng.integers(0, n, 3 * n + 1)
    offsets = np.array([0, 0, min(3, n), n, n, 3 * n + 1], np.int64)
    weights = rng.standard_normal(len(ids), dtype=np.float32)
    whole = np.empty((n, dim), np.float32)
    pipeline.lookup(Arrays({**encoded, **shared}), np.arange(n, dtype=np.int64), whole)
    results = []
    for backend in ("numpy", None):
        bound, _ = kernels.bind(pipeline, shape, 1 << 40, [encoded], shared, backend)
        out, half = np.empty((len(ids), dim), np.float32), np.empty((len(ids), dim), np.uint16)
        assert bound.lookup(ids, out, 2) == -1
        assert same(out, whole[ids]), f"lookup ({backend}) = reference"
        bound.lookup_half(ids, half, 2)
        assert same(half.view(np.float16), whole[ids].astype(np.float16)), "half output is the rounded float"
        found = []
        for mode, w in (("sum", None), ("sum", weights), ("mean", None), ("max", None)):
            bags = np.empty((len(offsets) - 1, dim), np.float32)
            assert bound.bag(ids, offsets, w, kernels.BAG_MODES.index(mode), bags, 2) == -1
            want = pooled(out, offsets, mode, w)
            tolerance = 1e-5 * float(np.abs(out).max()) * len(ids) ** 0.5 * (3 if w is not None else 1)
            np.testing.assert_allclose(bags, want, rtol=1e-4, atol=tolerance, err_msg=f"bag ({backend}, {mode})")
            assert not bags[0].any() and not bags[3].any(), "an empty bag is zero"
            found.append(bags)
        results.append(found)
        assert bound.lookup(np.array([0, n]), np.empty((2, dim), np.float32), 1) == 1
    for a, b in zip(*results, strict=True):
        assert same(a, b), "native bag = reference"
