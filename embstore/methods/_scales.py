"""Arithmetic on block scales that the native encoders repeat bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError

F32 = npt.NDArray[np.float32]
LANES = 16


def check_block_size(method_id: str, block_size: int | None, multiple: int) -> None:
    """Blocks are whole bytes of codes; None stands for the row."""
    if block_size is None:
        return
    if isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 1 or block_size % multiple:
        rule = "a positive integer" if multiple == 1 else f"a positive multiple of {multiple}"
        raise ConfigError(
            f"block_size of {method_id} must be {rule}, found {block_size!r}; leave it out for whole rows"
        )


def check_scales(method_id: str, scales: npt.NDArray[Any], first_row: int, dtype: str, cure: str = "") -> None:
    """Raise `ConfigError` when a scale left the range of its dtype."""
    if np.isinf(scales).any():
        row = first_row + int(np.argwhere(np.isinf(scales))[0, 0])
        cure = cure or ("use scale_dtype='float32'" if dtype == "float16" else "scale the table down first")
        raise ConfigError(
            f"{method_id} stores scales as {dtype}, and the values of row {row} are too large for it; {cure}"
        )


def round_near(x: F32, half: bool) -> F32:
    if not half:
        return x
    with np.errstate(over="ignore", under="ignore"):
        return x.astype(np.float16).astype(np.float32)


def round_up(x: F32, half: bool) -> F32:
    return _directed(x, half, np.inf)


def round_down(x: F32, half: bool) -> F32:
    return _directed(x, half, -np.inf)


def _directed(x: F32, half: bool, toward: float) -> F32:
    v = round_near(x, half)
    if not half:
        return v
    short = v < x if toward > 0 else v > x
    with np.errstate(over="ignore"):
        stepped = np.nextafter(v.astype(np.float16), np.float16(toward)).astype(np.float32)
    return np.where(short, stepped, v)


def pad_to_lanes(x: F32, value: float | None) -> F32:
    """Pad columns to a multiple of 16, with `value` or with each row's first element."""
    n, dim = x.shape
    width = -(-dim // LANES) * LANES
    padded = np.empty((n, width), np.float32)
    padded[:, :dim] = x
    padded[:, dim:] = x[:, :1] if value is None else value
    return padded


def lane_sum(x: F32) -> F32:
    """Row sums over 16 lanes, then a tree: the order of `sum` in `_affine_encode.h`."""
    parts = x.reshape(len(x), x.shape[1] // LANES, LANES)
    acc = np.zeros((len(x), LANES), np.float32)
    for k in range(parts.shape[1]):
        acc = acc + parts[:, k]
    for half in (8, 4, 2, 1):
        acc = acc[:, :half] + acc[:, half : 2 * half]
    return acc[:, 0]
