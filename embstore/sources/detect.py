"""From a path or an object to its reader. Files are known by their content; extensions only break ties."""

from __future__ import annotations

import gzip
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, EmbstoreError, SourceError, SourceTypeError
from . import fasttext as ft
from . import gguf, hdf5, npy, safetensors, vecs, word2vec
from ._io import FileReader, bad
from ._source import ArraySource, BaseSource
from .base import RowSource
from .text import TextSource, empty, looks_like_text

FORMATS = (
    "npy",
    "npz",
    "safetensors",
    "parquet",
    "arrow",
    "fvecs",
    "bvecs",
    "ivecs",
    "raw",
    "text",
    "word2vec-text",
    "glove",
    "word2vec-binary",
    "fasttext",
    "magnitude",
    "gensim",
    "hdf5",
    "torch",
    "zarr",
    "gguf",
)
GZIP = b"\x1f\x8b"
SQLITE = b"SQLite format 3\0"
# Two numbers that every index has after its shape; what stands first differs.
FAISS = (1 << 20).to_bytes(8, "little") * 2
MAGICS: tuple[tuple[bytes, str], ...] = (
    (npy.MAGIC, "npy"),
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow"),
    (b"\xff\xff\xff\xff", "arrow"),
    (hdf5.MAGIC, "hdf5"),
    (SQLITE, "magnitude"),
    (gguf.MAGIC, "gguf"),
    (ft.MAGIC.to_bytes(4, "little"), "fasttext"),
    # The first pickle of a checkpoint from before torch 1.6 is this number.
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "torch"),
)


def open_source(
    source: Any,
    *,
    format: str | None = None,
    name: str | None = None,
    key_column: str | None = None,
    dtype: Any = None,
    shape: Sequence[int] | None = None,
    keys: Any = None,
) -> RowSource:
    """Open embeddings as a stream of rows.

    Parameters
    ----------
    source : path of a file or Zarr directory; a numpy array, torch tensor, Arrow table, HDF5 dataset or Zarr array.
    format : one of `FORMATS`; found from the content by default.
    name : which tensor, array, column, dataset or model part; by default the only one that fits.
    key_column : the column, dataset or array that holds the keys.
    dtype, shape : of a raw file without a header; shape is (rows, dims).
    keys : list of str, int array, Arrow array or the path of a text file (one key a line); replaces the source's keys.

    Raises
    ------
    SourceError : the content cannot be used. SourceNotFoundError : no such file, tensor or column.
    SourceTypeError : an object of a kind embstore cannot read. MissingDependencyError : an extra is needed.
    """
    if format is not None and format not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, found {format!r}; leave it out to detect it")
    if isinstance(source, str | os.PathLike):
        opened = _open_path(Path(source), format, name, key_column, dtype, shape)
    else:
        opened = _open_object(source, name, key_column)
        if opened.format != "arrow" and (name is not None or key_column is not None):
            raise ConfigError("name and key_column are for files and Arrow tables, found an array; give keys instead")
    if keys is not None:
        try:
            opened.set_keys(keys)
        except EmbstoreError:
            opened.close()
            raise
    return opened


def _open_object(source: Any, name: str | None, key_column: str | None) -> BaseSource:
    module = type(source).__module__.partition(".")[0]
    if isinstance(source, np.ndarray):
        return ArraySource(source)
    if module == "torch" or hasattr(source, "detach"):
        from .torch_checkpoint import open_tensor

        return open_tensor(source)
    if module == "pyarrow" and hasattr(source, "schema") and hasattr(source, "num_rows"):
        from .arrow import open_table

        return open_table(source, name, key_column)
    if module == "h5py" and hasattr(source, "id") and hasattr(source, "dtype"):
        return hdf5.open_dataset(source, fingerprint=f"{source.file.filename}:{source.name}")
    if module == "zarr" and hasattr(source, "metadata") and hasattr(source, "dtype"):
        from .zarr_source import open_zarr_array

        return open_zarr_array(source, fingerprint=str(source.store_path))
    raise SourceTypeError(
        "a source must be a path, a numpy array, torch tensor, Arrow table, HDF5 dataset or Zarr array, "
        f"found {type(source).__name__}; convert it with numpy.asarray"
    )


def _open_path(
    path: Path, format: str | None, name: str | None, key_column: str | None, dtype: Any, shape: Sequence[int] | None
) -> BaseSource:
    if path.is_dir():
        from .zarr_source import directory_fingerprint, open_zarr

        return open_zarr(path, name, key_column, directory_fingerprint(path))
    reader = FileReader(path)
    try:
        if reader.size == 0:
            raise empty(reader.name)
        kind = format or ("raw" if dtype is not None or shape is not None else detect(reader))
        if kind == "raw":
            from .raw import open_raw

            return open_raw(reader, dtype, shape)
        opened = _openers(reader, name, key_column)[kind]()
        if name is not None and kind in SINGLE:
            raise ConfigError(f"{kind} files hold one table, found name={name!r}; leave name out")
        if key_column is not None and kind not in WITH_KEY_COLUMN:
            raise ConfigError(f"{kind} files have no key columns, found key_column={key_column!r}; give keys instead")
        return opened
    except BaseException:
        reader.close()
        raise


SINGLE = frozenset(FORMATS) - {"npz", "safetensors", "parquet", "arrow", "gensim", "hdf5", "torch", "zarr", "gguf"}
WITH_KEY_COLUMN = frozenset({"npz", "safetensors", "parquet", "arrow", "hdf5", "zarr"})


def _openers(reader: FileReader, name: str | None, key_column: str | None) -> dict[str, Callable[[], BaseSource]]:
    def late(module: str, function: str, *args: Any) -> Callable[[], BaseSource]:
        # pyarrow, h5py, torch, zarr and sqlite3 are imported when a file needs them, not before.
        def call() -> BaseSource:
            from importlib import import_module

            opened: BaseSource = getattr(import_module(f".{module}", __package__), function)(*args)
            return opened

        return call

    return {
        "npy": lambda: npy.open_npy(reader),
        "npz": lambda: npy.open_npz(reader, name, key_column),
        "safetensors": lambda: safetensors.open_safetensors(reader, name, key_column),
        "parquet": late("arrow", "open_parquet", reader, name, key_column),
        "arrow": late("arrow", "open_ipc", reader, name, key_column),
        "fvecs": lambda: vecs.open_vecs(reader, "fvecs"),
        "bvecs": lambda: vecs.open_vecs(reader, "bvecs"),
        "ivecs": lambda: vecs.open_vecs(reader, "ivecs"),
        "text": lambda: TextSource(reader),
        "word2vec-text": lambda: TextSource(reader, header=True),
        "glove": lambda: TextSource(reader, header=False),
        "word2vec-binary": lambda: word2vec.Word2vecSource(reader),
        "fasttext": lambda: ft.open_fasttext(reader),
        "magnitude": late("magnitude", "MagnitudeSource", reader),
        "gensim": late("gensim", "open_gensim", reader, name),
        "hdf5": lambda: hdf5.open_hdf5(reader, name, key_column),
        "torch": late("torch_checkpoint", "open_checkpoint", reader, name),
        "zarr": late("zarr_source", "open_zarr", reader.path, name, key_column, reader.fingerprint),
        "gguf": lambda: gguf.open_gguf(reader, name),
    }


def detect(reader: FileReader) -> str:
    """The format of a file, from its first bytes."""
    head = reader.head(65536)
    if head[:2] == GZIP:
        return _inside_gzip(reader)
    for magic, kind in MAGICS:
        if head.startswith(magic):
            return kind
    if head[:4] == b"PK\x03\x04":
        return _inside_zip(reader)
    if head[16:32] == FAISS:
        raise bad(reader.name, "rows", "a FAISS index of codes", "`embstore import` makes a table of them")
    if safetensors.fits(reader):
        return "safetensors"
    suffix = reader.path.suffix.lower().removeprefix(".")
    if suffix in vecs.VALUES and vecs.fits(reader, suffix):
        return suffix
    if head[0] == 0x80 and len(head) > 1 and head[1] <= 5:
        return "gensim"
    if word2vec.is_binary(reader):
        return "word2vec-binary"
    if ft.fits_without_magic(reader):
        return "fasttext"
    if looks_like_text(reader, head):
        return "text"
    if suffix in vecs.VALUES:
        return suffix
    if suffix in ("txt", "vec", "glove"):
        return "text"
    raise _unknown(reader.name, head)


def _unknown(name: str, head: bytes) -> SourceError:
    known = f"a format embstore reads ({', '.join(FORMATS)})"
    return bad(name, known, f"{head[:8]!r} at its start", "give format, or dtype and shape for raw values")


def _inside_gzip(reader: FileReader) -> str:
    try:
        with gzip.open(reader.path) as stream:
            head = stream.read(65536)
    except (OSError, EOFError, zlib.error) as error:
        raise bad(reader.name, "whole gzip data", str(error)[:100], "get the file again") from None
    if head.startswith(gguf.MAGIC):
        return "gguf"
    if looks_like_text(reader, head):
        return "text"
    if not head:
        raise empty(reader.name)
    raise bad(reader.name, "text in a .gz", f"binary data starting with {head[:8]!r}", "unpack it with gunzip first")


def _inside_zip(reader: FileReader) -> str:
    try:
        with zipfile.ZipFile(reader.path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise bad(reader.name, "a whole zip archive", str(error)[:100], "get the file again") from None
    if any(n.endswith("/data.pkl") or n == "data.pkl" for n in names):
        return "torch"
    if any(n.rpartition("/")[2] in ("zarr.json", ".zarray", ".zgroup") for n in names):
        return "zarr"
    if any(n.endswith(".npy") for n in names):
        return "npz"
    raise bad(reader.name, "a zip of .npy arrays, a checkpoint or a Zarr store", f"{names[:3]}", "unpack it first")
