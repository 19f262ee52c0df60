"""Method ids to classes, imported when first asked for.

Third-party packages add methods under the entry-point group `embstore.methods`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from typing import Any

from .errors import ConfigError
from .method import Method, RowMethod

_BUILTIN: dict[str, str] = {
    "float32": "embstore.methods.float32:Float32",
    "float16": "embstore.methods.float16:Float16",
    "bfloat16": "embstore.methods.bfloat16:BFloat16",
    "int16": "embstore.methods.int16:Int16",
    "int8": "embstore.methods.int8:Int8",
    "int4": "embstore.methods.int4:Int4",
    "int2": "embstore.methods.int2:Int2",
    "dynamic8": "embstore.methods.dynamic8:Dynamic8",
    "nf4": "embstore.methods.nf4:NF4",
}


@functools.cache
def _third_party() -> dict[str, str]:
    from importlib.metadata import entry_points

    return {e.name: e.value for e in entry_points(group="embstore.methods")}


def names() -> tuple[str, ...]:
    """Ids of every installed method, built-in ones first."""
    return (*_BUILTIN, *(n for n in _third_party() if n not in _BUILTIN))


@functools.cache
def get(method_id: str) -> type[RowMethod]:
    """The class of a method id; `ConfigError` lists the known ids."""
    target = _BUILTIN.get(method_id) or _third_party().get(method_id)
    if target is None:
        raise ConfigError(f"method must be one of {', '.join(names())}, found {method_id!r}")
    module, _, name = target.partition(":")
    cls: type[RowMethod] = getattr(importlib.import_module(module), name)
    return cls


def create(method: str | Method, config: Mapping[str, Any] | None = None) -> Method:
    """A method object from an id and config, or the object itself."""
    if isinstance(method, str):
        return get(method).from_config(config or {})
    if config:
        raise ConfigError(f"config fields {sorted(config)} were given beside a method object; set them on the object")
    return method
