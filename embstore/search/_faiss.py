"""The faiss module: imported when first needed, lent our thread count, kept from trusting the sizes in a file."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from typing import Any

from .. import kernels

# The place in FAISS's source, and the C++ condition where a sentence follows it.
_PLACE = re.compile(r"^Error in .*? at \S+:\d+: (Error: )?('[^\n]*?' failed: (?=\S))?", re.DOTALL)
# FAISS's limit belongs to the process.
_limit = threading.Lock()


@contextlib.contextmanager
def threads(faiss: Any) -> Iterator[None]:
    """FAISS's thread count belongs to the process: ours for the call, then as it was."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(kernels.get_num_threads())
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def said(error: RuntimeError) -> str:
    """What FAISS had to say, without the place in its source."""
    return _PLACE.sub("", str(error)).strip().rstrip(".")


def write_index(faiss: Any, index: Any, path: str) -> None:
    """Write an index to a file; `OSError` where FAISS could not."""
    try:
        faiss.write_index(index, path)
    except RuntimeError as error:
        raise OSError(said(error)) from error


def read_foreign(faiss: Any, path: str) -> Any:
    """The index in a file from elsewhere, for its codes: tables that speed up searches are not computed.

    No array may be larger than the file, where this FAISS can be told so. Raises `RuntimeError`, as FAISS does.
    """
    flags = 0
    for name in ("IO_FLAG_SKIP_PRECOMPUTE_TABLE", "IO_FLAG_PQ_SKIP_SDC_TABLE"):
        flags |= getattr(faiss, name, 0)
    if not hasattr(faiss, "set_deserialization_vector_byte_limit"):
        return faiss.read_index(path, flags)
    with _limit:
        before = faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_vector_byte_limit(os.stat(path).st_size)
        try:
            return faiss.read_index(path, flags)
        finally:
            faiss.set_deserialization_vector_byte_limit(before)
