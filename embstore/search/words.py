"""Questions to a table of words: neighbours, analogies, the odd one out, as gensim's `KeyedVectors` answers them.

The public functions are `Table`'s methods.

Vectors are compared by cosine and combined as means of unit vectors. Only rows with a key are found: fastText's subword
rows are not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..method import FloatRows, Ids

if TYPE_CHECKING:
    from ..format.keys import Keys
    from ..table import Table

Key = str | int


def unit(rows: FloatRows) -> FloatRows:
    """Rows at length 1, zero rows as they are."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    scaled: FloatRows = np.divide(rows, lengths, out=np.array(rows, np.float32), where=lengths > 0)
    return scaled


def _listed(keys: Any) -> list[Any]:
    """One key or vector as a list of it; a batch as a list."""
    single = isinstance(keys, (str, int, np.integer)) or (_is_vector(keys) and keys.dtype.kind == "f")
    return [keys] if single else list(keys)


def _vectors(table: Table, items: list[Any]) -> FloatRows:
    """Rows of keys at length 1, and vectors as they are: their length is their weight."""
    rows = np.empty((len(items), table.embedding_dim), np.float32)
    keys = [i for i, item in enumerate(items) if not _is_vector(item)]
    if keys:
        rows[keys] = unit(table.lookup([items[i] for i in keys], by="key"))
    for i in set(range(len(items))) - set(keys):
        rows[i] = _checked(table, items[i])
    return rows


def _is_vector(item: Any) -> bool:
    return isinstance(item, np.ndarray) and item.ndim == 1


def _checked(table: Table, vector: npt.NDArray[Any]) -> FloatRows:
    from .exact import check_queries

    checked: FloatRows = check_queries(vector, table.embedding_dim)[0]
    return checked


def most_similar(table: Table, positive: Any, negative: Any = (), topn: int = 10) -> list[tuple[Key, float]]:
    """Keys nearest by cosine to the mean of the unit vectors of `positive` less those of `negative`.

    Each is a key, a vector, or a list of either; vectors are taken as they are. Integers are keys here. Only rows with
    keys are found, and none of the keys given. Returns `topn` keys with their similarity, best first, or as many as
    there are. Raises `UnknownKeyError`, `NoKeysError`.
    """
    keys = table._need_keys("most_similar")
    plus, minus = _listed(positive), _listed(negative)
    if not plus and not minus:
        raise ConfigError("most_similar must have at least one key, found none; name some in `positive`")
    if isinstance(topn, bool) or not isinstance(topn, (int, np.integer)) or topn < 1:
        raise ConfigError(f"topn must be a positive integer, found {topn!r}; 10 is usual")
    items = [*plus, *minus]
    signs = np.repeat(np.array([1, -1], np.float32), [len(plus), len(minus)])
    query = unit(signs @ _vectors(table, items))
    given = keys.ids([item for item in items if not _is_vector(item)])
    return _nearest(table, keys, query, given, topn)


def _nearest(table: Table, keys: Keys, query: FloatRows, given: Ids, topn: int) -> list[tuple[Key, float]]:
    """The nearest keys to a vector, `given` left out."""
    given = np.unique(given)
    k = min(topn + len(given), len(keys))
    named = None if len(keys) == len(table) else np.arange(len(table)) < len(keys)
    if k == 0:
        return []
    scores, ids = table.search(query, k, "cosine", filter=named)
    keep = np.flatnonzero((ids >= 0) & ~np.isin(ids, given))[:topn]
    return list(zip(keys.take(ids[keep]), scores[keep].tolist(), strict=True))


def analogy(table: Table, a: Any, b: Any, c: Any, topn: int = 10) -> list[tuple[Key, float]]:
    """What is to `c` as `b` is to `a`: `most_similar([b, c], [a])`."""
    return table.most_similar([b, c], [a], topn)


def similarity(table: Table, a: Any, b: Any) -> float:
    """The cosine of the vectors of two keys; 0 where one is zero."""
    table._need_keys("similarity")
    one, other = unit(_vectors(table, [a, b]))
    return float(one @ other)


def doesnt_match(table: Table, keys: Iterable[Any]) -> Key:
    """The key whose unit vector is farthest from the mean of all of them; of equals the first."""
    table._need_keys("doesnt_match")
    items = list(keys)
    if isinstance(keys, str) or len(items) < 2:
        raise ConfigError(f"doesnt_match must have at least two keys, found {keys!r}; pass a list of them")
    rows = _vectors(table, items)
    odd: Key = items[int(np.argmin(rows @ unit(rows.mean(axis=0))))]
    return odd
