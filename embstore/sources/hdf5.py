"""HDF5 datasets."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._io import FileReader, bad, check_dtype, missing, pick
from ._source import BaseSource, SliceSource, first_line
from .keys import HeldKeys, Keys, is_utf8, not_utf8

MAGIC = b"\x89HDF\r\n\x1a\n"


def open_hdf5(reader: FileReader, name: str | None, key_column: str | None) -> BaseSource:
    """One 2-D dataset of a file; `key_column` names a 1-D dataset of strings or integers."""
    try:
        import h5py
    except ImportError:
        raise missing("h5py", "hdf5") from None
    try:
        file = h5py.File(reader.path, "r")
        found: dict[str, Any] = {}

        def visit(path: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                found[path] = item

        file.visititems(visit)
        shapes = {path: item.shape or () for path, item in found.items()}
        numeric = {p: s for p, s in shapes.items() if found[p].dtype.kind in "fiu"}
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise bad(reader.name, "a whole HDF5 file", first_line(error), "get the file again") from None
    chosen = pick(reader.name, "dataset", shapes if name in shapes else numeric, name)
    source = open_dataset(found[chosen], name=reader.name, fingerprint=f"{reader.fingerprint}-{chosen}")
    if key_column is not None:
        source._use(_keys(reader, found[pick(reader.name, "dataset", shapes, key_column, ndim=1)], source))
    source.on_close = file.close
    return source


def open_dataset(dataset: Any, *, name: str = "dataset", fingerprint: str = "") -> SliceSource:
    """An open h5py dataset."""
    check_dtype(name, dataset.dtype)
    if len(dataset.shape or ()) != 2:
        raise bad(name, "a 2-D dataset", f"shape {dataset.shape}", "choose another")
    if not dataset.id.get_storage_size():
        raise bad(name, "data", f"no stored bytes for shape {dataset.shape}", "get the file again")
    return SliceSource(
        dataset,
        lambda start, stop: np.asarray(dataset[start:stop]),
        str(dataset.dtype),
        name=name,
        format="hdf5",
        fingerprint=fingerprint,
    )


def _keys(reader: FileReader, dataset: Any, source: BaseSource) -> Keys:
    rows = source.shape.num_embeddings
    if dataset.shape[0] != rows:
        raise bad(reader.name, f"{rows} keys", dataset.shape[0], "choose another key dataset")
    if dataset.dtype.kind in "iu":
        return HeldKeys("int64", dataset[:].astype(np.int64))
    if dataset.dtype.kind not in "OS":
        raise bad(reader.name, "keys of strings or integers", f"dtype {dataset.dtype}", "choose another key dataset")
    keys = [k.encode() if isinstance(k, str) else bytes(k) for k in dataset[:]]
    for row, key in enumerate(keys):
        if not is_utf8(key):
            raise not_utf8(reader.name, row, key)
    return HeldKeys("string", [k.decode() for k in keys])
