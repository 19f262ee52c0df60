"""Offline: a source of rows becomes a stored table, in memory that does not depend on the table's size."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ._pump import Pump
from .arrays import TableShape
from .budgets import Budget, choose
from .errors import ConfigError, EmbstoreWarning, SourceError
from .format import layout
from .format.staging import check_destination
from .format.writer import TableWriter
from .method import Learned, Method
from .pipeline import Pipeline
from .sampling import SourceRows, check_finite

if TYPE_CHECKING:
    from .sources.base import Chunk, RowSource
    from .table import Table

CHUNK_BYTES = 32 << 20

Progress = Callable[[int, int], None]


def compress(
    source: Any,
    path: str | os.PathLike[str],
    method: str | Method = "int8",
    *,
    budget: Budget | None = None,
    keys: Any = None,
    counts: Any = None,
    overwrite: bool = False,
    nonfinite: Literal["raise", "keep"] = "raise",
    on_duplicate: Literal["raise", "last"] = "raise",
    seed: int = 0,
    rerank: str | Method | None = None,
    progress: Progress | None = None,
    format: str | None = None,
    name: str | None = None,
    key_column: str | None = None,
    dtype: Any = None,
    shape: tuple[int, int] | None = None,
    **config: Any,
) -> Table:
    """Compress a file or array of embeddings into a table directory and open it.

    Parameters
    ----------
    source : path, array or `RowSource`; see `embstore.sources`.
    path : destination directory. It appears whole, or not at all.
    method, config : a method id with config fields, a pipeline as "pca128,rotate,int4" (see `embstore.pipeline.parse`),
        or a method or `Pipeline` object.
    budget : bytes (int, "64MB"), ratio of the float32 bytes (0.1, "10%") or bits per dimension ("4bpd"), for the
        arrays without keys.
    keys : keys of the first rows (list of str, int64 array), instead of the source's own; False for none.
    counts : how often each row is used, for the methods that spend bytes where they are needed: N finite numbers that
        are not negative, as an array, the path of a .npy file, or the name of a column of a Parquet or Arrow source.
    overwrite : replace an embstore table at `path`.
    nonfinite : "raise" refuses NaN and infinities, naming row and column; "keep" hands them to the method.
    on_duplicate : "raise" or "last", for keys that name more than one row.
    seed : the same seed and source give the same bytes.
    rerank : a second, finer method, "int8" for example: the same rows once more, kept in the table for
        `Table.search(rerank=True)`. The source is read twice; `budget` and `nbytes` leave it out.
    progress : called with (rows done, rows in all).
    format, name, key_column, dtype, shape : how to read the source.

    Raises `DestinationExistsError` before any work, `SourceError`, `BudgetError`, `StorageError`, `BusyError`,
    `DuplicateKeyError`. Warns of fewer rows than centroids asked for. Interrupted by Ctrl-C or killed, the same call
    uses what was fitted, if fitting was done, and continues where whole shards end; a note of the `KeyboardInterrupt`
    says what is kept.
    """
    if nonfinite not in ("raise", "keep"):
        raise ConfigError(f'nonfinite must be "raise" or "keep", found {nonfinite!r}')
    if on_duplicate not in ("raise", "last"):
        raise ConfigError(f'on_duplicate must be "raise" or "last", found {on_duplicate!r}')
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ConfigError(f"seed must be an integer from 0 on, found {seed!r}; leave it out for 0")
    check_destination(path, overwrite)
    from . import table
    from .sources.counts import read_counts

    given = {"format": format, "name": name, "key_column": key_column, "dtype": dtype, "shape": shape}
    with open_rows(source, keys, {k: v for k, v in given.items() if v is not None}) as rows:
        used = read_counts(counts, rows)
        chosen = choose(method, rows.shape, budget, config)
        finer = None if rerank is None else choose(rerank, rows.shape, None, {})
        _warn_of_few_rows(chosen, rows.shape.num_embeddings)
        _write(
            rows,
            path,
            chosen,
            keys is not False,
            used,
            overwrite,
            nonfinite == "raise",
            on_duplicate,
            seed,
            progress,
            finer,
        )
    return table.open(os.fspath(path))


def _warn_of_few_rows(method: Method, rows: int) -> None:
    inner = method.method if isinstance(method, Pipeline) else method
    if isinstance(inner, Learned) and rows < inner.centroids:
        warnings.warn(
            f"{inner.id} learns {inner.centroids:,} centroids from as many rows or more, found {rows:,}: the rows "
            "themselves are stored as centroids, which is exact but not smaller; ask for fewer bits",
            EmbstoreWarning,
            stacklevel=3,
        )


def store(
    path: str | os.PathLike[str],
    method: Method,
    shape: TableShape,
    arrays: Mapping[str, npt.NDArray[Any]],
    *,
    keys: Any = None,
    overwrite: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> Table:
    """Write a table from the arrays of a method, as training and FAISS give them, and open it.

    Parameters
    ----------
    path, overwrite : as in `compress`.
    method : resolved, a `Pipeline` too; `arrays` are every one of its `layout(shape)`, by row and ragged ones whole.
    keys : keys of the first rows (list of str or int64 array), or None.

    Raises `ShapeError` where an array is not what `layout` says, and what writing raises.
    """
    # Ragged arrays are there whole, and stored like shared ones.
    specs = tuple(
        dataclasses.replace(s, partition="shared", starts="") if s.partition == "ragged" else s
        for s in method.layout(shape)
    )
    by_row = {s.name for s in specs if s.partition == "rows"}
    with TableWriter(
        path, shape=shape, method_id=method.id, method_version=method.version, config=method.config(), specs=specs,
        transforms=method.described() if isinstance(method, Pipeline) else [], overwrite=overwrite,
    ) as writer:  # fmt: skip
        writer.write_shared({name: array for name, array in arrays.items() if name not in by_row})
        step = writer.rows_per_shard
        for first in range(0, shape.num_embeddings if by_row else 0, step):
            writer.append({name: arrays[name][first : first + step] for name in by_row})
        if keys is not None:
            from .format import keys as _keys

            kind: Literal["string", "int64"] = "int64" if isinstance(keys, np.ndarray) else "string"
            key_writer = _keys.KeysWriter(writer.directory, kind, len(keys), on_duplicate="raise")
            key_writer.append(keys)
            writer.beside.set_keys(key_writer.finish())
        writer.finish(
            {"source": "arrays", "source_format": "arrays", "source_dtype": "", "seed": 0, **(provenance or {})}
        )
    from . import table

    return table.open(os.fspath(path))


def open_rows(source: Any, keys: Any, options: dict[str, Any]) -> RowSource:
    """What `compress` reads: an open source as it is, anything else opened."""
    if hasattr(source, "chunks") and isinstance(getattr(source, "shape", None), TableShape):
        if options or not (keys is None or keys is False):
            raise ConfigError(f"{sorted(options) or 'keys'} cannot be given beside an open source; open it with them")
        return source  # type: ignore[no-any-return]
    from . import sources

    if not (keys is None or keys is False):
        options["keys"] = keys
    return sources.open_source(source, **options)


def _described(method: Method) -> dict[str, Any]:
    transforms = method.described() if isinstance(method, Pipeline) else []
    return {"id": method.id, "version": method.version, "config": method.config(), "transforms": transforms}


def _write(
    source: RowSource,
    path: str | os.PathLike[str],
    method: Method,
    with_keys: bool,
    counts: npt.NDArray[np.float64] | None,
    overwrite: bool,
    finite: bool,
    on_duplicate: Literal["raise", "last"],
    seed: int,
    progress: Progress | None,
    rerank: Method | None = None,
) -> str:
    """Write and publish a table; its digest."""
    from . import kernels

    shape = source.shape
    max_rows = layout.floor_pow2(CHUNK_BYTES // (4 * shape.embedding_dim))

    def check(chunk: Chunk) -> None:
        if finite:
            check_finite(chunk.rows, chunk.start, source.name)

    total = shape.num_embeddings * (1 if rerank is None else 2)
    transforms = method.described() if isinstance(method, Pipeline) else []
    row_dim = method.row_dim(shape.embedding_dim) if isinstance(method, Pipeline) else shape.embedding_dim
    finer = [] if rerank is None else [_described(rerank)]
    weighted = "" if counts is None else hashlib.sha256(counts.data).hexdigest()
    job = layout.canonical([source.fingerprint, _described(method), seed, finite, on_duplicate, weighted, *finer])
    with TableWriter(
        path, shape=TableShape(shape.num_embeddings, row_dim), method_id=method.id, method_version=method.version,
        config=method.config(), transforms=transforms, specs=method.layout(shape),
        overwrite=overwrite, job=hashlib.sha256(job).hexdigest(),
    ) as writer, contextlib.ExitStack() as stack:  # fmt: skip
        shared = writer.fitted
        if shared is None:
            shared = method.fit(SourceRows(source, max_rows, check, counts), np.random.default_rng(seed))
        writer.write_shared({name: array for name, array in shared.items() if not name.startswith("_")})
        if shared and writer.fitted is None:
            writer.keep_fitted(shared)
        encode: Callable[..., dict[str, npt.NDArray[Any]]] = kernels.encoder(method, check=True)
        key_writer = None
        if with_keys and source.key_type is not None:
            from .format import keys as _keys

            key_writer = stack.enter_context(
                _keys.KeysWriter(
                    writer.directory, source.key_type, source.num_keys, on_duplicate, destination=writer.path
                )
            )
        resume = writer.resume_row
        # Keys are written anew, so their pass starts at the first row.
        done = start = 0 if key_writer is not None else resume

        def append(encoded: tuple[dict[str, npt.NDArray[Any]], int]) -> None:
            writer.append(*encoded)

        def encode_rows(chunk: Chunk) -> None:
            first, end = max(resume, chunk.start), chunk.start + len(chunk.rows)
            while first < end:
                # The writer takes ragged arrays a part at a time.
                last = min(end, (first // writer.rows_per_part + 1) * writer.rows_per_part)
                rows = chunk.rows[first - chunk.start : last - chunk.start]
                write.put((encode(shared, np.arange(first, last, dtype=np.int64), rows), last - first))
                first = last

        # Reading, encoding and writing overlap; sources stay on this thread, where SQLite wants them.
        with Pump(append) as write, Pump(encode_rows, depth=1) as encoding:
            for chunk in source.chunks(max_rows, start):
                if key_writer is not None and chunk.keys is not None and len(chunk.keys):
                    key_writer.append(chunk.keys)
                done = chunk.start + len(chunk.rows)
                if done > resume:
                    check(chunk)
                    encoding.put(chunk)
                if progress is not None:
                    progress(done, total)
        if done != shape.num_embeddings:
            raise SourceError(f"{source.name!r} must have {shape.num_embeddings} rows, found {done}; it is truncated")
        if key_writer is not None:
            writer.beside.set_keys(key_writer.finish())
        if source.subwords is not None:
            words = source.subwords
            fields = {f: int(getattr(words, f)) for f in ("minn", "maxn", "buckets", "first_row")}
            writer.beside.set_subwords(fields, words.kept)
        if rerank is not None:
            inner = os.path.join(writer.directory, layout.RERANK_DIR)
            then = None if progress is None else lambda done, _: progress(shape.num_embeddings + done, total)
            writer.beside.set_rerank(
                _write(source, inner, rerank, False, counts, True, False, on_duplicate, seed, then)
            )
        return writer.finish(
            {"source": source.name, "source_format": source.format, "source_dtype": source.dtype, "seed": seed}
        )
