"""One call on a table on a device: its arguments as kernels read them, its stream and its result."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..errors import DeviceError, IdTypeError, ShapeError
from . import interop
from .driver import Driver
from .interop import Family, View


class Call:
    """What one call puts on a stream: arguments as the device reads them, and what it holds until it is launched."""

    def __init__(self, driver: Driver, device: int, like: Any, stream: Any) -> None:
        self._driver, self._device = driver, device
        self._family: Family = interop.family_of(like, self._driver)
        self.stream = self._family.stream(self._device) if stream is None else interop.stream_of(stream)
        self._context: AbstractContextManager[Any] = self._family.on(self._device, self.stream)
        self._done: list[Callable[[], None]] = []
        self._held: list[Any] = []

    def __enter__(self) -> Self:
        self._context.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        # Emptied too: they refer to this object, and nobody should wait for the collector to have memory back.
        while self._done:
            self._done.pop()()
        self._held.clear()
        self._context.__exit__(*exc)

    def view(self, value: Any, what: str, may_copy: bool = True) -> View:
        """An array that must lie on the table's device."""
        found = interop.view(value, self._driver, what, may_copy)
        self._held.append(found.owner)
        if found.device != self._device and found.size:
            raise DeviceError(f"{what} must be on cuda:{self._device}, found on cuda:{found.device}; copy them there")
        return found

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A new array of the caller's library."""
        return self._family.empty(shape, dtype, self._device, self.stream)

    def take(self, nbytes: int) -> int:
        """Memory of the device until the call has run."""
        address = self._driver.allocate_on(self._device, max(nbytes, 1), self.stream)
        self._done.append(lambda: self._driver.release_on(self._device, address, self.stream))
        return address

    def put(self, array: npt.NDArray[Any]) -> View:
        """A copy of an array of the host, until the call has run."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        address = self.take(array.nbytes)
        self._driver.copy_in(self._device, address, array.reshape(-1).view(np.uint8), self.stream)
        return View(address, array.shape, array.dtype.str[1:], self._device, None)

    def integers(self, value: Any, what: str) -> View:
        if isinstance(value, np.ndarray):
            return self.put(value)
        found = self.view(value, what)
        if found.kind not in ("i8", "i4"):
            raise IdTypeError(f"{what} on a GPU must be int64 or int32, found {found.kind}; convert them")
        return found

    def output(self, out: Any, shape: tuple[int, ...]) -> tuple[Any, View]:
        """What the caller gets, and where it lies."""
        target = self.empty(shape, "float32") if out is None else out
        if interop.on_host(target):
            raise ShapeError(f"out must be an array on cuda:{self._device}, found {type(out).__name__} of the host")
        found = self.view(target, "out", may_copy=False)
        if found.kind not in ("f4", "f2"):
            raise ShapeError(f"out must be float32 or float16, found {found.kind}; pass another")
        if found.shape != shape:
            raise ShapeError(
                f"out must have shape {shape}, found {found.shape}; one row of {shape[-1]} values for each"
            )
        return target, found
