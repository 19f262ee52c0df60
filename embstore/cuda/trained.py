"""Kernels over weights that a training framework owns: addresses and numbers in, launches out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .driver import _refusals, extension

HOST = -1  # in the place of a device: the kernels in loops over the host's memory


@_refusals
def run(
    kind: str,
    config: dict[str, Any],
    shape: tuple[int, int],
    weights: Mapping[str, tuple[int, int, int]],
    ids: tuple[int, int],
    rows: int,
    *,
    backward: bool,
    device: int,
    stream: int,
) -> None:
    """Rows of a kind of weights (csrc/cuda/nn), or the gradient of the weights; returns without waiting.

    Parameters
    ----------
    kind : basename of the kernel's file.
    config : what the kernel takes besides.
    shape : rows and dims of the table.
    weights : (address of the values, their bytes, address of the gradient) by name; 0 for an address that is not used.
        Gradients are float32, and are added to.
    ids : address and number of int64 ids. One out of range ends the process's use of the device.
    rows : address of float32 (n, dim): to fill, or backward the gradient of the rows.
    device, stream : where; `HOST` and 0 for the host.

    Raises `DeviceError` where CUDA refuses, ValueError for weights that do not fit the shape.
    """
    extension().trained(kind, config, *shape, dict(weights), *ids, rows, backward, device, stream)
