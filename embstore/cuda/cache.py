"""Tables larger than a device's memory: the rows asked for most on the device, the others in memory of the host."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import BudgetError, ConfigError, ShapeError
from ..method import Method
from .driver import Bound, Bytes, Driver, Placing, bytes_at
from .interop import View
from .placed import PADDING, Placed, Residency, rows_of

Floats = npt.NDArray[np.float64]
_CHUNK = 16 << 20  # bytes of rows gathered on the host at a time
_COUNTS = 16  # bytes of hits and misses
_MOST_ROWS = 1 << 32  # a word of the map has 32 bits for how many are before it


@dataclass(frozen=True)
class CachePlan:
    """What of a table is kept on the device.

    nbytes : bytes of device memory for rows, for the map that says which they are, and for counts of ids.
    counts : how often each row is asked for, (num_embeddings,); None to learn it from the ids of calls.
    every : ids after which the next call begins with a refill; None for `GpuTable.refill` alone.
    """

    nbytes: int
    counts: Floats | None = None
    every: int | None = None

    def capacity(self, row_nbytes: int, n: int) -> int:
        """Rows that are kept; less than one where there is no room for any."""
        return min(n, (self.nbytes - self.overhead(row_nbytes, n)) // max(row_nbytes, 1))

    def overhead(self, row_nbytes: int, n: int) -> int:
        """Bytes beside the rows: 2 bits a row for the map, 4 bytes a row to count ids in, padding."""
        return map_nbytes(n) + (4 * n if self.counts is None else 0) + _COUNTS + row_nbytes + 8 * PADDING


def map_nbytes(n: int) -> int:
    """Bytes of the map of n rows."""
    return (n + 31) // 32 * 8


def map_of(hot: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.uint64]:
    """The map of n rows of which `hot`, ascending ids, are kept on the device: see csrc/cuda/skeletons, slot_of."""
    kept = np.zeros((n + 31) // 32 * 32, np.uint8)
    kept[hot] = 1
    bits = np.packbits(kept, bitorder="little").view("<u4").astype(np.uint64)
    each = kept.reshape(-1, 32).sum(axis=1, dtype=np.uint64)
    before = np.cumsum(each, dtype=np.uint64) - each
    words: npt.NDArray[np.uint64] = bits | before << np.uint64(32)
    return words


def hottest(counts: npt.NDArray[Any], rows: int) -> npt.NDArray[np.int64]:
    """The ids of the largest counts, ascending; of equal ones the smaller ids."""
    if rows >= len(counts):
        return np.arange(len(counts), dtype=np.int64)
    least = np.partition(counts, len(counts) - rows)[len(counts) - rows]
    above = np.flatnonzero(counts > least)
    equal = np.flatnonzero(counts == least)[: rows - len(above)]
    return np.sort(np.concatenate([above, equal])).astype(np.int64)


def check_counts(given: Any, n: int) -> Floats:
    """Counts as float64; `ShapeError` or `ConfigError` unless there is a finite one, not negative, for each row."""
    counts = np.asarray(given)
    if counts.shape != (n,) or counts.dtype.kind not in "iufb":
        raise ShapeError(
            f"counts must be {n} numbers, one for each row, found {counts.dtype} of shape {counts.shape}; pass how "
            "often each row is looked up"
        )
    wrong = ~(np.isfinite(counts) & (counts >= 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ConfigError(f"counts must be finite and not negative, found {counts[row]} for row {row}; mend them")
    return counts.astype(np.float64)


class Cached(Placed):
    """The arrays of a method whose rows lie in pinned memory of the host, the hottest also on the device.

    Kernels find where a row lies by a map on the device. What all rows share is on the device whole.
    """

    def __init__(
        self,
        driver: Driver,
        device: int,
        method: Method,
        shape: TableShape,
        shards: Sequence[Arrays],
        shared: Mapping[str, npt.NDArray[Any]],
        plan: CachePlan,
    ) -> None:
        self._plan, self._since = plan, 0
        # Held by whoever launches kernels or moves rows: no other thread launches any while rows move.
        self._lock = threading.RLock()
        self._specs: Sequence[ArraySpec] = ()
        self._pinned: list[int] = []
        self._on_host: dict[str, Bytes] = {}
        self._on_device: dict[str, int] = {}
        self._host_nbytes = self._seen_at = self._slots = 0
        super().__init__(driver, device, method, shape, shards, shared)

    def _check(self, specs: Sequence[ArraySpec], n: int, bind: Callable[[dict[str, Placing]], Bound]) -> None:
        row_nbytes = sum(spec.row_nbytes for spec in specs)
        try:
            bind({spec.name: Placing(spec.row_nbytes, 0) for spec in specs})
        except ValueError as error:
            raise ConfigError(
                f"cache_bytes needs a method whose rows are decoded from codes of their own, found one where {error}; "
                "leave cache_bytes out"
            ) from None
        if n >= _MOST_ROWS:
            raise ConfigError(f"cache_bytes needs fewer than 2**32 rows, found {n}; leave it out")
        if self._plan.capacity(row_nbytes, n) < 1:
            least = self._plan.overhead(row_nbytes, n) + row_nbytes
            raise BudgetError(
                f"cache_bytes must be at least {least:,} for this table, found {self._plan.nbytes:,}; raise it, or "
                "pass counts, which saves 4 bytes a row",
                least,
            )
        self.capacity = self._plan.capacity(row_nbytes, n)

    def _place_rows(
        self, specs: Sequence[ArraySpec], n: int, shards: Sequence[Arrays]
    ) -> tuple[dict[str, Placing], int]:
        self._specs = specs
        rows: dict[str, Placing] = {}
        for spec in specs:
            nbytes = (n + 1) * spec.row_nbytes + PADDING
            host, there = self._driver.allocate_host(self.device, nbytes)
            self._pinned.append(host)
            self._host_nbytes += nbytes
            kept, at = bytes_at(host, nbytes), 0
            for array in rows_of(shards, spec, 0, n):
                kept[at : at + array.nbytes] = array
                at += array.nbytes
            self._on_host[spec.name] = kept[:at].reshape(n, spec.row_nbytes)
            self._on_device[spec.name] = self._take((self.capacity + 1) * spec.row_nbytes)
            rows[spec.name] = Placing(spec.row_nbytes, there, self._on_device[spec.name])
        self._slots, self._counts_at = self._take(map_nbytes(n)), self._take(_COUNTS)
        zeros = [(self._counts_at, np.zeros(_COUNTS, np.uint8))]
        if self._plan.counts is None:
            self._seen_at = self._take(4 * n)
            zeros += [
                (self._seen_at + at, np.zeros(min(_CHUNK, 4 * n - at), np.uint8)) for at in range(0, 4 * n, _CHUNK)
            ]
        self._upload(zeros)
        counts = self._plan.counts
        self._fill(np.arange(self.capacity, dtype=np.int64) if counts is None else hottest(counts, self.capacity))
        return rows, self._slots

    def _fill(self, hot: npt.NDArray[np.int64]) -> None:
        """Put these rows, ascending ids, on the device, which must not be reading any."""
        for spec in self._specs:
            step = max(1, _CHUNK // max(spec.row_nbytes, 1))
            for at in range(0, len(hot), step):
                rows = np.take(self._on_host[spec.name], hot[at : at + step], axis=0)
                self._upload([(self._on_device[spec.name] + at * spec.row_nbytes, rows.reshape(-1))])
        self._upload([(self._slots, map_of(hot, self.num_embeddings).view(np.uint8))])

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        with self._lock:
            if self._plan.every is not None and self._since >= self._plan.every:
                self.refill()
            yield

    def seen(self, ids: View, stream: int) -> None:
        self._since += ids.size
        self.bound.count_ids(ids.address, ids.kind == "i8", ids.size, self._seen_at, self._counts_at, stream)

    def refill(self, counts: Floats | None = None) -> None:
        """Wait for the device, then keep the rows there that were asked for most, or those of the largest counts."""
        with self._lock:
            self._driver.synchronize(self.device)
            self._since = 0
            if counts is not None:
                return self._fill(hottest(counts, self.capacity))
            if not self._seen_at:
                raise ConfigError(
                    "refill needs counts on a table that was given counts and counts no ids itself, found none; pass "
                    "them"
                )
            seen = np.empty(self.num_embeddings, np.uint32)
            self._driver.copy_out(self.device, seen.view(np.uint8), self._seen_at, 0)
            self._fill(hottest(seen, self.capacity))
            seen >>= 1  # what was asked for long ago counts for less
            self._upload([(self._seen_at, seen.view(np.uint8))])

    def report(self) -> Residency:
        self._driver.synchronize(self.device)
        counts = np.empty(2, np.uint64)
        self._driver.copy_out(self.device, counts.view(np.uint8), self._counts_at, 0)
        return Residency(self.nbytes, self._host_nbytes, self.capacity, int(counts[0]), int(counts[1]))

    def close(self) -> None:
        # A device that fails to be waited for has nothing running that could read the host's memory.
        if self._pinned:
            with contextlib.suppress(Exception):
                self._driver.synchronize(self.device)
        super().close()
        self._on_host.clear()
        while self._pinned:
            self._driver.release_host(self._pinned.pop())
