"""Readers of the files and objects people keep embeddings in."""

from __future__ import annotations

from .base import Chunk, RowSource, Subwords
from .detect import open_source

__all__ = ["Chunk", "RowSource", "Subwords", "open_source"]
