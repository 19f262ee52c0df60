"""What a method fitted, kept while its table is made, so that an interrupted run need not fit again.

Shared arrays are where the table has them; those that only encoding needs, named with a leading underscore, are beside
the table's own in `fitted.embstore/`, which is dropped before publishing. `index` there is written last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import __version__
from . import layout
from .staging import Staging

FOLDER = "fitted.embstore"
_INDEX = f"{FOLDER}/index"

Named = Mapping[str, npt.NDArray[Any]]


def _file(name: str, ndim: int) -> str:
    return f"{FOLDER}/{name}" if name.startswith("_") else layout.single_file(name, ndim)


def _crc(array: npt.NDArray[Any]) -> int:
    import google_crc32c

    return int(google_crc32c.value(array.reshape(-1).view(np.uint8)))


def keep(staging: Staging, fitted: Named) -> None:
    """Make `fitted` durable; its shared arrays have been written."""
    index = {}
    for name, given in fitted.items():
        array = np.ascontiguousarray(given, given.dtype.newbyteorder("<"))
        index[name] = {"dtype": array.dtype.str, "shape": list(array.shape), "crc32c": _crc(array)}
        if name.startswith("_"):
            staging.write(_file(name, array.ndim), array.reshape(-1).view(np.uint8))
    # Another release may fit better.
    staging.write(_INDEX, json.dumps({"software": __version__, "arrays": index}).encode())


def load(staging: Staging) -> dict[str, npt.NDArray[Any]] | None:
    """What an earlier run of the same job and release kept, None where it is not whole."""
    try:
        with open(staging.file(_INDEX), "rb") as file:
            index = json.load(file)
        if index["software"] != __version__:
            return None
        found = {}
        for name, about in index["arrays"].items():
            shape = tuple(about["shape"])
            path = staging.file(_file(name, len(shape)))
            array = np.fromfile(path, about["dtype"]) if 0 not in shape else np.zeros(0, about["dtype"])
            found[name] = array.reshape(shape)
            if _crc(found[name]) != about["crc32c"]:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found


def kept(staging: Staging) -> bool:
    return os.path.exists(staging.file(_INDEX))
