"""The door to the C++ extension: found when first needed, explained when missing."""

from __future__ import annotations

import functools
from types import ModuleType

from .errors import MissingDependencyError


@functools.cache
def _load() -> ModuleType | ImportError:
    try:
        from . import _native
    except ImportError as error:
        return error
    return _native  # type: ignore[no-any-return]


def available() -> bool:
    """Whether the extension can be imported here."""
    return not isinstance(_load(), ImportError)


def require(what: str) -> ModuleType:
    """The extension module, or `MissingDependencyError` saying what needed it and the cure."""
    module = _load()
    if isinstance(module, ImportError):
        raise MissingDependencyError(
            f"{what} needs embstore's native extension, which could not be loaded ({module}); "
            "reinstall with `pip install --force-reinstall --no-binary embstore embstore` and a C++17 compiler"
        )
    return module
