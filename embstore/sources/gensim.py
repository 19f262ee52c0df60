"""gensim's saved vectors and models (`.kv`, `.mdl`, `.model`, `.dat`), with their `.npy` files beside them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..errors import SourceError
from ._fasttext_matrix import Stacked
from ._io import FileReader, bad, pick
from ._source import ArraySource, BaseSource
from ._unpickle import Array, Inert, load
from .base import Subwords
from .fasttext import SubwordSource, Words
from .keys import HeldKeys, Keys
from .npy import open_npy

VECTORS = ("vectors", "syn0")
NGRAMS = ("vectors_vocab", "vectors_ngrams")
WORDS = ("index_to_key", "index2word", "index2entity")
PARTS = ("wv", "docvecs", "dv")


def open_gensim(reader: FileReader, name: str | None) -> BaseSource:
    """The word vectors; `name` picks another part of a model, "dv" for example."""
    with open(reader.path, "rb") as file:
        root = load(reader.name, file, reader.size)
        if file.read(1):
            raise bad(reader.name, "one pickle", "more bytes after it", "get the file again")
    if not isinstance(root, Inert) or not root.state:
        raise bad(
            reader.name, "a gensim model", f"a pickled {type(root).__name__}", "save the vectors with KeyedVectors.save"
        )
    parts = _parts(root, str(reader.path))
    if name is None and "wv" in parts:
        name = "wv"
    chosen = pick(reader.name, "part", {n: ("rows", "dims") for n in parts}, name)
    state, path = parts[chosen]
    keys = _keys(reader.name, state)
    if _has(state, *NGRAMS):
        return _subwords(reader, state, path, chosen)
    attribute = next((a for a in VECTORS if _has(state, a)), None)
    if attribute is None:
        raise bad(
            reader.name, "a vectors array", ", ".join(sorted(state))[:120] or "nothing", "save it as KeyedVectors"
        )
    source = _vectors(reader, state, attribute, path, chosen)
    if keys is not None:
        if keys.count != source.shape.num_embeddings:
            raise bad(
                reader.name, f"{source.shape.num_embeddings} keys", keys.count, "the file is damaged, get it again"
            )
        source._use(keys)
    return source


def _parts(root: Inert, path: str) -> dict[str, tuple[dict[str, Any], str]]:
    """The parts of a model that hold vectors, each with the path its side files start with."""
    parts = {}
    if _has_vectors(root.state):
        parts["vectors"] = (root.state, path)
    for name in PARTS:
        part = root.state.get(name)
        if isinstance(part, Inert) and _has_vectors(part.state):
            parts[name] = (part.state, f"{path}.{name}")
    return parts


def _has(state: dict[str, Any], *attributes: str) -> bool:
    return all(state.get(a) is not None or a in _beside(state) for a in attributes)


def _has_vectors(state: dict[str, Any]) -> bool:
    return any(_has(state, a) for a in VECTORS) or _has(state, *NGRAMS)


def _beside(state: dict[str, Any]) -> list[str]:
    names = state.get("__numpys")
    return [n for n in names if isinstance(n, str)] if isinstance(names, list) else []


def _vectors(reader: FileReader, state: dict[str, Any], attribute: str, path: str, part: str) -> BaseSource:
    if attribute in _beside(state):
        side = f"{path}.{attribute}.npy"
        if not os.path.exists(side):
            shown = os.path.basename(side)
            raise SourceError(f"source {reader.name!r} needs the file {shown!r} beside it, found none; copy both files")
        source = open_npy(FileReader(side), format="gensim")
        source.name = reader.name
        source._fingerprint = f"{reader.fingerprint}-{part}-{source._fingerprint}"
        return source
    held = state[attribute]
    value = held.value if isinstance(held, Array) else None
    if not isinstance(value, np.ndarray):
        raise bad(reader.name, f"a number array {attribute!r}", type(held).__name__, "save it again as KeyedVectors")
    source = ArraySource(value, name=reader.name, format="gensim")
    source._fingerprint = f"{reader.fingerprint}-{part}"
    return source


def _subwords(reader: FileReader, state: dict[str, Any], path: str, part: str) -> BaseSource:
    """gensim's fastText vectors: the words' own rows and the n-gram buckets, from which it makes the vectors."""
    words = next((state[a] for a in WORDS if isinstance(state.get(a), list)), None)
    sizes: list[Any] = [state.get(a) for a in ("min_n", "max_n", "bucket")]
    if not words or not all(type(w) is str for w in words) or not all(type(n) is int and 0 <= n < 2**31 for n in sizes):
        raise bad(reader.name, "words, min_n, max_n and bucket", "others", "use save_word2vec_format instead")
    arrays = []
    for attribute in NGRAMS:
        if attribute in _beside(state):
            source = _vectors(reader, state, attribute, path, part)
            source.close()
            arrays.append(np.load(f"{path}.{attribute}.npy", mmap_mode="r", allow_pickle=False))
        else:
            held = state[attribute]
            arrays.append(held.value if isinstance(held, Array) else None)
    own, buckets = arrays
    # Models from before gensim 3.8 hashed otherwise.
    if state.get("compatible_hash") is False:
        raise bad(reader.name, "fastText's own n-gram hash", "gensim's old one", "use save_word2vec_format instead")
    minn, maxn, bucket = sizes
    for array, rows in ((own, len(words)), (buckets, bucket)):
        if (
            not isinstance(array, np.ndarray)
            or array.ndim != 2
            or len(array) != rows
            or array.shape[1:] != own.shape[1:]
        ):
            raise bad(reader.name, f"a matrix of {rows} rows", "another", "the file is damaged, get it again")
    encoded = [w.encode("utf-8", "surrogatepass") for w in words]
    ends = np.cumsum([len(w) for w in encoded])
    mark = f"{reader.fingerprint}-{part}"
    held_words = Words(reader.name, b"".join(encoded), ends, mark)
    subwords = Subwords(minn, maxn, bucket, len(words))
    return SubwordSource(reader.name, "gensim", mark, held_words, Stacked(own, buckets), subwords, whole=None)


def _keys(name: str, state: dict[str, Any]) -> Keys | None:
    for attribute in WORDS:
        words = state.get(attribute)
        if isinstance(words, Array):
            words = words.value
        if not isinstance(words, list):
            continue
        if all(type(w) is str for w in words):
            return HeldKeys("string", words)
        if all(type(w) is int and -(2**63) <= w < 2**63 for w in words):
            return HeldKeys("int64", np.array(words, np.int64))
        row = next(i for i, w in enumerate(words) if type(w) is not type(words[0]) or type(w) not in (str, int))
        raise bad(name, "keys all str or all int", type(words[row]).__name__ + f" in row {row}", "rename that key")
    return None
