"""8-bit low-precision training: see `embstore.nn._low_precision.OneStep`."""

from __future__ import annotations

from typing import ClassVar

from ._low_precision import OneStep


class Int8(OneStep):
    """Rows of 8-bit codes and one step for the table, trained as such; exports as `int8` with that `step`."""

    id: ClassVar[str] = "int8"
    bits: ClassVar[int] = 8
