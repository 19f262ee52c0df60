"""The methods that are tried: each a rule from a budget to a method and its fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..arrays import TableShape
from ..budgets import choose
from ..errors import BudgetError
from ..method import Method, nbytes

# Codebooks are learned in time that grows with the bits, and above this trellis codes lose less.
_CODEBOOK_BITS = 4.0
# Below this it matters how many components a trellis codes.
_COMPONENT_BITS = 2.5
# Below this codebooks come close to trellis codes, and the length of their codes and a rotation matter.
_FEW_BITS = 1.7


@dataclass(frozen=True)
class Candidate:
    """A method for a table of one shape.

    Attributes
    ----------
    text : the pipeline, as `compress` takes it.
    config : fields beside it.
    method : the same, resolved.
    nbytes : bytes of everything stored.
    sized : whether the method takes its fields from a budget, `nbytes` for example.
    """

    text: str
    config: dict[str, Any] = field(hash=False)
    method: Method
    nbytes: int
    sized: bool


Family = Callable[[TableShape, int], Candidate | None]


def families(dim: int) -> dict[str, Family]:
    """Every rule by name; each gives None where it has nothing for a budget."""
    found: dict[str, Family] = {"float32": _plain("float32"), "float16": _plain("float16"), "int16": _plain("int16")}
    for text in ("int8", "int4", "int2", "nf4", "rabitq", "pca,int8", "rotate,int4", "tcq", "pca,tcq", "svd", "pruned"):
        found[text] = _sized(text)
    for kept in sorted({dim * part // 24 for part in (3, 6, 8, 12, 16)} - {0, dim}):
        found[f"pca{kept},tcq"] = _sized(f"pca{kept},tcq", _COMPONENT_BITS)
    for last in ("float32", "int16", "int8"):
        found[f"pca of a rank,{last}"] = _of_rank(last)
    for text in ("pq", "rq"):
        found[text] = _sized(text, _CODEBOOK_BITS)
    for bits in (6, 8, 10):
        for kind in ("pq", "opq") if bits == 10 else ("pq", "rq", "opq"):
            found[f"{kind} of {bits} bits"] = _codebooks(kind, bits)
    return found


def bits_per_value(shape: TableShape, nbytes_: int) -> float:
    return 8 * nbytes_ / (shape.num_embeddings * shape.embedding_dim)


def _made(text: str, shape: TableShape, budget: int | None, config: dict[str, Any] | None = None) -> Candidate | None:
    config = config or {}
    try:
        method = choose(text, shape, budget, config)
    except BudgetError:
        return None
    return Candidate(text, config, method, nbytes(method, shape), budget is not None)


def _plain(text: str) -> Family:
    def make(shape: TableShape, budget: int) -> Candidate | None:
        made = _made(text, shape, None)
        return made if made and made.nbytes <= budget else None

    return make


def _sized(text: str, most_bits: float = 32.0) -> Family:
    """A method that chooses its fields itself; of up to `most_bits` a value."""

    def make(shape: TableShape, budget: int) -> Candidate | None:
        return _made(text, shape, budget) if bits_per_value(shape, budget) <= most_bits else None

    return make


def _largest(low: int, high: int, build: Callable[[int], Candidate | None], budget: int) -> Candidate | None:
    """What `build` makes of the largest number from `low` to `high` that fits."""
    best = None
    while low <= high:
        middle = (low + high) // 2
        made = build(middle)
        if made is not None and made.nbytes <= budget:
            best, low = made, middle + 1
        else:
            high = middle - 1
    return best


def _of_rank(last: str) -> Family:
    def make(shape: TableShape, budget: int) -> Candidate | None:
        most = min(shape.embedding_dim, 1024)
        return _largest(1, most, lambda rank: _made(f"pca{rank},{last}", shape, None), budget)

    return make


def _codebooks(kind: str, bits: int) -> Family:
    """As many codes of `bits` bits as fit; codebooks are stored as float16."""

    def make(shape: TableShape, budget: int) -> Candidate | None:
        # A table of few rows for each centroid is better stored as it is.
        if bits_per_value(shape, budget) > _FEW_BITS or shape.num_embeddings < 4 << bits:
            return None
        half = {"codebook_dtype": "float16"}

        def build(m: int) -> Candidate | None:
            if kind == "opq":
                return _made(f"opq{m},pq{m}x{bits}", shape, None, half if bits == 8 else {**half, "bits": bits})
            return _made(f"{kind}{m}x{bits}", shape, None, half)

        return _largest(1, shape.embedding_dim, build, budget)

    return make


def each(shape: TableShape, budget: int) -> Iterator[Candidate]:
    """What every family has for a budget, methods that come to the same given once."""
    seen = set()
    for make in families(shape.embedding_dim).values():
        made = make(shape, budget)
        if made is not None and repr(made.method) not in seen:
            seen.add(repr(made.method))
            yield made
