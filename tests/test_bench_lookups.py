"""The benchmark of trained codes: table and FAISS index hold the same ones."""

import numpy as np
import pytest

from bench import lookups

pytest.importorskip("faiss")


@pytest.mark.parametrize("factory", lookups.FACTORIES)
def test_both_decode_the_same_codes(factory, tmp_path, monkeypatch):
    monkeypatch.setattr(lookups, "IDS", 300)
    rows = np.zeros((500, lookups.DIM), np.float32)
    found = lookups.measure(factory, 500, rows, tmp_path)
    assert [row["threads"] for row in found] == [1, 2]
    assert all(set(row["over"]) == {"FAISS", lookups.TAKE} for row in found)


def test_other_codes_are_not_timed(tmp_path, monkeypatch):
    made = lookups.index_of

    def other(factory, n):
        index = made(factory, n)
        monkeypatch.setattr(index, "reconstruct_batch", lambda ids: np.zeros((len(ids), lookups.DIM), np.float32))
        return index

    monkeypatch.setattr(lookups, "index_of", other)
    with pytest.raises(RuntimeError, match="decodes other rows than FAISS"):
        lookups.measure("PQ16", 500, np.zeros((500, lookups.DIM), np.float32), tmp_path)
