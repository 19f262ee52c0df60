"""Keys against a Python dict: writing, looking up, duplicates, bad input."""

from __future__ import annotations

import json
import os
import pickle
import struct
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embstore.errors import (
    ConfigError,
    CorruptionError,
    DuplicateKeyError,
    FormatError,
    FormatVersionError,
    IdRangeError,
    IdTypeError,
    SourceError,
    StorageError,
    UnknownKeyError,
)
from embstore.format.keys import HEADER, SEED, Keys, KeysWriter, capacity_for

ODD = ["", "\0", "a\0b", "a\0", "é", "日本語", "🦆", "a" * 5000, "é" * 40000, " ", "\n", "e\u0301", "\U0010ffff"]


def write(path: Path, keys: Any, key_type: str = "string", on_duplicate: str = "raise", cut: int = 7) -> dict[str, Any]:
    with KeysWriter(path, key_type, len(keys), on_duplicate) as writer:  # type: ignore[arg-type]
        for start in range(0, len(keys), cut):
            writer.append(keys[start : start + cut])
        meta = writer.finish()
    assert sorted(os.listdir(path / "keys")) == ["index", "keys.arrow"]
    return json.loads(json.dumps(meta))


def made(path: Path, keys: Any, *args: Any) -> Keys:
    return Keys.open(path, write(path, keys, *args))


@pytest.mark.parametrize("cut", [1, 3, 1000])
def test_round_trip_of_odd_strings(tmp_path: Path, cut: int) -> None:
    keys = Keys.open(tmp_path, write(tmp_path, ODD, cut=cut))
    assert len(keys) == len(ODD)
    assert list(keys) == ODD
    assert [keys[i] for i in range(len(ODD))] == ODD
    assert keys[2:5] == ODD[2:5] and keys[::-2] == ODD[::-2]
    assert keys.take([3, 0, 3]) == [ODD[3], ODD[0], ODD[3]]
    assert [keys.id(k) for k in ODD] == list(range(len(ODD)))
    assert keys.ids(ODD * 20).tolist() == list(range(len(ODD))) * 20
    assert all(k in keys for k in ODD)
    assert keys.index("🦆") == 6 and keys.count("🦆") == 1
    for unknown in ("x", "\0\0", "a\0c", "È", "é" * 39999, "日本"):
        assert unknown not in keys and keys.id(unknown) == -1
    keys.verify()


def test_the_file_is_one_plain_arrow_batch(tmp_path: Path) -> None:
    write(tmp_path, ODD)
    with pa.OSFile(str(tmp_path / "keys/keys.arrow")) as file, pa.ipc.open_file(file) as reader:
        assert reader.num_record_batches == 1
        assert reader.schema.names == ["key"] and reader.schema.field(0).type == pa.large_string()
        assert reader.get_batch(0).column(0).to_pylist() == ODD


def test_the_index_is_as_the_docstring_says(tmp_path: Path) -> None:
    words = [f"w{i}é" for i in range(100)]
    meta = write(tmp_path, words)
    data = (tmp_path / "keys/index").read_bytes()
    magic, version, kind, capacity, count, seed = HEADER.unpack(data[:64])
    assert (magic, version, kind, capacity, count, seed) == (b"EMBKEYIX", 1, 0, 256, 100, SEED)
    slots = struct.unpack(f"<{capacity}Q", data[64:])
    m64 = 2**64 - 1

    def find(word: str) -> int:
        h = 0xCBF29CE484222325
        for byte in word.encode():
            h = (h ^ byte) * 0x100000001B3 & m64
        h ^= seed
        h ^= h >> 33
        h = h * 0xFF51AFD7ED558CCD & m64
        h ^= h >> 33
        h = h * 0xC4CEB9FE1A85EC53 & m64
        h ^= h >> 33
        at = h % capacity
        while slots[at]:
            row = slots[at] % 2**40 - 1
            if slots[at] >> 40 == h >> 40 and words[row] == word:
                return row
            at = (at + 1) % capacity
        return -1

    assert [find(w) for w in words] == list(range(100))
    assert find("absent") == -1
    assert meta["capacity"] == 256


def test_integers(tmp_path: Path) -> None:
    values = np.array([5, -1, 2**63 - 1, -(2**63), 0, 7], np.int64)
    keys = made(tmp_path, values, "int64")
    assert list(keys) == values.tolist() and keys[3] == -(2**63)
    assert keys.ids(values[::-1]).tolist() == [5, 4, 3, 2, 1, 0]
    assert keys.ids(np.array([[5, 9], [7, 0]], np.int16)).tolist() == [[0, -1], [5, 4]]
    assert keys.ids([2**63 - 1, 2**70, -(2**70), np.int8(5)], missing=-9).tolist() == [2, -9, -9, 0]
    assert keys.ids(np.array([2**64 - 1, 5], np.uint64)).tolist() == [-1, 0]  # 2**64 - 1 is not -1
    assert keys.ids(pa.array([7, 8])).tolist() == [5, -1]
    assert keys.id(np.int64(7)) == 5 and keys.id(2**64) == -1
    assert -1 in keys and 1 not in keys and "5" not in keys and 5.0 not in keys and True not in keys
    for bad in (["5"], [5.0], [None], [True], np.array([5.0]), pa.array(["5"])):
        with pytest.raises(IdTypeError):
            keys.ids(bad)
    keys.verify()


@pytest.mark.parametrize("key_type", ["string", "int64"])
def test_no_keys(tmp_path: Path, key_type: str) -> None:
    keys = made(tmp_path, [], key_type)
    assert len(keys) == 0 and list(keys) == [] and keys[:] == []
    assert keys.ids([]).tolist() == []
    assert ("x" if key_type == "string" else 1) not in keys
    keys.verify()
    with pytest.raises(IdRangeError):
        keys[0]


def test_one_empty_key(tmp_path: Path) -> None:
    keys = made(tmp_path, [""])
    assert keys[0] == "" and keys.ids(["", "a"]).tolist() == [0, -1]
    keys.verify()


def test_every_kind_of_batch(tmp_path: Path) -> None:
    keys = made(tmp_path, ["a", "é", "", "d"])
    batch = ["d", "nope", "é", ""]
    want = [3, -1, 1, 2]
    text = pa.array(batch)
    for form in (
        batch,
        tuple(batch),
        np.array(batch),
        np.array(batch, object),
        text,
        text.cast(pa.large_string()),
        pa.array(["zz", *batch, "q"])[1:5],
        pa.chunked_array([batch[:1], batch[1:]]),
        text.dictionary_encode(),
        text.cast(pa.string_view()),
    ):
        assert keys.ids(form).tolist() == want, type(form)
    assert keys.ids(iter(batch)).tolist() == want
    assert keys.ids(np.array(batch).reshape(2, 2)).shape == (2, 2)
    assert keys.ids(pa.chunked_array([], pa.string())).tolist() == []
    assert keys.ids(["x"], missing=-7).tolist() == [-7]


def test_writing_every_kind_of_batch(tmp_path: Path) -> None:
    with KeysWriter(tmp_path, "string", 9) as writer:
        writer.append(["a", np.str_("b")])
        writer.append(np.array(["c"]))
        writer.append(pa.array(["x", "d", "e", "y"])[1:3])
        writer.append(pa.chunked_array([["f"], ["g"]]))
        writer.append(pa.array(["h"]).dictionary_encode())
        writer.append(("i",))
        writer.append([])
        meta = writer.finish()
    assert "".join(Keys.open(tmp_path, meta)) == "abcdefghi"


def test_writing_integers_of_every_kind(tmp_path: Path) -> None:
    with KeysWriter(tmp_path, "int64", 8) as writer:
        writer.append([1, np.int16(2)])
        writer.append(np.arange(6, dtype=np.uint8)[3:5])
        writer.append(pa.chunked_array([[5], [6]]))
        writer.append(np.array([7, 99, 8], ">i8")[::2])
        meta = writer.finish()
    keys = Keys.open(tmp_path, meta)
    assert list(keys) == [1, 2, 3, 4, 5, 6, 7, 8]
    keys.verify()


def test_duplicates_are_refused_with_both_rows(tmp_path: Path) -> None:
    with pytest.raises(DuplicateKeyError, match=r"'b' at rows 1 and 4.*on_duplicate=\"last\""):
        write(tmp_path, ["a", "b", "c", "d", "b", "a"])
    assert not (tmp_path / "keys").exists()
    with pytest.raises(DuplicateKeyError, match="7 at rows 0 and 2"):
        write(tmp_path, [7, 8, 7], "int64")


def test_the_last_duplicate_wins(tmp_path: Path) -> None:
    words = ["a", "b", "a", "c", "a", "b"]
    keys = made(tmp_path, words, "string", "last")
    assert keys.ids(["a", "b", "c"]).tolist() == [4, 5, 3]
    assert list(keys) == words and not keys.unique and keys.count("a") == 3
    keys.verify()


def test_bad_keys_are_refused(tmp_path: Path) -> None:
    def refused(key_type: Any, batch: Any, match: str, error: type[Exception] = SourceError) -> None:
        with pytest.raises(error, match=match), KeysWriter(tmp_path / "t", key_type, 5) as writer:
            writer.append(["fine"] if key_type == "string" else [1])
            writer.append(batch)
        assert not (tmp_path / "t" / "keys").exists()

    refused("string", ["ok", "\ud800"], r"row 2 .*lone surrogate")
    refused("string", ["ok", 5], r"row 2 must be a string, found int 5")
    refused("string", [None], "found NoneType")
    refused("string", [b"x"], "found bytes")
    refused("string", pa.array(["a", None]), "row 2 must not be null")
    refused("string", pa.array([1]), "found an Arrow array of int64")
    raw = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe"))
    refused("string", raw, "row 1 must be UTF-8")
    refused("int64", [1.5], "found float 1.5")
    refused("int64", [True], "found bool")
    refused("int64", [2**63], "64 bits with sign")
    refused("int64", np.array([2**63], np.uint64), "view unsigned keys as int64")
    refused("int64", np.array([1.0]), "dtype float64")
    refused("string", ["a"] * 5, "announced 5 keys, found at least 6")
    with pytest.raises(SourceError, match="announced 3 keys, found 1"), KeysWriter(tmp_path / "t", "string", 3) as w:
        w.append(["a"])
        w.finish()
    with pytest.raises(ConfigError):
        KeysWriter(tmp_path, "bytes", 1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        KeysWriter(tmp_path, "string", 1, "first")  # type: ignore[arg-type]


def test_bad_lookups_are_refused(tmp_path: Path) -> None:
    keys = made(tmp_path, ["a", "b"])
    for bad in ("ab", b"ab", [1], ["a", None], [b"a"], np.array([1]), pa.array([1]), pa.array(["a", None])):
        with pytest.raises(IdTypeError):
            keys.ids(bad)
    with pytest.raises(IdTypeError, match="string keys, found int at position 1"):
        keys.ids(["a", 3])
    with pytest.raises(IdTypeError):
        keys.id(3)  # type: ignore[arg-type]
    assert 3 not in keys and None not in keys
    for row in (2, -1):
        with pytest.raises(IdRangeError, match=f"from 0 to 1 .* found {row}"):
            keys[row]
        with pytest.raises(IdRangeError):
            keys.take([0, row])
    for row in (1.0, True, "a"):
        with pytest.raises(IdTypeError):
            keys[row]  # type: ignore[call-overload]
    assert keys.ids(["\ud800", "a"]).tolist() == [-1, 0] and "\ud800" not in keys


def test_missing_error_names_key_near_key_and_cure(tmp_path: Path) -> None:
    keys = made(tmp_path, ["Paris", "new_york"])
    error = keys.missing_error("paris")
    assert isinstance(error, UnknownKeyError) and isinstance(error, KeyError)
    assert "'paris'" in str(error) and "'Paris' is" in str(error) and 'oov="zeros"' in str(error)
    assert "'new_york' is" in str(keys.missing_error("new york"))
    assert "lone surrogate" in str(keys.missing_error("\ud800"))
    assert len(str(keys.missing_error("x" * 10000))) < 400


def test_damage_to_files_and_metadata_is_named(tmp_path: Path) -> None:
    meta = write(tmp_path, ["a", "b", "c"])
    for name in ("index", "keys.arrow"):
        path = tmp_path / "keys" / name
        good = path.read_bytes()
        path.write_bytes(good[:-1])
        with pytest.raises(CorruptionError, match=f"{name} should have {len(good)} bytes, found {len(good) - 1}"):
            Keys.open(tmp_path, meta)
        path.unlink()
        with pytest.raises(CorruptionError, match="found none"):
            Keys.open(tmp_path, meta)
        path.write_bytes(good)
    path = tmp_path / "keys/index"
    good = path.read_bytes()
    path.write_bytes(good[:8] + b"\2" + good[9:])
    with pytest.raises(FormatVersionError, match="newer embstore"):
        Keys.open(tmp_path, meta)


junk = st.one_of(st.none(), st.booleans(), st.integers(-3, 2**65), st.floats(), st.text(max_size=8), st.just([]))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=junk)
def test_one_changed_metadata_field_is_named_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: Any, value: Any
) -> None:
    for key_type, content in (("string", ["a", "bc", "d"]), ("int64", [1, 2, 3])):
        path = tmp_path_factory.getbasetemp() / f"meta-{key_type}"
        if not path.exists():
            (path.parent / f"{path.name}.json").write_text(json.dumps(write(path, content, key_type)))
        meta = json.loads((path.parent / f"{path.name}.json").read_text())
        field = data.draw(st.sampled_from(sorted(meta)))
        where = meta
        if isinstance(meta[field], dict) and data.draw(st.booleans()):
            where, field = meta[field], data.draw(st.sampled_from(sorted(meta[field])))
        if data.draw(st.booleans()):
            where[field] = value
        else:
            del where[field]
        with suppress(FormatError, CorruptionError, IdTypeError):
            keys = Keys.open(path, meta)
            for key in content:
                assert keys.id(key) in (-1, content.index(key))
            list(keys)
            keys.verify()


def test_pickle_and_threads(tmp_path: Path) -> None:
    words = [f"k{i}" for i in range(5000)]
    keys = pickle.loads(pickle.dumps(made(tmp_path, words)))
    failures: list[Any] = []

    def work(shift: int) -> None:
        batch = words[shift:] + words[:shift]
        for _ in range(20):
            if keys.ids(batch).tolist() != list(range(shift, 5000)) + list(range(shift)):
                failures.append(shift)

    threads = [threading.Thread(target=work, args=(i * 100,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with (
        pytest.raises(StorageError, match=r"\(No space left on device\).*free some space"),
        KeysWriter(tmp_path, "string", 1) as writer,
    ):
        writer.append(["a"])
        writer.finish()
    assert os.listdir(tmp_path) == []


def test_load_factor() -> None:
    for count in [0, 1, 11, 12, 1000, 734003, 734004, 10**6, 2**40 - 1]:
        capacity = capacity_for(count)
        assert capacity & (capacity - 1) == 0 and count <= 0.7 * capacity
        assert capacity == 16 or count > 0.35 * capacity


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
ints = st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5)


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(), key_type=st.sampled_from(["string", "int64"]), last=st.booleans(), cut=st.sampled_from([1, 5, 100])
)
def test_agrees_with_a_dict(
    tmp_path_factory: pytest.TempPathFactory, data: Any, key_type: str, last: bool, cut: int
) -> None:
    one = texts if key_type == "string" else ints
    items = data.draw(st.lists(one, max_size=60))
    asked = data.draw(st.lists(one | st.sampled_from(items) if items else one, max_size=80))
    path = tmp_path_factory.mktemp("k")
    model = {key: row for row, key in enumerate(items)}
    if not last and len(model) < len(items):
        with pytest.raises(DuplicateKeyError):
            write(path, items, key_type, "raise", cut)
        return
    keys = Keys.open(path, write(path, items, key_type, "last" if last else "raise", cut))
    assert list(keys) == items
    assert keys.ids(asked).tolist() == [model.get(key, -1) for key in asked]
    assert [keys.id(key) for key in asked] == [model.get(key, -1) for key in asked]
    assert [key in keys for key in asked] == [key in model for key in asked]
    keys.verify()
