"""Exact search on a device: every row scored from its decoded values, on the caller's stream, the best kept there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError, ShapeError
from . import interop
from .call import Call
from .driver import extension
from .interop import View

if TYPE_CHECKING:
    from .table import GpuTable

METRICS = ("cosine", "ip", "l2")
_ROOM = 256 << 20  # bytes of device memory that a batch of queries works in, about


def search(
    table: GpuTable, queries: Any, k: int = 10, metric: str = "cosine", *, filter: Any = None, stream: Any = None
) -> tuple[Any, Any]:
    """The nearest rows to each query, by a scan of all rows on the device.

    Parameters
    ----------
    queries : float32 of shape (n, embedding_dim), or (embedding_dim,) for one query, on the device; or floats of the
        host.
    k : rows to find, at most `num_embeddings` and 4096.
    metric : "cosine", "ip" (inner product) or "l2".
    filter : rows that may be found: a bool mask of shape (num_embeddings,) or ids, of the host; or a bool or uint8 mask
        on the device.
    stream : as of `lookup`. The call waits for it: whether a scan has to be run again is decided on the host.

    Returns
    -------
    (D, I) as of `Table.search`, float32 and int64 arrays of the library that queries are of. Scores are sums in float32
    in the order of columns and may differ from those of the host by rounding, and so may the order of near equals.

    Raises
    ------
    ConfigError, ShapeError : as `Table.search`; a k above 4096; rows of more than 1,400 values. NaN and
        infinities in queries of the device find nothing.
    """
    if metric not in METRICS:
        raise ConfigError(f"metric must be 'cosine', 'ip' or 'l2', found {metric!r}; choose one of these")
    native = extension()
    most = min(table.num_embeddings, native.MOST_HITS)
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= most:
        raise ConfigError(f"k must be from 1 to {most} for this table on a GPU, found {k!r}; 10 is usual")
    dim = table.embedding_dim
    batch = int(native.most_queries(dim))
    if batch < 1 or table.num_embeddings >= 1 << 32:
        raise ConfigError(
            f"a search on a GPU needs rows of at most 1,400 values and fewer than 2**32 rows, found {dim} values and "
            f"{table.num_embeddings} rows; search on the host"
        )
    while batch > 1 and native.room_bytes(batch, int(k), dim) > _ROOM:
        batch -= 1
    bound = table._open.bound
    call = Call(table._driver, table._device, queries, stream)
    with call:
        given = _queries(call, queries, dim)
        n, single = (1, True) if len(given.shape) == 1 else (given.shape[0], False)
        allowed = _mask(table, call, filter)
        scores, places = call.empty((n, int(k)), "float32"), call.empty((n, int(k)), "int64")
        d, i = call.view(scores, "D", may_copy=False), call.view(places, "I", may_copy=False)
        room = call.take(native.room_bytes(min(batch, max(n, 1)), int(k), dim))
        for start in range(0, n, batch):
            count = min(batch, n - start)
            fixed = (given.address + 4 * dim * start, count, int(k), METRICS.index(metric), allowed, room)
            lost, first = np.ones(count, np.uint32), True
            while lost.any():
                bound.search(*fixed, first, 0, 0, call.stream)
                at = room + native.lost_at(count, int(k), dim)
                table._driver.copy_out(table._device, lost.view(np.uint8), at, call.stream)
                first = False
            offset = start * int(k)
            bound.search(*fixed, False, d.address + 4 * offset, i.address + 8 * offset, call.stream)
    return (scores[0], places[0]) if single else (scores, places)


def _queries(call: Call, queries: Any, dim: int) -> View:
    if interop.on_host(queries):
        from ..search.exact import check_queries

        host = interop.to_host(queries)
        found = check_queries(host, dim)
        return call.put(found if np.ndim(host) == 2 else found[0])
    view = call.view(queries, "queries")
    if view.kind != "f4" or len(view.shape) not in (1, 2) or view.shape[-1] != dim:
        raise ShapeError(
            f"queries on a GPU must be float32 of shape (n, {dim}) or ({dim},), found {view.kind} of {view.shape}"
        )
    return view


def _mask(table: GpuTable, call: Call, filter: Any) -> int:
    """The address of a byte for each row, 0 for no filter."""
    if filter is None:
        return 0
    if interop.on_host(filter):
        from ..search.exact import check_filter

        mask = check_filter(table.table, interop.to_host(filter))
        assert mask is not None
        return call.put(mask).address
    view = call.view(filter, "filter")
    if view.kind not in ("u1", "b1") or view.shape != (table.num_embeddings,):
        raise ShapeError(
            f"a filter on a GPU must be a bool mask of {table.num_embeddings} rows, found {view.kind} of {view.shape}"
        )
    return view.address
