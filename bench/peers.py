"""Codes of FAISS and bitsandbytes at the sizes that a budget leaves them, everything they need to decode counted.

A peer has no budgets: as many codes of each width as fit one are its sizes, and it is run at those of least expected
error (Zador's formula for Gaussian rows, which our own pq chooses by): three of PQ and RQ, two of OPQ, one of others.
Settings are stronger than the defaults where that was cheap:

- PQ, OPQ: FAISS's k-means on at most 256 rows a centroid; OPQ rotates for 50 rounds (the default), 20 on more rows.
- RQ: beam of 16 (default 5), codebooks refined by least squares (default not), trained on at most 65,536 rows.
- PRQ: two residual quantizers for the halves of a row, with the same settings.
- LSQ, PLSQ: 10 rounds of training (default 25) on at most 20,000 rows, rows encoded with the default 16.

RQ, LSQ and their products take minutes a size and are left out above 3 bits a value, where their codebooks alone need
most of the budget and scalar codes have far less error.

bitsandbytes is not run: its two formats are computed here from their published definitions, which leave no choice but
the block: runs of the flattened table, each divided by its largest magnitude and rounded to the nearest entry of a
fixed code. A float32 for each block of 64, its default for 4 bits, makes 4.5 bits a value; its larger blocks, and its
"double quantization", which codes the scales less their mean in 8 bits, make formats that fit 4 and 8 bits and 1 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embstore.methods.dynamic8 import Dynamic8
from embstore.methods.nf4 import NF4
from embstore.methods.pq import gaussian_distortion

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


def sizes(
    rows: np.ndarray, budgets: tuple[float, ...], widths: tuple[int, ...], counts: list[int],
    shared: Callable[[int, int], int], most: int, slack: float = SLACK,
) -> list[tuple[int, int, int]]:  # fmt: skip
    """(m, bits, bytes) of `most` sizes, those of least expected error within each budget; shared(m, bits) in bytes."""
    n, dim = rows.shape
    found = set()
    for budget in budgets:
        options = []
        for bits in widths:
            fitting = [m for m in counts if 8 * (n * _packed(m, bits) + shared(m, bits)) <= budget * slack * rows.size]
            if fitting and 2 << bits <= n:
                m = max(fitting)
                options.append((gaussian_distortion(m * bits / dim, dim / m), m, bits))
        found |= {(m, bits, n * _packed(m, bits) + shared(m, bits)) for _, m, bits in sorted(options)[:most]}
    return sorted(found)


def peers(rows: np.ndarray, budgets: tuple[float, ...]) -> Iterator[Peer]:
    """Every peer at every size; nothing is learned before `decoded` is called."""
    dim = rows.shape[1]
    yield from _scalar(rows)
    divisors = [m for m in range(1, dim + 1) if dim % m == 0]
    for m, bits, size in sizes(rows, budgets, (4, 5, 6, 7, 8, 9, 10), divisors, lambda _, b: 4 * dim * 2**b, 3):
        yield Peer("PQ", f"FAISS PQ{m}x{bits}", size, lambda m=m, b=bits: _product(rows, m, b))  # type: ignore[misc]
    rounds = 50 if len(rows) <= _FEW_ROWS else 20
    rotated = [m for m in divisors if m < dim]
    for m, bits, size in sizes(
        rows, budgets, (4, 5, 6, 7, 8, 9), rotated, lambda _, b: 4 * dim * 2**b + 4 * dim * dim, 2
    ):  # fmt: skip
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
        for m, bits, size in sizes(
            rows, budgets, (4, 5, 6, 7, 8), counts, lambda m, b, s=splits: 4 * dim * m * 2**b // s,  # type: ignore[misc]
            3 if kind == "RQ" else 1,
        ):  # fmt: skip
            arguments = (dim, m, bits) if splits == 1 else (dim, splits, m // splits, bits)
            yield Peer(
                kind, f"FAISS {kind}{m}x{bits}", size,
                lambda a=arguments, make=make, settle=settle, most=most: decoded(lambda: make(*a), settle, most),  # type: ignore[misc]
                {"rows": min(n, most), **({"beam": 16, "refined": True} if "R" in kind else {"rounds": 10})},
            )  # fmt: skip


def blockwise(x: np.ndarray, code: np.ndarray, block: int, double: bool = False) -> np.ndarray:
    """Values as a block-wise code of bitsandbytes gives them back, the scales through its 8-bit code where `double`."""
    flat = np.zeros(-(-x.size // block) * block, np.float32)
    flat[: x.size] = x.ravel()
    blocks = flat.reshape(-1, block)
    scales = np.abs(blocks).max(axis=1)
    nearest = np.searchsorted((code[1:] + code[:-1]) / 2, blocks / np.maximum(scales, 1e-38)[:, None])
    if double:
        mean = scales.mean()
        scales = mean + blockwise(scales - mean, Dynamic8.table(), 256)
    found: np.ndarray = (code[nearest] * scales[:, None]).ravel()[: x.size].reshape(x.shape)
    return found


def _bitsandbytes(rows: np.ndarray) -> Iterator[Peer]:
    codes = {"dynamic 8-bit": (Dynamic8.table(), 8), "NF4": (NF4.table(), 4)}
    for name, block, double in (
        ("dynamic 8-bit", 4096, False), ("dynamic 8-bit", 512, False), ("dynamic 8-bit", 64, False),
        ("NF4", 4096, False), ("NF4", 1024, False), ("NF4", 256, True), ("NF4", 64, True), ("NF4", 64, False),
    ):  # fmt: skip
        code, bits = codes[name]
        blocks = -(-rows.size // block)
        scales = blocks + 4 * -(-blocks // 256) + 4 + 1024 if double else 4 * blocks
        yield Peer(
            "bitsandbytes", f"bitsandbytes {name}, blocks of {block}{', double' * double}",
            -(-rows.size * bits // 8) + scales + code.nbytes,
            lambda c=code, b=block, d=double: blockwise(rows, c, b, d),  # type: ignore[misc]
        )  # fmt: skip
