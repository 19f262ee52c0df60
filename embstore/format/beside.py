"""What a table has beside its arrays: keys, subwords, a second table to rerank from, files of other rooms."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from ..errors import ConfigError
from . import layout
from .staging import Staging, storing
from .verify import file_crc


class Beside:
    """The files of a table that is being written, but for those of its arrays, and what the metadata says of them.

    Parameters
    ----------
    array_names : files may not have these.
    """

    def __init__(self, staging: Staging, array_names: set[str]) -> None:
        self._staging, self._array_names = staging, array_names
        self._keys: dict[str, Any] | None = None
        self._subwords: dict[str, int] | None = None
        self._rerank: dict[str, str] | None = None
        self._files: dict[str, dict[str, int]] = {}

    def add_file(self, name: str, source: str | os.PathLike[str] | bytes) -> None:
        """Put a file beside the arrays, its crc32c recorded. `bytes` are content, anything else is a path."""
        if not layout.FILE_NAME.fullmatch(name) or name.split("/")[0] in self._array_names:
            raise ConfigError(f"file name {name!r} must be relative, of letters, digits, '_', '-' and '.'; rename it")
        with storing(self._staging.destination):
            if isinstance(source, bytes):
                self._staging.write(name, source)
            else:
                os.makedirs(os.path.dirname(self._staging.file(name)), exist_ok=True)
                shutil.copyfile(source, self._staging.file(name))
            self._record(name)

    def _record(self, name: str) -> None:
        file = self._staging.file(name)
        with open(file, "rb") as stream:
            os.fsync(stream.fileno())
        self._files[name] = {"nbytes": os.stat(file).st_size, "crc32c": file_crc(file)}

    def set_keys(self, meta: Mapping[str, Any]) -> None:
        """Name the key index; every file in `keys/` is recorded with its size and crc32c."""
        with storing(self._staging.destination):
            folder = self._staging.file(layout.KEYS_DIR)
            for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
                self._record(f"{layout.KEYS_DIR}/{name}")
        self._keys = dict(meta)

    def set_subwords(self, meta: Mapping[str, int], kept: npt.NDArray[Any] | None = None) -> None:
        """fastText's subword rows: minn, maxn, buckets, first_row; the buckets that a pruned model kept, ascending."""
        self._subwords = dict(meta)
        if kept is None:
            return
        self._subwords["kept"] = len(kept)
        spec = layout.buckets_spec(len(kept))
        with storing(self._staging.destination):
            self._staging.write(f"{spec.name}/{layout.GROUP_FILE}", layout.document(layout.single_document(spec)))
            if len(kept):
                file = layout.single_file(spec.name, 1)
                self._staging.write(file, kept.astype("<u4"))
                self._record(file)

    def set_rerank(self, digest: str) -> None:
        """Name the table, of the same rows by a finer method, that was published in `rerank/`."""
        self._rerank = {"path": layout.RERANK_DIR, "digest": digest}

    def described(self) -> tuple[dict[str, dict[str, int]], dict[str, Any]]:
        """(sizes and checksums of files, other fields of the metadata)."""
        pruned = self._subwords is not None and "kept" in self._subwords
        fields: dict[str, Any] = {"keys": self._keys, "subwords": None if pruned else self._subwords}
        if pruned:
            fields["pruned_subwords"] = self._subwords
        if self._rerank is not None:
            fields["rerank"] = self._rerank
        return self._files, fields
