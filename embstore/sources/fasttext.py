"""fastText `.bin` and quantized `.ftz` models: both layouts, word vectors and subword buckets."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..method import FloatRows
from ._fasttext_matrix import Matrix, read_matrix
from ._io import Cursor, FileReader, bad, table_shape
from ._source import BaseSource, Block
from .base import KeyType, Subwords
from .keys import Take, is_utf8, not_utf8

MAGIC = 793712314
SUPERVISED = 3
GATHER_BYTES = 1 << 25
EOS = b"</s>"


@dataclass(frozen=True, slots=True)
class Args:
    """The arguments a model was trained with, as far as its vectors depend on them."""

    dim: int
    loss: int
    model: int
    bucket: int
    minn: int
    maxn: int

    @property
    def plausible(self) -> bool:
        return (
            1 <= self.dim <= 2**20
            and 1 <= self.loss <= 4
            and 1 <= self.model <= 3
            and 0 <= self.bucket <= 2**31 - 1
            and 0 <= self.minn <= 1000
            and 0 <= self.maxn <= 1000
        )


def read_args(cursor: Cursor) -> Args:
    v = struct.unpack("<12id", cursor.read(56))
    return Args(dim=v[0], loss=v[6], model=v[7], bucket=v[8], minn=v[9], maxn=v[10])


def fits_without_magic(reader: FileReader) -> bool:
    """Whether the file starts with sane arguments and a dictionary whose counts add up (files before the magic)."""
    if reader.size < 76:
        return False
    cursor = Cursor(reader)
    args = read_args(cursor)
    size, words, labels = struct.unpack("<3i", cursor.read(12))
    return args.plausible and args.bucket >= 0 and words > 0 and labels >= 0 and size == words + labels


class Words:
    """The dictionary's words as one block of bytes; a list of millions of objects would cost far more."""

    key_type: KeyType = "string"

    def __init__(self, name: str, data: bytes, ends: npt.NDArray[np.int64], fingerprint: str) -> None:
        self._name = name
        self._data = data
        self._ends = ends
        self.count = len(ends)
        self.fingerprint = fingerprint

    def slice(self, start: int, stop: int) -> list[bytes]:
        if start >= self.count:
            return []
        at = int(self._ends[start - 1]) if start else 0
        out = []
        for end in self._ends[start:stop].tolist():
            out.append(self._data[at:end])
            at = end
        return out

    def cursor(self, start: int) -> Take:
        at = start

        def take(n: int) -> list[str]:
            nonlocal at
            words = self.slice(at, at + n)
            for i, word in enumerate(words):
                if not is_utf8(word):
                    raise not_utf8(self._name, at + i, word)
            at += n
            return [word.decode() for word in words]

        return take


class SubwordSource(BaseSource):
    """Words first, each the mean of its own row and its n-grams' buckets; then the buckets themselves.

    `matrix` holds the words' own rows, then the buckets. Of a pruned model it has those in `subwords.kept` only, in an
    order of its own: the place of each is in `places`.
    """

    def __init__(
        self,
        name: str,
        format: str,
        fingerprint: str,
        words: Words,
        matrix: Matrix,
        subwords: Subwords,
        *,
        places: npt.NDArray[np.int64] | None = None,
        whole: bytes | None = EOS,
    ) -> None:
        keep = bool(subwords.maxn and subwords.buckets)
        dtype = "product-quantized" if matrix.quantized else "float32"
        shape = table_shape(name, words.count + (subwords.rows if keep else 0), matrix.dims)
        super().__init__(name, format, shape, dtype, fingerprint, words)
        if keep:
            self.subwords = subwords
        self._matrix = matrix
        self._words = words
        self._buckets = subwords
        self._places = places
        self._whole = whole
        self.on_close: Callable[[], object] | None = None
        self._ngrams = (subwords.minn, subwords.maxn, subwords.buckets if subwords.maxn else 0)

    def _blocks(self, max_rows: int, start: int) -> Iterator[Block]:
        total, words = self.shape.num_embeddings, self._words.count
        per_gather = max(1, GATHER_BYTES // (4 * self.shape.embedding_dim))
        for at in range(start, total, max_rows):
            stop = min(at + max_rows, total)
            rows = np.empty((stop - at, self.shape.embedding_dim), np.float32)
            # About 24 n-grams a word is usual; the gather below cuts further where words are long.
            step = max(1, per_gather // 24)
            for lo in range(at, min(stop, words), step):
                hi = min(lo + step, stop, words)
                self._word_vectors(lo, hi, rows[lo - at : hi - at], per_gather)
            for lo in range(max(at, words), stop, per_gather):
                hi = min(lo + per_gather, stop)
                rows[lo - at : hi - at] = self._matrix.gather(self._bucket_rows(np.arange(lo, hi) - words))
            self._matrix.drop()
            yield rows, None

    def _bucket_rows(self, place: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return self._words.count + (place if self._places is None else self._places[place])

    def _word_vectors(self, start: int, stop: int, out: FloatRows, per_gather: int) -> None:
        own = np.arange(start, stop)
        if not self._ngrams[2]:
            out[:] = self._matrix.gather(own)
            return
        owner, bucket = ngram_buckets(self._words.slice(start, stop), *self._ngrams, whole=self._whole)
        known, place = self._buckets.find(bucket)
        owner, place = owner[known], place[known]
        counts = np.bincount(owner, minlength=stop - start) + 1
        begins = np.cumsum(counts) - counts
        ids = np.empty(int(counts.sum()), np.int64)
        ids[begins] = own
        rest = np.ones(len(ids), bool)
        rest[begins] = False
        ids[rest] = self._bucket_rows(place)
        scale = (1.0 / counts).astype(np.float32)
        lo = 0
        while lo < len(counts):
            hi = max(lo + 1, int(np.searchsorted(begins, begins[lo] + per_gather)))
            end = begins[hi] if hi < len(begins) else len(ids)
            rows = self._matrix.gather(ids[begins[lo] : end])
            out[lo:hi] = np.add.reduceat(rows, begins[lo:hi] - begins[lo], axis=0)
            lo = hi
        out *= scale[:, None]

    def close(self) -> None:
        if self.on_close is not None:
            self.on_close()


def ngram_buckets(
    words: list[bytes], minn: int, maxn: int, buckets: int, *, whole: bytes | None = EOS
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The words' character n-grams: the index of the word and the bucket of each, in fastText's order.

    The word `whole` has none.
    All start characters advance together, one character at a time, so the work is in numpy and not per n-gram.
    """
    framed = [b"<" + w + b">" if w != whole else b"" for w in words]
    data = np.frombuffer(b"".join(framed), np.uint8)
    sizes = np.fromiter(map(len, framed), np.int64, len(framed))
    starts = np.flatnonzero((data & 0xC0) != 0x80)
    if not len(starts):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    word_of_byte = np.repeat(np.arange(len(framed)), sizes)
    word = word_of_byte[starts]
    first_char = np.searchsorted(word, np.arange(len(framed)))
    end_char = np.searchsorted(word, np.arange(len(framed)), side="right")[word]
    signed = data.view(np.int8).astype(np.int32).view(np.uint32)
    width = np.diff(np.append(starts, len(data)))
    chars = np.arange(len(starts))
    hashes = np.full(len(starts), 2166136261, np.uint32)
    found: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32], int]] = []
    live = chars
    for n in range(1, maxn + 1):
        live = live[live + n <= end_char[live]]
        last = live + n - 1
        for k in range(int(width[last].max()) if len(last) else 0):
            some = width[last] > k
            at = live[some]
            hashes[at] = (hashes[at] ^ signed[starts[last[some]] + k]) * np.uint32(16777619)
        if n >= minn:
            keep = live
            if n == 1:
                keep = live[(live != first_char[word[live]]) & (live + 1 != end_char[live])]
            found.append((keep, hashes[keep], n))
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    begin = np.concatenate([f[0] for f in found])
    order = np.argsort(begin * (maxn + 1) + np.repeat([f[2] for f in found], [len(f[0]) for f in found]))
    bucket = np.concatenate([f[1] for f in found])[order].astype(np.int64) % buckets
    return word[begin[order]], bucket


def open_fasttext(reader: FileReader) -> BaseSource:
    """A `.bin` or `.ftz` model."""
    cursor = Cursor(reader)
    (magic,) = struct.unpack("<i", reader.read(0, 4))
    version = 0
    if magic == MAGIC:
        _, version = struct.unpack("<ii", cursor.read(8))
        if version not in (11, 12):
            raise bad(reader.name, "fastText version 11 or 12", version, "save it with a current fastText")
    args = read_args(cursor)
    if not args.plausible:
        raise bad(reader.name, "sane fastText arguments", args, "get the file again")
    words, pruned = _read_dictionary(reader, cursor, version)
    kept, places = (None, None) if pruned is None else _pruning(reader, pruned, args.bucket)
    quantized = bool(cursor.read(1)[0]) if version else False
    matrix = read_matrix(cursor, quantized)
    quantized = bool(cursor.read(1)[0]) and quantized if version else False
    read_matrix(cursor, quantized)
    if cursor.offset != reader.size:
        raise bad(reader.name, f"{cursor.offset} bytes as its counts say", reader.size, "get the file again")
    rows = words.count + (args.bucket if kept is None else len(kept))
    if matrix.dims != args.dim or matrix.rows != rows:
        raise bad(reader.name, f"a {rows} x {args.dim} matrix", f"{matrix.rows} x {matrix.dims}", "get the file again")
    # Supervised models had no character n-grams before version 12.
    maxn = 0 if version <= 11 and args.model == SUPERVISED else args.maxn
    source = SubwordSource(
        reader.name,
        "fasttext",
        reader.fingerprint,
        words,
        matrix,
        Subwords(args.minn, maxn, args.bucket, words.count, kept),
        places=places,
        # Before the magic number, the end of sentence had n-grams like any word.
        whole=EOS if version else None,
    )
    source.on_close = reader.close
    return source


def _read_dictionary(reader: FileReader, cursor: Cursor, version: int) -> tuple[Words, npt.NDArray[np.int64] | None]:
    """The words, and the (bucket, place) pairs of a pruned model."""
    size, nwords, nlabels, _ = struct.unpack("<3iq", cursor.read(20))
    pruned = struct.unpack("<q", cursor.read(8))[0] if version else -1
    if min(size, nwords, nlabels) < 0 or size != nwords + nlabels:
        raise bad(reader.name, f"{nwords} words and {nlabels} labels", size, "get the file again")
    if cursor.offset + 10 * size + 8 * max(pruned, 0) > reader.size:
        raise reader.short(cursor.offset + 10 * size + 8 * max(pruned, 0))
    ends = np.empty(nwords, np.int64)
    text = bytearray()
    with mmap.mmap(reader._file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = cursor.offset
        for i in range(size):
            end = data.find(b"\0", at)
            if end < 0 or end + 10 > reader.size:
                raise reader.short(reader.size + 10)
            if data[end + 9] != (i >= nwords):
                raise bad(reader.name, f"{nwords} words before the labels", f"entry {i} out of order", "get it again")
            if i < nwords:
                text += data[at:end]
                ends[i] = len(text)
            at = end + 10
    cursor.offset = at
    words = Words(reader.name, bytes(text), ends, reader.fingerprint)
    if pruned < 0:
        return words, None
    return words, np.frombuffer(cursor.read(8 * pruned), "<i4").reshape(-1, 2).astype(np.int64)


def _pruning(
    reader: FileReader, pairs: npt.NDArray[np.int64], buckets: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The buckets that a pruned model keeps, ascending, and the place of each in its matrix."""
    kept, places = pairs[np.argsort(pairs[:, 0])].T
    if len(kept) and not (kept[0] >= 0 and kept[-1] < buckets and (np.diff(kept) > 0).all()):
        raise bad(reader.name, f"different pruned buckets below {buckets}", "others", "get the file again")
    if len(places) and not (places.min() >= 0 and places.max() < len(kept)):
        raise bad(reader.name, f"pruned buckets below {len(kept)}", int(places.max()), "get the file again")
    return kept, places
