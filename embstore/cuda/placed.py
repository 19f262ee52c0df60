"""The arrays of a table in the memory of a device, and the kernels bound to them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..encoding import flat
from ..method import Method
from ..pipeline import Pipeline
from . import driver as _driver
from .driver import Bound, Bytes, Driver, Placing
from .interop import View

PADDING = 64  # csrc/cuda/core/kernel.h, kPadding
_SOMEWHERE = 256  # an address of nothing


@dataclass(frozen=True)
class Residency:
    """Where the rows of a table on a device lie, and how often those that are there were asked for.

    device_nbytes, host_nbytes : bytes of device memory, and of pinned memory of the host, that the table takes.
    rows_on_device : rows that are read from the device's memory; the others are read from the host's, over the bus.
    hits, misses : ids of all lookups and bags so far whose rows were on the device, and were not; None where all are.
    """

    device_nbytes: int
    host_nbytes: int
    rows_on_device: int
    hits: int | None
    misses: int | None

    @property
    def hit_rate(self) -> float | None:
        """Hits out of all ids; 1 where every row is on the device, None before the first id."""
        if self.hits is None or self.misses is None:
            return 1.0
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else None


class Placed:
    """A resolved method's arrays on a device, each in one piece, until `close`.

    Arrays are copied shard by shard: the host never holds the table a second time. Without shards the rows arrays are
    left for a kernel to fill.

    Attributes
    ----------
    rows : (bytes of a row, address) of each rows array of the method.
    shared : (bytes on the host, address) of its shared arrays, and of what its kernels need besides.
    """

    rows: dict[str, tuple[int, int]]
    shared: dict[str, tuple[Bytes, int]]

    def __init__(
        self,
        driver: Driver,
        device: int,
        method: Method,
        shape: TableShape,
        shards: Sequence[Arrays],
        shared: Mapping[str, npt.NDArray[Any]],
        part: tuple[int, int] | None = None,
    ) -> None:
        """`part` : the first row and the one after the last, where a device has no others."""
        self._driver, self.device, self.part = driver, device, part
        self.num_embeddings = shape.num_embeddings
        self._memory: list[int] = []
        self.nbytes = self._squares = 0
        try:
            self.bound = self._bind(method, shape, shards, shared)
        except BaseException:
            self.close()
            raise

    def _bind(
        self, method: Method, shape: TableShape, shards: Sequence[Arrays], shared: Mapping[str, npt.NDArray[Any]]
    ) -> Bound:
        if not isinstance(method, Pipeline):
            return self._bind_method(method, shape, shards, shared)
        code_shape = method.code_shape(shape)
        own = {spec.name for spec in method.method.layout(code_shape)}
        bound = self._bind_method(method.method, code_shape, shards, {k: v for k, v in shared.items() if k in own})
        dims = method.dims(shape.embedding_dim)
        for i, transform in reversed(list(enumerate(method.transforms))):
            arrays = self._place({k: flat(v) for k, v in method.shared_of(shared, i).items()})
            bound.undo_after(transform.id, transform.config(), transform.row_dim(dims[i]), arrays)
        return bound

    def _bind_method(
        self, method: Method, shape: TableShape, shards: Sequence[Arrays], shared: Mapping[str, npt.NDArray[Any]]
    ) -> Bound:
        specs = [spec for spec in method.layout(shape) if spec.partition == "rows"]
        constants = {k: flat(v) for k, v in {**shared, **method.constants(shared)}.items()}
        size = (shape.num_embeddings, shape.embedding_dim)
        bind = functools.partial(self._driver.bind, method.id, method.config(), size)
        self._check(specs, shape.num_embeddings, lambda rows: bind(rows, _nowhere(constants), self.device, _SOMEWHERE))
        rows, slots = self._place_rows(specs, shape.num_embeddings, shards)
        self.rows = {name: (each.row_nbytes, each.address) for name, each in rows.items()}
        self.shared = self._place(constants)
        return bind(rows, self.shared, self.device, slots, self.part)

    def _check(self, specs: Sequence[ArraySpec], n: int, bind: Callable[[dict[str, Placing]], Bound]) -> None:
        """Refuse what cannot be placed before anything is; `bind` tries to over arrays that are nowhere."""

    def _place_rows(
        self, specs: Sequence[ArraySpec], n: int, shards: Sequence[Arrays]
    ) -> tuple[dict[str, Placing], int]:
        """Where the rows arrays lie, and where the map of those kept on the device; 0 where all are."""
        first, last = self.part or (0, n)
        rows: dict[str, Placing] = {}
        parts: list[tuple[int, Bytes]] = []
        for spec in specs:
            # A row more than there are: what is read for an id out of range is memory of ours.
            address = self._take((last - first + 1) * spec.row_nbytes)
            rows[spec.name] = Placing(spec.row_nbytes, address - first * spec.row_nbytes)
            for array in rows_of(shards, spec, first, last):
                parts.append((address, array))
                address += array.nbytes
        self._upload(parts)
        return rows, 0

    def call(self) -> AbstractContextManager[Any]:
        """Within it a call puts its kernels on a stream, and rows stay where they are."""
        return contextlib.nullcontext()

    def seen(self, ids: View, stream: int) -> None:
        """A call has these ids: what is put on its stream before its kernels."""

    def refill(self, counts: npt.NDArray[np.float64] | None = None) -> None:
        """Choose anew which rows the device has."""

    def squares(self, dim: int, stream: int) -> int:
        """Where the squared length of row 0 lies, or would: float32 of each row, made and waited for the first time."""
        first, last = self.part or (0, self.num_embeddings)
        if not self._squares:
            native, driver = _driver.extension(), self._driver
            rows = driver.allocate_on(self.device, native.DECODED * dim * 4 + PADDING, stream)
            try:
                at = self._take(4 * (last - first))
                self.bound.squared_norms(rows, (at - 4 * first) % 2**64, stream)
                driver.copy_out(self.device, np.empty(4, np.uint8), at, stream)
            finally:
                driver.release_on(self.device, rows, stream)
            self._squares = at
        return (self._squares - 4 * first) % 2**64

    def report(self) -> Residency:
        """Where rows lie."""
        first, last = self.part or (0, self.num_embeddings)
        return Residency(self.nbytes, 0, last - first, None, None)

    def _place(self, arrays: Mapping[str, Bytes]) -> dict[str, tuple[Bytes, int]]:
        """Shared arrays on the device: (bytes on the host, address)."""
        placed = {name: (array, self._take(array.nbytes)) for name, array in arrays.items()}
        self._upload([(address, array) for array, address in placed.values()])
        return placed

    def _upload(self, parts: list[tuple[int, Bytes]]) -> None:
        self._driver.upload(self.device, [part for part in parts if part[1].nbytes])

    def _take(self, nbytes: int) -> int:
        address = self._driver.allocate(self.device, nbytes + PADDING)
        self._memory.append(address)
        self.nbytes += nbytes + PADDING
        return address

    @property
    def closed(self) -> bool:
        """Whether the memory was given back."""
        return not self._memory

    def close(self) -> None:
        """Give the memory back; the kernels must not be used any more."""
        while self._memory:
            self._driver.release(self.device, self._memory.pop())


def rows_of(shards: Sequence[Arrays], spec: ArraySpec, first: int, last: int) -> Iterator[Bytes]:
    """Rows [first, last) of an array, shard by shard."""
    begin = 0
    for shard in shards:
        array = shard[spec.name]
        low, high = max(first - begin, 0), min(last - begin, len(array))
        if low < high:
            yield flat(array[low:high])
        begin += len(array)


def _nowhere(arrays: Mapping[str, Bytes]) -> dict[str, tuple[Bytes, int]]:
    return {name: (array, 0) for name, array in arrays.items()}


def has_kernel(method_id: str) -> bool:
    """Whether lookups of a method run on a device."""
    return bool(_driver.extension().has_kernel(method_id))


def has_transform(transform_id: str) -> bool:
    """Whether a transform is undone on a device."""
    return bool(_driver.extension().has_transform(transform_id))


def fault_bytes() -> Bytes:
    """The state in which no fault was found; see csrc/cuda/core/kernel.h."""
    fault = np.zeros(3, np.int64)
    fault[1] = np.iinfo(np.int64).max
    return fault.view(np.uint8)
