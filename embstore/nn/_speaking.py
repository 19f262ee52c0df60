"""Refusals of a storage method, told of the module that was asked for."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from ..errors import ConfigError


@contextlib.contextmanager
def speaking_of(module: str, stored: str) -> Iterator[None]:
    """Let each `ConfigError` within name the module `module` where it names the storage method `stored`."""
    try:
        yield
    except ConfigError as refused:
        said = str(refused)
        told = said if module in said else re.sub(rf"\b{stored}\b", module, said)
        if told == said:
            raise
        raise type(refused)(told) from None
