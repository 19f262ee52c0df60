"""The laws every method must keep, shipped so that third-party methods can be held to them too.

>>> from embstore.methods.int8 import Int8
>>> from embstore.testing import check_method
>>> check_method(Int8(), rows=7, dim=5)
"""

from __future__ import annotations

from .laws import MemoryRows, check_method, make_rows, pooled

__all__ = ["MemoryRows", "check_method", "make_rows", "pooled"]
