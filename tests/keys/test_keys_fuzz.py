"""One changed byte anywhere: a named error or a right answer, and `verify` sees what lookups read."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embstore.errors import CorruptionError, FormatVersionError
from embstore.format.keys import HEADER, Keys, KeysWriter

WORDS = [f"wörd{i}" * (i % 3 + 1) for i in range(50)]
NUMBERS = [i * i * 7919 - 5 for i in range(50)]


def write(path: Path, key_type: Any, items: Any) -> dict[str, Any]:
    with KeysWriter(path, key_type, len(items)) as writer:
        writer.append(items)
        return writer.finish()


@pytest.mark.parametrize("name", ["index", "keys.arrow"])
@pytest.mark.parametrize("key_type", ["string", "int64"])
def test_every_byte(tmp_path: Path, key_type: str, name: str) -> None:
    items: list[Any] = WORDS if key_type == "string" else NUMBERS
    meta = write(tmp_path, key_type, items)
    path = tmp_path / "keys" / name
    good = path.read_bytes()
    rng = np.random.default_rng(5)
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= int(rng.choice([0x01, 0x80, 0xFF, rng.integers(1, 256)]))
        path.write_bytes(bad)
        try:
            keys = Keys.open(tmp_path, meta)
        except (CorruptionError, FormatVersionError):
            continue
        places = [(meta[part]["offset"], meta[part]["length"]) for part in ("offsets", "values")]
        if name == "index" or any(begin <= at < begin + size for begin, size in places):
            with pytest.raises(CorruptionError):
                keys.verify()
        for row, key in enumerate(items):
            with suppress(CorruptionError):
                assert keys.id(key) in (-1, row), (at, key)
                keys[row]
        with suppress(CorruptionError):
            found = keys.ids(items)
            assert ((found == -1) | (found == np.arange(len(items)))).all()
        with suppress(CorruptionError):
            assert len(list(keys)) == len(items)


@pytest.mark.parametrize("key_type", ["string", "int64"])
def test_random_rubbish_in_the_index(tmp_path: Path, key_type: str) -> None:
    items: list[Any] = WORDS if key_type == "string" else NUMBERS
    meta = write(tmp_path, key_type, items)
    path = tmp_path / "keys/index"
    good = path.read_bytes()
    rng = np.random.default_rng(1)
    for fill in range(40):
        slots = rng.integers(0, 2**63, meta["capacity"], dtype=np.uint64)
        if fill % 2:
            # Right fingerprints everywhere and no empty slot: the search must still end.
            used = np.frombuffer(good[HEADER.size :], "<u8")
            slots = np.resize(used[used != 0], meta["capacity"])
            rng.shuffle(slots)
        path.write_bytes(good[: HEADER.size] + slots.tobytes())
        keys = Keys.open(tmp_path, meta)
        for row, key in enumerate([*items, "absent" if key_type == "string" else 12345]):
            with suppress(CorruptionError):
                assert keys.id(key) in (-1, row)
        with pytest.raises(CorruptionError):
            keys.verify()


def test_rubbish_offsets(tmp_path: Path) -> None:
    meta = write(tmp_path, "string", WORDS)
    path = tmp_path / "keys/keys.arrow"
    good = path.read_bytes()
    begin = meta["offsets"]["offset"]
    rng = np.random.default_rng(2)
    for value in (-1, 2**62, -(2**63), 2**63 - 1, 0, 10**6, *rng.integers(-(2**63), 2**63 - 1, 20).tolist()):
        row = int(rng.integers(len(WORDS) + 1))
        raw = int(value).to_bytes(8, "little", signed=True)
        path.write_bytes(good[: begin + 8 * row] + raw + good[begin + 8 * row + 8 :])
        keys = Keys.open(tmp_path, meta)
        for call in (lambda k=keys: k.ids(WORDS), lambda k=keys: list(k), lambda k=keys: k.verify()):
            with suppress(CorruptionError):
                call()
    path.write_bytes(good)
    Keys.open(tmp_path, meta).verify()


def test_an_index_of_other_keys_does_not_lie(tmp_path: Path) -> None:
    meta = write(tmp_path / "a", "string", WORDS)
    write(tmp_path / "b", "string", WORDS[::-1])
    shutil.copy(tmp_path / "b/keys/index", tmp_path / "a/keys/index")
    keys = Keys.open(tmp_path / "a", meta)
    assert all(keys.id(w) in (-1, i) for i, w in enumerate(WORDS))
    with pytest.raises(CorruptionError):
        keys.verify()
