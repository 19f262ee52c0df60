"""What is written is what embstore and zarr-python read, and what zarr-python writes opens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from format_toy import make

from embstore.arrays import ArraySpec, TableShape
from embstore.format import TableWriter, layout, open_table, verify


def rows_of(stored, name: str) -> np.ndarray:
    return np.concatenate([s[name] for s in stored.shards])


@pytest.mark.parametrize("rows", [1, 2, 63, 64, 65, 512, 513, 3000])
def test_reads_back_here_and_in_zarr(tmp_path: Path, small_blocks: None, rows: int) -> None:
    data = make(tmp_path / "t", rows)
    stored = open_table(tmp_path / "t")
    group = zarr.open_group(tmp_path / "t", mode="r")
    for name in ("codes", "affine", "scalar"):
        np.testing.assert_array_equal(rows_of(stored, name), data[name])
        np.testing.assert_array_equal(group[name][:], data[name])
    np.testing.assert_array_equal(stored.shared["book"], data["book"])
    np.testing.assert_array_equal(group["book"][:], data["book"])
    assert [s.start for s in stored.shards] == list(range(0, rows, stored.rows_per_shard))
    assert stored.config == {"block": 33, "clip": 0.5}
    assert stored.nbytes == sum(a.nbytes for a in data.values())
    assert not stored.shards[0]["codes"].flags.writeable
    assert verify(stored) == []
    in_memory = open_table(tmp_path / "t", mmap=False)
    np.testing.assert_array_equal(rows_of(in_memory, "codes"), data["codes"])


def test_checksums_by_the_page(tmp_path: Path, small_blocks: None) -> None:
    data = make(tmp_path / "t", 100)
    group = zarr.open_group(tmp_path / "t", mode="r")
    size = group.attrs["embstore"]["generations"][0]["rows_per_chunk"]
    for block, crc in enumerate(group["crc32c/codes"][:]):
        rows = data["codes"][block * size : (block + 1) * size]
        padded = rows.tobytes() + bytes((size - len(rows)) * 33)
        assert google_crc32c.value(padded) == crc


def test_affine_decodes_by_the_formula(tmp_path: Path) -> None:
    make(tmp_path / "t", 50)
    group = zarr.open_group(tmp_path / "t", mode="r")
    affine = group["affine"][:].astype(np.float32)
    values = group["codes"][:].astype(np.float32) * affine[:, 0, :1] + affine[:, 0, 1:]
    stored = open_table(tmp_path / "t").shards[0]
    scale, offset = stored["affine"][7, 0].astype(np.float32)
    expected = [np.float32(np.float32(c) * scale) + offset for c in stored["codes"][7]]
    np.testing.assert_array_equal(values[7], np.array(expected, np.float32))


def test_table_written_by_zarr_opens_equal(tmp_path: Path, small_blocks: None) -> None:
    data = make(tmp_path / "t", 700)
    ours = zarr.open_group(tmp_path / "t", mode="r")
    attributes = dict(ours.attrs)
    theirs = zarr.open_group(tmp_path / "z", mode="w", zarr_format=3, attributes=attributes)
    from zarr.codecs import BytesCodec

    plain = {"compressors": None, "filters": None, "serializer": BytesCodec(), "fill_value": 0}
    theirs.create_group("crc32c")
    for name in ("codes", "affine", "scalar", "book", "crc32c/codes", "crc32c/affine", "crc32c/scalar"):
        a = ours[name]
        made = theirs.create_array(
            name,
            shape=a.shape,
            chunks=a.chunks,
            shards=a.shards,
            dtype=a.dtype,
            config={"write_empty_chunks": True},
            **plain,
        )
        made[...] = a[...]
    (tmp_path / "z" / "notes").mkdir()
    (tmp_path / "z" / "notes" / "readme.txt").write_bytes(b"a file")
    stored = open_table(tmp_path / "z")
    for name in ("codes", "affine", "scalar"):
        np.testing.assert_array_equal(rows_of(stored, name), data[name])
    assert verify(stored) == []
    for file in (p for p in (tmp_path / "t").rglob("*") if p.is_file() and p.name != "zarr.json"):
        assert (tmp_path / "z" / file.relative_to(tmp_path / "t")).read_bytes() == file.read_bytes(), file


def test_no_rows(tmp_path: Path) -> None:
    make(tmp_path / "t", 0)
    stored = open_table(tmp_path / "t")
    assert stored.shards == [] and stored.shape == TableShape(0, 33) and verify(stored) == []
    assert zarr.open_group(tmp_path / "t", mode="r")["codes"].shape == (0, 33)


@pytest.mark.parametrize("rows", [0, 1, 100, 10**4, 10**6, 10**9])
@pytest.mark.parametrize("width", [1, 64, 300, 5000, 2**22])
def test_geometry(rows: int, width: int) -> None:
    shard, chunk = layout.geometry(rows, [width, 1])
    assert shard & (shard - 1) == 0 and chunk & (chunk - 1) == 0 and chunk <= shard
    assert shard // chunk <= layout.MAX_CHUNKS_PER_SHARD
    assert chunk == 1 or chunk * width <= layout.CHUNK_BYTES
    assert shard == 1 or shard * width <= layout.SHARD_BYTES
    if rows >= 128:
        padding = -rows % chunk
        assert padding * width <= max(layout.MIN_CHUNK_BYTES, rows * width // 64)


def test_same_bytes(tmp_path: Path, small_blocks: None) -> None:
    make(tmp_path / "a", step=701)
    make(tmp_path / "b", step=64)
    names = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*"))
    assert names == sorted(p.relative_to(tmp_path / "b") for p in (tmp_path / "b").rglob("*"))
    for name in names:
        if (tmp_path / "a" / name).is_file():
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_open_imports_nothing_heavy(tmp_path: Path) -> None:
    make(tmp_path / "t", 100)
    code = f"import sys; from embstore.format import open_table; open_table({str(tmp_path / 't')!r}); "
    code += "print(json.dumps(sorted({'zarr', 'pyarrow', 'numba', 'torch'} & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", "import json; " + code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_many_shards_open_fast(tmp_path: Path) -> None:
    import time

    n, width = 200 << 13, 8
    spec = (ArraySpec("codes", "uint8", (n, width), "rows"), ArraySpec("scale", "float16", (n, 1), "rows"))
    mp = pytest.MonkeyPatch()
    mp.setattr("embstore.format.layout.SHARD_BYTES", 1 << 16)
    mp.setattr("embstore.format.layout.CHUNK_BYTES", 1 << 12)
    with (
        mp.context(),
        TableWriter(
            tmp_path / "t", shape=TableShape(n, width), method_id="toy", method_version=1, config={}, specs=spec
        ) as w,
    ):
        w.append({"codes": np.zeros((n, width), np.uint8), "scale": np.zeros((n, 1), np.float16)})
        w.finish()
    mp.undo()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        stored = open_table(tmp_path / "t")
        times.append(time.perf_counter() - start)
    assert len(stored.shards) == 200
    print(f"open of {len(stored.shards)} shards x 2 arrays: {min(times) * 1e3:.2f} ms")
    assert min(times) < 0.1
