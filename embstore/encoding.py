"""A method's rows encoded natively where that is possible: below the methods, so that `fit` may use it too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from . import native
from .arrays import TableShape
from .method import FloatRows, Ids, Method, Named
from .threads import get_num_threads


def flat(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The bytes of an array in C order, as native code takes them."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def encode(
    method: Method,
    shared: Mapping[str, npt.NDArray[Any]],
    ids: Ids,
    rows: FloatRows,
    backend: str | None = None,
) -> Named:
    """`method.encode(shared, ids, rows)` of a resolved method that is no pipeline: by its native encoder, where it has
    one, with the same bits. `backend` "numpy" asks for the method's own.
    """
    if backend == "numpy" or not native.available():
        return method.encode(shared, ids, rows)
    module = native.require("encoding")
    if not module.has_kernel(method.id):
        return method.encode(shared, ids, rows)
    rows = np.ascontiguousarray(rows, np.float32)
    if len(rows) == 0:
        return method.encode(shared, ids, rows)
    layout = method.layout(TableShape(len(rows), rows.shape[1]))
    if any(s.partition == "ragged" for s in layout):
        return method.encode(shared, ids, rows)
    specs = [s for s in layout if s.partition == "rows"]
    named: Named = {s.name: np.empty(s.sizes(), s.dtype) for s in specs}
    out = {s.name: (s.row_nbytes, flat(named[s.name])) for s in specs}
    extra = {k: flat(v) for k, v in {**shared, **method.constants(shared)}.items()}
    if not module.encode(method.id, method.config(), rows, out, extra, get_num_threads()):
        return method.encode(shared, ids, rows)
    return named
