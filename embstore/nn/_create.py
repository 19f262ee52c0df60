"""Module ids to classes, and a budget to a configuration."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import registry
from ..arrays import TableShape
from ..compression import Budget, parse_budget
from ..errors import ConfigError
from .base import Asked, CompressedEmbedding, Mode

# Module id -> class, and the storage method it exports to (alpt: int8 or int16, by its bits).
_MODULES: dict[str, tuple[str, str]] = {
    "float32": ("embstore.nn.full:Full", "float32"),
    "int16": ("embstore.nn.int16:Int16", "int16"),
    "int8": ("embstore.nn.int8:Int8", "int8"),
    "alpt": ("embstore.nn.alpt:ALPT", "int8"),
    "hash": ("embstore.nn.hash:Hash", "hash"),
    "compo": ("embstore.nn.compo:Compo", "compo"),
    "robe": ("embstore.nn.robe:Robe", "robe"),
    "memcom": ("embstore.nn.memcom:Memcom", "memcom"),
    "adapt": ("embstore.nn.adapt:Adapt", "adapt"),
    "dhe": ("embstore.nn.dhe:Dhe", "dhe"),
    "fourier": ("embstore.nn.fourier:Fourier", "fourier"),
    "ngram_hash": ("embstore.nn.ngram_hash:NgramHash", "ngram_hash"),
    "define": ("embstore.nn.define:Define", "float32"),
    "cafe": ("embstore.nn.cafe:Cafe", "adapt"),
    "deeplight": ("embstore.nn.deeplight:DeepLight", "pruned"),
    "pep": ("embstore.nn.pep:Pep", "pruned"),
    "autosrh": ("embstore.nn.autosrh:AutoSrh", "pruned"),
    "dnis": ("embstore.nn.dnis:Dnis", "pruned"),
    "mde": ("embstore.nn.mde:Mde", "mixed_dim"),
    "autodim": ("embstore.nn.autodim:AutoDim", "mixed_dim"),
    "optembed": ("embstore.nn.optembed:OptEmbed", "mixed_dim"),
    "tt": ("embstore.nn.tt:TT", "tt"),
    "dedup": ("embstore.nn.dedup:Dedup", "dedup"),
    "dpq": ("embstore.nn.dpq:Dpq", "pq"),
    "mgqe": ("embstore.nn.mgqe:Mgqe", "mgqe"),
}


def names() -> tuple[str, ...]:
    """Ids of every module."""
    return tuple(_MODULES)


def module_class(method: str) -> tuple[type[CompressedEmbedding], str]:
    """The class of a module id and the id of its storage method; `ConfigError` lists the known ids."""
    if method not in _MODULES:
        raise ConfigError(f"a trainable method must be one of {', '.join(names())}, found {method!r}")
    target, stored = _MODULES[method]
    module, _, name = target.partition(":")
    cls: type[CompressedEmbedding] = getattr(importlib.import_module(module), name)
    return cls, stored


def embedding(
    method: str,
    num_embeddings: int | None = None,
    embedding_dim: int = 0,
    *,
    budget: Budget | None = None,
    field_sizes: Sequence[int] | None = None,
    counts: npt.ArrayLike | None = None,
    seed: int = 0,
    mode: Mode | None = None,
    **config: Any,
) -> Any:
    """A compressed embedding to train in place of `torch.nn.Embedding`.

    Parameters
    ----------
    method : one of `names()`.
    num_embeddings, embedding_dim : rows and dims, as in `nn.Embedding`.
    budget : bytes (int, "64MB"), ratio of the float32 bytes (0.1, "10%") or bits per dimension ("4bpd") of the exported
        table; solved to a configuration.
    field_sizes : sizes of the fields of a categorical data set, in place of `num_embeddings` or adding up to it: a
        `FieldEmbedding` of one module a field, each compressed only where that makes it smaller.
    counts : how often each id occurs in training data, an array of num_embeddings.
    seed : of the initial weights and of hashes: the same seed, the same module.
    mode : None for rows; "sum", "mean" or "max" for bags.
    config : fields of the storage method and training options of the module.

    Raises `ConfigError` for an unknown method, field or option; `BudgetError` naming the floor.
    """
    from .fields import FieldEmbedding

    cls, stored = module_class(method)
    if embedding_dim < 1:
        raise ConfigError(f"embedding_dim must be a positive integer, found {embedding_dim!r}; 16 is usual")
    if field_sizes is not None:
        total = sum(field_sizes)
        if num_embeddings not in (None, total):
            raise ConfigError(f"field_sizes must add up to num_embeddings {num_embeddings}, found {total}; drop one")
        return FieldEmbedding(method, field_sizes, embedding_dim, budget, _counts(counts, total), seed, mode, config)
    if num_embeddings is None:
        raise ConfigError("embedding needs num_embeddings or field_sizes, found neither; say how many rows there are")
    shape = TableShape(num_embeddings, embedding_dim)
    given = _counts(counts, num_embeddings)
    if cls.needs_counts and given is None:
        raise ConfigError(f"method {method!r} needs counts, how often each id occurs; pass counts=")
    if "seed" in _fields(stored):
        config["seed"] = seed
    options, _ = _split(cls, stored, config)
    return cls(solve(method, shape, budget, config), shape, counts=given, seed=seed, mode=mode, **options)


def solve(method: str, shape: TableShape, budget: Budget | None, config: dict[str, Any]) -> Any:
    """The resolved storage method of a module for a shape and a budget; `config` may hold training options too."""
    cls, stored = module_class(method)
    for name, value in cls.preset.items():
        if config.get(name, value) != value:
            raise ConfigError(f"{name} of module {method!r} must be {value!r}, found {config[name]!r}; leave it out")
    config = {**config, **cls.preset}
    limit = None if budget is None else parse_budget(budget, shape)
    options, own = _split(cls, stored, config)
    return cls.solve(Asked(registry.get(stored), shape, limit, own, {**cls.options, **options}))


def _split(
    cls: type[CompressedEmbedding], stored: str, config: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Training options, and fields of the storage method."""
    options = {k: v for k, v in config.items() if k in cls.options and k not in _fields(stored)}
    return options, {k: v for k, v in config.items() if k not in options}


def _fields(stored: str) -> set[str]:
    return {f.name for f in dataclasses.fields(registry.get(stored))}  # type: ignore[arg-type]


def _counts(counts: npt.ArrayLike | None, rows: int) -> npt.NDArray[Any] | None:
    if counts is None:
        return None
    given = np.asarray(counts)
    if given.shape != (rows,) or given.dtype.kind not in "iuf":
        raise ConfigError(f"counts must be {rows} numbers, found {given.dtype} of shape {given.shape}")
    if not np.isfinite(given).all() or (given < 0).any():
        raise ConfigError("counts must be finite and not negative, found others; mend them")
    return given
