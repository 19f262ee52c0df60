"""FAISS indexes built from a table's decoded rows, kept beside it in `indexes/<name>/`, reranked from the table.

`index.faiss` is FAISS's own file; `index.json` says what it was made from and holds its size and crc32c. The checksum
is there for damage: FAISS trusts the files it reads, so open indexes only from where you would run code from.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import optional
from ..arguments import parse_device
from ..errors import (
    ConfigError,
    CorruptionError,
    DestinationExistsError,
    DeviceError,
    FormatError,
    IndexNotFoundError,
    MissingDependencyError,
)
from ..format import layout, metadata
from ..format.reader import check_size
from ..format.staging import fsync_path, storing
from ..format.verify import file_crc
from ..method import FloatRows, Ids
from . import _faiss
from .exact import METRICS, Metric, check_metric
from .words import unit

if TYPE_CHECKING:
    from ..table import Table

INDEX_FILE, SIDECAR = "index.faiss", "index.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
TRAINING_ROWS, TRAINING_BYTES = 1 << 18, 1 << 30
BLOCK_BYTES = 32 << 20

Progress = Callable[[int, int], None]


def _directory(table: Table, name: str) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"an index name must be letters, digits, '_' and '-', found {name!r}; 'default' is usual")
    return os.path.join(table.path, layout.INDEXES_DIR, name)


def names(table: Table) -> list[str]:
    """Names of the indexes beside a table."""
    folder = os.path.join(table.path, layout.INDEXES_DIR)
    return sorted(n for n in os.listdir(folder) if NAME.fullmatch(n)) if os.path.isdir(folder) else []


def build_index(
    table: Table,
    factory: str = "IVF1024,PQ32",
    metric: Metric = "cosine",
    *,
    name: str = "default",
    training_rows: int | None = None,
    seed: int = 0,
    gpu: bool | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TableIndex:
    """Train a FAISS index on a sample of the table's rows, add all of them, and keep it beside the table.

    Parameters
    ----------
    factory : FAISS's index factory string.
    metric : "cosine" (inner product of unit rows), "ip" or "l2"; searches through the index must ask for the same.
    name : of the index; a table may have several.
    training_rows : rows to train on, drawn by `seed`; by default at most 262,144 and at most 1 GiB of float32.
    gpu : train and add on the first GPU: True, or False for never; by default where FAISS has one, can build this kind
        of index on it and finds room for it there. The stored index is one for the CPU; one from a GPU differs in how
        its sums were rounded.
    overwrite : replace an index of this name.
    progress : called with (rows added, rows in all).

    Besides the index itself, memory holds the sample and one block of rows. Rows with NaN or infinities are added as
    zeros, and never found. The index goes when the table is overwritten.

    Raises `ConfigError` for a factory that FAISS refuses or too few rows to train it, `DestinationExistsError`,
    `StorageError`, `MissingDependencyError` without faiss, or without its GPU part.
    """
    check_metric(metric)
    folder = _directory(table, name)
    if os.path.lexists(folder) and not overwrite:
        raise DestinationExistsError(f"index {name!r} exists already; choose another name or pass overwrite=True")
    faiss = optional.faiss("an index")
    rows = table.num_embeddings
    most = min(TRAINING_ROWS, max(1, TRAINING_BYTES // (4 * table.embedding_dim)))
    if training_rows is not None and (type(training_rows) is not int or training_rows < 1):
        raise ConfigError(f"training_rows must be a positive integer, found {training_rows!r}; leave it out")
    take = min(rows, training_rows or most)
    kinds = _metric_types(faiss, metric)
    with _faiss.threads(faiss):
        try:
            index = faiss.index_factory(table.embedding_dim, factory, kinds[0])
            # Graphs over product codes are for L2 alone, whatever is asked.
            if index.metric_type not in kinds:
                raise ConfigError(f"FAISS builds {factory!r} for 'l2' and 'cosine' only, found {metric!r}; choose one")
            on_gpu = _to_gpu(faiss, index, gpu)
            if on_gpu is not None:
                try:
                    _fill(on_gpu, table, metric, take, seed, progress)
                    index = faiss.index_gpu_to_cpu(on_gpu)
                except RuntimeError:
                    if gpu:
                        raise
                    on_gpu = None  # its memory is too small, for example
            if on_gpu is None:
                _fill(index, table, metric, take, seed, progress)
        except RuntimeError as error:
            cure = "choose another factory string, or leave gpu out" if gpu else "choose another factory string"
            raise ConfigError(
                f"FAISS could not build {factory!r} for {rows} x {table.embedding_dim}, trained on {take} rows: "
                f"{_faiss.said(error)}; {cure}"
            ) from error
    described = {"table": table.metadata["digest"], "factory": factory, "metric": metric, "seed": seed}
    described |= {"num_embeddings": rows, "embedding_dim": table.embedding_dim, "trained_on": take}
    _publish(faiss, index, folder, {"format_version": 1, "faiss": faiss.__version__, **described})
    return load(table, name)


def _fill(index: Any, table: Table, metric: Metric, take: int, seed: int, progress: Progress | None) -> None:
    """Train an empty index on `take` rows, then add all."""
    rows = table.num_embeddings
    if not index.is_trained:
        drawn = np.random.default_rng(seed).choice(rows, take, replace=False, shuffle=False)
        sample = table.lookup(np.sort(drawn))
        index.train(_prepared(sample[np.isfinite(sample).all(axis=1)], metric))
    done = 0
    for block in table.blocks(max(1, BLOCK_BYTES // (4 * table.embedding_dim))):
        index.add(_prepared(np.where(np.isfinite(block).all(axis=1, keepdims=True), block, 0), metric))
        done += len(block)
        if progress is not None:
            progress(done, rows)


def _metric_types(faiss: Any, metric: Metric) -> tuple[int, ...]:
    """FAISS's metrics that rank rows as `metric` does, the preferred first; for "cosine" the rows are unit rows."""
    each = {"l2": (faiss.METRIC_L2,), "ip": (faiss.METRIC_INNER_PRODUCT,)}
    return each.get(metric, (faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2))


def _to_gpu(faiss: Any, index: Any, gpu: bool | None) -> Any:
    """An empty index on the first GPU; None where it is to stay, or nothing else is asked for and it has to."""
    if gpu is False:
        return None
    if not _has_gpu(faiss):
        if gpu is None:
            return None
        raise MissingDependencyError(
            "gpu=True needs a GPU and a faiss built for it, found neither or one; leave gpu out, or install faiss-gpu"
        )
    try:
        return _cloned(faiss, index, 0)
    except RuntimeError:
        if gpu:
            raise
        return None  # graphs for example, which GPUs do not build


def _has_gpu(faiss: Any) -> bool:
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


def _cloned(faiss: Any, index: Any, device: int) -> Any:
    """The index on a GPU; `RuntimeError` where FAISS has none of this kind or no room for it."""
    found = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), device, index)
    if not _on_gpu(faiss, found):  # FAISS before 1.9 copies what it has no GPU index for
        raise RuntimeError("this index type is not implemented on GPU")
    return found


def _on_gpu(faiss: Any, index: Any) -> bool:
    """Whether the rows of an index are on a GPU; transforms before it never are."""
    while isinstance(index, faiss.IndexPreTransform):
        index = faiss.downcast_index(index.index)
    return isinstance(index, getattr(faiss, "GpuIndex", ()))


def _prepared(rows: FloatRows, metric: Metric) -> FloatRows:
    return np.ascontiguousarray(unit(rows) if metric == "cosine" else rows, np.float32)


def _publish(faiss: Any, index: Any, folder: str, described: dict[str, Any]) -> None:
    """Write both files beside, then rename: whoever looks finds a whole index or none."""
    parent, name = os.path.split(folder)
    partial, old = (os.path.join(parent, f".{name}-{what}-{os.getpid()}") for what in ("partial", "old"))
    with storing(folder):
        os.makedirs(partial)
        try:
            file = os.path.join(partial, INDEX_FILE)
            _faiss.write_index(faiss, index, file)
            described = described | {"nbytes": os.stat(file).st_size, "crc32c": file_crc(file)}
            with open(os.path.join(partial, SIDECAR), "wb") as stream:
                stream.write(layout.document(described))
            for path in (file, os.path.join(partial, SIDECAR), partial):
                fsync_path(path)
            if os.path.lexists(folder):
                os.rename(folder, old)
            os.rename(partial, folder)
            fsync_path(parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


@dataclass(frozen=True)
class TableIndex:
    """An index made from a table, ready to search.

    Attributes
    ----------
    faiss : the FAISS index itself, over unit rows where `metric` is "cosine".
    nbytes : size of its file.
    digest : of the table it was made from.
    """

    name: str
    factory: str
    metric: Metric
    nbytes: int
    faiss: Any
    digest: str

    def to(self, device: Any = "cuda") -> TableIndex:
        """The same index on a GPU, "cuda" or "cuda:1", to search through: `table.search(..., index=this)`.

        FAISS has GPU indexes for `Flat`, `IVF…,Flat`, `IVF…,SQ…` and `IVF…,PQ…` of 8 bits. They find up to 2,048
        candidates among up to 2,048 lists, and know no filter. Candidates are scored by the table, on the host.

        Raises `DeviceError` for another device, `MissingDependencyError` without a GPU or FAISS's part for it,
        `ConfigError` for an index that FAISS does not have there or that finds no room.
        """
        faiss = optional.faiss("a search through an index")
        number = parse_device(device)
        if number is None:
            raise DeviceError(f"an index is on the host to begin with, found {device!r}; ask the table for it again")
        if not _has_gpu(faiss):
            raise MissingDependencyError(
                "an index on a GPU needs one and a faiss built for it, found neither or one; install faiss-gpu"
            )
        if number >= faiss.get_num_gpus():
            raise DeviceError(f"FAISS has {faiss.get_num_gpus()} GPUs, found {device!r}; choose one of these")
        try:
            return dataclasses.replace(self, faiss=_cloned(faiss, self.faiss, number))
        except RuntimeError as error:
            raise ConfigError(
                f"FAISS could not take index {self.name!r} ({self.factory}) to {device}: {_faiss.said(error)}; search "
                "through it on the host"
            ) from error

    def candidates(self, queries: FloatRows, count: int, nprobe: int | None, allowed: Any) -> Ids:
        """Ids (n, count) the index finds for each query, best first by its own values; -1 for none.

        `nprobe` : lists to look at in an IVF index, by default a 32nd of them. `allowed` : a byte for each row, nonzero
        where it may be found, or None.
        """
        faiss = optional.faiss("a search through an index")
        selector = None
        if allowed is not None and _on_gpu(faiss, self.faiss):
            raise ConfigError(f"index {self.name!r} is on a GPU, where FAISS knows no filter; filter on the host")
        if allowed is not None:
            selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        with _faiss.threads(faiss):
            try:
                parameters = _parameters(faiss, self.faiss, nprobe, selector)
                ids: Ids = self.faiss.search(_prepared(queries, self.metric), count, params=parameters)[1]
            except RuntimeError as error:
                raise ConfigError(
                    f"index {self.name!r} ({self.factory}) could not search: {_faiss.said(error)}"
                ) from error
        return ids


def _parameters(faiss: Any, index: Any, nprobe: int | None, selector: Any) -> Any:
    """FAISS's search parameters for this kind of index: they leave the index as it is, so threads may share it."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        inner = _parameters(faiss, index.index, nprobe, selector)
        return None if inner is None else faiss.SearchParametersPreTransform(index_params=inner)
    of_lists: Any = (faiss.IndexIVF, getattr(faiss, "GpuIndexIVF", ()))
    if isinstance(index, of_lists):
        lists = index.nlist
        if nprobe is not None and (type(nprobe) is not int or not 1 <= nprobe <= lists):
            raise ConfigError(
                f"nprobe must be from 1 to the {lists} lists of the index, found {nprobe!r}; leave it out"
            )
        return faiss.SearchParametersIVF(nprobe=nprobe or max(1, lists // 32), sel=selector)
    if nprobe is not None:
        raise ConfigError(f"nprobe needs an IVF index, found {type(index).__name__}; leave it out")
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=index.hnsw.efSearch, sel=selector)
    return None if selector is None else faiss.SearchParameters(sel=selector)


def load(table: Table, name: str) -> TableIndex:
    """The index `name` of a table, checked.

    Raises `IndexNotFoundError`; `FormatError` for one made from another table; `CorruptionError` for damage.
    """
    folder = _directory(table, name)
    what = f"index {name!r}"
    if not os.path.isdir(folder):
        have = ", ".join(map(repr, names(table))) or "none"
        raise IndexNotFoundError(f"{what} must be one of the table's indexes, found {have}; build it first")
    said = metadata.load_json(os.path.join(folder, SIDECAR), f"{SIDECAR} of {what}")
    if said.get("format_version") != 1:
        raise FormatError(f"{what} must have format version 1, found {said.get('format_version')!r}; build it again")
    if said.get("table") != table.metadata["digest"]:
        raise FormatError(f"{what} was built from another table, its digest differs; build it again")
    shape = {"num_embeddings": table.num_embeddings, "embedding_dim": table.embedding_dim}
    fields = {"factory": str, "nbytes": int, "crc32c": int}
    good = {f: said.get(f) for f in shape} == shape and said.get("metric") in METRICS
    if not good or any(type(said.get(f)) is not kind for f, kind in fields.items()):
        raise FormatError(f"{SIDECAR} of {what} does not have the fields an index needs; build it again")
    file = os.path.join(folder, INDEX_FILE)
    check_size(file, said["nbytes"], f"file of {what}")
    if file_crc(file) != said["crc32c"]:
        raise CorruptionError(f"file of {what} does not match its checksum; build it again")
    faiss = optional.faiss("a search through an index")
    try:
        index = faiss.read_index(file)
    except RuntimeError as error:
        raise CorruptionError(f"FAISS could not read {what}: {_faiss.said(error)}; build it again") from error
    rows = (index.ntotal, index.d)
    if rows != tuple(shape.values()) or index.metric_type not in _metric_types(faiss, said["metric"]):
        raise CorruptionError(
            f"{what} must hold {table.num_embeddings} x {table.embedding_dim} for {said['metric']}, found "
            f"{index.ntotal} x {index.d} of FAISS metric {index.metric_type}; build it again"
        )
    return TableIndex(name, said["factory"], said["metric"], said["nbytes"], index, said["table"])
