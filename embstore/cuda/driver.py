"""The little of CUDA that tables need, behind one class: tests put another in its place, with memory of the host."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, ParamSpec, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import DeviceError, DeviceMemoryError, MissingDependencyError

Bytes = npt.NDArray[np.uint8]
P = ParamSpec("P")
R = TypeVar("R")

OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
_NO_KERNEL = 209  # cudaErrorNoKernelImageForDevice
_STAGING = 16 << 20


@functools.cache
def _load() -> ModuleType | ImportError:
    try:
        from .. import _cuda  # type: ignore[attr-defined]
    except ImportError as error:
        return error
    return _cuda  # type: ignore[no-any-return]


def built() -> bool:
    """Whether the CUDA extension was built; it can be imported on machines without a driver too."""
    return not isinstance(_load(), ImportError)


def extension() -> ModuleType:
    """The extension module, or `MissingDependencyError` with the cure."""
    module = _load()
    if isinstance(module, ImportError):
        raise MissingDependencyError(
            f"a table on a GPU needs embstore's CUDA extension, which could not be loaded ({module}); install CUDA's "
            "nvcc and build embstore with EMBSTORE_CUDA=on"
        )
    return module


class Bound(Protocol):
    """A method's kernels bound to arrays of a device; all is addresses and numbers. See csrc/cuda/bindings.cpp."""

    def lookup(self, ids: int, wide: bool, n: int, out: int, half: bool, fault: int, stream: int) -> None: ...
    def bag(
        self, ids: int, wide: bool, n: int, offsets: int, offsets_wide: bool, num_offsets: int, bags: int, length: int,
        weights: int, mode: int, out: int, half: bool, fault: int, stream: int,
    ) -> None: ...  # fmt: skip
    def search(
        self, queries: int, count: int, k: int, metric: int, allowed: int, room: int, first: bool, scores: int,
        ids: int, stream: int,
    ) -> None: ...  # fmt: skip
    def undo_after(
        self, id: str, config: dict[str, Any], row_dim: int, shared: dict[str, tuple[Bytes, int]]
    ) -> None: ...


def _refusals(call: Callable[P, R]) -> Callable[P, R]:
    """Errors of CUDA as embstore's."""

    @functools.wraps(call)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except extension().Refused as error:
            code, what = error.args
            if code == OUT_OF_MEMORY:
                raise DeviceMemoryError(
                    f"the device's memory must hold what is asked for, found it exhausted ({what}); free some, or "
                    "look up on the host, whose table stays usable"
                ) from None
            cure = "build embstore for this device" if code == _NO_KERNEL else "see whether other programs can use it"
            raise DeviceError(f"CUDA must run what it is given, found {what} (error {code}); {cure}") from None

    return checked


class Driver:
    """CUDA as the extension has it. `device` is its number, `stream` a stream's address, memory is an address."""

    def check(self, device: int) -> None:
        """`DeviceError` unless there is a device of this number."""
        found = extension().found()
        if found["code"] == 0 and 0 <= device < found["devices"]:
            return
        if found["code"] == 0 and found["devices"]:
            raise DeviceError(
                f"the device must be one of cuda:0 to cuda:{found['devices'] - 1}, found cuda:{device}; choose one"
            )
        if found["driver"] == 0:
            raise DeviceError("a table on a GPU needs NVIDIA's driver, found none; look up on the host")
        if found["driver"] < found["runtime"] // 1000 * 1000:
            have, need = (f"{v // 1000}.{v % 1000 // 10}" for v in (found["driver"], found["runtime"]))
            raise DeviceError(f"NVIDIA's driver must serve CUDA {need}, found one for {have}; update the driver")
        raise DeviceError(f"a table on a GPU needs a CUDA device, found none ({found['what']}); look up on the host")

    def bind(
        self,
        method: str,
        config: dict[str, Any],
        shape: tuple[int, int],
        rows: Mapping[str, tuple[int, int]],
        shared: Mapping[str, tuple[Bytes, int]],
        device: int,
    ) -> Bound:
        """Kernels over `rows`, (bytes of a row, address) of each array, and `shared`, (bytes, address)."""
        bound: Bound = extension().DeviceTable(method, config, *shape, dict(rows), dict(shared), device)
        return bound

    @_refusals
    def encode(
        self,
        method: str,
        config: dict[str, Any],
        rows: int,
        shape: tuple[int, int],
        keep: bool,
        out: Mapping[str, tuple[int, int]],
        shared: Mapping[str, tuple[Bytes, int]],
        fault: int,
        device: int,
        stream: int,
    ) -> None:
        """Float32 rows at an address to the rows arrays of a method; arrays as those of `bind`."""
        extension().encode(method, config, rows, *shape, keep, dict(out), dict(shared), fault, device, stream)

    @_refusals
    def facts(self, device: int) -> dict[str, Any]:
        """The device's name, capability, multiprocessors and sizes."""
        found: dict[str, Any] = extension().facts(device)
        return found

    @_refusals
    def device_of(self, address: int) -> int:
        """The device whose memory this is, -1 for the host's."""
        return int(extension().device_of(address))

    @_refusals
    def allocate(self, device: int, nbytes: int) -> int:
        """Memory until it is released; its address is a multiple of 256."""
        return int(extension().allocate(device, nbytes))

    def release(self, device: int, address: int) -> None:
        """Give memory back once the device is done with it."""
        extension().release(device, address)

    @_refusals
    def allocate_on(self, device: int, nbytes: int, stream: int) -> int:
        """Memory for what comes later on the stream, without waiting."""
        return int(extension().allocate_on(device, nbytes, stream))

    def release_on(self, device: int, address: int, stream: int) -> None:
        """Give such memory back after what came before on the stream."""
        extension().release_on(device, address, stream)

    @_refusals
    def upload(self, device: int, parts: list[tuple[int, Bytes]]) -> None:
        """Copy each array to its address through pinned memory, and wait."""
        uploader = extension().Uploader(device, _STAGING)
        for address, array in parts:
            uploader.copy(address, array)
        uploader.finish()

    @_refusals
    def copy_in(self, device: int, address: int, array: Bytes, stream: int) -> None:
        """A small copy to the device in the order of the stream; `array` may change once this returns."""
        extension().copy(device, address, array.ctypes.data, array.nbytes, False, stream)

    @_refusals
    def copy_out(self, device: int, array: Bytes, address: int, stream: int) -> None:
        """A copy from the device after what came before on the stream; waits for it."""
        extension().copy(device, array.ctypes.data, address, array.nbytes, True, stream)

    @_refusals
    def synchronize(self, device: int) -> None:
        """Wait for everything on the device."""
        extension().synchronize(device)
