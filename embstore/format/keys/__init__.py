"""Keys of a table: the strings or 64-bit integers themselves, and a hash index over them (`layout` has every byte)."""

from __future__ import annotations

from .layout import HEADER, SEED, capacity_for
from .reader import Keys
from .writer import KeysWriter

__all__ = ["Keys", "KeysWriter", "HEADER", "SEED", "capacity_for"]
