"""tcq beyond the laws: a fit that encodes natively learns what the numpy reference does, in the memory it may take."""

from __future__ import annotations

import numpy as np
import pytest

from embstore import native
from embstore.arrays import TableShape
from embstore.methods.tcq import TCQ
from embstore.testing import MemoryRows


@pytest.mark.skipif(not native.available(), reason="needs the native extension")
@pytest.mark.parametrize(("dim", "row_bytes", "window"), [(5, 3, 6), (16, 4, 8), (9, 13, 12)])
def test_native_fit_gives_the_bits_of_the_reference(
    dim: int, row_bytes: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(dim).standard_normal((700, dim)).astype(np.float32) * np.arange(1, dim + 1)
    rows = rows.astype(np.float32)
    rows[3, 0] = np.nan
    method = TCQ(row_bytes, window).resolve(TableShape(*rows.shape))
    fitted = method.fit(MemoryRows(rows), np.random.default_rng(0))
    with monkeypatch.context() as patched:
        patched.setattr(native, "available", lambda: False)
        reference = method.fit(MemoryRows(rows), np.random.default_rng(0))
    for name, array in reference.items():
        assert array.tobytes() == fitted[name].tobytes(), name
    assert np.isfinite(fitted["levels"]).all()


def test_learned_levels_lose_less_than_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).laplace(size=(2000, 8)).astype(np.float32)
    method = TCQ(2, 8).resolve(TableShape(*rows.shape))
    ids = np.arange(len(rows))

    def error() -> float:
        from embstore.arrays import Arrays

        shared = method.fit(MemoryRows(rows), np.random.default_rng(0))
        decoded = np.empty_like(rows)
        method.lookup(Arrays({**shared, **method.encode(shared, ids, rows)}), ids, decoded)
        return float(np.square(decoded - rows).sum())

    learned = error()
    monkeypatch.setattr("embstore.methods.tcq._ROUNDS", 0)
    assert learned < 0.97 * error()
