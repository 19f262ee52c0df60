"""Nearest neighbours over codes: `embstore.Table.search` is the door; indexes are built here."""

from .faiss_index import TableIndex, build_index

__all__ = ["TableIndex", "build_index"]
