"""embstore: compressed embedding tables in one open format."""

from __future__ import annotations

__version__ = "0.1.0"
