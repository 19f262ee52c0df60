"""What writer and reader of the two key files share: mapping them, and naming them in messages."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from ... import native
from .layout import DIRECTORY

# Keys handled by one native call; between two of them Ctrl-C is noticed.
STEP: Final = 1 << 20
RESTORE: Final = "restore the files from a copy or compress the table again"


def shown(key: object) -> str:
    text = repr(key)
    return text if len(text) <= 80 else text[:77] + "..."


def label(directory: str | os.PathLike[str]) -> str:
    """What messages call the keys of the table in `directory`."""
    return f"{os.path.basename(os.path.abspath(directory))}/{DIRECTORY}"


def map_file(path: Path, nbytes: int) -> npt.NDArray[np.uint8]:
    """The bytes of a file, read-only, mapped where there are any."""
    if nbytes == 0:
        return np.empty(0, np.uint8)
    mapper = getattr(native.require("reading keys"), "map_file", None)
    if mapper is not None:
        return cast("npt.NDArray[np.uint8]", mapper(str(path), nbytes))
    return np.memmap(path, np.uint8, "r", shape=(nbytes,))
