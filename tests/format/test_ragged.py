"""Ragged arrays: made row by row, of a size known only at the end, stored as one file."""

import dataclasses
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import embstore
from embstore import errors, registry
from embstore.arrays import ArraySpec
from embstore.format import layout
from embstore.method import RowMethod
from embstore.testing import check_method, make_rows


@dataclasses.dataclass(frozen=True)
class Positive(RowMethod):
    """Keeps what is above zero: a bit for each value, the kept ones back to back."""

    id = "positive"

    def layout(self, shape):
        n, dim = shape.num_embeddings, shape.embedding_dim
        return (
            ArraySpec("mask", "uint8", (n, -(-dim // 8)), "rows"),
            ArraySpec("start", "uint32", (n,), "rows"),
            ArraySpec("values", "float32", ("kept",), "ragged", "start"),
        )

    def encode(self, shared, ids, rows):
        keep = rows > 0
        ends = np.cumsum(keep.sum(axis=1))
        return {
            "mask": np.packbits(keep, axis=1, bitorder="little"),
            "start": (ends - keep.sum(axis=1)).astype(np.uint32),
            "values": rows[keep],
        }

    def lookup(self, arrays, ids, out):
        at = ids - arrays.start
        keep = np.unpackbits(arrays["mask"][at], axis=1, count=out.shape[1], bitorder="little").astype(bool)
        out[:] = 0
        for i, (mask, start) in enumerate(zip(keep, arrays["start"][at], strict=True)):
            out[i, mask] = arrays["values"][int(start) :][: mask.sum()]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(registry._BUILTIN, "positive", f"{__name__}:Positive")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    registry.get.cache_clear()
    yield
    registry.get.cache_clear()


def test_laws():
    check_method(Positive(), rows=40, dim=20)


@pytest.mark.parametrize("rows_per_shard", [1 << 30, 1024])
def test_over_shards(tmp_path, monkeypatch, rows_per_shard):
    real = layout.geometry

    def small(n, widths):
        shard, chunk = real(n, widths)
        return min(shard, rows_per_shard), min(chunk, rows_per_shard)

    monkeypatch.setattr(layout, "geometry", small)
    rows = make_rows(5000, 20, hostile=False)
    table = embstore.compress(rows, tmp_path / "t", Positive())
    assert np.array_equal(table.lookup(np.arange(5000)), np.maximum(rows, 0))
    assert table.nbytes == 5000 * 7 + 4 * int((rows > 0).sum())
    assert table.verify() == []
    bags = table.bag(np.arange(100).reshape(10, 10))
    np.testing.assert_allclose(bags, np.maximum(rows[:100], 0).reshape(10, 10, 20).sum(1), rtol=1e-5)
    damaged = tmp_path / "t" / "values" / "c" / "0"
    data = bytearray(damaged.read_bytes())
    data[1000] ^= 1
    damaged.write_bytes(data)
    assert [f.array for f in table.verify()] == ["values"]
    os.truncate(damaged, len(data) - 4)
    with pytest.raises(errors.CorruptionError, match="values"):
        embstore.open(tmp_path / "t")


def test_nothing_kept(tmp_path):
    table = embstore.compress(-np.ones((30, 4), np.float32), tmp_path / "t", Positive())
    assert not table.lookup([0, 29]).any()
    assert table.verify() == []


def test_starts_that_no_longer_fit(tmp_path):
    class Narrow(Positive):
        def layout(self, shape):
            mask, start, values = super().layout(shape)
            return mask, dataclasses.replace(start, dtype="uint8"), values

        def encode(self, shared, ids, rows):
            made = super().encode(shared, ids, rows)
            return {**made, "start": made["start"].astype(np.uint8)}

    with pytest.raises(errors.ConfigError, match="starts up to 255"):
        rows = np.ones((64, 4), np.float32)
        from embstore.arrays import TableShape
        from embstore.format.writer import TableWriter

        made = Narrow()
        with TableWriter(
            tmp_path / "t", shape=TableShape(128, 4), method_id="positive", method_version=1, config={},
            specs=made.layout(TableShape(128, 4)),
        ) as writer:  # fmt: skip
            writer.write_shared({})
            for first in (0, 64):
                writer.append(made.encode({}, np.arange(first, first + 64), rows))


CHILD = """
import os, signal, sys
import numpy as np
sys.path.insert(0, {tests!r})
import test_ragged as module
from embstore import compression, registry
from embstore.format import layout
registry._BUILTIN["positive"] = "test_ragged:Positive"
layout.SHARD_BYTES, layout.CHUNK_BYTES, compression.CHUNK_BYTES = 1 << 12, 1 << 12, 1 << 14
calls = 0
class Killing(module.Positive):
    def encode(self, shared, ids, rows):
        global calls
        calls += 1
        if calls == {at}:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(shared, ids, rows)
import embstore
embstore.compress({source!r}, {path!r}, Killing())
print(calls)
"""


def test_a_killed_run_is_continued(tmp_path):
    """Kill it in the middle, run it again: fewer rows are encoded, the bytes are those of a run left alone."""

    def run(path, at):
        code = CHILD.format(
            tests=os.path.dirname(__file__), at=at, source=str(tmp_path / "rows.npy"), path=str(tmp_path / path)
        )
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)

    np.save(tmp_path / "rows.npy", make_rows(9000, 20, hostile=False))
    whole = run("whole", -1)
    assert whole.returncode == 0, whole.stderr
    calls = int(whole.stdout)
    assert run("t", calls // 2).returncode == -signal.SIGKILL
    assert not (tmp_path / "t").exists()
    again = run("t", -1)
    assert again.returncode == 0, again.stderr
    assert int(again.stdout) < calls
    files = [p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*") if p.is_file()]
    for file in files:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "t" / file).read_bytes(), file
