"""Nearest neighbours over codes: `embstore.Table.search` is the door; indexes are built here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .faiss_index import TableIndex as TableIndex
    from .faiss_index import build_index as build_index

__all__ = ["TableIndex", "build_index"]


def __getattr__(name: str) -> Any:
    # Imported when first asked for: every table comes with this package, few with an index.
    if name not in __all__:
        raise AttributeError(f"module 'embstore.search' has no attribute {name!r}")
    from . import faiss_index

    return getattr(faiss_index, name)
