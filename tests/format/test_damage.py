"""A changed byte, a changed field, a missing file: always a named error, never a crash."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from format_toy import make
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embstore.errors import CorruptionError, EmbstoreError, FormatError, FormatVersionError, TableNotFoundError
from embstore.format import metadata, open_table, verify


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("damage") / "t"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embstore.format.layout.CHUNK_BYTES", 64 * 33)
        patch.setattr("embstore.format.layout.SHARD_BYTES", 256 * 33)
        patch.setattr("embstore.format.layout.MIN_CHUNK_BYTES", 1)
        make(path, 600)
    return path


def group(path: Path) -> dict[str, Any]:
    return json.loads((path / "zarr.json").read_text())


def refusal(path: Path, mmap: bool = True) -> str | None:
    try:
        open_table(path, mmap)
    except EmbstoreError as error:
        return f"{type(error).__name__}: {error}"
    return None


def refusals(path: Path) -> set[str | None]:
    """What each way to open says: natively mapped, mapped by Python, read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embstore.native.available", lambda: False)
        by_python = refusal(path)
    return {refusal(path), by_python, refusal(path, mmap=False)}


def found_wrong(path: Path) -> bool:
    """Whether open or verify objects, in its own words; every way to open in the same."""
    assert len(refusals(path)) == 1
    try:
        open_table(path)
        faults = verify(path)
    except EmbstoreError as error:
        assert len(str(error)) > 20
        return True
    assert all(f.sentence and f.array for f in faults)
    return bool(faults)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_changed_byte(table: Path, data: st.DataObject) -> None:
    files = sorted(p for p in table.rglob("*") if p.is_file())
    file = data.draw(st.sampled_from(files))
    good = file.read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    flip = data.draw(st.integers(1, 255))
    try:
        file.write_bytes(good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :])
        # An exponent's e may be written E: the only byte that can change without changing the document.
        if file.name == "zarr.json":
            try:
                if json.loads(file.read_bytes()) == json.loads(good):
                    return
            except ValueError:
                pass
        assert found_wrong(table), (file, at, flip)
    finally:
        file.write_bytes(good)
    assert not found_wrong(table)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_truncated_file(table: Path, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(sorted(p for p in table.rglob("*") if p.is_file())))
    good = file.read_bytes()
    try:
        file.write_bytes(good[: data.draw(st.integers(0, len(good) - 1))])
        assert found_wrong(table)
    finally:
        file.write_bytes(good)


def fields(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for k, v in items for p in [(*path, k), *fields(v, (*path, k))]]


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, 2, 3, 2**31, 2**40, 2**63, 10**400]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["", "../..", "/etc/passwd", "rows", "shared", "uint8", "codes", "crc32c"]),
    st.lists(st.integers(0, 9), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=VALUES, resign=st.booleans(), drop=st.booleans())
def test_one_changed_field(table: Path, data: st.DataObject, value: Any, resign: bool, drop: bool) -> None:
    files = sorted(table.rglob("zarr.json"))
    file = data.draw(st.sampled_from([table / "zarr.json", *files]))
    good = file.read_bytes()
    document = json.loads(good)
    *outer, last = data.draw(st.sampled_from(fields(document)))
    changed = copy.deepcopy(document)
    inner = changed
    for key in outer:
        inner = inner[key]
    if drop:
        del inner[last]
    else:
        inner[last] = value
    meta = (changed.get("attributes") or {}).get("embstore") if isinstance(changed.get("attributes"), dict) else None
    signed = resign and isinstance(meta, dict)
    if signed:
        meta["digest"] = metadata.digest(meta)
    if json.dumps(changed, sort_keys=True) == json.dumps(document, sort_keys=True):
        return
    try:
        file.write_bytes(json.dumps(changed).encode())
        wrong = found_wrong(table)
        # A field may be replaced by another valid one when the digest is made to fit; an array's document may not be,
        # save optional empty ones.
        optional = last in ("attributes", "storage_transformers") and drop
        assert wrong or signed or optional, (file, outer, last, value)
    finally:
        file.write_bytes(good)


def edit(table: Path, to: Path, change: Any, sign: bool = True) -> Path:
    shutil.copytree(table, to)
    document = group(to)
    meta = document["attributes"]["embstore"]
    change(meta)
    if sign:
        meta["digest"] = metadata.digest(meta)
    (to / "zarr.json").write_text(json.dumps(document))
    return to


@pytest.mark.parametrize("sign", [True, False])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(format_version=2), "format version 2"),
        (lambda m: m.update(requires=["overlay"]), "overlay"),
        (lambda m: m.update(requires=["from_the_future"]), "from_the_future"),
    ],
)
def test_newer_tables_are_refused_by_name(table: Path, tmp_path: Path, change: Any, said: str, sign: bool) -> None:
    with pytest.raises(FormatVersionError, match=said):
        open_table(edit(table, tmp_path / "n", change, sign))


def test_features_are_refused_by_name(table: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatVersionError, match="2 generations"):
        open_table(edit(table, tmp_path / "g", lambda m: m["generations"].append({})))
    with pytest.raises(FormatVersionError, match="'overlay'"):
        open_table(edit(table, tmp_path / "o", lambda m: m["requires"].append("overlay")))
    with pytest.raises(FormatError, match="requires"):
        open_table(edit(table, tmp_path / "x", lambda m: m["transforms"].append({"id": "rotate"})))
    with pytest.raises(CorruptionError, match="digest"):
        open_table(edit(table, tmp_path / "d", lambda m: m["provenance"].update(source="y"), sign=False))


def test_a_flipped_block_is_named(table: Path, tmp_path: Path) -> None:
    path = shutil.copytree(table, tmp_path / "t")
    file = path / "codes/c/1/0"
    data = bytearray(file.read_bytes())
    size = open_table(path).rows_per_chunk
    per_shard = open_table(path).rows_per_shard
    data[33 * size + 5] ^= 1
    file.write_bytes(data)
    (fault,) = verify(path)
    assert (fault.array, fault.shard, fault.block) == ("codes", 1, 1)
    assert fault.rows == (per_shard + size, per_shard + 2 * size)
    assert "block 1 of shard 1" in fault.sentence


@pytest.mark.parametrize("file", ["codes/c/1/0", "codes/c/2/0", "affine/c/0/0/0", "book/c/0/0", "notes/readme.txt"])
def test_missing_or_short_files(table: Path, tmp_path: Path, file: str) -> None:
    path = shutil.copytree(table, tmp_path / "t")
    good = (path / file).read_bytes()
    for bad in (good[:-1], good + b"\0", b""):
        (path / file).write_bytes(bad)
        (said,) = refusals(path)
        assert said and "CorruptionError" in said and "bytes, found" in said
    (path / file).unlink()
    (said,) = refusals(path)
    assert said and "CorruptionError" in said and "missing" in said
    assert len(verify(path)) == 1


@pytest.mark.parametrize("shard", [0, 1, 2])
def test_a_changed_index_is_refused(table: Path, tmp_path: Path, shard: int) -> None:
    path = shutil.copytree(table, tmp_path / "t")
    file = path / f"codes/c/{shard}/0"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (said,) = refusals(path)
    assert said and f"index of shard {shard} of array 'codes' must list" in said


def test_a_shard_that_changes_meanwhile_is_refused(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shards:
        def __init__(self, directory: str, suffix: str) -> None: ...
        def __len__(self) -> int:
            return 0

        def extend(self, count: int, nbytes: int, index: bytes) -> int:
            return 0

    monkeypatch.setattr("embstore._native.MappedShards", Shards)
    with pytest.raises(CorruptionError, match="shard 0 of array 'codes' changed while it was opened"):
        open_table(table)


def test_not_a_table(tmp_path: Path) -> None:
    with pytest.raises(TableNotFoundError):
        open_table(tmp_path / "nothing")
    with pytest.raises(TableNotFoundError):
        open_table(tmp_path)
    for text in ("", "[]", "{", "null", '{"attributes": {}}', "[" * 10**5, '{"a": NaN}', '{"a": 1, "a": 2}', "\ud800"):
        (tmp_path / "zarr.json").write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises((FormatError, CorruptionError)):
            open_table(tmp_path)
    with (tmp_path / "zarr.json").open("wb") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(FormatError, match="at most"):
        open_table(tmp_path)
