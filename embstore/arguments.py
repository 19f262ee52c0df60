"""What callers pass to a table, checked and brought to one form."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ConfigError, DeviceError, IdRangeError, IdTypeError, ShapeError
from .method import Ids

Floats = npt.NDArray[Any]


def is_text(value: Any) -> bool:
    """Whether keys, and not ids, were passed."""
    while isinstance(value, (list, tuple)) and len(value):
        value = value[0]
    if isinstance(value, (str, bytes)):
        return True
    dtype = getattr(value, "dtype", None)
    if isinstance(dtype, np.dtype):
        return dtype.kind in "UST" or (dtype.kind == "O" and value.size > 0 and isinstance(value.flat[0], str))
    return "string" in str(getattr(value, "type", ""))


def plain(key: Any) -> Any:
    """A key as Python has it, of an Arrow or numpy scalar."""
    return key.as_py() if hasattr(key, "as_py") else key.item() if isinstance(key, np.generic) else key


def as_ids(value: Any) -> Ids:
    """Ids as int64 of their shape; `IdTypeError`, `IdRangeError` for what cannot be one."""
    ids = np.asarray(value)
    if ids.dtype.kind not in "iu":
        if ids.size == 0 and not isinstance(value, np.ndarray):
            return ids.astype(np.int64)
        if ids.dtype == object and ids.size and all(type(v) is int for v in ids.flat):
            beyond = next((v for v in ids.flat if not -(2**63) <= v < 2**63), None)
            if beyond is not None:
                raise IdRangeError(f"ids must be below 2**63, found {beyond}; check the ids")
            return ids.astype(np.int64)
        raise IdTypeError(f"ids must be integers, found {ids.dtype}; convert them with .astype('int64')")
    if ids.dtype == np.uint64 and ids.size and int(ids.max()) >= 2**63:
        raise IdRangeError(f"ids must be below 2**63, found {int(ids.max())}; check the ids")
    return np.ascontiguousarray(ids, np.int64).reshape(ids.shape)


def bag_bounds(ids: Ids, offsets: Any, include_last_offset: bool) -> Ids:
    """Where each bag starts in the flat ids, and where the last one ends; `ShapeError` for offsets that do not fit."""
    if ids.ndim == 2:
        if offsets is not None:
            raise ShapeError("offsets must be left out for a 2-D input, found both; flatten input or drop offsets")
        starts: Ids = np.arange(ids.shape[0] + 1, dtype=np.int64) * ids.shape[1]
        return starts
    if ids.ndim != 1:
        raise ShapeError(f"input must be 1-D with offsets, or 2-D, found {ids.ndim}-D; reshape it")
    if offsets is None:
        raise ShapeError("offsets must be given for a 1-D input, found none; pass them or a 2-D input")
    bounds = as_ids(offsets)
    if bounds.ndim != 1 or (len(bounds) == 0 and (include_last_offset or ids.size)):
        raise ShapeError(
            f"offsets must be 1-D with an entry for each bag, found shape {bounds.shape}; pass where each bag starts"
        )
    if len(bounds) and bounds[0] != 0:
        raise ShapeError(f"offsets must begin with 0, found {bounds[0]}; the first bag starts at the first id")
    if not include_last_offset:
        bounds = np.append(bounds, ids.size)
    elif bounds[-1] != ids.size:
        raise ShapeError(
            f"the last offset must be the {ids.size} ids of input, found {bounds[-1]}; drop include_last_offset?"
        )
    if (np.diff(bounds) < 0).any():
        at = int(np.argmax(np.diff(bounds) < 0))
        raise ShapeError(
            f"offsets must not decrease nor pass the {ids.size} ids, found {bounds[at]} before {bounds[at + 1]}"
        )
    return bounds


def bag_weights(weights: Any, ids: Ids, mode: str) -> npt.NDArray[np.float32] | None:
    """A weight for each of the flat ids, or None."""
    if weights is None:
        return None
    if mode != "sum":
        raise ConfigError(f"per_sample_weights need mode 'sum', found {mode!r}; drop one of them")
    found = np.ascontiguousarray(weights, np.float32)
    if found.shape != ids.shape:
        raise ShapeError(f"per_sample_weights must have input's shape {ids.shape}, found {found.shape}")
    return found.reshape(-1)


def check_out(out: Floats | None, shape: tuple[int, ...], dim: int) -> Floats:
    """`out` of a lookup of ids of this shape, a new array for None; `ShapeError` for one that cannot be filled."""
    want = (*shape, dim)
    if out is None:
        return np.empty(want, np.float32)
    if not isinstance(out, np.ndarray):
        raise ShapeError(f"out must be a numpy array, found {type(out).__name__}; pass np.empty({want}, 'float32')")
    if out.dtype not in (np.float32, np.float16) or not out.dtype.isnative:
        raise ShapeError(f"out must be float32 or float16, found {out.dtype}; pass np.empty({want}, 'float32')")
    if out.shape != want:
        raise ShapeError(f"out must have shape {want}, found {out.shape}; one row of {dim} values for each id")
    if not out.flags.c_contiguous or not out.flags.writeable or not out.flags.aligned:
        raise ShapeError("out must be C-contiguous, aligned and writeable, found another layout; pass a fresh np.empty")
    return out


def parse_device(device: Any) -> int | None:
    """The number of a CUDA device; None for "cpu"."""
    text = str(device)
    if text == "cpu":
        return None
    if type(device) is int and device >= 0:
        return device
    kind, colon, number = text.partition(":")
    if kind == "cuda" and (not colon or number.isdecimal()):
        return int(number or 0)
    raise DeviceError(f"the device must be 'cuda', 'cuda:1' or 'cpu', found {device!r}; choose one")
