"""Writing a table: rows in order, checksums as they pass, shards made durable one by one, one rename at the end."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from .. import __version__, arrays
from ..arrays import ArraySpec, TableShape
from ..errors import ConfigError, ShapeError
from . import fitted, layout, metadata
from .beside import Beside
from .progress import Progress, rows_per_part
from .staging import Staging, check_destination, storing, write_all
from .streams import RaggedFile, RowsFile
from .verify import file_crc


class TableWriter:
    """Builds a table beside its destination and publishes it whole.

    Parameters
    ----------
    path : destination directory; its parent must exist.
    shape, method_id, method_version, config, specs, transforms : what the metadata will say; configs must be
        JSON-able.
    overwrite : replace an embstore table at `path` (never anything else).
    job : fingerprint of everything the bytes depend on. An interrupted run of the same job is continued:
        `fitted` is what it fitted, `resume_row` (read it after `write_shared`) the first row still to be appended.

    `beside` takes what lies beside the arrays: keys, files, a second table.

    Raises `DestinationExistsError`, `BusyError` (another writer has the lock), `StorageError`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        shape: TableShape,
        method_id: str,
        method_version: int,
        config: Mapping[str, Any],
        specs: tuple[ArraySpec, ...],
        transforms: Sequence[Mapping[str, Any]] = (),
        overwrite: bool = False,
        job: str = "",
    ) -> None:
        self.path = check_destination(path, overwrite)
        self.shape, self.specs, self.overwrite = shape, tuple(specs), overwrite
        self._method = {"id": method_id, "version": method_version, "config": dict(config)}
        self._transforms = [dict(t) for t in transforms]
        self._check_specs()
        rows = [s for s in specs if s.partition == "rows"]
        self.rows_per_shard, self.rows_per_chunk = layout.geometry(shape.num_embeddings, [s.row_nbytes for s in rows])
        blocks = layout.chunks_of(shape.num_embeddings, self.rows_per_chunk)
        self._rows = {s.name: RowsFile(s, blocks) for s in rows}
        self._ragged = {s.name: RaggedFile(s) for s in specs if s.partition == "ragged"}
        self.rows_per_part = rows_per_part(shape, self.rows_per_shard, bool(rows))
        self._next = 0
        self._shared: dict[str, int] | None = None
        plan = [layout.FORMAT_VERSION, job, self._method, [[s.name, s.dtype, s.shape, s.partition] for s in specs]]
        plan += [self._transforms, shape.num_embeddings, shape.embedding_dim, self.rows_per_part, self.rows_per_chunk]
        with storing(self.path):
            self._staging = Staging(self.path, hashlib.sha256(layout.canonical(plan)).hexdigest())
            self.beside = Beside(self._staging, {s.name for s in specs})
            self._progress = Progress(
                self._staging, list(self._rows.values()), list(self._ragged.values()), shape.num_embeddings,
                self.rows_per_part, self.rows_per_shard, self.rows_per_chunk,
            )  # fmt: skip
            resumed = bool(job) and self._staging.resumed
            self.fitted = fitted.load(self._staging) if resumed else None
            self._next = self._progress.resume() if resumed else 0
            # Keys are always written anew; spill files of a killed run must not be published.
            shutil.rmtree(self._staging.file(layout.KEYS_DIR), ignore_errors=True)
            if not self._next:
                self._start_over(keep_fitted=self.fitted is not None)

    @property
    def directory(self) -> str:
        """Where the table is being built; key files are written here."""
        return self._staging.path

    @property
    def resume_row(self) -> int:
        """Rows that an earlier run of this job has written already; always whole parts of `rows_per_part`."""
        return self._next

    @property
    def _whole(self) -> bool:
        return self._next == self.shape.num_embeddings

    def _check_specs(self) -> None:
        for spec in self.specs:
            if not layout.ARRAY_NAME.fullmatch(spec.name) or spec.name in layout.RESERVED_NAMES:
                raise ConfigError(
                    f"array name {spec.name!r} must be an ASCII identifier that is not reserved; rename it"
                )
            if spec.partition == "rows":
                if any(isinstance(s, str) for s in spec.shape) or spec.row_nbytes < 1:
                    raise ConfigError(f"rows array {spec.name!r} must have sizes known in advance, found {spec.shape}")
                if spec.shape[0] != self.shape.num_embeddings:
                    raise ConfigError(
                        f"rows array {spec.name!r} must have {self.shape.num_embeddings} rows, found {spec.shape[0]}"
                    )

    # Resuming -------------------------------------------------------------------------------------------------

    def _start_over(self, keep_fitted: bool = False) -> None:
        stale = [s.name for s in self.specs if not (keep_fitted and s.partition == "shared")]
        stale += [] if keep_fitted else [fitted.FOLDER]
        for name in (layout.CHECKSUM_GROUP, layout.KEYS_DIR, layout.SUBWORD_BUCKETS, *stale):
            shutil.rmtree(self._staging.file(name), ignore_errors=True)
        self._progress.clear()
        self._next = 0

    # Content --------------------------------------------------------------------------------------------------

    def write_shared(self, shared: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write every shared array. Rows of an earlier run that had other shared arrays are dropped."""
        free = arrays.check(self.specs, dict(shared), partition="shared")
        self.specs = tuple(
            s if s.partition == "ragged" else dataclasses.replace(s, shape=s.sizes(**free)) for s in self.specs
        )
        data = {n: np.ascontiguousarray(a, np.dtype(a.dtype).newbyteorder("<")) for n, a in shared.items()}
        crcs = {n: _crc(a.reshape(-1).view(np.uint8)) for n, a in data.items()}
        with storing(self.path):
            files = {n: layout.single_file(n, a.ndim) for n, a in data.items() if a.nbytes}
            missing = {n for n, file in files.items() if self._stored_crc(file) != crcs[n]}
            if missing and self._next:
                self._start_over()
                missing = set(files)
            for name in missing:
                self._staging.write(files[name], data[name].reshape(-1).view(np.uint8))
        self._shared = crcs

    def keep_fitted(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Keep what was fitted for a later run of the same job; call it after `write_shared`."""
        with storing(self.path):
            fitted.keep(self._staging, arrays)

    def _stored_crc(self, file: str) -> int:
        try:
            return file_crc(self._staging.file(file))
        except OSError:
            return -1

    def append(self, rows: Mapping[str, npt.NDArray[Any]], count: int | None = None) -> None:
        """Append rows of every rows array, in row order, and the items of ragged ones.

        With ragged arrays the rows must lie in one part of `rows_per_part`, so that an interrupted run knows how far
        their items go; where all arrays are ragged, `count` says how many rows these are the items of.
        """
        if self._rows or count is None:
            count = len(rows[next(iter(self._rows))]) if self._rows else 0
        arrays.check(self.specs, dict(rows), partition="rows", rows=count)
        if self._ragged:
            if count and self._next // self.rows_per_part != (self._next + count - 1) // self.rows_per_part:
                raise ShapeError(
                    f"rows from {self._next} must lie in one part of {self.rows_per_part}, found {count}; append them "
                    "in parts"
                )
            rows = self._append_ragged(rows)
        if self._next + count > self.shape.num_embeddings:
            raise ShapeError(f"the table has {self.shape.num_embeddings} rows, found at least {self._next + count}")
        if not self._rows:
            self._next += count
            if count and self._ragged and (self._next % self.rows_per_part == 0 or self._whole):
                with storing(self.path):
                    self._progress.mark((self._next - 1) // self.rows_per_part, slice(0, 0))
            return
        data = {n: np.ascontiguousarray(a, np.dtype(a.dtype).newbyteorder("<")) for n, a in rows.items()}
        with storing(self.path):
            at = 0
            while at < count:
                step = min(count - at, self.rows_per_chunk - self._next % self.rows_per_chunk)
                if self._next % self.rows_per_shard == 0:
                    self._open_shard(self._next // self.rows_per_shard)
                for name, rows_file in self._rows.items():
                    piece = data[name][at : at + step].reshape(-1).view(np.uint8)
                    rows_file.write(piece, self._next // self.rows_per_chunk)
                at, self._next = at + step, self._next + step
                if self._next % self.rows_per_shard == 0 or self._whole:
                    self._close_shard()

    def _append_ragged(self, rows: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Write the items of ragged arrays; the rows arrays, their starts counted from the table's first row."""
        left = dict(rows)
        with storing(self.path):
            for name, ragged in self._ragged.items():
                starts, base = ragged.spec.starts, ragged.count
                if starts:
                    top = int(np.iinfo(rows[starts].dtype).max)
                    if base + int(rows[starts].max(initial=0)) > top:
                        raise ConfigError(
                            f"array {starts!r} must hold starts up to {top}, found more; use a wider dtype"
                        )
                    left[starts] = rows[starts] + rows[starts].dtype.type(base)
                data = left.pop(name)
                if len(data):
                    data = np.ascontiguousarray(data, np.dtype(data.dtype).newbyteorder("<"))
                    ragged.write(data, self._staging.file(ragged.file))
        return left

    def _open_shard(self, shard: int) -> None:
        for name, rows_file in self._rows.items():
            file = self._staging.file(layout.shard_file(name, shard, len(rows_file.spec.shape)))
            os.makedirs(os.path.dirname(file), exist_ok=True)
            rows_file.stream = open(file, "wb", buffering=0)  # noqa: SIM115
            rows_file.written = rows_file.flushed = 0
            first = shard * self.rows_per_shard // self.rows_per_chunk
            rows_file.crcs[first : first + self.rows_per_shard // self.rows_per_chunk] = 0

    def _close_shard(self) -> None:
        shard = (self._next - 1) // self.rows_per_shard
        present = layout.chunks_of(self._next - shard * self.rows_per_shard, self.rows_per_chunk)
        first = shard * self.rows_per_shard // self.rows_per_chunk
        for rows_file in self._rows.values():
            row_nbytes = rows_file.spec.row_nbytes
            stream = rows_file.stream
            assert stream is not None
            if missing := -self._next % self.rows_per_chunk:
                rows_file.write(np.zeros(missing * row_nbytes, np.uint8), first + present - 1)
            total = self.rows_per_shard // self.rows_per_chunk
            write_all(stream, layout.shard_index(present, total, self.rows_per_chunk * row_nbytes))
            os.fsync(stream.fileno())
            stream.close()
            rows_file.stream = None
        self._progress.mark(shard, slice(first, first + present))

    # The end --------------------------------------------------------------------------------------------------

    def finish(self, provenance: Mapping[str, Any] | None = None) -> str:
        """Write the metadata and publish; the digest. `ShapeError` when rows or shared arrays are missing."""
        if not self._whole and (self._rows or self._ragged):
            raise ShapeError(f"the table has {self.shape.num_embeddings} rows, found {self._next} when it was finished")
        if self._shared is None:
            self.write_shared({})
        self._finish_ragged()
        with storing(self.path):
            rows_crc = self._write_documents()
            meta = self._metadata(rows_crc, dict(provenance or {}))
            metadata.validate(meta, os.path.basename(self.path))
            group = {"attributes": {"embstore": meta}, "zarr_format": 3, "node_type": "group"}
            self._staging.write(layout.GROUP_FILE, layout.document(group))
            self._progress.remove()
            shutil.rmtree(self._staging.file(fitted.FOLDER), ignore_errors=True)
            self._staging.publish(self.overwrite)
        return str(meta["digest"])

    def _finish_ragged(self) -> None:
        """From here on a ragged array is a shared one, of the size it has."""
        assert self._shared is not None
        self._close_streams()
        sizes = {name: ragged.count for name, ragged in self._ragged.items()}
        self._shared |= {name: ragged.crc for name, ragged in self._ragged.items()}
        self.specs = tuple(
            ArraySpec(s.name, s.dtype, (sizes[s.name], *s.shape[1:]), "shared") if s.name in sizes else s
            for s in self.specs
        )

    def _write_documents(self) -> dict[str, int]:
        rows_crc = {}
        if self._rows:
            self._document(layout.CHECKSUM_GROUP, layout.GROUP_DOCUMENT)
        for spec in self.specs:
            if spec.partition == "shared":
                self._document(spec.name, layout.single_document(spec))
                continue
            self._document(spec.name, layout.rows_document(spec, self.rows_per_shard, self.rows_per_chunk))
            side = f"{layout.CHECKSUM_GROUP}/{spec.name}"
            self._document(side, layout.single_document(layout.checksum_spec(spec, self.rows_per_chunk)))
            crcs = self._rows[spec.name].crcs.view(np.uint8)
            rows_crc[spec.name] = _crc(crcs)
            if crcs.nbytes:
                self._staging.write(layout.single_file(side, 1), crcs)
        return rows_crc

    def _document(self, name: str, value: Mapping[str, Any]) -> None:
        self._staging.write(f"{name}/{layout.GROUP_FILE}", layout.document(value))

    def _metadata(self, rows_crc: dict[str, int], provenance: dict[str, Any]) -> dict[str, Any]:
        n = self.shape.num_embeddings
        generation = {
            "id": 0,
            "path": "",
            "rows": [0, n],
            "method": self._method,
            "arrays": [
                {"name": s.name, "dtype": s.dtype, "shape": list(s.sizes()), "partition": s.partition}
                for s in self.specs
            ],
            "rows_per_shard": self.rows_per_shard,
            "rows_per_chunk": self.rows_per_chunk,
        }
        files, beside = self.beside.described()
        meta: dict[str, Any] = {
            "format_version": layout.FORMAT_VERSION,
            "shape": {"num_embeddings": n, "embedding_dim": self.shape.embedding_dim},
            "generations": [generation],
            "transforms": self._transforms,
            **beside,
            "requires": ["transforms"] if self._transforms else [],
            "checksums": {"algorithm": "crc32c", "shared": self._shared, "rows": rows_crc, "files": files},
            "provenance": {"software": f"embstore {__version__}"} | provenance,
        }
        meta["digest"] = metadata.digest(meta)
        return meta

    def suspend(self) -> str:
        """Stop, keeping for a later run of the same job what was fitted and whole shards; a sentence says what.

        Without any, nothing is kept.
        """
        self._close_streams()
        name, total = os.path.basename(self.path), self.shape.num_embeddings
        done = total if self._whole else self._next // self.rows_per_part * self.rows_per_part
        has_fitted, has_rows = fitted.kept(self._staging), bool(self._progress)
        if not has_fitted and not has_rows:
            self._staging.discard()
            return (
                f"nothing of {name!r} is kept, as neither fitting nor a shard was finished; run again, it starts over"
            )
        self._staging.release()
        parts = ["what was fitted"] * has_fitted + [f"the first {done:,} of {total:,} rows"] * has_rows
        return f"{' and '.join(parts)} of {name!r} will be used when the same is run again"

    def abort(self) -> None:
        """Stop and remove everything written."""
        self._close_streams()
        self._staging.discard()

    def _close_streams(self) -> None:
        files: list[RowsFile | RaggedFile] = [*self._rows.values(), *self._ragged.values()]
        for file in files:
            if file.stream is not None:
                file.stream.close()
                file.stream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            # After `finish` the directory is the destination's, and there is nothing to remove.
            self._close_streams()
            self._staging.release()
        elif issubclass(kind, Exception):
            self.abort()
        else:
            note = self.suspend()
            if error is not None:
                error.add_note(note)


def _crc(data: npt.NDArray[np.uint8]) -> int:
    import google_crc32c

    return int(google_crc32c.value(data))
