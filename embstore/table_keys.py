"""Lookup by key: ids of the keys a table knows, and what its policy gives for the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from . import kernels, oov
from .arguments import Floats, check_out, plain
from .arrays import Arrays, TableShape
from .errors import IdTypeError
from .method import Keyed

if TYPE_CHECKING:
    from .table import Table

Oov = str | int


def lookup(table: Table, batch: Any, out: Floats | None, policy: Oov, return_mask: bool) -> Any:
    """`Table.lookup` of keys."""
    if isinstance(table._method, Keyed) and table.keys is None:
        return _strings(table, batch, out, return_mask)
    keys = table._need_keys("lookup by key")
    kind = table._stored.keys["type"] if table._stored.keys else None
    chosen = oov.parse(policy, num_embeddings=table.num_embeddings, key_type=kind, subwords=table.subwords)
    single = isinstance(batch, (str, bytes)) or np.ndim(batch) == 0
    if single:
        ids = np.array(keys.id(plain(batch)), np.int64)
    else:
        shape = np.shape(batch) if isinstance(batch, (np.ndarray, list, tuple)) else (len(batch),)
        flat = np.reshape(np.asarray(batch, object), -1).tolist() if len(shape) > 1 else batch
        ids = keys.ids(flat).reshape(shape)
    known = ids >= 0
    if not known.all():
        lost = np.atleast_1d(~known).reshape(-1)
        missing = [batch] if single else [flat[i] for i in np.flatnonzero(lost)]
        if chosen.kind == "raise" and not isinstance(table._method, Keyed):
            raise keys.missing_error(plain(missing[0]))
        if table.num_embeddings:
            rows = table._gather(np.where(known, ids, 0), out)
        else:
            rows = check_out(out, ids.shape, table._dim)
        rows.reshape(-1, table._dim)[lost] = _unknown(table, [plain(k) for k in missing], chosen)
    else:
        rows = table._gather(ids, out)
    return (rows, known) if return_mask else rows


def _strings(table: Table, batch: Any, out: Floats | None, return_mask: bool) -> Any:
    """Rows of any strings, by a method that needs no keys to be stored."""
    texts = np.asarray(batch, object)
    rows = check_out(out, texts.shape, table._dim)
    rows[...] = _computed(table, [plain(k) for k in texts.reshape(-1)]).reshape(rows.shape)
    return (rows, np.zeros(texts.shape, bool)) if return_mask else rows


def _computed(table: Table, keys: list[Any]) -> Floats:
    """Rows of keys that the table need not hold: those of a table of these keys alone."""
    wrong = next((key for key in keys if not isinstance(key, str)), None)
    if wrong is not None:
        raise IdTypeError(f"keys must be strings, found {type(wrong).__name__} {wrong!r}; pass text")
    method = cast(Keyed, table._method)
    shared = {**table._stored.shared, **method.keyed(keys)}
    rows, shape = np.empty((len(keys), table._dim), np.float32), TableShape(len(keys), table._dim)
    bound, _ = kernels.bind(table._method, shape, 1 << len(keys).bit_length(), [Arrays({})], shared, table._backend)
    bound.lookup(np.arange(len(keys), dtype=np.int64), rows, kernels.get_num_threads())
    return rows


def _unknown(table: Table, missing: list[Any], policy: oov.OovPolicy) -> Floats:
    if policy.kind == "raise":
        return _computed(table, missing)
    if policy.kind == "row":
        return table._one(policy.row)
    if policy.kind == "zeros":
        return np.zeros(table._dim, np.float32)
    if policy.kind == "subwords":
        subwords = table.subwords
        assert subwords is not None  # parse refused it otherwise
        ids, offsets = oov.subword_bags(missing, subwords)
        counts = np.maximum(np.diff(offsets, append=len(ids)), 1)
        # As fastText does: times the rounded reciprocal. A "mean" bag divides, which may differ in the last bit.
        return table.bag(ids, offsets) * (1 / counts).astype(np.float32)[:, None]
    return np.stack([oov.ngram_vector(key, table._dim, _typical_norm(table)) for key in missing])


def _typical_norm(table: Table) -> float:
    """Mean norm of up to 1,024 rows spread evenly over the table: the length of "ngrams" vectors."""
    if table._norm is None:
        at = np.unique(np.linspace(0, table.num_embeddings - 1, 1024).astype(np.int64))
        norms = np.linalg.norm(table._gather(at, None).astype(np.float64), axis=1)
        norms = norms[np.isfinite(norms)]
        table._norm = float(norms.mean()) if len(norms) else 1.0
    return table._norm
