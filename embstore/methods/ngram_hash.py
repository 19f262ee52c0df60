"""Rows computed from the characters of their keys (EELBERT: Cohn et al., EMNLP 2023 industry, arXiv 2310.20144)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import BudgetError, ConfigError
from ..method import FloatRows, Ids, Named
from ._hashing import FIRST, GOLDEN, SECOND, check_seed
from ._trained import TrainedMethod, random_floats

MOST = 2**16
LONGEST = 64
_M64 = 2**64 - 1
_GRAMS = 4096


@dataclass(frozen=True)
class NgramHash(TrainedMethod):
    """Row = pseudo-random features of the key's character n-grams, times one trained matrix: no row is stored.

    So a table has a row for every string, known or not, and words that share parts have like rows. The features of
    n-grams are those of `oov="ngrams"` (see `embstore.oov`); a key's are their sum over the square root of how many
    there are, scaled to a mean square of 1. The paper hashes by Rabin and Karp, and averages each length by itself.

    What is stored beside the matrix are the keys, for lookups by id. A table of no rows needs none.

    Parameters
    ----------
    features : of a key; None for 128, or, without a projection, the length of a row.
    least, most : characters of an n-gram, of "<key>".
    projection : False for rows that are the features themselves, as in the paper: then nothing is trained.
    seed : of the hashes.
    """

    id: ClassVar[str] = "ngram_hash"
    shorthand: ClassVar[tuple[str, ...]] = ("features",)
    native_tolerance: ClassVar[float] = 1e-6

    features: int | None = None
    least: int = 3
    most: int = 6
    projection: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.features is not None and (type(self.features) is not int or not 1 <= self.features <= MOST):
            raise ConfigError(
                f"features of ngram_hash must be from 1 to {MOST}, found {self.features!r}; leave it out for 128"
            )
        if type(self.least) is not int or type(self.most) is not int or not 1 <= self.least <= self.most <= LONGEST:
            raise ConfigError(
                f"least and most of ngram_hash must be 1 <= least <= most <= {LONGEST}, found {self.least!r} and "
                f"{self.most!r}; 3 and 6 suit most languages"
            )
        if type(self.projection) is not bool:
            raise ConfigError(f"projection of ngram_hash must be True or False, found {self.projection!r}; choose one")
        check_seed(self.id, self.seed)

    def resolve(self, shape: TableShape) -> Self:
        features = self.features or (128 if self.projection else shape.embedding_dim)
        if not self.projection and features != shape.embedding_dim:
            raise ConfigError(
                f"features of ngram_hash without a projection must be the {shape.embedding_dim} values of a row, "
                f"found {features}; leave it out"
            )
        return dataclasses.replace(self, features=features)

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        keys = (
            ArraySpec("offsets", "uint64", (shape.num_embeddings + 1,), "shared"),
            ArraySpec("text", "uint8", ("text_nbytes",), "shared"),
        )
        if not self.projection:
            return keys
        return (
            ArraySpec("weight0", "float32", (self.features or 1, shape.embedding_dim), "shared"),
            ArraySpec("bias0", "float32", (shape.embedding_dim,), "shared"),
            *keys,
        )

    def free_sizes(self, shape: TableShape) -> dict[str, int]:
        """Eight bytes a key, for reports."""
        return {"text_nbytes": 8 * shape.num_embeddings}

    def for_budget(self, shape: TableShape, nbytes: int) -> Self:
        one = dataclasses.replace(self, features=self.features or (1 if self.projection else shape.embedding_dim))
        cost = sum(spec.nbytes(**self.free_sizes(shape)) for spec in one.layout(shape))
        if cost > nbytes:
            raise BudgetError(
                f"ngram_hash needs at least {cost:,} bytes with {one.features} features, keys counted, found a budget "
                f"of {nbytes:,}; raise it",
                floor=cost,
            )
        if self.features is None and self.projection:
            widest = 1 + (nbytes - cost) // (4 * shape.embedding_dim)
            one = dataclasses.replace(one, features=min(widest, MOST))
        return one.resolve(shape)

    def keyed(self, keys: Sequence[str]) -> Named:
        """The arrays `offsets` and `text` of a table whose rows are those of `keys`."""
        texts = [key.encode("utf-8", "surrogatepass") for key in keys]
        offsets = np.zeros(len(texts) + 1, np.uint64)
        np.cumsum([len(text) for text in texts], out=offsets[1:])
        return {"offsets": offsets, "text": np.frombuffer(b"".join(texts), np.uint8)}

    def gram_hashes(self, key: bytes) -> list[int]:
        """64-bit FNV-1a of each n-gram of "<key>", UTF-8; of all of it where it has none."""
        marked = b"<" + key + b">"
        begins = [i for i, byte in enumerate(marked) if byte & 0xC0 != 0x80] + [len(marked)]
        found = []
        for first in range(len(begins) - 1):
            h = 0xCBF29CE484222325 ^ self.seed
            for count in range(1, min(self.most, len(begins) - 1 - first) + 1):
                h = _fnv1a(h, marked[begins[first + count - 1] : begins[first + count]])
                if count >= self.least:
                    found.append(h)
        return found or [_fnv1a(0xCBF29CE484222325 ^ self.seed, marked)]

    def encodings(self, arrays: Mapping[str, npt.NDArray[Any]], ids: Ids) -> npt.NDArray[np.float32]:
        """The features (n, features) of the keys of rows."""
        features = self.features or 1
        out = np.empty((len(ids), features), np.float32)
        for i, key in enumerate(_texts(arrays, ids)):
            hashes = np.array(self.gram_hashes(key), np.uint64)
            sums = np.zeros(features, np.int64)
            for first in range(0, len(hashes), _GRAMS):
                sums += hash_values(hashes[first : first + _GRAMS], features).sum(axis=0)
            out[i] = sums * (np.sqrt(3.0 / len(hashes)) / 2**23)
        return out

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        """In float64 but for the features, so that what kernels compute in float32 can be held against it."""
        unique, inverse = np.unique(ids, return_inverse=True)
        rows = self.encodings(arrays, unique)
        if self.projection:
            weight, bias = arrays["weight0"].astype(np.float64), arrays["bias0"].astype(np.float64)
            rows = (rows.astype(np.float64) @ weight + bias).astype(np.float32)
        out[...] = rows[inverse]

    def example(self, shape: TableShape, rng: np.random.Generator) -> Named:
        letters = np.array(list("abcdefghijk äßя漢🙂"))
        keys = ["".join(rng.choice(letters, rng.integers(0, 12))) for _ in range(shape.num_embeddings)]
        named = self.keyed(keys)
        if self.projection:
            features = self.features or 1
            named["weight0"] = random_floats(rng, features, shape.embedding_dim) * np.float32(features**-0.5)
            named["bias0"] = random_floats(rng, shape.embedding_dim)
        return named


def hash_values(hashes: npt.NDArray[np.uint64], features: int) -> npt.NDArray[np.int64]:
    """Numbers (n, features) from -2^23 to 2^23 - 1: SplitMix64 seeded with each hash."""
    z = hashes[:, None] + np.arange(1, features + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(SECOND)
    values: npt.NDArray[np.int64] = ((z ^ (z >> np.uint64(31))) >> np.uint64(40)).astype(np.int64) - 2**23
    return values


def _texts(arrays: Mapping[str, npt.NDArray[Any]], ids: Ids) -> Iterator[bytes]:
    """Keys of rows; what offsets leave beyond the text is left out, since opening does not check them."""
    offsets, text = arrays["offsets"], arrays["text"]
    for row in ids.tolist():
        first = min(int(offsets[row]), len(text))
        yield text[first : max(first, int(offsets[row + 1]))].tobytes()


def _fnv1a(h: int, data: bytes) -> int:
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & _M64
    return h
