"""Several tables in one directory: the manifest that names them, written last and published with them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from .. import __version__
from ..errors import ConfigError, CorruptionError, FormatError, FormatVersionError, TableNotFoundError
from . import layout, metadata
from .staging import Staging, check_destination, storing

MOST_TABLES = 1 << 16


@dataclass(frozen=True, slots=True)
class Entry:
    """A table of a set: its name, its directory within the set's, the digest of its metadata."""

    name: str
    path: str
    digest: str


class SetWriter:
    """Builds a set beside its destination: make each table at `path_of(name)`, then `finish`.

    Raises `DestinationExistsError` before any work, `BusyError`, `StorageError`.
    """

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        self.path = check_destination(path, overwrite)
        self._overwrite = overwrite
        self._names: list[str] = []
        with storing(self.path):
            self._staging = Staging(self.path, "table set")
            self._staging.clear()

    def path_of(self, name: str) -> str:
        """Where the next table of the set is to be made."""
        if not isinstance(name, str) or not 0 < len(name) <= 1024 or name in self._names:
            raise ConfigError(f"the name of a table must be a text that no other table of the set has, found {name!r}")
        self._names.append(name)
        return self._staging.file(str(len(self._names) - 1))

    def finish(self) -> None:
        """Write the manifest and publish."""
        tables = [
            {"name": name, "path": str(i), "digest": metadata.read(self._staging.file(str(i))).raw["digest"]}
            for i, name in enumerate(self._names)
        ]
        manifest: dict[str, Any] = {
            "format_version": layout.FORMAT_VERSION,
            "requires": [],
            "tables": tables,
            "provenance": {"software": f"embstore {__version__}"},
        }
        manifest["digest"] = metadata.digest(manifest)
        group = {"attributes": {layout.SET_ATTRIBUTE: manifest}, "zarr_format": 3, "node_type": "group"}
        with storing(self.path):
            self._staging.write(layout.GROUP_FILE, layout.document(group))
            self._staging.publish(self._overwrite)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._staging.discard()


def read_set(path: str) -> tuple[Entry, ...]:
    """The tables of the set at `path`, in order; their own metadata is not read."""
    name, file = os.path.basename(path), os.path.join(path, layout.GROUP_FILE)
    if not os.path.isfile(file):
        raise TableNotFoundError(f"no set of tables at {path!r}: it must be a directory with zarr.json; check the path")
    attributes = metadata.load_json(file, f"zarr.json of set {name!r}").get("attributes")
    found = attributes.get(layout.SET_ATTRIBUTE) if isinstance(attributes, dict) else None
    if not isinstance(found, dict):
        one = isinstance(attributes, dict) and "embstore" in attributes
        cure = "it is one table: use embstore.open" if one else "it is not a set of tables"
        raise FormatError(f"zarr.json of {name!r} must have attributes.{layout.SET_ATTRIBUTE}, found none; {cure}")
    version = found.get("format_version")
    if type(version) is int and version > layout.FORMAT_VERSION:
        raise FormatVersionError(
            f"set {name!r} has format version {version}, this embstore reads {layout.FORMAT_VERSION}; update embstore"
        )
    if found.get("requires") not in ([], None):
        raise FormatVersionError(f"set {name!r} requires {found['requires']!r}, which is unknown here; update embstore")
    entries = _entries(found, name)
    if found.get("digest") != metadata.digest(found):
        raise CorruptionError(f"the digest of set {name!r} does not match its manifest; restore it from a copy")
    return entries


def _entries(found: Mapping[str, Any], name: str) -> tuple[Entry, ...]:
    tables = found.get("tables")
    if not isinstance(tables, list) or len(tables) > MOST_TABLES:
        raise FormatError(f"field tables of set {name!r} must be a list of at most {MOST_TABLES}; restore it")
    entries = []
    for i, table in enumerate(tables):
        given = [table.get(field) for field in ("name", "path", "digest")] if isinstance(table, dict) else []
        own = [text for text in given if isinstance(text, str) and 0 < len(text) <= 1024]
        if len(own) != 3:
            raise FormatError(f"tables[{i}] of set {name!r} must have the texts name, path and digest; restore it")
        if not layout.FILE_NAME.fullmatch(own[1]):
            raise FormatError(f"tables[{i}].path of set {name!r} must be relative, found {own[1][:80]!r}; restore it")
        entries.append(Entry(*own))
    if len({e.name for e in entries}) != len(entries):
        raise FormatError(f"tables of set {name!r} must have a name each, found one twice; restore it")
    return tuple(entries)
