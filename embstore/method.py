"""The one protocol of embstore: what a compression method is.

A method is a frozen dataclass whose fields are its config. It says which arrays it stores
(`layout`), how to make them from rows (`fit`, `encode`) and, in plain numpy, how to read them back
(`lookup`). Storage, mapping, bags, the CLI, size reports and the laws follow from that.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from .arrays import Arrays, ArraySpec, TableShape
from .errors import ConfigError

FloatRows = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Named = dict[str, npt.NDArray[Any]]


class Rows(Protocol):
    """What `fit` sees of a source: its shape and a stream of float32 rows."""

    @property
    def shape(self) -> TableShape: ...

    @property
    def counts(self) -> npt.NDArray[np.float64] | None:
        """How often each row is used, (num_embeddings,), finite and not negative; None when not given."""
        ...

    def blocks(self) -> Iterator[FloatRows]:
        """The whole source in order, as C-contiguous float32 blocks of shape (n, embedding_dim)."""
        ...

    def sample(self, max_rows: int, rng: np.random.Generator) -> FloatRows:
        """At most `max_rows` rows, drawn uniformly without replacement, in id order."""
        ...


class Method(Protocol):
    """The protocol every method follows. `RowMethod` fills in the dull parts."""

    @property
    def id(self) -> str: ...
    @property
    def version(self) -> int: ...
    def config(self) -> dict[str, Any]: ...
    def resolve(self, shape: TableShape) -> Self: ...
    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]: ...
    def free_sizes(self, shape: TableShape) -> dict[str, int]: ...
    def fit(self, source: Rows, rng: np.random.Generator) -> Named: ...
    def encode(self, shared: Mapping[str, npt.NDArray[Any]], ids: Ids, rows: FloatRows) -> Named: ...
    def check_encoded(self, encoded: Named, rows: FloatRows, first_row: int) -> None: ...
    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None: ...
    def constants(self, shared: Mapping[str, npt.NDArray[Any]]) -> Named: ...


@runtime_checkable
class Sized(Protocol):
    """A method that can choose its config for a byte budget."""

    def for_budget(self, shape: TableShape, nbytes: int) -> Method:
        """The config of least expected error within `nbytes`; `BudgetError` names the floor if there is none."""
        ...


@runtime_checkable
class Sliced(Protocol):
    """A method that codes slices of a row each on its own: `opq` learns its rotation for these slices."""

    @property
    def bits(self) -> int:
        """Bits of a slice's code, the most where they differ."""
        ...

    def slices(self, dim: int) -> list[tuple[int, int]]:
        """The first column of each slice of `dim` values, and the one after its last; of a resolved method."""
        ...


@runtime_checkable
class Learned(Protocol):
    """A method that learns centroids, and stores rows as they are where there are fewer rows than these."""

    @property
    def centroids(self) -> int:
        """How many of each codebook."""
        ...


@runtime_checkable
class Linear(Protocol):
    """A method whose rows are codes times one matrix: bags of the sum and the mean add codes, and multiply once."""

    def codes(self, arrays: Arrays, ids: Ids) -> FloatRows:
        """The codes (n, width) of rows `ids`; as `RowMethod.lookup` otherwise."""
        ...

    def expand(self, shared: Mapping[str, npt.NDArray[Any]], codes: FloatRows) -> FloatRows:
        """Codes, or sums of them, to rows."""
        ...


@runtime_checkable
class Keyed(Protocol):
    """A method that computes rows from their keys: tables have one for every string."""

    def keyed(self, keys: Sequence[str]) -> Named:
        """Arrays of a table of the rows of `keys`, to take the place of stored ones of the same names."""
        ...


class Configured(abc.ABC):
    """A frozen dataclass whose fields are its config: what methods and transforms have in common.

    `shorthand` names the fields that the numbers after an id stand for in a pipeline: with ("m", "bits"), "pq16x8" is
    `m=16, bits=8`.
    """

    id: ClassVar[str]
    version: ClassVar[int] = 1
    shorthand: ClassVar[tuple[str, ...]] = ()
    # Transforms a method needs: put in front of it where a pipeline does not name them.
    before: ClassVar[tuple[str, ...]] = ()
    # Fields that came after tables were stored: left out of a config at their default, so that it is as it was before.
    later: ClassVar[tuple[str, ...]] = ()

    def config(self) -> dict[str, Any]:
        """The config as a JSON-able dict."""
        named = ((f, getattr(self, f.name)) for f in dataclasses.fields(self))  # type: ignore[arg-type]
        return {f.name: value for f, value in named if f.name not in self.later or value != f.default}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build from a config dict; an unknown field is a `ConfigError` that lists the known ones."""
        known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for name in config:
            if name not in known:
                has = ", ".join(known) if known else "no fields"
                raise ConfigError(f"{cls.id!r} has {has}, found the unknown field {name!r}; see `embstore methods`")
        return cls(**config)


class RowMethod(Configured):
    """Helper base of methods: no shared arrays, nothing to resolve.

    Subclasses are `@dataclass(frozen=True)` and define `id`, `version`, `layout`, `encode`, `lookup`.
    """

    # How far native rows may be from the reference, relative to the table's largest magnitude: for sums that kernels
    # order otherwise. 0 is bit for bit.
    native_tolerance: ClassVar[float] = 0.0

    def resolve(self, shape: TableShape) -> Self:
        """Fill what the user left open; the resolved form is what is stored."""
        return self

    @abc.abstractmethod
    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        """Every stored array; the single source of sizes, checks and docs."""

    @abc.abstractmethod
    def encode(self, shared: Mapping[str, npt.NDArray[Any]], ids: Ids, rows: FloatRows) -> Named:
        """The `rows` arrays of a block of float32 rows; pure, row by row, so that blocks can run in parallel."""

    @abc.abstractmethod
    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        """The numpy reference: decode rows `ids` (global; `arrays.start` is the first row) into float32 `out`."""

    def free_sizes(self, shape: TableShape) -> dict[str, int]:
        """What the free dimensions of `layout` come to, as far as the shape tells: for reports, before there are rows.

        Never less than what is stored where the config bounds it.
        """
        return {}

    def fit(self, source: Rows, rng: np.random.Generator) -> Named:
        """The shared arrays; none by default. What `encode` needs beside them has a name with an underscore first."""
        return {}

    def check_encoded(self, encoded: Named, rows: FloatRows, first_row: int) -> None:
        """Raise `ConfigError` when `rows` (ids from `first_row`) cannot be held by `encoded`; nothing by default."""

    def constants(self, shared: Mapping[str, npt.NDArray[Any]]) -> Named:
        """What native kernels need beside the stored arrays and can be computed from them; nothing by default."""
        return {}


def nbytes(method: Method, shape: TableShape, **free: int) -> int:
    """Bytes of everything the resolved method stores for a table of this shape.

    Free dimensions that are not given take the method's `free_sizes`.
    """
    layout = method.layout(shape)
    if not all(isinstance(size, int) or size in free for spec in layout for size in spec.shape):
        free = {**method.free_sizes(shape), **free}
    return sum(spec.nbytes(**free) for spec in layout)
