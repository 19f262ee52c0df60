"""Tables on a CUDA device: `Table.to("cuda")` gives a `GpuTable`."""

from __future__ import annotations

from .encoder import encode as encode
from .table import GpuTable as GpuTable
from .table import to_device as to_device

__all__ = ["GpuTable", "encode", "to_device"]
