"""Arrays of other libraries: what they hold, and new ones of the same kind. Nothing is imported that is not in use."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..errors import ConfigError, ShapeError
from .array import DeviceArray
from .driver import Driver, extension

_DTYPES = ("int64", "int32", "float32", "float16", "uint8", "bool")  # of tensors that kernels take
_CUDA = (2, 13)  # DLPack's numbers of memory of CUDA, and of managed memory


@dataclass(frozen=True)
class View:
    """An array in the memory of a device, C-contiguous.

    kind : "i8", "i4", "f4", … as in numpy's type strings.
    owner : keeps the memory.
    """

    address: int
    shape: tuple[int, ...]
    kind: str
    device: int
    owner: Any

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


class Family(Protocol):
    """A library whose arrays results are."""

    def stream(self, device: int) -> int:
        """The caller's current stream there."""
        ...

    def on(self, device: int, stream: int) -> AbstractContextManager[Any]:
        """What is made within is made for that stream."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: str, device: int, stream: int) -> Any: ...


class TorchFamily:
    """PyTorch, which whoever passes a tensor has imported."""

    def __init__(self) -> None:
        self._torch: Any = sys.modules["torch"]

    def stream(self, device: int) -> int:
        return int(self._torch.cuda.current_stream(device).cuda_stream)

    def on(self, device: int, stream: int) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self._torch.cuda.stream(
            self._torch.cuda.ExternalStream(stream, device=device)
        )
        return context

    def empty(self, shape: tuple[int, ...], dtype: str, device: int, stream: int) -> Any:
        return self._torch.empty(shape, dtype=getattr(self._torch, dtype), device=f"cuda:{device}")


class CupyFamily:
    """CuPy: that of the caller, or the one installed."""

    def __init__(self) -> None:
        self._cupy: Any = importlib.import_module("cupy")

    def stream(self, device: int) -> int:
        with self._cupy.cuda.Device(device):
            return int(self._cupy.cuda.get_current_stream().ptr)

    def on(self, device: int, stream: int) -> AbstractContextManager[Any]:
        stack = contextlib.ExitStack()
        stack.enter_context(self._cupy.cuda.Device(device))
        # 0 is the legacy default stream, which CuPy has an object of its own for.
        given = self._cupy.cuda.ExternalStream(stream, device) if stream else self._cupy.cuda.Stream.null
        stack.enter_context(given)
        return stack

    def empty(self, shape: tuple[int, ...], dtype: str, device: int, stream: int) -> Any:
        return self._cupy.empty(shape, dtype)


class OwnFamily:
    """`DeviceArray`, for callers with neither."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def stream(self, device: int) -> int:
        return 0

    def on(self, device: int, stream: int) -> AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def empty(self, shape: tuple[int, ...], dtype: str, device: int, stream: int) -> Any:
        return DeviceArray(self._driver, device, shape, dtype, stream)


def _is(value: Any, library: str, name: str) -> bool:
    module = sys.modules.get(library)
    return module is not None and isinstance(value, getattr(module, name))


def on_host(value: Any) -> bool:
    """Whether an argument is of the host: everything that does not say it lies on a device."""
    if _is(value, "torch", "Tensor"):
        return bool(value.device.type != "cuda")
    if hasattr(value, "__cuda_array_interface__"):
        return False
    if hasattr(value, "__dlpack_device__") and not isinstance(value, np.ndarray):
        return int(value.__dlpack_device__()[0]) not in _CUDA
    return True


def to_host(value: Any) -> Any:
    """A host argument as numpy takes it."""
    return value.detach().numpy() if _is(value, "torch", "Tensor") else value


def view(value: Any, driver: Driver, what: str, may_copy: bool) -> View:
    """What an array on a device holds; with `may_copy` made contiguous where its library can, on its current stream."""
    if _is(value, "torch", "Tensor"):
        value = value.detach()
        if not value.is_contiguous():
            value = _copied(value.contiguous, what, may_copy)
        dtype = str(value.dtype).removeprefix("torch.")
        kind = np.dtype(dtype).str[1:] if dtype in _DTYPES else dtype
        return View(value.data_ptr(), tuple(value.shape), kind, value.device.index, value)
    if _is(value, "cupy", "ndarray"):
        if not value.flags.c_contiguous:
            value = _copied(value.copy, what, may_copy)
        return View(value.data.ptr, value.shape, value.dtype.str[1:], value.device.id, value)
    if hasattr(value, "__cuda_array_interface__"):
        given = value.__cuda_array_interface__
        address, shape, kind = given["data"][0], tuple(given["shape"]), given["typestr"][1:]
        strides, width = given.get("strides"), int(kind[1:])
        if strides is not None:
            strides = tuple(s // width if s % width == 0 else -1 for s in strides)
        device = driver.device_of(address) if address else 0
    else:
        address, shape, strides, kind, _, device, value = extension().from_dlpack(value)
        shape, strides = tuple(shape), tuple(strides)
    if strides is not None and not _contiguous(shape, strides):
        _copied(None, what, False)
    return View(address, shape, kind, device, value)


def device_of(value: Any, driver: Driver) -> int:
    """The device that an array lies on."""
    if _is(value, "torch", "Tensor"):
        return int(value.device.index)
    if _is(value, "cupy", "ndarray"):
        return int(value.device.id)
    if hasattr(value, "__cuda_array_interface__"):
        address = value.__cuda_array_interface__["data"][0]
        return driver.device_of(address) if address else 0
    return int(value.__dlpack_device__()[1])


def _copied(copy: Any, what: str, may_copy: bool) -> Any:
    if not may_copy:
        raise ShapeError(f"{what} must be C-contiguous, found another layout; copy it first")
    return copy()


def _contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether strides, in items, are those of a C-contiguous array."""
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size == 0:
            return True
        if size > 1 and stride != step:
            return False
        step *= size
    return True


def family_of(value: Any, driver: Driver) -> Family:
    """Whose arrays the results of a call with `value` are: CuPy's for an array of the host, where it is installed."""
    if _is(value, "torch", "Tensor") and value.device.type == "cuda":
        return TorchFamily()
    if _is(value, "cupy", "ndarray"):
        return CupyFamily()
    if on_host(value) and importlib.util.find_spec("cupy") is not None:
        return CupyFamily()
    return OwnFamily(driver)


def stream_of(given: Any) -> int:
    """The address of a stream: an int, or an object of PyTorch, CuPy or one with `__cuda_stream__`."""
    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return given
    if hasattr(given, "__cuda_stream__"):
        found = given.__cuda_stream__
        return int((found() if callable(found) else found)[1])
    for name in ("cuda_stream", "ptr"):
        if hasattr(given, name):
            return int(getattr(given, name))
    raise ConfigError(f"stream must be a CUDA stream or its address, found {given!r}; leave it out for the current one")
