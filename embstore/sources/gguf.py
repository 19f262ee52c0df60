"""GGUF models: the token embedding tensor, with the tokenizer's tokens as keys."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import SourceError
from ..method import FloatRows
from ._io import Cursor, FileReader, bad, bfloat16, missing, pick
from ._source import BaseSource, MatrixSource, first_line
from .keys import HeldKeys, is_utf8, not_utf8

MAGIC = b"GGUF"
DEFAULT = "token_embd.weight"
TOKENS = "tokenizer.ggml.tokens"
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
# Plain types by their GGML number; everything else is quantized in blocks.
PLAIN = {0: "<f4", 1: "<f2", 24: "i1", 25: "<i2", 26: "<i4", 27: "<i8", 28: "<f8"}
BF16, Q4_0, Q8_0 = 30, 2, 8
BLOCK = 32
MAX_STRING = 1 << 24


@dataclass(frozen=True, slots=True)
class Tensor:
    """Name, shape as rows x dims, GGML type and offset within the data."""

    shape: tuple[int, ...]
    kind: int
    offset: int


class _Parser:
    """Reads a GGUF header; every count is met by bytes before anything is held."""

    def __init__(self, name: str, read: Callable[[int], bytes], room: int) -> None:
        self.name = name
        self._read = read
        self._room = room
        self.at = 0
        self.tokens: list[bytes] = []
        self.alignment = 32

    def wrong(self, found: object) -> SourceError:
        return bad(self.name, "a valid GGUF header", found, "get the file again")

    def take(self, nbytes: int) -> bytes:
        data = self._read(nbytes)
        self.at += nbytes
        return data

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def count(self, least: int) -> int:
        """A count of things of at least `least` bytes each."""
        n: int = self.number("Q")
        if n * least > self._room - self.at:
            raise self.wrong(f"a count of {n} at byte {self.at - 8}")
        return n

    def string(self) -> bytes:
        n = self.count(1)
        if n > MAX_STRING:
            raise self.wrong(f"a string of {n} bytes")
        return self.take(n)

    def value(self, kind: int, key: bytes, depth: int = 0) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.string()
        if kind != ARRAY or depth > 4:
            raise self.wrong(f"a value of type {kind}")
        inner = self.number("I")
        if inner in SCALARS:
            left = self.count(struct.calcsize("<" + SCALARS[inner])) * struct.calcsize("<" + SCALARS[inner])
            while left:
                left -= len(self.take(min(left, 1 << 20)))
            return None
        n = self.count(8)
        if inner == STRING and key == TOKENS.encode():
            self.tokens = [self.string() for _ in range(n)]
            return None
        for _ in range(n):
            self.value(inner, b"", depth + 1)
        return None

    def header(self) -> dict[str, Tensor]:
        if self.take(4) != MAGIC:
            raise self.wrong("another magic number")
        version = self.number("I")
        if version not in (2, 3):
            raise bad(self.name, "GGUF version 2 or 3", version, "convert the model again with a current llama.cpp")
        ntensors, nfields = self.count(24), self.count(13)
        for _ in range(nfields):
            key = self.string()
            found = self.value(self.number("I"), key)
            if key == b"general.alignment":
                self.alignment = found
        if not isinstance(self.alignment, int) or not 1 <= self.alignment <= 1 << 20:
            raise self.wrong(f"an alignment of {self.alignment}")
        tensors = {}
        for _ in range(ntensors):
            name = self.string().decode("utf-8", "replace")
            ndims = self.number("I")
            if ndims > 8:
                raise self.wrong(f"a tensor of {ndims} dims")
            sizes = tuple(self.number("Q") for _ in range(ndims))
            tensors[name] = Tensor(sizes[::-1], self.number("I"), self.number("Q"))
        return tensors


def open_gguf(reader: FileReader, name: str | None) -> BaseSource:
    """`token_embd.weight`, or the 2-D tensor called `name`; F32, F16, BF16, Q8_0 and Q4_0 without the gguf package."""
    if reader.head(2) == b"\x1f\x8b":
        return _refuse_packed(reader)
    cursor = Cursor(reader)
    parser = _Parser(reader.name, cursor.read, reader.size)
    tensors = _header(parser)
    wanted = DEFAULT if name is None and DEFAULT in tensors else name
    tensor = tensors[pick(reader.name, "tensor", {n: t.shape for n, t in tensors.items()}, wanted)]
    rows, dims = tensor.shape
    base = -(-parser.at // parser.alignment) * parser.alignment
    decode: Callable[[npt.NDArray[np.uint8], int], npt.NDArray[Any]] | None
    if tensor.kind in PLAIN:
        dtype = np.dtype(PLAIN[tensor.kind])
        label, decode, width = dtype.name, None, dims * dtype.itemsize
    else:
        label, decode, width = _quantized(reader.name, tensor.kind, dims)
    keys = None
    if parser.tokens and (wanted in (None, DEFAULT) or len(parser.tokens) == rows):
        if len(parser.tokens) > rows:
            raise bad(reader.name, f"at most {rows} tokens", len(parser.tokens), "the model is damaged, get it again")
        for row, token in enumerate(parser.tokens):
            if not is_utf8(token):
                raise not_utf8(reader.name, row, token)
        keys = HeldKeys("string", [t.decode() for t in parser.tokens])
    return MatrixSource(
        reader,
        format="gguf",
        offset=base + tensor.offset,
        rows=rows,
        dims=dims,
        dtype=label,
        row_nbytes=width,
        decode=decode,
        keys=keys,
        fingerprint=f"-{wanted}",
    )


def _header(parser: _Parser) -> dict[str, Tensor]:
    tensors = parser.header()
    if not tensors:
        found = f"a vocabulary of {len(parser.tokens)} tokens and no tensors"
        raise bad(parser.name, "an embedding tensor", found, "use the GGUF file of the whole model")
    return tensors


def _refuse_packed(reader: FileReader) -> BaseSource:
    # Only the header is unpacked, to say what is wrong; tensors need a plain file.
    with gzip.open(reader.path) as stream:

        def read(n: int) -> bytes:
            try:
                data = stream.read(n)
            except (EOFError, OSError, zlib.error) as error:
                raise bad(reader.name, "whole gzip data", first_line(error), "get the file again") from None
            if len(data) != n:
                raise bad(reader.name, f"{n} more bytes", len(data), "it is truncated, get the file again")
            return data

        _header(_Parser(reader.name, read, reader.size * 1032))
    raise bad(reader.name, "a plain GGUF file", "it packed with gzip", "unpack it with gunzip first")


def _quantized(name: str, kind: int, dims: int) -> tuple[str, Callable[[npt.NDArray[np.uint8], int], Any], int]:
    if kind == BF16:
        return "bfloat16", lambda raw, _: bfloat16(raw.view("<u2")), 2 * dims
    if kind in (Q8_0, Q4_0):
        if dims % BLOCK:
            raise bad(name, f"dims divided by {BLOCK}", dims, "the header is damaged, get the file again")
        decode, width = (decode_q8_0, 34) if kind == Q8_0 else (decode_q4_0, 18)
        return ("Q8_0" if kind == Q8_0 else "Q4_0"), lambda raw, _: decode(raw), dims // BLOCK * width
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize
    except ImportError:
        raise missing(f"gguf (for tensor type {kind})", "gguf") from None
    try:
        known = GGMLQuantizationType(kind)
    except ValueError:
        raise bad(name, "a known tensor type", kind, "update the gguf package") from None
    values, width = GGML_QUANT_SIZES[known]
    if dims % values:
        raise bad(name, f"dims divided by {values}", dims, "the header is damaged, get the file again")

    def other(raw: npt.NDArray[np.uint8], _: int) -> npt.NDArray[Any]:
        try:
            return np.asarray(dequantize(raw, known))
        except NotImplementedError:
            raise bad(name, "a tensor type that gguf can decode", known.name, "convert the tensor to F16") from None

    return known.name, other, math.ceil(dims / values) * width


def decode_q8_0(raw: npt.NDArray[np.uint8]) -> FloatRows:
    """Blocks of a float16 scale and 32 int8 values."""
    blocks = raw.reshape(-1, 34)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    return (blocks[:, 2:].view(np.int8) * scale).reshape(len(raw), -1)


def decode_q4_0(raw: npt.NDArray[np.uint8]) -> FloatRows:
    """Blocks of a float16 scale and 16 bytes: values 0..15 in the low halves, 16..31 in the high, less 8."""
    blocks = raw.reshape(-1, 18)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    codes = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1).astype(np.int8) - np.int8(8)
    return (codes * scale).reshape(len(raw), -1)
