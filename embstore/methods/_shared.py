"""Shared by tt and subspace, whose rows are made of parts chosen by the id's digits."""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError
from ..method import FloatRows


def root(n: int, k: int) -> int:
    """The smallest integer whose k-th power is at least n."""
    found: int = round(float(n) ** (1.0 / k))
    while found**k < n:
        found += 1
    while found > 1 and (found - 1) ** k >= n:
        found -= 1
    return found


def check_finite(method_id: str, rows: FloatRows, first_row: int) -> None:
    """Raise `ConfigError` naming the first row with NaN or inf."""
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise ConfigError(
            f"{method_id} rows must be finite, found NaN or inf in row {first_row + int(np.argmax(bad))}; "
            "mend the source or choose another method"
        )
