"""Ids of methods and transforms to classes, imported when first asked for.

Third-party packages add methods under the entry-point group `embstore.methods`.
"""

from __future__ import annotations

import functools
import importlib

from .errors import ConfigError
from .method import RowMethod
from .transform import Transform

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
    "rabitq": "embstore.methods.rabitq:RaBitQ",
    "turboquant": "embstore.methods.turboquant:TurboQuant",
    "binary": "embstore.methods.binary:Binary",
    "svd": "embstore.methods.svd:SVD",
    "tt": "embstore.methods.tt:TT",
    "subspace": "embstore.methods.subspace:Subspace",
    "pq": "embstore.methods.pq:PQ",
    "rq": "embstore.methods.rq:RQ",
    "tcq": "embstore.methods.tcq:TCQ",
    "pruned": "embstore.methods.pruned:Pruned",
    "dedup": "embstore.methods.dedup:Dedup",
    "mixed_dim": "embstore.methods.mixed_dim:MixedDim",
    "mgqe": "embstore.methods.mgqe:MGQE",
    "hash": "embstore.methods.hash:Hash",
    "compo": "embstore.methods.compo:Compo",
    "robe": "embstore.methods.robe:Robe",
    "memcom": "embstore.methods.memcom:Memcom",
    "adapt": "embstore.methods.adapt:Adapt",
    "dhe": "embstore.methods.dhe:Dhe",
    "fourier": "embstore.methods.fourier:Fourier",
    "ngram_hash": "embstore.methods.ngram_hash:NgramHash",
}

_TRANSFORMS: dict[str, str] = {
    "center": "embstore.transforms.center:Center",
    "pca": "embstore.transforms.pca:PCA",
    "whiten": "embstore.transforms.whiten:Whiten",
    "rotate": "embstore.transforms.rotate:Rotate",
    "opq": "embstore.transforms.opq:OPQ",
    "truncate": "embstore.transforms.truncate:Truncate",
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
        raise ConfigError(f"method must be one of {', '.join(names())}, found {method_id!r}; choose one")
    module, _, name = target.partition(":")
    cls: type[RowMethod] = getattr(importlib.import_module(module), name)
    return cls


def fitted() -> tuple[str, ...]:
    """Ids of the methods that `compress` makes from a finished table; the others are trained with a model."""
    return tuple(name for name in names() if not hasattr(get(name), "example"))


def trained() -> tuple[str, ...]:
    """Ids of the methods whose tables `embstore.nn` trains and exports."""
    return tuple(name for name in names() if hasattr(get(name), "example"))


def transform_names() -> tuple[str, ...]:
    """Ids of every transform."""
    return tuple(_TRANSFORMS)


@functools.cache
def get_transform(transform_id: str) -> type[Transform]:
    """The class of a transform id; `ConfigError` lists the known ids."""
    target = _TRANSFORMS.get(transform_id)
    if target is None:
        raise ConfigError(f"transform must be one of {', '.join(transform_names())}, found {transform_id!r}")
    module, _, name = target.partition(":")
    cls: type[Transform] = getattr(importlib.import_module(module), name)
    return cls
