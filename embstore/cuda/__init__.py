"""Tables on CUDA devices: `Table.to("cuda")` gives a `GpuTable`, a list of devices a `SplitTable`."""

from __future__ import annotations

from .encoder import encode as encode
from .placed import Residency as Residency
from .split import SplitTable as SplitTable
from .table import GpuTable as GpuTable
from .take import to_device as to_device

__all__ = ["GpuTable", "Residency", "SplitTable", "encode", "to_device"]
