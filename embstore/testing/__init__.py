"""The laws every method and transform must keep, shipped so that third-party ones can be held to them too.

>>> from embstore.methods.int8 import Int8
>>> from embstore.testing import check_method, check_pipeline
>>> check_method(Int8(), rows=7, dim=5)
>>> check_pipeline("center,rotate,int4", rows=7, dim=5)
"""

from __future__ import annotations

from .laws import MemoryRows, check_method, check_trained, make_counts, make_rows, pooled
from .transform_laws import check_pipeline

__all__ = ["MemoryRows", "check_method", "check_pipeline", "check_trained", "make_counts", "make_rows", "pooled"]
