"""The arrays of a table in the memory of a device, and the kernels bound to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, TableShape
from ..encoding import flat
from ..method import Method
from ..pipeline import Pipeline
from . import driver as _driver
from .driver import Bound, Bytes, Driver

PADDING = 64  # csrc/cuda/core/kernel.h, kPadding


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
    ) -> None:
        self._driver, self.device = driver, device
        self._memory: list[int] = []
        self.nbytes = 0
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
        self.rows = {}
        parts: list[tuple[int, Bytes]] = []
        for spec in method.layout(shape):
            if spec.partition != "rows":
                continue
            # A row more than there are: what is read for an id out of range is memory of ours.
            address = self._take((shape.num_embeddings + 1) * spec.row_nbytes)
            self.rows[spec.name] = (spec.row_nbytes, address)
            for shard in shards:
                array = flat(shard[spec.name])
                parts.append((address, array))
                address += array.nbytes
        self._upload(parts)
        self.shared = self._place({k: flat(v) for k, v in {**shared, **method.constants(shared)}.items()})
        size = (shape.num_embeddings, shape.embedding_dim)
        return self._driver.bind(method.id, method.config(), size, self.rows, self.shared, self.device)

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
