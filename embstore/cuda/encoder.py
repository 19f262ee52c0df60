"""Rows on a device encoded there: the arrays of a table, without its floats ever coming to the host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from .. import encoding
from ..arrays import ArraySpec, TableShape
from ..budgets import Budget, choose
from ..errors import ConfigError, DeviceError, ShapeError
from ..method import Method
from ..pipeline import Pipeline
from ..sampling import check_finite
from . import interop
from .call import Call
from .driver import Driver, extension
from .interop import View
from .placed import Placed, fault_bytes
from .table import GpuTable

if TYPE_CHECKING:
    from ..table import Table

_NOT_FINITE, _NOT_HELD = 3, 4  # csrc/cuda/core/kernel.h, FaultKind


def encode(
    rows: Any,
    method: str | Method = "int8",
    *,
    budget: Budget | None = None,
    path: str | os.PathLike[str] | None = None,
    keys: Any = None,
    overwrite: bool = False,
    nonfinite: Literal["raise", "keep"] = "raise",
    stream: Any = None,
    driver: Driver | None = None,
    **config: Any,
) -> GpuTable:
    """Compress rows that lie on a device, with the bits that `embstore.compress` gives.

    Parameters
    ----------
    rows : C-contiguous float32 of shape (num_embeddings, embedding_dim) on a CUDA device: a tensor, a CuPy array,
        anything with `__cuda_array_interface__` or `__dlpack__`.
    method, budget, config : as of `embstore.compress`; of the scalar methods, without transforms and without arrays
        that are fitted (`nf4` with scale_dtype="uint8").
    path, keys, overwrite : where to store the table besides, and the keys of its rows; as of `embstore.compress`.
        Without a path it is in the device's memory alone, and `.table` copies it to the host's when it is first read
        there, which has to be before the table on the device is closed.
    nonfinite : "raise" refuses NaN and infinities, naming row and column; "keep" hands them to the method.
    stream : as of `GpuTable.lookup`. The call waits for it: what cannot be held is told by then.

    Raises
    ------
    ConfigError, BudgetError : a method that is not encoded on devices; values that it cannot hold, by row.
    SourceError : NaN or an infinity.
    DeviceError, DeviceMemoryError, ShapeError : rows of the host; no room; rows that are not float32 of two dimensions.
    DestinationExistsError, StorageError : as of `embstore.compress`.
    """
    if nonfinite not in ("raise", "keep"):
        raise ConfigError(f'nonfinite must be "raise" or "keep", found {nonfinite!r}')
    if path is None and keys is not None:
        raise ConfigError("keys are stored with a table, found keys without a path; pass both or neither")
    if interop.on_host(rows):
        raise DeviceError(
            f"rows must be on a CUDA device, found {type(rows).__name__} of the host; use embstore.compress"
        )
    if path is not None:
        from ..format.staging import check_destination

        check_destination(path, overwrite)
    driver = driver or Driver()
    found = interop.view(rows, driver, "rows", may_copy=False)
    if found.kind != "f4" or len(found.shape) != 2:
        raise ShapeError(
            f"rows must be float32 of shape (num_embeddings, embedding_dim), found {found.kind} of {found.shape}; "
            "convert them"
        )
    shape = TableShape(*found.shape)
    chosen = _chosen(method, shape, budget, config)
    driver.check(found.device)
    placed = Placed(driver, found.device, chosen, shape, [], {})
    try:
        call = Call(driver, found.device, rows, stream)
        with call:
            fault = call.put(fault_bytes())
            driver.encode(
                chosen.id, chosen.config(), found.address, found.shape, nonfinite == "keep", placed.rows, placed.shared,
                fault.address, found.device, call.stream,
            )  # fmt: skip
            told = np.zeros_like(fault_bytes())
            driver.copy_out(found.device, told, fault.address, call.stream)
            kind, position = int(told.view(np.int32)[1]), int(told.view(np.int64)[1])
            if kind:
                _refuse(driver, found, call.stream, chosen, kind, position // shape.embedding_dim)
        table = _stored(driver, placed, chosen, shape, path, keys, overwrite)
        return GpuTable(table, found.device, driver, placed=placed)
    except BaseException:
        placed.close()
        raise


def _chosen(method: str | Method, shape: TableShape, budget: Budget | None, config: Mapping[str, Any]) -> Method:
    chosen = choose(method, shape, budget, config)
    native = extension()
    if isinstance(chosen, Pipeline) or not native.has_encoder(chosen.id):
        raise ConfigError(
            f"rows on a device are encoded by {', '.join(native.encoders())}, found {chosen.id!r}; copy them to the "
            "host and use embstore.compress"
        )
    fitted = [spec.name for spec in chosen.layout(shape) if spec.partition != "rows"]
    if fitted:
        raise ConfigError(
            f"rows on a device are encoded without a fit, found {chosen!r}, which learns {', '.join(fitted)}; use "
            "scales of floats, or embstore.compress on the host"
        )
    return chosen


def _refuse(driver: Driver, rows: View, stream: int, method: Method, kind: int, row: int) -> None:
    """Raise what compression on the host raises for this row."""
    dim = rows.shape[1]
    values = np.empty((1, dim), np.float32)
    driver.copy_out(rows.device, values.reshape(-1).view(np.uint8), rows.address + 4 * dim * row, stream)
    if kind == _NOT_FINITE:
        check_finite(values, row, "rows")
    assert kind == _NOT_HELD or not np.isfinite(values).all()
    method.check_encoded(encoding.encode(method, {}, np.array([row], np.int64), values), values, row)
    raise AssertionError(f"a device refused row {row}, which the host holds")


def _stored(
    driver: Driver,
    placed: Placed,
    method: Method,
    shape: TableShape,
    path: str | os.PathLike[str] | None,
    keys: Any,
    overwrite: bool,
) -> Table:
    """The table on the host: stored at `path`, or read from the device when it is first asked for."""
    from ..format.reader import ShardBytes, StoredTable
    from ..table import Table

    specs = method.layout(shape)

    def download(spec: ArraySpec) -> npt.NDArray[np.uint8]:
        if placed.closed:
            raise DeviceError(
                "the rows of this table are on a device, found it closed; read `.table` before, or encode to a path"
            )
        address = placed.rows[spec.name][1]
        out = np.empty(spec.nbytes(), np.uint8)
        if out.nbytes:
            driver.copy_out(placed.device, out, address, 0)
        return out

    if path is not None:
        from ..compression import store

        arrays = {s.name: download(s).view(s.dtype).reshape(s.sizes()) for s in specs}
        return store(path, method, shape, arrays, keys=keys, overwrite=overwrite)

    def of(spec: ArraySpec) -> ShardBytes:
        return lambda shard: download(spec)

    per_shard = 1 << max(0, shape.num_embeddings - 1).bit_length()
    return Table(
        StoredTable(
            path="", shape=shape, method_id=method.id, method_version=method.version, config=method.config(),
            transforms=[], specs=specs, rows_per_shard=per_shard, rows_per_chunk=per_shard, shared={}, keys=None,
            subwords=None, subword_buckets=None, provenance={}, metadata={},
            _rows={spec.name: of(spec) for spec in specs},
        )
    )  # fmt: skip
