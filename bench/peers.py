"""Codes of FAISS and bitsandbytes at the sizes that a budget leaves them, everything they need to decode counted.

A peer has no budgets: for each budget and each width of a code it is given as many codes as fit. Settings are those
that gave the least error in reasonable time, stronger than the defaults where that was cheap:

- PQ, OPQ: FAISS's k-means on at most 256 rows a centroid; OPQ rotates for 50 rounds (the default), 20 on more rows.
- RQ: beam of 16 (default 5), codebooks refined by least squares (default not), trained on at most 65,536 rows.
- PRQ: two residual quantizers for the halves of a row, with the same settings.
- LSQ, PLSQ: 10 rounds of training (default 25) on at most 20,000 rows, rows encoded with the default 16.

RQ, LSQ and their products take minutes a size and are left out above 3 bits a value, where their codebooks alone need
most of the budget and scalar codes have far less error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# A peer may need this much more than a budget.
SLACK = 1.01
_MOST_RQ_ROWS, _MOST_LSQ_ROWS, _FEW_ROWS = 65_536, 20_000, 20_000
_MOST_ADDITIVE_BITS, _MOST_ADDITIVE = 3.0, 32


@dataclass(frozen=True)
class Peer:
    """One code at one size: `decoded()` learns it, encodes the rows and decodes them."""

    kind: str
    name: str
    nbytes: int
    decoded: Callable[[], np.ndarray]
    settings: dict[str, Any] = field(default_factory=dict)


def _packed(m: int, bits: int) -> int:
    return (m * bits + 7) // 8


def largest(
    rows: np.ndarray, budgets: tuple[float, ...], widths: tuple[int, ...], counts: list[int], shared: Callable[..., int]
) -> Iterator[tuple[int, int, int]]:
    """(m, bits, bytes) of the most codes of each width within each budget; shared(m, bits) are bytes of the table."""
    found = set()
    for budget in budgets:
        for bits in widths:
            sizes = [(m, len(rows) * _packed(m, bits) + shared(m, bits)) for m in counts]
            fitting = [(m, bits, size) for m, size in sizes if 8 * size <= budget * SLACK * rows.size]
            found |= {max(fitting)} if fitting and 2 << bits <= len(rows) else set()
    yield from sorted(found)


def peers(rows: np.ndarray, budgets: tuple[float, ...]) -> Iterator[Peer]:
    """Every peer at every size; nothing is learned before `decoded` is called."""
    dim = rows.shape[1]
    yield from _scalar(rows)
    divisors = [m for m in range(1, dim + 1) if dim % m == 0]
    for m, bits, size in largest(rows, budgets, (4, 5, 6, 7, 8, 9, 10), divisors, lambda _, b: 4 * dim * 2**b):
        yield Peer("PQ", f"FAISS PQ{m}x{bits}", size, lambda m=m, b=bits: _product(rows, m, b))  # type: ignore[misc]
    rounds = 50 if len(rows) <= _FEW_ROWS else 20
    rotated = [m for m in divisors if m < dim]
    for m, bits, size in largest(rows, budgets, (4, 5, 6, 7, 8), rotated, lambda _, b: 4 * dim * 2**b + 4 * dim * dim):
        yield Peer(
            "OPQ", f"FAISS OPQ{m},PQ{m}x{bits}", size, lambda m=m, b=bits: _product(rows, m, b, rounds),  # type: ignore[misc]
            {"rounds": rounds},
        )  # fmt: skip
    yield from _additive(rows, tuple(b for b in budgets if b <= _MOST_ADDITIVE_BITS))
    yield from _bitsandbytes(rows)


def _scalar(rows: np.ndarray) -> Iterator[Peer]:
    import faiss

    n, dim = rows.shape
    kinds = {
        "SQ8": ("QT_8bit", 8, 8 * dim), "SQ6": ("QT_6bit", 6, 8 * dim), "SQ4": ("QT_4bit", 4, 8 * dim),
        "SQ8 uniform": ("QT_8bit_uniform", 8, 8), "SQ4 uniform": ("QT_4bit_uniform", 4, 8),
    }  # fmt: skip
    if (rows == rows.astype(np.uint8)).all():
        kinds["SQ8 direct"] = ("QT_8bit_direct", 8, 0)

    def decoded(kind: str) -> np.ndarray:
        scalar = faiss.ScalarQuantizer(dim, getattr(faiss.ScalarQuantizer, kind))
        scalar.train(rows)
        found: np.ndarray = scalar.decode(scalar.compute_codes(rows))
        return found

    for name, (kind, bits, shared) in kinds.items():
        yield Peer("SQ", f"FAISS {name}", n * _packed(dim, bits) + shared, lambda k=kind: decoded(k))  # type: ignore[misc]


def _product(rows: np.ndarray, m: int, bits: int, rounds: int = 0) -> np.ndarray:
    import faiss

    dim, x, rotation = rows.shape[1], rows, None
    if rounds:
        rotation = faiss.OPQMatrix(dim, m)
        rotation.pq = faiss.ProductQuantizer(dim, m, bits)
        rotation.niter = rounds
        rotation.train(rows)
        x = rotation.apply(rows)
    coder = faiss.ProductQuantizer(dim, m, bits)
    coder.train(x)
    decoded: np.ndarray = coder.decode(coder.compute_codes(x))
    return decoded if rotation is None else rotation.reverse_transform(decoded)


def _additive(rows: np.ndarray, budgets: tuple[float, ...]) -> Iterator[Peer]:
    import faiss

    n, dim = rows.shape

    def residual(coder: Any) -> None:
        kind = faiss.ResidualQuantizer
        coder.max_beam_size = 16
        coder.train_type = kind.Train_progressive_dim | kind.Train_refine_codebook

    def local_search(coder: Any) -> None:
        coder.train_iters = 10

    def decoded(make: Callable[[], Any], settle: Callable[[Any], None], most: int) -> np.ndarray:
        coder = make()
        parts = [faiss.downcast_Quantizer(coder.subquantizer(i)) for i in range(coder.nsplits)] if hasattr(
            coder, "nsplits") else [coder]  # fmt: skip
        for part in parts:
            settle(part)
        sample = rows
        if n > most:
            sample = rows[np.sort(np.random.default_rng(0).choice(n, most, replace=False))]
        coder.train(sample)
        found: np.ndarray = coder.decode(coder.compute_codes(rows))
        return found

    kinds: dict[str, tuple[Any, int, Callable[[Any], None], int]] = {
        "RQ": (faiss.ResidualQuantizer, 1, residual, _MOST_RQ_ROWS),
        "PRQ": (faiss.ProductResidualQuantizer, 2, residual, _MOST_RQ_ROWS),
        "LSQ": (faiss.LocalSearchQuantizer, 1, local_search, _MOST_LSQ_ROWS),
        "PLSQ": (faiss.ProductLocalSearchQuantizer, 2, local_search, _MOST_LSQ_ROWS),
    }
    for kind, (make, splits, settle, most) in kinds.items():
        if dim % splits:
            continue
        counts = list(range(splits, _MOST_ADDITIVE + 1, splits))
        widths = (4, 5, 6, 7, 8) if kind == "RQ" else (4, 6, 8)
        for m, bits, size in largest(rows, budgets, widths, counts, lambda m, b, s=splits: 4 * dim * m * 2**b // s):  # type: ignore[misc]
            arguments = (dim, m, bits) if splits == 1 else (dim, splits, m // splits, bits)
            yield Peer(
                kind, f"FAISS {kind}{m}x{bits}", size,
                lambda a=arguments, make=make, settle=settle, most=most: decoded(lambda: make(*a), settle, most),  # type: ignore[misc]
                {"rows": min(n, most), **({"beam": 16, "refined": True} if "R" in kind else {"rounds": 10})},
            )  # fmt: skip


def _bitsandbytes(rows: np.ndarray) -> Iterator[Peer]:
    try:
        import bitsandbytes.functional as bnb
        import torch
    except ImportError:
        return
    x, blocks = torch.from_numpy(rows), -(-rows.size // 64)

    def dynamic() -> np.ndarray:
        found: np.ndarray = bnb.dequantize_blockwise(*bnb.quantize_blockwise(x, blocksize=64)).numpy()
        return found

    def normal() -> np.ndarray:
        found: np.ndarray = bnb.dequantize_4bit(*bnb.quantize_4bit(x, blocksize=64, quant_type="nf4")).numpy()
        return found

    yield Peer("bitsandbytes", "bitsandbytes dynamic 8-bit", rows.size + 4 * blocks + 1024, dynamic)
    yield Peer("bitsandbytes", "bitsandbytes NF4", -(-rows.size // 2) + 4 * blocks + 64, normal)
