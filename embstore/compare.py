"""Several methods side by side on one's own table: bytes, error, recall, lookup speed."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from . import pipeline
from .arrays import TableShape
from .compression import compress, open_rows
from .errors import ConfigError, DestinationExistsError, EmbstoreError, MissingDependencyError
from .method import nbytes
from .sampling import check_finite, draw_ids
from .table import Table

if TYPE_CHECKING:
    from .sources.base import RowSource

F32 = npt.NDArray[np.float32]

DEFAULT = ("float16", "int8", "int4", "nf4", "rotate,rabitq4", "pca,tcq", "pq", "rotate,rabitq2", "rotate,rabitq1")
LOOKUPS = 100_000
ROUNDS = 5


@dataclass(frozen=True)
class Comparison:
    """What one method costs and loses on a sample of a table.

    Attributes
    ----------
    method : the pipeline as it was resolved, "pca128,rotate,int4".
    nbytes : bytes of everything stored for the rows compared.
    bits_per_value : of those, for each value of the source.
    nbytes_whole : bytes for all rows of the source; None where that depends on the data.
    error : relative squared error, sum((decoded - original)²) / sum(original²); None where decoded rows have another
        length.
    recall : share of each query's k exact neighbours among the k found by searching the compressed rows.
    lookup_ratio : lookups per second over those of numpy.take from the float32 rows, same ids, same run.
    compress_seconds : fit and encode, of the rows compared.
    failure : why the method could not be tried; the other figures are then None.
    """

    method: str
    nbytes: int | None = None
    bits_per_value: float | None = None
    nbytes_whole: int | None = None
    error: float | None = None
    recall: float | None = None
    lookup_ratio: float | None = None
    compress_seconds: float | None = None
    failure: str | None = None

    def asdict(self) -> dict[str, Any]:
        """The figures, JSON-able."""
        return asdict(self)


def compare(
    source: Any,
    methods: Sequence[str] = DEFAULT,
    *,
    k: int = 10,
    max_rows: int = 100_000,
    queries: int = 500,
    metric: Literal["cosine", "ip", "l2"] = "cosine",
    seed: int = 0,
    work: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> list[Comparison]:
    """Try each method on up to `max_rows` rows of a source, drawn uniformly.

    Parameters
    ----------
    source, options : as `compress` takes them.
    methods : pipeline strings, each as `compress` takes it.
    k, queries, metric : recall@k of that many sampled rows as queries, each row not counting as its own neighbour.
    work : directory for the tables made on the way; a temporary one by default.
    progress : called with each method before it is tried.

    Raises `ConfigError` for fewer than k + 1 rows; a method that fails is reported in its `failure`.
    """
    with open_rows(source, None, options) as opened:
        shape = opened.shape
        _, rows = draw_rows(opened, max_rows, np.random.default_rng(seed))
    if len(rows) <= k:
        raise ConfigError(f"a comparison with recall@{k} needs at least {k + 1} rows, found {len(rows)}; lower k")
    rng = np.random.default_rng(seed + 1)
    asked = np.sort(rng.choice(len(rows), min(queries, len(rows)), replace=False))
    ids = rng.integers(0, len(rows), LOOKUPS)
    done = []
    with tempfile.TemporaryDirectory() if work is None else nullcontext(os.fspath(work)) as folder:
        exact = compress(rows, Path(folder) / "exact", "float32")
        neighbours = _others(exact, rows, asked, k, metric)
        for i, text in enumerate(methods):
            if progress is not None:
                progress(text)
            try:
                done.append(_try(text, rows, shape, Path(folder) / str(i), (asked, neighbours, metric), ids))
            except DestinationExistsError:
                raise
            except EmbstoreError as error:
                done.append(Comparison(text, failure=str(error)))
    return done


def draw_rows(source: RowSource, max_rows: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], F32]:
    """Ids and values of at most `max_rows` rows drawn uniformly, in id order; `SourceError` for NaN and infinity."""
    n, dim = source.shape.num_embeddings, source.shape.embedding_dim
    wanted = draw_ids(n, max_rows, rng)
    rows = np.empty((len(wanted), dim), np.float32)
    for chunk in source.chunks(65536):
        low, high = np.searchsorted(wanted, (chunk.start, chunk.start + len(chunk.rows)))
        check_finite(chunk.rows, chunk.start, source.name)
        rows[low:high] = chunk.rows[wanted[low:high] - chunk.start]
    return wanted, rows


def _others(table: Table, rows: F32, asked: npt.NDArray[np.int64], k: int, metric: Any) -> npt.NDArray[np.int64]:
    """The k nearest rows of each row asked, itself left out, searching `table`."""
    given = rows[asked]
    if table.embedding_dim != rows.shape[1]:
        given = given[:, : table.embedding_dim]
    _, found = table.search(given, k + 1, metric)
    # Itself is moved to the end; where it was not found the worst of the k + 1 is dropped.
    order = np.argsort(found == asked[:, None], axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)[:, :k]


def _try(
    text: str,
    rows: F32,
    shape: TableShape,
    path: Path,
    search: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Any],
    ids: npt.NDArray[np.int64],
) -> Comparison:
    asked, neighbours, metric = search
    start = time.perf_counter()
    table = compress(rows, path, text)
    seconds = time.perf_counter() - start
    found = _others(table, rows, asked, neighbours.shape[1], metric)
    shared = [len(set(a) & set(b)) for a, b in zip(found.tolist(), neighbours.tolist(), strict=True)]
    whole = pipeline.create(text).resolve(shape)
    fixed = all(isinstance(size, int) for spec in whole.layout(shape) for size in spec.shape)
    return Comparison(
        method=str(pipeline.Pipeline(table.transforms, table.method)),
        nbytes=table.nbytes,
        bits_per_value=8 * table.nbytes / rows.size,
        nbytes_whole=nbytes(whole, shape) if fixed else None,
        error=_error(table, rows),
        recall=sum(shared) / neighbours.size,
        lookup_ratio=_lookup_ratio(table, rows, ids),
        compress_seconds=seconds,
    )


def _error(table: Table, rows: F32) -> float | None:
    if table.embedding_dim != rows.shape[1]:
        return None
    lost, start = 0.0, 0
    for block in table.blocks():
        lost += float(np.square(block.astype(np.float64) - rows[start : start + len(block)]).sum())
        start += len(block)
    return lost / (float(np.square(rows, dtype=np.float64).sum()) or 1.0)


def _lookup_ratio(table: Table, rows: F32, ids: npt.NDArray[np.int64]) -> float:
    """The median over rounds, each contender once in a round."""
    ours = np.empty((len(ids), table.embedding_dim), np.float32)
    plain = np.empty((len(ids), rows.shape[1]), np.float32)
    ratios = []
    for turn in range(ROUNDS + 1):
        start = time.perf_counter()
        table.lookup(ids, out=ours)
        middle = time.perf_counter()
        np.take(rows, ids, axis=0, out=plain)
        if turn:
            ratios.append((time.perf_counter() - middle) / (middle - start))
    return statistics.median(ratios)


def front(results: Sequence[Comparison]) -> Iterator[Comparison]:
    """Those that no other beats in both bytes and recall."""
    tried = [r for r in results if r.failure is None]
    for r in tried:
        if not any(
            (o.nbytes or 0, -(o.recall or 0)) != (r.nbytes or 0, -(r.recall or 0))
            and (o.nbytes or 0) <= (r.nbytes or 0)
            and (o.recall or 0) >= (r.recall or 0)
            for o in tried
        ):
            yield r


def plot(results: Sequence[Comparison], path: str | os.PathLike[str], k: int = 10) -> None:
    """Error and recall against bits per value, as a picture (.png, .svg, .pdf); needs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("a plot needs matplotlib; pip install 'embstore[plot]'") from error
    tried = [r for r in results if r.failure is None]
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.subplots(1, 2)
    best = {r.method for r in front(results)}
    for axis, field, label in ((axes[0], "error", "relative squared error"), (axes[1], "recall", f"recall@{k}")):
        for r in tried:
            if getattr(r, field) is None:
                continue
            mark = "o" if r.method in best else "x"
            axis.plot(r.bits_per_value, getattr(r, field), mark, color="#1f5fa8" if mark == "o" else "#888888")
            axis.annotate(
                r.method, (r.bits_per_value, getattr(r, field)), xytext=(5, 4), textcoords="offset points", fontsize=8
            )
        axis.set_xscale("log", base=2)
        axis.set_xlabel("bits per value, everything counted")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    figure.savefig(path, dpi=150)
