"""The doors: a table as a FAISS index, a FAISS index as a table."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .. import optional
from ..arrays import TableShape
from ..compression import store
from ..errors import ConfigError, SourceError, SourceNotFoundError, SourceTypeError
from ..method import Method, Named
from ..pipeline import Pipeline
from ..search import _faiss
from ..sources.keys import as_keys
from ..transforms.center import Center
from ._codes import RE_ENCODE, WRITERS, Stored, array, read_codes
from ._transforms import from_chain, to_chain

if TYPE_CHECKING:
    from ..table import Table
    from ..transform import Transform


def to_faiss(table: Table, metric: Literal["l2", "ip"] = "l2") -> Any:
    """The rows of a table as a FAISS index of the same codes.

    Parameters
    ----------
    metric : "l2" or "ip" (inner product), what the index searches by.

    Returns
    -------
    The index, whose codes are those of the table to the bit: an `IndexPQ` for `pq`, `IndexResidualQuantizer` for `rq`,
    `IndexFlat` for `float32`, `IndexScalarQuantizer` for `float16`, `bfloat16` and `int8` with one step for the table,
    `IndexRaBitQ` for `rabitq1`; in an `IndexPreTransform` where the table has transforms, a rotation being a matrix.
    It is in memory, codes and all. Row i has the id i; keys do not travel.

    Its rows are those of `Table.lookup`, but for the last bits where FAISS rounds otherwise (`int8`, `rabitq`,
    transforms). Searches rank rows as an exact scan of those rows does; distances leave out of the query what a
    projection (`pca`, `opq` with `dim`) leaves out.

    Raises `ConfigError` for codes and transforms that FAISS has no layout for, `MissingDependencyError` without faiss.
    """
    if metric not in ("l2", "ip"):
        raise ConfigError(f"metric of a FAISS index must be 'l2' or 'ip', found {metric!r}; choose one of these")
    method = table.method
    if method.id not in WRITERS:
        raise ConfigError(
            f"FAISS has no layout for the codes of {method.id!r}, only for those of {', '.join(WRITERS)}; {RE_ENCODE}"
        )
    faiss = optional.faiss("an export to FAISS")
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    stored = table._stored
    pipeline = Pipeline(table.transforms, method)
    chain = to_chain(faiss, pipeline, stored.shared, table.embedding_dim, kind)
    dim = chain[-1].d_out if chain else table.embedding_dim
    coder = WRITERS[method.id](faiss, method, Stored(stored.shared, stored.shards), dim, kind)
    for shard in stored.shards:
        coder.index.add_sa_codes(np.ascontiguousarray(coder.codes(shard)))
    index = coder.index
    for step in reversed((*chain, *coder.before)):
        if isinstance(index, faiss.IndexPreTransform):
            index.prepend_transform(step)
        else:
            index = faiss.IndexPreTransform(step, index)
    return index


def write_faiss(table: Table, path: str | os.PathLike[str], metric: Literal["l2", "ip"] = "l2") -> None:
    """Write `to_faiss(table, metric)` to a file; `OSError` where FAISS could not."""
    index = to_faiss(table, metric)
    _faiss.write_index(optional.faiss("an export to FAISS"), index, os.fspath(path))


def from_faiss(source: Any, path: str | os.PathLike[str], *, keys: Any = None, overwrite: bool = False) -> Table:
    """A table of the codes of a FAISS index: what `to_faiss` makes, and what FAISS trained itself.

    Parameters
    ----------
    source : a FAISS index, or the path of one that `faiss.write_index` wrote. FAISS reads it: open files only from
        where you would run code from.
    path : destination directory. It appears whole, or not at all.
    keys : a key for each row, as in `embstore.compress`; by default the ids of an `IndexIDMap`, else none.
    overwrite : replace an embstore table at `path`.

    `IndexPQ` becomes `pq`, `IndexResidualQuantizer` and `IndexLocalSearchQuantizer` `rq`, `IndexFlat` `float32`,
    `IndexScalarQuantizer` of fp16, bf16 and 8 bits with one range `float16`, `bfloat16` and `int8`, `IndexRaBitQ` of 1
    bit `rabitq`; of an `IndexHNSW` the codes under the graph are taken. Transforms before them become `opq`, `pca` and
    `center`. Lookups give what `reconstruct` of the index gives, but for rounding in transforms, `int8` and `rabitq`.

    Raises `ConfigError` for an index whose codes mean nothing here, `SourceError` for a file that FAISS refuses,
    `SourceNotFoundError`, `SourceTypeError`, `DestinationExistsError`, `StorageError`, `MissingDependencyError`.
    """
    faiss = optional.faiss("an import from FAISS")
    index, name = _opened(faiss, source)
    outer = faiss.downcast_index(index)
    if isinstance(outer, faiss.IndexIDMap):
        keys = array(outer.id_map) if keys is None else keys
        outer = faiss.downcast_index(outer.index)
    chain, inner = [], outer
    if isinstance(outer, faiss.IndexPreTransform):
        chain = [faiss.downcast_VectorTransform(outer.chain.at(i)) for i in range(outer.chain.size())]
        inner = faiss.downcast_index(outer.index)
    if isinstance(inner, faiss.IndexHNSW):
        inner = faiss.downcast_index(inner.storage)
    product = type(inner) is faiss.IndexPQ
    m, bits = (int(inner.pq.M), int(inner.pq.nbits)) if product else (0, 0)
    transforms, dim = from_chain(faiss, chain, m, bits)
    decoded = read_codes(faiss, inner, dim if chain else int(inner.d))
    if decoded.center is not None:
        transforms.append((Center(), {"mean": decoded.center}))
    shape = TableShape(int(inner.ntotal), int(outer.d))
    method, arrays = _assembled(decoded.method, decoded.arrays, transforms)
    about = {"source": name, "source_format": "faiss", "source_dtype": type(inner).__name__}
    return store(
        path,
        method.resolve(shape),
        shape,
        arrays,
        keys=_held(keys, shape.num_embeddings, name),
        overwrite=overwrite,
        provenance=about,
    )


def _opened(faiss: Any, source: Any) -> tuple[Any, str]:
    """The index, which the caller must keep while it uses parts of it, and what to call it."""
    if isinstance(source, faiss.Index):
        return source, "index"
    if not isinstance(source, (str, os.PathLike)):
        raise SourceTypeError(
            f"a FAISS index must be an index or the path of one, found {type(source).__name__}; pass one of these"
        )
    name = os.path.basename(os.fspath(source))
    if not os.path.isfile(source):
        raise SourceNotFoundError(f"there is no FAISS index file {name!r}; check the path")
    try:
        return _faiss.read_foreign(faiss, os.fspath(source)), name
    except RuntimeError as error:
        raise SourceError(
            f"source {name!r} must be a FAISS index, found that FAISS refuses it ({_faiss.said(error)}); get it again"
        ) from error


def _held(keys: Any, rows: int, name: str) -> Any:
    """Keys as `store` takes them."""
    if keys is None:
        return None
    held = as_keys(keys)
    if held.count != rows:
        raise SourceError(f"source {name!r} needs {rows} keys, found {held.count}; give one for each row")
    return held.cursor(0)(rows)


def _assembled(method: Method, arrays: Named, transforms: list[tuple[Transform, Named]]) -> tuple[Method, Named]:
    if not transforms:
        return method, arrays
    pipeline = Pipeline(tuple(t for t, _ in transforms), method)
    return pipeline, arrays | pipeline.named([own for _, own in transforms])
