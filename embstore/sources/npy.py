"""NumPy's `.npy` files and `.npz` archives. Headers are parsed here; nothing is unpickled."""

from __future__ import annotations

import ast
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import SourceError
from ._io import Cursor, FileReader, as_float32, bad, check_dtype, pick, table_shape
from ._source import ArraySource, BaseSource, Block, MatrixSource, first_line
from .keys import HeldKeys, Keys

MAGIC = b"\x93NUMPY"
LOAD_LIMIT = 1 << 28


@dataclass(frozen=True, slots=True)
class Header:
    """Of a `.npy`: dtype, shape, order and where its data starts."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    offset: int

    @property
    def nbytes(self) -> int:
        total = self.dtype.itemsize
        for size in self.shape:
            total *= size
        return total


def read_header(name: str, read: Callable[[int], bytes]) -> Header:
    """Parse a `.npy` header from `read(nbytes)`."""

    def wrong(found: object) -> SourceError:
        return bad(name, "a valid .npy header", found, "save the array again with numpy.save")

    start = read(8)
    if len(start) < 8 or start[:6] != MAGIC or start[6] not in (1, 2, 3):
        raise wrong(repr(start[:8]))
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(read(width), "little")
    if length > 1 << 20:
        raise wrong(f"a header of {length} bytes")
    text = read(length)
    try:
        fields = ast.literal_eval(text.decode("utf-8" if start[6] == 3 else "latin1"))
        descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
        if not isinstance(descr, str) or not isinstance(fortran, bool) or not isinstance(shape, tuple):
            raise TypeError("fields of the wrong type")
        if not all(type(n) is int and 0 <= n < 2**60 for n in shape):
            raise ValueError(f"shape {shape}")
        dtype = np.dtype(descr)
    except (ValueError, TypeError, KeyError, SyntaxError, MemoryError, RecursionError) as error:
        raise wrong(first_line(error)) from None
    if dtype.hasobject:
        raise bad(name, "numbers", "pickled Python objects", "save a float32 array instead")
    return Header(dtype, shape, fortran, 8 + width + length)


def open_npy(reader: FileReader, *, format: str = "npy", keys: Keys | None = None) -> BaseSource:
    """A 2-D `.npy` file, streamed; Fortran order and big-endian dtypes too."""
    header = read_header(reader.name, Cursor(reader).read)
    if len(header.shape) != 2:
        raise bad(reader.name, "a 2-D array", f"shape {header.shape}", "reshape it to rows x dims")
    check_dtype(reader.name, header.dtype)
    rows, dims = header.shape
    return MatrixSource(
        reader,
        format=format,
        offset=header.offset,
        rows=rows,
        dims=dims,
        dtype=header.dtype,
        fortran=header.fortran and dims > 1,
        keys=keys,
    )


def open_npz(reader: FileReader, name: str | None, key_column: str | None) -> BaseSource:
    """One 2-D array of an `.npz`; `key_column` names a 1-D array of strings or integers."""
    try:
        archive = zipfile.ZipFile(reader.path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise bad(reader.name, "a whole zip archive", first_line(error), "get the file again") from None
    headers = {}
    with archive:
        infos = {i.filename.removesuffix(".npy"): i for i in archive.infolist() if i.filename.endswith(".npy")}
        for member, info in infos.items():
            with _member(reader, archive, info) as stream:
                headers[member] = _header(reader, member, stream, info)
        wanted = pick(reader.name, "array", {n: h.shape for n, h in headers.items()}, name)
        keys = None
        if key_column is not None:
            column = pick(reader.name, "array", {n: h.shape for n, h in headers.items()}, key_column, ndim=1)
            keys = _key_member(reader, archive, infos[column], headers[column])
        header, info = headers[wanted], infos[wanted]
        check_dtype(reader.name, header.dtype)
        table_shape(reader.name, *header.shape)
        if keys is not None and keys.count != header.shape[0]:
            raise bad(reader.name, f"{header.shape[0]} keys", keys.count, "choose another key array")
        if info.compress_type != zipfile.ZIP_STORED and header.fortran and header.shape[1] > 1:
            return _load_fortran(reader, archive, info, header, keys)
    mark = f"-{wanted}"
    if info.compress_type == zipfile.ZIP_STORED:
        local = reader.read(info.header_offset, 30)
        skip = 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        source: BaseSource = MatrixSource(
            reader,
            format="npz",
            offset=info.header_offset + skip + header.offset,
            rows=header.shape[0],
            dims=header.shape[1],
            dtype=header.dtype,
            fortran=header.fortran,
            keys=keys,
            fingerprint=mark,
        )
        return source
    return DeflatedSource(reader, info, header, keys, mark)


class DeflatedSource(BaseSource):
    """A compressed member of an `.npz`, decompressed as it streams."""

    def __init__(
        self, reader: FileReader, info: zipfile.ZipInfo, header: Header, keys: Keys | None, fingerprint: str
    ) -> None:
        shape = table_shape(reader.name, *header.shape)
        super().__init__(reader.name, "npz", shape, str(header.dtype), reader.fingerprint + fingerprint, keys)
        self._reader = reader
        self._info = info
        self._header = header

    def _blocks(self, max_rows: int, start: int) -> Iterator[Block]:
        header = self._header
        width = header.shape[1] * header.dtype.itemsize
        with zipfile.ZipFile(self._reader.path) as archive, _member(self._reader, archive, self._info) as stream:
            left = header.offset + start * width
            while left:
                left -= len(_read(self._reader, stream, min(left, 1 << 22)))
            for at in range(start, header.shape[0], max_rows):
                n = min(max_rows, header.shape[0] - at)
                raw = _read(self._reader, stream, n * width)
                yield as_float32(np.frombuffer(raw, header.dtype).reshape(n, header.shape[1])), None

    def close(self) -> None:
        self._reader.close()


def _member(reader: FileReader, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
    try:
        return archive.open(info)
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        raise bad(reader.name, "a whole zip archive", first_line(error), "get the file again") from None


def _read(reader: FileReader, stream: Any, nbytes: int) -> bytes:
    try:
        data: bytes = stream.read(nbytes)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        raise bad(reader.name, "undamaged compressed data", first_line(error), "get the file again") from None
    if len(data) != nbytes:
        raise bad(reader.name, f"{nbytes} more bytes of an array", len(data), "get the file again")
    return data


def _header(reader: FileReader, member: str, stream: Any, info: zipfile.ZipInfo) -> Header:
    header = read_header(f"{reader.name}/{member}", lambda n: _read(reader, stream, n))
    if header.offset + header.nbytes != info.file_size:
        raise bad(reader.name, f"{header.nbytes} bytes of {member!r}", info.file_size - header.offset, "get it again")
    return header


def _data(reader: FileReader, archive: zipfile.ZipFile, info: zipfile.ZipInfo, header: Header) -> npt.NDArray[Any]:
    with _member(reader, archive, info) as stream:
        _read(reader, stream, header.offset)
        return np.frombuffer(_read(reader, stream, header.nbytes), header.dtype)


def _key_member(reader: FileReader, archive: zipfile.ZipFile, info: zipfile.ZipInfo, header: Header) -> Keys:
    if header.dtype.kind not in "Uiu":
        raise bad(reader.name, "keys of strings or integers", f"dtype {header.dtype}", "choose another key array")
    values = _data(reader, archive, info, header)
    if header.dtype.kind == "U":
        return HeldKeys("string", [str(v) for v in values])
    return HeldKeys("int64", values.astype(np.int64))


def _load_fortran(
    reader: FileReader, archive: zipfile.ZipFile, info: zipfile.ZipInfo, header: Header, keys: Keys | None
) -> BaseSource:
    # Columns of a compressed member cannot be reached without unpacking all of it.
    if header.nbytes > LOAD_LIMIT:
        raise bad(
            reader.name, "row order in a compressed .npz", "Fortran order", "save it with numpy.ascontiguousarray"
        )
    array = _data(reader, archive, info, header).reshape(header.shape, order="F")
    reader.close()
    source = ArraySource(array, name=reader.name, format="npz")
    if keys is not None:
        source.set_keys(keys)
    return source
