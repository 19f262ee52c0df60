"""Click data in the formats it is published in, turned into memory-mapped ids once."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace

from . import generated, interactions, separated
from .cache import Mapped, load
from .source import Source

NAMES = (
    "ml-1m", "frappe", "criteo", "criteo-tb", "avazu", "interactions", "libfm", "parquet", "generated",
)  # fmt: skip

__all__ = ["NAMES", "Mapped", "Source", "load", "source"]


def source(given: Namespace) -> Source:
    """The source that the options of `python -m bench ctr` name.

    Raises `SourceNotFoundError`, which says where to get the data, and `SourceError`.
    """
    paths, rows, name, seed = given.path or [], given.rows, given.name, given.data_seed
    if given.data == "criteo":
        found = separated.criteo(paths, rows)
    elif given.data == "criteo-tb":
        found = separated.terabyte(paths, rows)
    elif given.data == "avazu":
        found = separated.avazu(paths, rows)
    elif given.data == "parquet":
        found = separated.of_parquet(paths, rows, given.label, name)
    elif given.data == "libfm":
        found = interactions.libfm(paths, rows, name)
    elif given.data == "interactions":
        found = interactions.of_pairs(paths, seed, name)
    elif given.data == "ml-1m":
        found = interactions.movielens(paths, seed)
    elif given.data == "frappe":
        found = interactions.frappe(paths, seed)
    else:
        found = generated.generated(rows or 1_000_000, given.fields, given.features, given.skew, seed, name)
    return replace(found, name=name or found.name, split="random" if given.split == "random" else found.split)
