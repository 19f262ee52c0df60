"""Fixtures of the format tests."""

from __future__ import annotations

import sys
import types

import pytest


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several shards and blocks in a table of a few kilobytes."""
    monkeypatch.setattr("embstore.format.layout.CHUNK_BYTES", 64 * 33)
    monkeypatch.setattr("embstore.format.layout.SHARD_BYTES", 512 * 33)
    monkeypatch.setattr("embstore.format.layout.MIN_CHUNK_BYTES", 1)


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    """The neighbouring rooms, as thin as the seam allows: the method's own encode, and open."""
    from embstore import format as format_room

    def encoder(method):  # type: ignore[no-untyped-def]
        def encode(shared, ids, rows):  # type: ignore[no-untyped-def]
            encoded = method.encode(shared, ids, rows)
            method.check_encoded(encoded, rows, int(ids[0]))
            return encoded

        return encode

    kernels = types.ModuleType("embstore.kernels")
    kernels.encoder = lambda method, check: encoder(method)  # type: ignore[attr-defined]
    table = types.ModuleType("embstore.table")
    table.open = format_room.open_table  # type: ignore[attr-defined]
    for module in (kernels, table):
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(f"embstore.{module.__name__[9:]}", module, raising=False)
