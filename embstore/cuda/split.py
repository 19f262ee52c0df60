"""A table whose rows are shared out to several devices: ids are routed to the rows, rows come to where the ids are."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from .. import kernels
from ..errors import DeviceError
from ..method import Ids
from . import interop
from .base import Check, DeviceRows, one_of
from .call import Call
from .driver import Driver, Placing
from .interop import View
from .placed import PADDING, Residency, fault_bytes
from .search import search
from .table import GpuTable

if TYPE_CHECKING:
    from ..table import Table


def shares(rows: int, parts: int, together: int = 1) -> list[tuple[int, int]]:
    """The first row of each part and the one after its last: runs of about one size, cut at multiples of `together`."""
    cuts = [min(rows, round(rows * p / parts / together) * together) for p in range(parts)]
    return list(zip(cuts, [*cuts[1:], rows], strict=True))


class SplitTable(DeviceRows):
    """A table of which each of several devices has a run of rows. Made by `Table.to` of a list of devices.

    What all rows share is on every device whole. Calls, arguments, streams and faults are those of `GpuTable`: ids may
    lie on any of the devices, results lie there too, or on the first device for ids of the host. Nothing waits but what
    waits there. Every other device is given the ids of its own rows, when they are of the host; else all, of which it
    decodes its own and sends back a row for each. A bag is pooled where its ids are, in their order.
    """

    def __init__(self, table: Table, devices: list[int], driver: Driver) -> None:
        self._table, self._driver = table, driver
        self._parts: list[GpuTable] = []
        self._streams: list[int] = []
        self._spare: list[int] = []  # what lookups of parts tell of ids that are not theirs
        # A method may have runs of rows decoded from one start.
        together = int(table._method.config().get("rows_per_start", 1))
        try:
            for device, part in zip(devices, shares(table.num_embeddings, len(devices), together), strict=True):
                self._parts.append(GpuTable(table, device, driver, part=part))
                self._streams.append(driver.make_stream(device))
                self._spare.append(driver.allocate(device, fault_bytes().nbytes))
                driver.copy_in(device, self._spare[-1], fault_bytes(), self._streams[-1])
                driver.synchronize(device)
        except BaseException:
            self.close(raise_faults=False)
            raise
        self.shares = [part._part for part in self._parts]

    @property
    def devices(self) -> list[str]:
        """Where the table is, as in "cuda:0"."""
        return [part.device for part in self._open]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the table's arrays take, of all devices together."""
        return sum(part.nbytes for part in self._open)

    @property
    def _open(self) -> list[GpuTable]:
        if not self._parts:
            raise DeviceError("the table on GPUs must be open, found it closed; take it there again with Table.to")
        return self._parts

    def report(self) -> list[Residency]:
        """Of each device, what `GpuTable.report` tells."""
        return [part.report() for part in self._open]

    def explain(self) -> str:
        """Which kernel serves lookups and bags."""
        return (
            f"lookup: cuda (csrc/cuda/methods/{self.method.id}.cu on {', '.join(self.devices)}); bag: of rows looked up"
        )

    def __repr__(self) -> str:
        where = ", ".join(part.device for part in self._parts) or "closed"
        return f"<embstore.cuda.SplitTable {self.num_embeddings} x {self.embedding_dim}, {self.method!r}, {where}>"

    def close(self, raise_faults: bool = True) -> None:
        """Give the devices' memory back, once they are done with it; raises what an earlier call found wrong."""
        parts, self._parts = self._parts, []
        with contextlib.ExitStack() as done:
            for part in parts:
                done.callback(part.close, raise_faults)
            for part, spare in zip(parts, self._spare, strict=False):
                done.callback(self._driver.release, part._device, spare)
            for part, stream in zip(parts, self._streams, strict=False):
                done.callback(self._driver.drop_stream, part._device, stream)
            for part in parts:
                done.callback(self._driver.synchronize, part._device)

    def __del__(self) -> None:
        if getattr(self, "_parts", None):
            self.close(raise_faults=False)

    def synchronize(self) -> None:
        """Wait for everything on the devices, and raise what an earlier call found wrong."""
        for part in self._open:
            part.synchronize()

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
        """Rows by id or key, as `GpuTable.lookup`; `out` and `stream` are of the device of the ids."""
        one_of(check, ("deferred", "eager"), "check")
        one_of(by, (None, "id", "key"), "by")
        home = self._home(ids_or_keys if out is None else out)
        host = self._on_host(ids_or_keys, oov, by) if interop.on_host(ids_or_keys) else None
        if host is not None:
            ids_or_keys = host
        part = self._open[home]
        call = Call(self._driver, part._device, ids_or_keys if out is None else out, stream)
        with call:
            ids = call.integers(ids_or_keys, "ids")
            target, view = call.output(out, (*ids.shape, self.embedding_dim))
            self._gather(call, home, ids, _flat(host), view.address, view.kind == "f2")
        return part._result(target, check, call.stream)

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
        """Pooled rows, as `GpuTable.bag`.

        Rows are looked up and then added in the order of ids: the bits are those of one device, but for tables with
        transforms and methods whose codes one device adds before it maps them, which differ by rounding. It takes
        embedding_dim floats of memory for each id, and a row for each, zero for ids out of range until those are told.
        """
        one_of(check, ("deferred", "eager"), "check")
        one_of(mode, kernels.BAG_MODES, "mode")
        home = self._home(input if out is None else out)
        host = self._on_host(input, "raise", "id") if interop.on_host(input) else None
        if host is not None:
            input = host
        part, dim = self._open[home], self.embedding_dim
        call = Call(self._driver, part._device, input if out is None else out, stream)
        with call:
            ids = call.integers(input, "ids")
            starts, bags = part._offsets(call, ids, offsets, include_last_offset)
            weights = part._weights(call, ids, per_sample_weights, mode)
            target, view = call.output(out, (bags, dim))
            rows = call.take((ids.size + 1) * 4 * dim + PADDING)
            self._driver.clear(part._device, rows, ids.size * 4 * dim, call.stream)
            self._gather(call, home, ids, _flat(host), rows, half=False)
            placing = {"values": Placing(4 * dim, rows)}
            bound = self._driver.bind("float32", {}, (ids.size, dim), placing, {}, part._device)
            length = ids.shape[1] if starts is None else 0
            bound.bag(
                0, True, ids.size,
                starts.address if starts else 0, starts is None or starts.kind == "i8", starts.size if starts else 0,
                bags, length, weights.address if weights else 0, kernels.BAG_MODES.index(mode),
                view.address, view.kind == "f2", part._fault, call.stream,
            )  # fmt: skip
        return part._result(target, check, call.stream)

    # A function of its own module, a table its first argument.
    search = search

    @property
    def _places(self) -> list[tuple[GpuTable, int]]:
        return list(zip(self._open, self._streams, strict=True))

    def _home(self, value: Any) -> int:
        """The part on the device of an array; the first for one of the host, or of a device without a part."""
        if interop.on_host(value):
            return 0
        device = interop.device_of(value, self._driver)
        return next((p for p, part in enumerate(self._open) if part._device == device), 0)

    def _gather(self, call: Call, home: int, ids: View, host: Ids | None, out: int, half: bool) -> None:
        """Rows of ids of the device of part `home` to `out` there; those of ids out of range stay as they are.

        host : the same ids where they are of the host: other devices are then given their own alone.
        What other devices do they do on streams of their own, which follow the call's, and which it follows.
        """
        driver, here, n = self._driver, self._open[home]._device, ids.size
        if n == 0:
            return
        wide, width = ids.kind == "i8", self.embedding_dim * (2 if half else 4)
        # How many rows come, where they come to, and which they are where that is known.
        arrivals: list[tuple[int, int, int, npt.NDArray[np.int64] | None]] = []
        for p, (first, last) in enumerate(self.shares):
            own = None if host is None else np.flatnonzero((host >= first) & (host < last))
            count = n if own is None else len(own)
            if p == home or first == last or count == 0:
                continue
            arrivals.append((p, count, call.take(count * width), own))
        for p, count, arrived, own in arrivals:
            device, stream = self._parts[p]._device, self._streams[p]
            with contextlib.ExitStack() as done:

                def take(nbytes: int, device: int = device, stream: int = stream, done: Any = done) -> int:
                    address = driver.allocate_on(device, nbytes, stream)
                    done.callback(driver.release_on, device, address, stream)
                    return address

                given, rows = take(8 * count), take(count * width)
                if host is not None and own is not None:
                    driver.copy_in(device, given, host[own].view(np.uint8), stream)
                    driver.follow(device, stream, here, call.stream)
                    self._parts[p]._open.bound.lookup(given, True, count, rows, half, self._spare[p], stream)
                else:
                    driver.follow(device, stream, here, call.stream)
                    nbytes = count * (8 if wide else 4)
                    driver.copy_between((device, given), (here, ids.address), nbytes, device, stream)
                    self._own_rows(p, take(8 * count), given, wide, count, rows, half, 0, stream)
                driver.copy_between((here, arrived), (device, rows), count * width, device, stream)
        self._own_rows(home, call.take(8 * n), ids.address, wide, n, out, half, self._parts[home]._fault, call.stream)
        for p, count, arrived, own in arrivals:
            driver.follow(here, call.stream, self._parts[p]._device, self._streams[p])
            if own is None:
                driver.select(here, ids.address, wide, n, self.shares[p], arrived, out, width, call.stream)
            else:
                driver.scatter(here, call.put(own).address, count, arrived, out, width, call.stream)

    def _own_rows(
        self, p: int, own: int, ids: int, wide: bool, n: int, out: int, half: bool, fault: int, stream: int
    ) -> None:
        """Of ids on the device of part p its own rows; `own` is room for 8 bytes an id."""
        part = self._parts[p]
        self._driver.route(part._device, ids, wide, n, self.num_embeddings, self.shares[p], own, fault, stream)
        part._open.bound.lookup(own, True, n, out, half, self._spare[p], stream)


def _flat(ids: Ids | None) -> Ids | None:
    return None if ids is None else np.ascontiguousarray(ids.reshape(-1), np.int64)
