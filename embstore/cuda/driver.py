"""The little of CUDA that tables need, behind one class: tests put another in its place, with memory of the host."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Placing:
    """Where a rows array lies.

    row_nbytes : bytes of a row.
    address : of row 0, or where it would lie, of an array with other rows.
    hot : address of the rows that are kept on the device when `address` is of the host's memory; 0 for none.
    """

    row_nbytes: int
    address: int
    hot: int = 0


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
    def count_ids(self, ids: int, wide: bool, n: int, seen: int, counts: int, stream: int) -> None: ...
    def search(
        self, queries: int, count: int, k: int, metric: int, allowed: int, room: int, first: bool, coded: list[int],
        stream: int,
    ) -> None: ...  # fmt: skip
    def rescore(
        self, queries: int, count: int, wanted: int, k: int, metric: int, room: int, stream: int
    ) -> None: ...  # fmt: skip
    def squared_norms(self, rows: int, squares: int, stream: int) -> None: ...
    def coded_block(self) -> int: ...
    def table_entries(self) -> int: ...
    def make_tables(
        self, queries: int, constants: int, n: int, products: int, tables: int, terms: int, stream: int
    ) -> None: ...
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
        rows: Mapping[str, Placing],
        shared: Mapping[str, tuple[Bytes, int]],
        device: int,
        slots: int = 0,
        part: tuple[int, int] | None = None,
    ) -> Bound:
        """Kernels over `rows` and `shared`, (bytes, address) of each array.

        slots : where the device has the map of the rows that are kept there (csrc/cuda/core/kernel.h, Rows); 0 where
            all rows are. ValueError for a method whose kernels do not look rows up by it.
        part : the rows that arrays have, by default all.
        """
        given = {name: (r.row_nbytes, r.address % 2**64, r.hot) for name, r in rows.items()}
        first, last = part or (0, shape[0])
        target = self.target(device)
        bound: Bound = extension().DeviceTable(method, config, *shape, given, dict(shared), target, slots, first, last)
        return bound

    def target(self, device: int) -> int:
        """Where kernels for a device run."""
        return device

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

    def allocate_host(self, device: int, nbytes: int) -> tuple[int, int]:
        """Pinned memory of the host that a device reads: its address for the host, and for the device."""
        try:
            host, there = extension().allocate_host(device, nbytes)
        except extension().Refused as error:
            code, what = error.args
            raise DeviceMemoryError(
                f"rows that are not on the device need {nbytes:,} bytes of pinned memory of the host, found it refused "
                f"({what}, error {code}); free memory of the host or raise its limit on locked memory, or look up on "
                "the host, whose table stays usable"
            ) from None
        return int(host), int(there)

    def release_host(self, host: int) -> None:
        """Give such memory back; no device may be reading it."""
        extension().release_host(host)

    @_refusals
    def make_stream(self, device: int) -> int:
        """A stream beside those of callers."""
        return int(extension().make_stream(device))

    def drop_stream(self, device: int, stream: int) -> None:
        """Give a stream back once what it was given has run."""
        extension().drop_stream(device, stream)

    @_refusals
    def follow(self, device: int, stream: int, other_device: int, other_stream: int) -> None:
        """Have a stream wait, on its device, for what came before on another."""
        extension().follow(device, stream, other_device, other_stream)

    @_refusals
    def copy_between(self, to: tuple[int, int], source: tuple[int, int], nbytes: int, on: int, stream: int) -> None:
        """A copy from (device, address) to (device, address), in the order of a stream of device `on`."""
        extension().copy_between(*to, *source, nbytes, on, stream)

    @_refusals
    def clear(self, device: int, address: int, nbytes: int, stream: int) -> None:
        """Zeros, in the order of the stream."""
        extension().clear(device, address, nbytes, stream)

    @_refusals
    def route(
        self, device: int, ids: int, wide: bool, n: int, rows: int, part: tuple[int, int], own: int, fault: int,
        stream: int,
    ) -> None:  # fmt: skip
        """Ids of the rows `part` of `rows` to `own`, int64, and -1 in the place of others; `fault` 0 tells of none."""
        extension().route(self.target(device), ids, wide, n, rows, *part, own, fault, stream)

    @_refusals
    def select(
        self, device: int, ids: int, wide: bool, n: int, part: tuple[int, int], rows: int, out: int, row_nbytes: int,
        stream: int,
    ) -> None:  # fmt: skip
        """Row i of `rows` to row i of `out` where id i is of the rows `part`."""
        extension().select(self.target(device), ids, wide, n, *part, 0, rows, out, row_nbytes, stream)

    @_refusals
    def scatter(self, device: int, places: int, n: int, rows: int, out: int, row_nbytes: int, stream: int) -> None:
        """Row i of `rows` to the row of `out` that entry i of `places`, int64, names."""
        extension().select(self.target(device), 0, True, n, 0, 0, places, rows, out, row_nbytes, stream)

    @_refusals
    def merge(
        self, device: int, hits: int, parts: int, count: int, k: int, metric: int, scores: int, ids: int, stream: int
    ) -> None:
        """The k best of hits (parts, count, k), each part's best first, as scores and ids (count, k)."""
        extension().merge(self.target(device), hits, parts, count, k, metric, scores, ids, stream)

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


def bytes_at(address: int, nbytes: int) -> Bytes:
    """Memory of the host as an array, which must not outlive it."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
