"""What a key that is not in the table gives: an error, zeros, a row, or a vector made from its characters.

**"ngrams"**, for string keys of any table. Written so that every machine and language gives the same bits:

1. ``text = "<" + key + ">"``. Its n-grams are all its substrings of 3 to 6 characters (Unicode code points); when
   there is none, ``text`` itself is the only one.
2. Per n-gram ``h`` is the 64-bit FNV-1a of its UTF-8 (``h = 0xcbf29ce484222325``; per byte
   ``h = (h ^ byte) * 0x100000001b3``; a lone surrogate is encoded as its three bytes).
3. splitmix64 seeded with ``h`` gives one number per dimension ``j = 0, 1, …``::

       z = h + (j + 1) * 0x9e3779b97f4a7c15
       z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;  z = (z ^ z >> 27) * 0x94d049bb133111eb;  z = z ^ z >> 31

   of which ``v = (z >> 40) - 2**23`` stands for ``v / 2**23``, uniform in [-1, 1).
4. ``sums[j]`` is the sum of ``v`` over the n-grams and ``squares`` the sum of ``sums[j] ** 2``, both exact
   integers. The vector is ``float32(sums[j] * (norm / sqrt(float64(squares))))``, in float64 until the last step:
   the mean over the n-grams, scaled to ``norm``. It is zero when ``squares`` is.

**"subwords"**, for tables made from a fastText model: fastText's own vector, the mean of the rows of the
word's subword buckets (`subword_rows`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt

from .errors import ConfigError, IdRangeError

if TYPE_CHECKING:
    from .sources.base import KeyType, Subwords

Kind = Literal["raise", "zeros", "row", "ngrams", "subwords"]

NGRAM_MIN: Final = 3
NGRAM_MAX: Final = 6

_M64: Final = 2**64 - 1
_ROW: Final = np.uint64
_CHOICES: Final = 'oov must be "raise", "zeros", a row id, "ngrams" or "subwords"'


@dataclass(frozen=True, slots=True)
class OovPolicy:
    """A checked policy.

    Attributes
    ----------
    kind : "raise", "zeros", "row", "ngrams" or "subwords".
    row : the row unknown keys give, for the kind "row"; -1 otherwise.
    """

    kind: Kind
    row: int = -1


RAISE: Final = OovPolicy("raise")


def parse(
    oov: str | int | OovPolicy,
    *,
    num_embeddings: int,
    key_type: KeyType | None = "string",
    subwords: Subwords | None = None,
) -> OovPolicy:
    """The policy a user named, checked against the table.

    Raises
    ------
    ConfigError : not a policy, or one that this table cannot serve.
    IdRangeError : a row id that is not in the table.
    """
    if isinstance(oov, OovPolicy):
        oov = oov.row if oov.kind == "row" else oov.kind
    if isinstance(oov, (bool, np.bool_)) or not (isinstance(oov, str) or hasattr(oov, "__index__")):
        raise ConfigError(f"{_CHOICES}, found {type(oov).__name__} {oov!r}; pass one of these")
    if not isinstance(oov, str):
        row = oov.__index__()
        if not 0 <= row < num_embeddings:
            raise IdRangeError(
                f"oov as a row id must be from 0 to {num_embeddings - 1}, found {row}; pass a row of the table"
            )
        return OovPolicy("row", row)
    if oov == "raise":
        return RAISE
    if oov == "zeros":
        return OovPolicy("zeros")
    if oov == "ngrams":
        if key_type != "string":
            raise ConfigError(
                f'oov="ngrams" needs string keys, found {key_type or "no"} keys; use oov="zeros" or a row id'
            )
        return OovPolicy("ngrams")
    if oov == "subwords":
        if subwords is None:
            raise ConfigError(
                'oov="subwords" needs a table made from a fastText model with its subword buckets, found a table '
                'without them; compress the model\'s .bin file, or use oov="ngrams"'
            )
        return OovPolicy("subwords")
    raise ConfigError(f"{_CHOICES}, found {oov!r}; pass one of these")


def _ngrams(text: str, least: int, most: int) -> list[str]:
    found = [text[i : i + n] for i in range(len(text)) for n in range(least, most + 1) if i + n <= len(text)]
    return found or [text]


def _fnv1a64(data: bytes) -> int:
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & _M64
    return h


def ngram_vector(key: str, embedding_dim: int, norm: float = 1.0) -> npt.NDArray[np.float32]:
    """The "ngrams" vector of a key: float32 of shape (embedding_dim,) and length `norm` (module docstring).

    Keys that share n-grams get similar vectors; the same key gives the same bits on every machine.
    """
    grams = _ngrams(f"<{key}>", NGRAM_MIN, NGRAM_MAX)
    seeds = np.array([_fnv1a64(gram.encode("utf-8", "surrogatepass")) for gram in grams], np.uint64)
    steps = np.arange(1, embedding_dim + 1, dtype=np.uint64) * _ROW(0x9E3779B97F4A7C15)
    sums = np.zeros(embedding_dim, np.int64)
    block = max(1, (1 << 20) // embedding_dim)
    for start in range(0, len(seeds), block):
        z = seeds[start : start + block, None] + steps
        z = (z ^ (z >> _ROW(30))) * _ROW(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> _ROW(27))) * _ROW(0x94D049BB133111EB)
        z ^= z >> _ROW(31)
        sums += ((z >> _ROW(40)).astype(np.int64) - 2**23).sum(axis=0)
    squares = sum(value * value for value in sums.tolist())
    if squares == 0:
        return np.zeros(embedding_dim, np.float32)
    return (sums.astype(np.float64) * (norm / math.sqrt(float(squares)))).astype(np.float32)


def subword_rows(word: str, subwords: Subwords) -> npt.NDArray[np.int64]:
    """Rows whose mean is fastText's vector of a word outside its vocabulary.

    The n-grams are those of ``minn`` to ``maxn`` characters of ``"<word>"``, in fastText's order, without the
    single ``"<"`` and ``">"``; the row of one is ``first_row + h % buckets``, where ``h`` is the 32-bit FNV-1a of its
    UTF-8 with each byte taken as a signed char (so bytes from 128 on flip the high bits too). A pruned model has rows
    for the buckets in ``kept`` only, in that order; n-grams of other buckets are left out, as fastText does.

    Empty when no n-gram has a row: fastText gives zeros then. (Its end-of-sentence word ``"</s>"`` has no n-grams.)

    Source: Bojanowski et al., "Enriching Word Vectors with Subword Information", 2017, and fastText's
    ``Dictionary::computeSubwords``.
    """
    if subwords.buckets < 1 or subwords.maxn < 1 or word == "</s>":
        return np.empty(0, np.int64)
    text = [char.encode("utf-8", "surrogatepass") for char in f"<{word}>"]
    found = []
    for i in range(len(text)):
        h = 0x811C9DC5
        for n, char in enumerate(text[i : i + subwords.maxn], 1):
            for byte in char:
                h = ((h ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 0x01000193) & 0xFFFFFFFF
            if n >= subwords.minn and not (n == 1 and i in (0, len(text) - 1)):
                found.append(h % subwords.buckets)
    known, places = subwords.find(np.array(found, np.int64))
    return subwords.first_row + places[known]


def subword_bags(words: Sequence[str], subwords: Subwords) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """`subword_rows` of many words as (input, offsets) of a bag.

    Both int64; `offsets` has one entry per word. A word without n-grams is an empty bag, which gives zeros.
    """
    rows = [subword_rows(word, subwords) for word in words]
    offsets = np.zeros(len(rows), np.int64)
    offsets[1:] = np.cumsum([len(r) for r in rows], dtype=np.int64)[:-1]
    return (np.concatenate(rows) if rows else np.empty(0, np.int64)), offsets
