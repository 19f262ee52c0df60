"""Search on devices: every row scored on the caller's stream, the best kept, those of several devices merged."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ..encoding import flat
from ..errors import ConfigError, ShapeError
from . import interop
from .call import Call
from .coded import Coded, Projected, coded, in_integers, projected
from .driver import Driver, extension
from .interop import View

if TYPE_CHECKING:
    from ..table import Table
    from .table import GpuTable

METRICS = ("cosine", "ip", "l2")
_ROOM = 256 << 20  # bytes of device memory that a batch of queries works in, about
# Codes are scored with rounded queries; this many candidates more are scored again, as on the host.
_CANDIDATES, _MARGIN = 4, 32


class Searched(Protocol):
    """A table on one device or several."""

    _driver: Driver

    @property
    def table(self) -> Table: ...
    @property
    def num_embeddings(self) -> int: ...
    @property
    def embedding_dim(self) -> int: ...
    @property
    def _places(self) -> list[tuple[GpuTable, int]]:
        """Its parts, each with a stream beside those of callers; 0 for none."""
        ...

    def _home(self, value: Any) -> int:
        """The part on the device of an array."""
        ...


def search(
    table: Searched,
    queries: Any,
    k: int = 10,
    metric: str = "cosine",
    *,
    filter: Any = None,
    exact: bool = False,
    stream: Any = None,
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
    exact : every row is scored from its decoded values. Otherwise `int8`, `int4`, `rabitq` and `binary` are scored in
        integers with queries rounded to 8 bits, and `pq` with slices of 8 values or more from tables of rounded
        products, which chooses 4 k + 32 candidates, at most 4096, for such scores.
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
    dim, k = table.embedding_dim, int(k)
    batch = int(native.most_queries(dim))
    if batch < 1 or table.num_embeddings >= 1 << 32:
        raise ConfigError(
            f"a search on a GPU needs rows of at most 1,400 values and fewer than 2**32 rows, found {dim} values and "
            f"{table.num_embeddings} rows; search on the host"
        )
    home, places, driver = table._home(queries), table._places, table._driver
    here = places[home][0]
    method, shared, bound = table.table._method, table.table._stored.shared, here._open.bound
    block = 0 if exact or not in_integers(method) else bound.coded_block()
    rounded = not exact and (block > 0 or bound.table_entries() > 0)
    wanted = min(max(k, _CANDIDATES * k + _MARGIN), most) if rounded else k
    while batch > 1 and native.room_bytes(batch, wanted, dim) > _ROOM:
        batch -= 1
    call = Call(driver, here._device, queries, stream)
    with call, contextlib.ExitStack() as done:
        for each, _ in places:
            done.enter_context(each._open.call())
        given = _queries(call, queries, dim)
        n, single = (1, True) if len(given.shape) == 1 else (given.shape[0], False)
        scores, ids = call.empty((n, k), "float32"), call.empty((n, k), "int64")
        d, i = call.view(scores, "D", may_copy=False), call.view(ids, "I", may_copy=False)
        asked = _Asked(dim, min(batch, max(n, 1)), wanted, k, METRICS.index(metric))
        mask = _mask(table, call, filter)
        on_host = np.empty((n, dim), np.float32)
        if rounded and n:
            driver.copy_out(here._device, on_host.reshape(-1).view(np.uint8), given.address, call.stream)
        merged = call.take(8 * len(places) * asked.batch * k)
        away = (here._device, call.stream)
        scans = [
            _Scan(driver, part, call.stream if p == home else own, None if p == home else away, asked, done)
            for p, (part, own) in enumerate(places)
            if part._part[0] < part._part[1] and n
        ]
        for scan in scans:
            scan.begin(given.address, n, mask, table.num_embeddings, norms=rounded and metric != "ip")
        for start in range(0, n, asked.batch):
            count = min(asked.batch, n - start)
            some: Coded | Projected | None = None
            if rounded:
                part = on_host[start : start + count]
                some = coded(method, shared, part, block) if block else projected(method, shared, part)
            for scan in scans:
                scan.start(start, count, some)
            again = [scan for scan in scans if scan.lost()]
            while again:
                for scan in again:
                    scan.run(first=False)
                again = [scan for scan in again if scan.lost()]
            for s, scan in enumerate(scans):
                scan.finish(merged + 8 * s * count * k)
            at = (d.address + 4 * start * k, i.address + 8 * start * k)
            driver.merge(here._device, merged, len(scans), count, k, asked.metric, *at, call.stream)
    return (scores[0], ids[0]) if single else (scores, ids)


@dataclass(frozen=True)
class _Asked:
    """What is asked of every part: the k best, of `wanted` that are scored again where these are more."""

    dim: int
    batch: int
    wanted: int
    k: int
    metric: int


class _Scan:
    """What one part does of a search, on a stream of its device; `home` is another device and stream it works for."""

    def __init__(
        self,
        driver: Driver,
        part: GpuTable,
        stream: int,
        home: tuple[int, int] | None,
        asked: _Asked,
        done: contextlib.ExitStack,
    ) -> None:
        self._driver, self._part, self._device = driver, part, part._device
        self._stream, self._home, self._asked, self._done = stream, home, asked, done
        self._bound = part._open.bound
        self._queries = self._mask = self._squares = self._start = self._count = 0
        self._coded: list[int] = []
        self._own: dict[str, int] = {}
        if home is not None:
            driver.follow(self._device, stream, *home)
        self._room = self._take(extension().room_bytes(asked.batch, asked.wanted, asked.dim))

    def begin(self, queries: int, n: int, mask: int, rows: int, norms: bool) -> None:
        """Have queries and the mask, 0 for none, on this device."""
        self._queries = self._here(queries, 4 * n * self._asked.dim)
        self._mask = self._here(mask, rows) if mask else 0
        self._squares = self._part._open.squares(self._asked.dim, self._stream) if norms else 0

    def start(self, start: int, count: int, some: Coded | Projected | None) -> None:
        """Search for `count` queries from one on, by scores of codes where there are such."""
        self._start, self._count = start, count
        if isinstance(some, Coded):
            values, sums = self._put("values", some.values), self._put("sums", some.sums)
            self._coded = [values, sums, self._put("terms", some.terms), self._squares]
        elif some is not None:
            entries = count * self._bound.table_entries()
            tables, terms = self._kept("tables", 2 * entries), self._kept("terms", 12 * count)
            queries, constants = self._put("values", some.values), self._put("sums", some.constants)
            products = self._kept("products", 4 * entries)
            self._bound.make_tables(queries, constants, count, products, tables, terms, self._stream)
            self._coded = [tables, 0, terms, self._squares]
        self.run(first=True)

    def run(self, first: bool) -> None:
        asked = self._asked
        to = (self._mask, self._room, first, self._coded, self._stream)
        self._bound.search(self._batch, self._count, asked.wanted, asked.metric, *to)

    def lost(self) -> bool:
        """Whether the scan must be run once more; waits for it."""
        lost = np.empty(self._count, np.uint32)
        at = self._room + extension().room_parts(self._count, self._asked.wanted)[1]
        self._driver.copy_out(self._device, lost.view(np.uint8), at, self._stream)
        return bool(lost.any())

    def finish(self, to: int) -> None:
        """The k best of each query to an address at home."""
        asked = self._asked
        if asked.wanted > asked.k or self._coded:
            self._bound.rescore(self._batch, self._count, asked.wanted, asked.k, asked.metric, self._room, self._stream)
        best = self._room + extension().room_parts(self._count, asked.wanted)[0]
        device = self._device
        if self._home is not None:  # which may be reading what an earlier batch left there
            device = self._home[0]
            self._driver.follow(self._device, self._stream, *self._home)
        nbytes = 8 * self._count * asked.k
        self._driver.copy_between((device, to), (self._device, best), nbytes, self._device, self._stream)
        if self._home is not None:
            self._driver.follow(*self._home, self._device, self._stream)

    @property
    def _batch(self) -> int:
        return self._queries + 4 * self._asked.dim * self._start

    def _take(self, nbytes: int) -> int:
        address = self._driver.allocate_on(self._device, max(nbytes, 1), self._stream)
        self._done.callback(self._driver.release_on, self._device, address, self._stream)
        return address

    def _kept(self, name: str, nbytes: int) -> int:
        """Memory for every batch, of which the first is the largest."""
        if name not in self._own:
            self._own[name] = self._take(nbytes)
        return self._own[name]

    def _put(self, name: str, array: npt.NDArray[Any]) -> int:
        address = self._kept(name, array.nbytes)
        self._driver.copy_in(self._device, address, flat(array), self._stream)
        return address

    def _here(self, address: int, nbytes: int) -> int:
        """Memory of the home device on this one."""
        if self._home is None or not nbytes:
            return address
        copy = self._take(nbytes)
        self._driver.copy_between((self._device, copy), (self._home[0], address), nbytes, self._device, self._stream)
        return copy


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


def _mask(table: Searched, call: Call, filter: Any) -> int:
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
