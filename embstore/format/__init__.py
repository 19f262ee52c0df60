"""Tables on disk: a Zarr v3 group that embstore maps and any Zarr reader opens. `docs/format.md` has every byte."""

from __future__ import annotations

from .reader import StoredTable, open_table
from .verify import Fault, verify
from .writer import TableWriter

__all__ = ["Fault", "StoredTable", "TableWriter", "open_table", "verify"]
