"""An array of embstore's own on a device: for callers with neither CuPy nor PyTorch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import IdRangeError
from .driver import Driver, extension


class DeviceArray:
    """Values in the memory of a device, readable by every library that knows `__cuda_array_interface__` or DLPack.

    What made it may not have run yet: `numpy()` waits for that.
    """

    def __init__(self, driver: Driver, device: int, shape: tuple[int, ...], dtype: str, stream: int) -> None:
        self.shape, self.dtype, self.device = shape, np.dtype(dtype), device
        self._driver, self._stream = driver, stream
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        self._address = driver.allocate_on(device, max(self.nbytes, 1), stream)
        self._whole: DeviceArray | None = None  # whose memory it is, when not its own
        self._after: Callable[[], None] | None = None

    def __del__(self) -> None:
        if self._whole is not None:
            return
        # At the end of the process CUDA may be gone before this is.
        with contextlib.suppress(Exception):
            self._driver.release_on(self.device, self._address, self._stream)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self._address, False),
            "strides": None,
            "version": 3,
            "stream": self._stream or 1,  # 1 is the legacy default stream
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device

    def __dlpack__(self, *, stream: Any = None, **options: Any) -> Any:
        """A capsule. A consumer on another stream than this array's waits for the device first."""
        mine = self._stream or 1
        if stream not in (-1, mine) and not (stream is None and mine == 1):
            self._driver.synchronize(self.device)
        return extension().as_dlpack(self._address, list(self.shape), self.dtype.name, self.device, self)

    def check_after(self, call: Callable[[], None]) -> DeviceArray:
        """Have `numpy()` call this once what made the array has run; returns the array."""
        self._after = call
        return self

    def numpy(self) -> npt.NDArray[Any]:
        """A copy on the host; raises what the call that made it found wrong."""
        out = np.empty(self.shape, self.dtype)
        self._driver.copy_out(self.device, out.reshape(-1).view(np.uint8), self._address, self._stream)
        if self._after is not None:
            self._after()
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self.numpy().astype(dtype, copy=False) if dtype is not None else self.numpy()

    def __getitem__(self, row: int) -> DeviceArray:
        """One row, in the same memory."""
        if type(row) is not int or not 0 <= row < len(self):
            raise IdRangeError(f"a DeviceArray is indexed by a row from 0 to {len(self) - 1}, found {row!r}")
        part = object.__new__(DeviceArray)
        part.__dict__.update(self.__dict__, shape=self.shape[1:], nbytes=self.nbytes // len(self), _whole=self)
        part._address = self._address + row * part.nbytes
        return part

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<embstore.cuda.DeviceArray {self.shape}, {self.dtype}, cuda:{self.device}>"
