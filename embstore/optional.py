"""Packages that are not always there."""

from __future__ import annotations

from typing import Any

from .errors import MissingDependencyError


def faiss(what: str) -> Any:
    """The faiss module; `MissingDependencyError` says that `what` needs it."""
    try:
        import faiss as module
    except ImportError as error:
        raise MissingDependencyError(
            f"{what} needs faiss, found no such package; pip install embstore[faiss]"
        ) from error
    return module
