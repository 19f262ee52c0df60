"""What a method stores as the FAISS index of the same codes, and such an index as what a method stores.

The two directions of a method stand together. The layouts are those of
`faiss/impl/ProductQuantizer.h`, `AdditiveQuantizer.h`, `ScalarQuantizer.h` and `RaBitQuantizer.cpp`: codes are packed
low bits first, as embstore packs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays
from ..errors import ConfigError
from ..kmeans import even_slices
from ..method import Method, Named
from ..methods._bits import packed_bytes
from ..methods.bfloat16 import BFloat16
from ..methods.float16 import Float16
from ..methods.float32 import Float32
from ..methods.int8 import Int8
from ..methods.pq import PQ
from ..methods.rabitq import RaBitQ
from ..methods.rq import RQ

F32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Shared = Mapping[str, npt.NDArray[Any]]

# The cures, where codes cannot be kept.
RE_ENCODE = "search.build_index encodes the rows anew"
DECODE = "compress(index.reconstruct_n(), ...) encodes its rows anew"


@dataclass(frozen=True)
class Stored:
    """The arrays of a table's method, without those of its transforms."""

    shared: Shared
    shards: Sequence[Arrays]


@dataclass(frozen=True)
class Coder:
    """An empty FAISS index that decodes as the method does, and what fills it.

    Attributes
    ----------
    codes : the bytes of the rows of a shard, (n, code_size).
    before : FAISS transforms that codes of this method need between the table's own transforms and the index.
    """

    index: Any
    codes: Callable[[Arrays], Bytes]
    before: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Decoded:
    """What an index's codes are here.

    Attributes
    ----------
    arrays : those of the method's layout.
    center : what decoding adds to every row, or None.
    """

    method: Method
    arrays: Named
    center: F32 | None = None


def array(vector: Any) -> npt.NDArray[Any]:
    """A copy of a FAISS vector."""
    import faiss

    found: npt.NDArray[Any] = faiss.vector_to_array(vector)
    return found


def code_bytes(index: Any, size: int) -> Bytes:
    """The codes of an index, (ntotal, size), where they lie; `ConfigError` where there are not as many."""
    import faiss

    count = index.codes.size()
    if index.ntotal < 1 or index.code_size != size or count != index.ntotal * size:
        raise ConfigError(
            f"a FAISS index must hold rows of {size} bytes, found {index.ntotal} rows in {count} bytes of codes; "
            "write the file again"
        )
    found: Bytes = faiss.rev_swig_ptr(index.codes.data(), count).reshape(index.ntotal, size)
    return found


def _values(name: str) -> Callable[[Arrays], Bytes]:
    def codes(shard: Arrays) -> Bytes:
        rows = np.ascontiguousarray(shard[name])
        return rows.reshape(len(rows), -1).view(np.uint8)

    return codes


def _sized(values: npt.NDArray[Any], count: int, what: str) -> npt.NDArray[Any]:
    if len(values) != count:
        raise ConfigError(f"{what} of a FAISS index must be {count} values, found {len(values)}; write the file again")
    return values


def _rounded(values: F32) -> tuple[npt.NDArray[Any], str]:
    """Values as float16 where that loses nothing, and the dtype they then have."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return (half, "float16") if np.array_equal(half, values, equal_nan=True) else (values, "float32")


# pq -----------------------------------------------------------------------------------------------------------


def spread(dim: int, m: int) -> npt.NDArray[np.int32]:
    """For each column of m slices of equal width which of `dim` columns it is, -1 for padding."""
    slices = even_slices(dim, m)
    width = max(last - first for first, last in slices)
    columns = np.full((m, width), -1, np.int32)
    for s, (first, last) in enumerate(slices):
        columns[s, : last - first] = np.arange(first, last)
    return columns.ravel()


def _pq_index(faiss: Any, method: PQ, stored: Stored, dim: int, metric: int) -> Coder:
    m = method.m or 1
    columns = spread(dim, m)
    codebooks = np.zeros((1 << method.bits, len(columns)), np.float32)
    codebooks[:, columns >= 0] = stored.shared["codebooks"][:, columns[columns >= 0]]
    index = faiss.IndexPQ(len(columns), m, method.bits, metric)
    tables = codebooks.reshape(len(codebooks), m, -1).transpose(1, 0, 2)
    faiss.copy_array_to_vector(np.ascontiguousarray(tables).ravel(), index.pq.centroids)
    index.is_trained = True
    if len(columns) == dim:
        return Coder(index, _values("codes"))
    remap = faiss.RemapDimensionsTransform(dim, len(columns), False)
    faiss.copy_array_to_vector(columns, remap.map)
    return Coder(index, _values("codes"), (remap,))


def _read_pq(index: Any, dim: int) -> Decoded:
    """`dim` is less than the index's where slices were made equal by padding."""
    m, bits = int(index.pq.M), int(index.pq.nbits)
    columns = spread(dim, m) if 1 <= m <= dim and 1 <= bits <= 16 else np.zeros(0, np.int32)
    if len(columns) != index.d:
        raise ConfigError(
            f"an IndexPQ must have 1 to {index.d} slices of 1 to 16 bits, found {m} of {bits} bits; {DECODE}"
        )
    tables = _sized(array(index.pq.centroids), index.d << bits, "centroids").reshape(m, 1 << bits, -1)
    flat = tables.transpose(1, 0, 2).reshape(1 << bits, -1)
    codebooks, dtype = _rounded(np.ascontiguousarray(flat[:, columns >= 0]))
    method = PQ(m=m, bits=bits, codebook_dtype=dtype)  # type: ignore[arg-type]
    return Decoded(method, {"codes": code_bytes(index, packed_bytes(m, bits)), "codebooks": codebooks})


# rq -----------------------------------------------------------------------------------------------------------


def _rq_index(faiss: Any, method: RQ, stored: Stored, dim: int, metric: int) -> Coder:
    index = faiss.IndexResidualQuantizer(dim, method.m, method.bits, metric)
    faiss.copy_array_to_vector(stored.shared["codebooks"].astype(np.float32).ravel(), index.rq.codebooks)
    index.rq.max_beam_size = method.beam
    index.rq.is_trained = index.is_trained = True
    return Coder(index, _values("codes"))


def _read_rq(index: Any, coder: Any) -> Decoded:
    """Of a residual or a local search quantizer, which decode alike; the norm after the codes is left out."""
    m, each = int(coder.M), {int(b) for b in array(coder.nbits)}
    bits = min(each, default=0)
    if len(each) != 1 or not 1 <= bits <= 16 or m < 1:
        raise ConfigError(
            f"codebooks of an {type(index).__name__} must have the same 1 to 16 bits, found {m} of {sorted(each)}; "
            f"{DECODE}"
        )
    values = _sized(array(coder.codebooks), m * (index.d << bits), "codebooks")
    codebooks, dtype = _rounded(values.reshape(m, 1 << bits, index.d))
    used = packed_bytes(m, bits)
    codes = code_bytes(index, max(used, int(index.code_size)))[:, :used]
    if m * bits % 8 and index.code_size * 8 > m * bits:
        codes = codes.copy()
        codes[:, -1] &= (1 << m * bits % 8) - 1
    beam = getattr(coder, "max_beam_size", RQ.beam)
    method = RQ(m=m, bits=bits, beam=min(max(int(beam), 1), 64), codebook_dtype=dtype)  # type: ignore[arg-type]
    return Decoded(method, {"codes": codes, "codebooks": codebooks})


# float32, float16, bfloat16 -------------------------------------------------------------------------------------


def _float32_index(faiss: Any, method: Float32, stored: Stored, dim: int, metric: int) -> Coder:
    return Coder(faiss.IndexFlat(dim, metric), _values("values"))


def _float16_index(faiss: Any, method: Float16, stored: Stored, dim: int, metric: int) -> Coder:
    return Coder(faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, metric), _values("values"))


def _bfloat16_index(faiss: Any, method: BFloat16, stored: Stored, dim: int, metric: int) -> Coder:
    return Coder(faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_bf16, metric), _values("values"))


def _read_flat(index: Any) -> Decoded:
    return Decoded(Float32(), {"values": code_bytes(index, 4 * index.d).view("<f4")})


# int8 -----------------------------------------------------------------------------------------------------------


def _int8_index(faiss: Any, method: Int8, stored: Stored, dim: int, metric: int) -> Coder:
    """QT_8bit_uniform is low + (code + 0.5) * width / 255, with one low and one width for the table."""
    kinds = faiss.ScalarQuantizer
    flip = np.uint8(0x80 if method.symmetric else 0)
    scale, offset = _one_affine(method, stored)
    kind = {(1.0, 0.0): kinds.QT_8bit_direct, (1.0, -128.0): kinds.QT_8bit_direct_signed}.get((scale, offset))
    index = faiss.IndexScalarQuantizer(dim, kinds.QT_8bit_uniform if kind is None else kind, metric)
    if kind is None:
        faiss.copy_array_to_vector(_uniform(scale, offset), index.sq.trained)
    index.is_trained = True
    return Coder(index, lambda shard: np.asarray(shard["codes"]).view(np.uint8) ^ flip)


def _one_affine(method: Int8, stored: Stored) -> tuple[float, float]:
    """Scale and offset of unsigned codes where the whole table has one of each; `ConfigError` where not."""
    if method.step is not None:
        return method.step, -128 * method.step if method.offset is None else method.offset
    if not method.symmetric and all(shard["affine"].shape[1] == 1 for shard in stored.shards):
        first = stored.shards[0]["affine"][0] if stored.shards else np.zeros((1, 2), np.float32)
        if all((shard["affine"] == first).all() for shard in stored.shards):
            return float(first[0, 0]), float(first[0, 1])
    raise ConfigError(
        "FAISS has no layout for int8 with a scale for each row or block, only for one for the whole table "
        f"(step=...); compress it so, or {RE_ENCODE}"
    )


def _uniform(scale: float, offset: float) -> F32:
    return np.array([offset - 0.5 * scale, 255.0 * scale], np.float32)


def _read_scalar(faiss: Any, index: Any) -> Decoded:
    kinds, kind, dim = faiss.ScalarQuantizer, index.sq.qtype, index.d
    if kind == kinds.QT_fp16:
        return Decoded(Float16(), {"values": code_bytes(index, 2 * dim).view("<f2")})
    if kind == getattr(kinds, "QT_bf16", None):
        return Decoded(BFloat16(), {"values": code_bytes(index, 2 * dim).view("<u2")})
    direct = {kinds.QT_8bit_direct: (1.0, 0.0), getattr(kinds, "QT_8bit_direct_signed", None): (1.0, -128.0)}
    if kind not in (*direct, kinds.QT_8bit_uniform):
        raise ConfigError(
            "of FAISS's scalar quantizers fp16, bf16, 8bit_uniform, 8bit_direct and 8bit_direct_signed have a method "
            f"here, found type {kind}, which has a range for each dimension or other bits; {DECODE}"
        )
    codes = code_bytes(index, dim)
    if kind in direct:
        scale, offset = direct[kind]
        low, width = _uniform(scale, offset).tolist()
    else:
        low, width = (float(v) for v in _sized(array(index.sq.trained), 2, "the range"))
        scale, offset = width / 255, low + 0.5 * width / 255
    step = float(np.float32(scale))
    usable = 1e-30 < step < 1e30 and abs(offset) < 1e30
    # Symmetric codes begin at -127.
    if usable and _uniform(step, -128 * step).tolist() == [low, width] and codes.min() > 0:
        signed = (codes ^ np.uint8(0x80)).view(np.int8)
        return Decoded(Int8(symmetric=True, step=step), {"codes": signed})
    if usable:
        return Decoded(Int8(step=step, offset=float(np.float32(offset))), {"codes": codes})
    affine, dtype = _rounded(np.array([scale, offset], np.float32))
    rows = np.broadcast_to(affine, (len(codes), 1, 2))
    return Decoded(Int8(scale_dtype=dtype), {"codes": codes, "affine": rows})  # type: ignore[arg-type]


# rabitq ---------------------------------------------------------------------------------------------------------


def _rabitq_index(faiss: Any, method: RaBitQ, stored: Stored, dim: int, metric: int) -> Coder:
    """A row is its signs times f / sqrt(dim); after the signs stand |row|² (0 for inner products) and f.

    FAISS trains an f that makes products with queries unbiased; ours has the least error. With |row| that of the
    decoded row a search compares queries, which are not rounded, with what rows decode to, as a table does.
    """
    if method.bits != 1:
        raise ConfigError(
            f"FAISS decodes RaBitQ codes of 1 bit only, found rabitq with {method.bits} bits; {RE_ENCODE}, or compress "
            "with rabitq1"
        )
    if not hasattr(faiss, "IndexRaBitQ"):
        raise ConfigError(f"faiss {faiss.__version__} has no IndexRaBitQ, which rabitq needs; upgrade it")
    index = faiss.IndexRaBitQ(dim, metric)
    index.qb = 0
    faiss.copy_array_to_vector(np.zeros(dim, np.float32), index.center)
    index.is_trained = True

    def codes(shard: Arrays) -> Bytes:
        scale = np.asarray(shard["scale"]).astype(np.float32)
        factors = np.zeros((len(scale), 2), np.float32)
        factors[:, 1] = _multiplier(scale, dim)
        if metric == faiss.METRIC_L2:
            factors[:, 0] = np.square(factors[:, 1])
        return np.concatenate([shard["codes"], factors.view(np.uint8)], axis=1)

    return Coder(index, codes)


def _multiplier(scale: npt.NDArray[Any], dim: int) -> F32:
    # Levels are +-0.5.
    return (scale.astype(np.float32) * np.float32(0.5 * np.sqrt(dim))).astype(np.float32)


def _read_rabitq(index: Any) -> Decoded:
    if getattr(index.rabitq, "nb_bits", 1) != 1:
        raise ConfigError(
            f"a RaBitQ index must have 1 bit a value, found {index.rabitq.nb_bits}, which FAISS itself decodes by the "
            "first alone; compress the rows it was made from"
        )
    dim = index.d
    signs = packed_bytes(dim, 1)
    codes = code_bytes(index, signs + 8)
    multiplier = np.ascontiguousarray(codes[:, signs + 4 :]).view("<f4")[:, 0]
    scale = multiplier / np.float32(0.5 * np.sqrt(dim))
    with np.errstate(over="ignore"):
        half = scale.astype(np.float16)
    kept = np.array_equal(_multiplier(half, dim), multiplier, equal_nan=True)
    center = array(index.center)
    method = RaBitQ(bits=1, scale_dtype="float16" if kept else "float32")
    bits = codes[:, :signs]
    if dim % 8:
        bits = bits.copy()
        bits[:, -1] &= (1 << dim % 8) - 1
    arrays = {"codes": bits, "scale": half if kept else scale}
    return Decoded(method, arrays, _sized(center, dim, "the center") if len(center) and center.any() else None)


Writer = Callable[[Any, Any, Stored, int, int], Coder]

WRITERS: dict[str, Writer] = {
    "pq": _pq_index,
    "rq": _rq_index,
    "float32": _float32_index,
    "float16": _float16_index,
    "bfloat16": _bfloat16_index,
    "int8": _int8_index,
    "rabitq": _rabitq_index,
}


def read_codes(faiss: Any, index: Any, dim: int) -> Decoded:
    """The method and arrays of an index of codes; `ConfigError` for one that no method here decodes as FAISS does.

    `dim` : values of a row of codes, `index.d` but for padded slices.
    """
    # By the exact class: others derive from these, and decode otherwise.
    kind = type(index)
    if kind is faiss.IndexPQ:
        return _read_pq(index, dim)
    if kind is faiss.IndexResidualQuantizer:
        return _read_rq(index, index.rq)
    if kind is faiss.IndexLocalSearchQuantizer:
        return _read_rq(index, index.lsq)
    if kind in (faiss.IndexFlat, faiss.IndexFlatL2, faiss.IndexFlatIP):
        return _read_flat(index)
    if kind is faiss.IndexScalarQuantizer:
        return _read_scalar(faiss, index)
    if kind is getattr(faiss, "IndexRaBitQ", None):
        return _read_rabitq(index)
    raise ConfigError(
        "codes are kept of IndexPQ, IndexResidualQuantizer, IndexLocalSearchQuantizer, IndexFlat, IndexScalarQuantizer "
        f"and IndexRaBitQ, found {kind.__name__}; {DECODE}"
    )
