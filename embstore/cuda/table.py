"""A table on a CUDA device: ids in, vectors out, on the caller's stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .. import kernels
from ..arguments import bag_bounds, bag_weights
from ..errors import ConfigError, DeviceError, ShapeError
from ..pipeline import Pipeline
from . import interop
from .base import Check, DeviceRows, one_of
from .cache import Cached, CachePlan, check_counts
from .call import Call
from .driver import Driver
from .interop import View
from .placed import Placed, Residency, fault_bytes, has_kernel, has_transform
from .search import search

if TYPE_CHECKING:
    from ..table import Table

_ID, _OFFSET = 1, 2  # csrc/cuda/core/kernel.h, FaultKind


class GpuTable(DeviceRows):
    """A table whose arrays lie in the memory of a device. Made by `Table.to`; close it, or use it in a `with`.

    Calls are put on a stream and return at once. An id out of range cannot be told by then: its row is left out, and
    the next call that waits for the device raises for it (`synchronize`, `close`, `DeviceArray.numpy`), or this
    one, with `check="eager"`, which waits. Ids of the host are checked before.
    """

    def __init__(
        self,
        table: Table,
        device: int,
        driver: Driver,
        plan: CachePlan | None = None,
        part: tuple[int, int] | None = None,
        placed: Placed | None = None,
    ) -> None:
        """`plan` : what is kept on the device, by default all. `part` : the rows it has, which ids then must be of.

        `placed` : all of the table's arrays, where they are on the device already; closed with this.
        """
        method = table._method
        if not has_kernel(method.id):
            raise ConfigError(
                f"a table on a GPU needs a CUDA kernel, found none for {method.id!r}; look up on the host"
            )
        lost = [t.id for t in method.transforms if not has_transform(t.id)] if isinstance(method, Pipeline) else []
        if lost:
            raise ConfigError(
                f"a table on a GPU needs CUDA kernels for its transforms, found none for {', '.join(lost)}; look up on "
                "the host"
            )
        driver.check(device)
        stored = table._stored
        self._table, self._driver, self._device = table, driver, device
        self._part = part or (0, table.num_embeddings)
        if placed is None:  # else the host's arrays are not even read
            arrays = (method, stored.shape, stored.shards, stored.shared)
            placed = Placed(driver, device, *arrays, part) if plan is None else Cached(driver, device, *arrays, plan)
        self._placed: Placed | None = placed
        fault = fault_bytes()
        try:
            self._fault = driver.allocate(device, fault.nbytes)
        except BaseException:
            placed.close()
            raise
        driver.copy_in(device, self._fault, fault, 0)
        driver.synchronize(device)

    @property
    def device(self) -> str:
        """Where the table is, as in "cuda:0"."""
        return f"cuda:{self._device}"

    @property
    def nbytes(self) -> int:
        """Bytes of device memory that the table's arrays take; what kernels need beside the stored ones counts too."""
        return self._open.nbytes

    @property
    def _open(self) -> Placed:
        if self._placed is None:
            raise DeviceError("the table on the GPU must be open, found it closed; take it there again with Table.to")
        return self._placed

    def report(self) -> Residency:
        """Where rows lie, and how many of the ids looked up were on the device; waits for the device."""
        return self._open.report()

    def refill(self, counts: Any = None) -> None:
        """Choose anew which rows are kept on the device, of a table with `cache_bytes`; waits for the device.

        Nothing happens where all rows are there.

        counts : how often each row is asked for, (num_embeddings,); by default what was learned from the ids of
            calls, of which each refill halves what it found, so that ids of late count for more.
        """
        self._open.refill(None if counts is None else check_counts(counts, self.num_embeddings))

    def explain(self) -> str:
        """Which kernel serves lookups and bags."""
        return f"lookup, bag: cuda (csrc/cuda/methods/{self.method.id}.cu on {self.device})"

    def __repr__(self) -> str:
        where = self.device if self._placed is not None else "closed"
        return f"<embstore.cuda.GpuTable {self.num_embeddings} x {self.embedding_dim}, {self.method!r}, {where}>"

    def close(self, raise_faults: bool = True) -> None:
        """Give the device's memory back, once the device is done with it; raises what an earlier call found wrong."""
        if self._placed is None:
            return
        try:
            if raise_faults:
                self.synchronize()
        finally:
            self._placed.close()
            self._placed = None
            self._driver.release(self._device, self._fault)

    def __del__(self) -> None:
        if getattr(self, "_placed", None) is not None:
            self.close(raise_faults=False)

    def synchronize(self) -> None:
        """Wait for everything on the device, and raise what an earlier call found wrong."""
        self._driver.synchronize(self._device)
        self._raise_fault(0)

    def lookup(
        self,
        ids_or_keys: Any,
        out: Any = None,
        *,
        oov: str | int = "raise",
        by: Literal["id", "key"] | None = None,
        stream: Any = None,
        check: Check = "deferred",
    ) -> Any:
        """Rows by id or key.

        Parameters
        ----------
        ids_or_keys : int64 or int32 ids of any shape on this device (a CuPy array, a tensor, anything with
            `__cuda_array_interface__` or `__dlpack__`); or ids or keys of the host, as `Table.lookup` takes them.
        out : C-contiguous float32 or float16 array of shape (*ids.shape, embedding_dim) on this device, to fill and
            return; by default a new float32 array of the library that ids are of. For ids of the host that is
            CuPy where it is installed, else a `DeviceArray`.
        oov : what an unknown key gives: "raise" or a row id.
        by : "id" or "key" to say which integers of the host are.
        stream : the stream to run on, by default the caller's current one of that library.
        check : "eager" waits for the device and raises for ids out of range before it returns.

        Raises
        ------
        IdTypeError, DeviceError : ids that are not int64 or int32; ids or `out` on another device.
        IdRangeError, UnknownKeyError, NoKeysError : as `Table.lookup`; see the class for when.
        ShapeError : an `out` of the wrong shape, dtype or order.
        """
        one_of(check, ("deferred", "eager"), "check")
        one_of(by, (None, "id", "key"), "by")
        if interop.on_host(ids_or_keys):
            ids_or_keys = self._on_host(ids_or_keys, oov, by)
        placed = self._open
        call = Call(self._driver, self._device, ids_or_keys if out is None else out, stream)
        with placed.call(), call:
            ids = call.integers(ids_or_keys, "ids")
            target, view = call.output(out, (*ids.shape, self.embedding_dim))
            placed.seen(ids, call.stream)
            placed.bound.lookup(
                ids.address, ids.kind == "i8", ids.size, view.address, view.kind == "f2", self._fault, call.stream
            )
        return self._result(target, check, call.stream)

    def bag(
        self,
        input: Any,
        offsets: Any = None,
        mode: Literal["sum", "mean", "max"] = "sum",
        per_sample_weights: Any = None,
        include_last_offset: bool = False,
        *,
        out: Any = None,
        stream: Any = None,
        check: Check = "deferred",
    ) -> Any:
        """Pooled rows, with the meaning of `torch.nn.functional.embedding_bag`: those of `Table.bag`, to the bit.

        Parameters
        ----------
        input : row ids, as `lookup` takes them; 2-D of shape (bags, length), or 1-D with `offsets`.
        offsets : 1-D integers of the host or the device, where each bag starts; the first is 0, none decreases.
        mode : "sum", "mean" or "max"; an empty bag gives zeros.
        per_sample_weights : floats of the shape of `input`, of the host or, in float32, of the device; for "sum".
        include_last_offset : `offsets` has one more entry, the end of the last bag.
        out, stream, check : as of `lookup`; `out` has the shape (bags, embedding_dim).

        Raises
        ------
        As `lookup`; ShapeError also for offsets that do not fit, of the device when ids out of range are told.
        """
        one_of(check, ("deferred", "eager"), "check")
        one_of(mode, kernels.BAG_MODES, "mode")
        if interop.on_host(input):
            input = self._on_host(input, "raise", "id")
        placed = self._open
        call = Call(self._driver, self._device, input if out is None else out, stream)
        with placed.call(), call:
            ids = call.integers(input, "ids")
            starts, bags = self._offsets(call, ids, offsets, include_last_offset)
            weights = self._weights(call, ids, per_sample_weights, mode)
            target, view = call.output(out, (bags, self.embedding_dim))
            length = ids.shape[1] if starts is None else 0
            placed.seen(ids, call.stream)
            placed.bound.bag(
                ids.address, ids.kind == "i8", ids.size,
                starts.address if starts else 0, starts is None or starts.kind == "i8", starts.size if starts else 0,
                bags, length, weights.address if weights else 0, kernels.BAG_MODES.index(mode),
                view.address, view.kind == "f2", self._fault, call.stream,
            )  # fmt: skip
        return self._result(target, check, call.stream)

    # A function of its own module, a table its first argument.
    search = search

    @property
    def _places(self) -> list[tuple[GpuTable, int]]:
        return [(self, 0)]

    def _home(self, value: Any) -> int:
        return 0

    def _offsets(self, call: Call, ids: View, offsets: Any, include_last: bool) -> tuple[View | None, int]:
        """Where bags start, None for bags of one length, and how many there are."""
        if offsets is None or interop.on_host(offsets):
            # Of the ids only the shape matters.
            shaped = np.broadcast_to(np.int64(0), ids.shape)
            given = None if offsets is None else interop.to_host(offsets)
            bounds = bag_bounds(shaped, given, include_last)
            return (None if offsets is None else call.integers(bounds, "offsets")), len(bounds) - 1
        if len(ids.shape) != 1:
            raise ShapeError("offsets must be left out for a 2-D input, found both; flatten input or drop offsets")
        starts = call.integers(offsets, "offsets")
        if len(starts.shape) != 1 or (starts.size == 0 and (include_last or ids.size)):
            raise ShapeError(
                f"offsets must be 1-D with an entry for each bag, found shape {starts.shape}; pass where bags start"
            )
        return starts, starts.size - (1 if include_last else 0)

    def _weights(self, call: Call, ids: View, weights: Any, mode: str) -> View | None:
        if weights is None:
            return None
        if mode != "sum":
            raise ConfigError(f"per_sample_weights need mode 'sum', found {mode!r}; drop one of them")
        if interop.on_host(weights):
            shaped = np.broadcast_to(np.int64(0), ids.shape)
            floats = bag_weights(interop.to_host(weights), shaped, mode)
            assert floats is not None
            return call.put(floats)
        found = call.view(weights, "per_sample_weights")
        if found.shape != ids.shape or found.kind != "f4":
            raise ShapeError(
                f"per_sample_weights must be float32 of input's shape {ids.shape}, found {found.kind} of {found.shape}"
            )
        return found

    def _result(self, target: Any, check: Check, stream: int) -> Any:
        if check == "eager":
            self._raise_fault(stream)
        elif hasattr(target, "check_after"):
            target.check_after(lambda: self._raise_fault(stream) if self._placed is not None else None)
        return target

    def _raise_fault(self, stream: int) -> None:
        """Raise what the device has noted by this point of the stream, which is waited for, and forget it."""
        found = np.zeros_like(fault_bytes())
        self._driver.copy_out(self._device, found, self._fault, stream)
        kind, (position, value) = int(found.view(np.int32)[1]), (int(v) for v in found.view(np.int64)[1:])
        if not kind:
            return
        self._driver.copy_in(self._device, self._fault, fault_bytes(), stream)
        if kind == _ID:
            raise self._out_of_range(value, position)
        raise ShapeError(
            f"offsets must begin with 0, not decrease and not pass the ids, found {value} at position {position}"
        )
