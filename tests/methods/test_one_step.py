"""int8 and int16 with one step for the table: exact for integers, refused beyond their range, searched like others."""

import numpy as np
import pytest

import embstore
from embstore import errors, registry
from embstore.testing.laws import pooled

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("method", "top"), [("int8", 255), ("int16", 65535)])
def test_unsigned_integers_are_kept_exactly(tmp_path, method, top):
    rows = RNG.integers(0, top + 1, (300, 21)).astype(np.float32)
    rows[0, :2] = 0, top
    table = embstore.compress(rows, tmp_path / "t", method, step=1.0, offset=0.0)
    assert table.nbytes == rows.size * (1 if method == "int8" else 2)
    ids = RNG.integers(0, 300, 500)
    for read in (table, embstore.Table(table._stored, backend="numpy")):
        assert np.array_equal(read.lookup(ids), rows[ids])
    assert np.array_equal(table.bag(ids, [0, 7, 7]), pooled(rows[ids], [0, 7, 7, 500], "sum"))


def test_steps_and_offsets_are_rounded_once(tmp_path):
    rows = RNG.integers(0, 256, (50, 9)).astype(np.float32) * np.float32(0.1) + np.float32(-3.3)
    table = embstore.compress(rows, tmp_path / "t", "int8", step=0.1, offset=-3.3)
    assert table.method.step == float(np.float32(0.1)) and table.method.offset == float(np.float32(-3.3))
    assert np.array_equal(table[:], rows)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_search_finds_what_the_rows_say(tmp_path, metric):
    rows = RNG.integers(0, 256, (2000, 32)).astype(np.float32)
    table = embstore.compress(rows, tmp_path / "t", "int8", step=1.0, offset=0.0)
    queries = rows[:20] + RNG.standard_normal((20, 32), dtype=np.float32)
    exact = embstore.compress(rows, tmp_path / "f", "float32").search(queries, 5, metric)
    found = table.search(queries, 5, metric)
    assert (found[1] == exact[1]).mean() > 0.98


@pytest.mark.parametrize("value", [-0.6, 255.6, 300.0, np.nan, np.inf])
def test_what_is_out_of_range_is_refused(tmp_path, value):
    rows = np.zeros((10, 4), np.float32)
    rows[7, 2] = value
    with pytest.raises(errors.ConfigError, match=r"from 0 to 255, found others in row 7"):
        embstore.compress(rows, tmp_path / "t", "int8", step=1.0, offset=0.0, nonfinite="keep")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spec", "config", "more"), [("center,int8", {"step": 1.0, "offset": -128.0}, 300.0), ("pca2,float16", {}, 4e6)]
)
def test_rows_are_checked_as_the_method_sees_them(tmp_path, spec, config, more):
    """After transforms a row may be in range that was not before, and the other way round."""
    rows = RNG.integers(0, 100, (200, 4)).astype(np.float32) + 1e6
    assert (
        np.abs(embstore.compress(rows, tmp_path / "t", "center,int8", step=1.0, offset=-128.0)[:] - rows).max() <= 0.6
    )
    rows[7] += more
    with pytest.raises(errors.ConfigError, match=r"in row 7"):
        embstore.compress(rows, tmp_path / "u", spec, **config)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"step": 1.0}, "goes with a step"),
        ({"offset": 1.0}, "goes with a step"),
        ({"step": 1.0, "offset": 0.0, "symmetric": True}, "goes with a step"),
        ({"step": 1.0, "offset": float("nan")}, "finite float"),
        ({"step": 0.0, "offset": 0.0}, "positive float"),
    ],
)
def test_wrong_configs(config, text):
    with pytest.raises(errors.ConfigError, match=text):
        registry.get("int8")(**config)
