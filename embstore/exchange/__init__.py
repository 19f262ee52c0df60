"""Tables to FAISS indexes and back with the codes they have: nothing is decoded, nothing encoded again."""

from .faiss_index import from_faiss, to_faiss, write_faiss

__all__ = ["from_faiss", "to_faiss", "write_faiss"]
