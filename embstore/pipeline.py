"""Transforms and a method as one method, and the string that names them: "pca128,rotate,int4"."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from . import registry
from .arrays import Arrays, ArraySpec, TableShape
from .errors import BudgetError, ConfigError
from .method import Configured, FloatRows, Ids, Method, Named, Rows, Sized, nbytes
from .transform import F32, FIT_ROWS, Shared, Transform

_NUMBERS = re.compile(r"\d+(x\d+)*")


@dataclass(frozen=True)
class Pipeline:
    """Rows pass the transforms in order, then the method encodes them; lookups undo it all.

    It follows the `Method` protocol, `id`, `version` and `config()` being those of the method. Array `a` of transform
    i is stored as `transform{i}_{a}`.
    """

    transforms: tuple[Transform, ...]
    method: Method

    @property
    def id(self) -> str:
        return self.method.id

    @property
    def version(self) -> int:
        return self.method.version

    def config(self) -> dict[str, Any]:
        """The method's config."""
        return self.method.config()

    def described(self) -> list[dict[str, Any]]:
        """The transforms as the metadata lists them."""
        return [{"id": t.id, "version": t.version, "config": t.config()} for t in self.transforms]

    def __str__(self) -> str:
        return ",".join(map(_spell, (*self.transforms, self.method)))

    def dims(self, dim: int) -> list[int]:
        """Values of a row before each transform and, last, before the method; `dim` is that of the source."""
        found = [dim]
        for t in self.transforms:
            found.append(t.code_dim(found[-1]))
        return found

    def row_dim(self, dim: int) -> int:
        """Values of a row as lookups give it, for a source of `dim`."""
        return self.transforms[0].row_dim(dim)

    def code_shape(self, shape: TableShape) -> TableShape:
        """The shape of what the method encodes."""
        return TableShape(shape.num_embeddings, self.dims(shape.embedding_dim)[-1])

    def resolve(self, shape: TableShape) -> Self:
        transforms: list[Transform] = []
        dim = shape.embedding_dim
        for t in self.transforms:
            transforms.append(t.resolve(dim))
            if transforms[-1].row_dim(dim) != dim and len(transforms) > 1:
                raise ConfigError(
                    f"{t.id} must come first in {str(self)!r}, found it after {transforms[-2].id}, "
                    "which could then not be undone; reorder them"
                )
            dim = transforms[-1].code_dim(dim)
        method = self.method.resolve(TableShape(shape.num_embeddings, dim))
        if transforms:
            before = self.dims(shape.embedding_dim)[-2]
            transforms[-1] = self.transforms[-1].suit(method, dim).resolve(before)
        return dataclasses.replace(self, transforms=tuple(transforms), method=method)

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        dims = self.dims(shape.embedding_dim)
        of_transforms = [
            dataclasses.replace(spec, name=_name(i, spec.name))
            for i, (t, dim) in enumerate(zip(self.transforms, dims, strict=False))
            for spec in t.layout(dim)
        ]
        return (*of_transforms, *self.method.layout(self.code_shape(shape)))

    def free_sizes(self, shape: TableShape) -> dict[str, int]:
        return self.method.free_sizes(self.code_shape(shape))

    def for_budget(self, shape: TableShape, nbytes_: int) -> Self:
        """The method's own choice for what the transforms leave of the budget."""
        resolved = dataclasses.replace(self, method=registry.get("float32")()).resolve(shape)
        taken = nbytes(resolved, shape) - nbytes(resolved.method, resolved.code_shape(shape))
        if not isinstance(self.method, Sized):
            raise ConfigError(f"method {self.id!r} has no sizes to choose from; give its config instead of a budget")
        try:
            chosen = self.method.for_budget(resolved.code_shape(shape), max(0, nbytes_ - taken))
        except BudgetError as refused:
            if refused.floor is None:
                raise
            floor = taken + refused.floor
            raise BudgetError(
                f"{self} needs at least {floor:,} bytes for {shape}, {taken:,} of them for its transforms, found a "
                f"budget of {nbytes_:,}; raise it",
                floor=floor,
            ) from refused
        return dataclasses.replace(self, method=chosen)

    def shared_of(self, shared: Shared, i: int) -> Named:
        """The arrays of transform i by their own names."""
        prefix = _name(i, "")
        return {k[len(prefix) :]: v for k, v in shared.items() if k.startswith(prefix)}

    def named(self, of_transforms: Iterable[Named]) -> Named:
        """The arrays of every transform, in order, by the names they are stored under."""
        return {_name(i, k): v for i, own in enumerate(of_transforms) for k, v in own.items()}

    def apply(self, shared: Shared, rows: FloatRows) -> FloatRows:
        """Rows of the source to what the method encodes."""
        for i, t in enumerate(self.transforms):
            rows = t.apply(self.shared_of(shared, i), rows)
        return np.ascontiguousarray(rows, np.float32)

    def undo(self, shared: Shared, codes: FloatRows, weights: F32 | None = None) -> FloatRows:
        """What the method decodes to rows; see `Transform.undo`."""
        for i in range(len(self.transforms) - 1, -1, -1):
            codes = self.transforms[i].undo(self.shared_of(shared, i), codes, weights)
        return codes

    def adjoint(self, shared: Shared, queries: FloatRows) -> tuple[FloatRows, F32]:
        """Queries to (p, c): a query's dot product with a row is p's with what the method decodes, plus c."""
        constant = np.zeros(len(queries), np.float32)
        for i, t in enumerate(self.transforms):
            queries, more = t.adjoint(self.shared_of(shared, i), queries)
            constant = constant + more
        return np.ascontiguousarray(queries, np.float32), constant

    def fit(self, source: Rows, rng: np.random.Generator) -> Named:
        shared: Named = {}
        sample = source.sample(FIT_ROWS, rng)
        for i, t in enumerate(self.transforms):
            own = t.fit(sample, rng)
            shared |= {_name(i, k): v for k, v in own.items()}
            if i + 1 < len(self.transforms):  # the method draws its own sample
                sample = np.ascontiguousarray(t.apply(own, sample), np.float32)
        return shared | self.method.fit(_Transformed(self, shared, source), rng)

    def encode(self, shared: Shared, ids: Ids, rows: FloatRows) -> Named:
        return self.method.encode(shared, ids, self.apply(shared, rows))

    def check_encoded(self, encoded: Named, rows: FloatRows, first_row: int) -> None:
        """As the method's own: of rows that have passed the transforms."""
        self.method.check_encoded(encoded, rows, first_row)

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        width = self.dims(out.shape[1])[-1]
        codes = np.empty((len(ids), width), np.float32)
        self.method.lookup(arrays, ids, codes)
        out[:] = self.undo(arrays, codes)

    def constants(self, shared: Shared) -> Named:
        return self.method.constants(shared)


def _name(i: int, array: str) -> str:
    return f"transform{i}_{array}"


class _Transformed:
    """A source as the method sees it: every row transformed."""

    def __init__(self, pipeline: Pipeline, shared: Shared, source: Rows) -> None:
        self._pipeline, self._shared, self._source = pipeline, shared, source

    @property
    def shape(self) -> TableShape:
        return self._pipeline.code_shape(self._source.shape)

    @property
    def counts(self) -> npt.NDArray[np.float64] | None:
        return self._source.counts

    def blocks(self) -> Iterator[FloatRows]:
        for rows in self._source.blocks():
            yield self._pipeline.apply(self._shared, rows)

    def sample(self, max_rows: int, rng: np.random.Generator) -> FloatRows:
        return self._pipeline.apply(self._shared, self._source.sample(max_rows, rng))


def _spell(item: Any) -> str:
    """An id with the numbers of its shorthand, as far as they are set."""
    numbers = []
    for field in getattr(item, "shorthand", ()):
        if getattr(item, field) is None:
            break
        numbers.append(str(getattr(item, field)))
    return item.id + "x".join(numbers)  # type: ignore[no-any-return]


def _item(text: str) -> tuple[type[Configured], dict[str, Any]]:
    """The class an item names and the fields its numbers stand for."""
    known = (*registry.names(), *registry.transform_names())
    for name in sorted(known, key=len, reverse=True):
        numbers = text[len(name) :]
        if not text.startswith(name) or (numbers and not _NUMBERS.fullmatch(numbers)):
            continue
        cls: type[Configured] = registry.get(name) if name in registry.names() else registry.get_transform(name)
        values = [int(n) for n in numbers.split("x")] if numbers else []
        if len(values) > len(cls.shorthand):
            takes = f"the numbers {'x'.join(cls.shorthand)}" if cls.shorthand else "no number"
            raise ConfigError(f"{name!r} takes {takes}, found {text!r}; set other fields by name")
        return cls, dict(zip(cls.shorthand, values, strict=False))
    raise ConfigError(
        f"method must be one of {', '.join(registry.names())}, after transforms of "
        f"{', '.join(registry.transform_names())} if any, found {text!r}"
    )


def _fields(cls: type[Configured]) -> set[str]:
    return {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]


def parse(text: str, config: Mapping[str, Any] | None = None) -> Method:
    """The method a string names: "int8", "pq32x8", "pca128,rotate,int4".

    Each item is an id, with the numbers of its shorthand. `config` goes to the method, and what the method does not
    know to the one transform that does. Without a method the last transform's companion, or float32, ends the
    pipeline; a companion takes the numbers of its transform unless it has its own. A method's own `before` is put in
    front of it unless it is there.
    """
    given = dict(config or {})
    items = [_item(part) for part in text.replace(" ", "").split(",")]
    for at, (cls, _) in enumerate(items[:-1]):
        if not issubclass(cls, Transform):
            raise ConfigError(f"the method must come last, found {cls.id!r} at place {at + 1} of {text!r}; reorder it")
    transforms = [(cls, fields) for cls, fields in items if issubclass(cls, Transform)]
    named = items[-1] if not issubclass(items[-1][0], Transform) else None
    ending = transforms[-1][0].companion if transforms else ""
    companion = "" if named else ending
    method_cls: type[Configured] = named[0] if named else registry.get(companion or "float32")
    fields = dict(named[1]) if named else {}
    if ending == method_cls.id:
        fields = {k: v for k, v in transforms[-1][1].items() if k in _fields(method_cls)} | fields
    for key in list(given):
        owners = [f for c, f in transforms if key in _fields(c)]
        if key in _fields(method_cls):
            fields[key] = given[key]
            if not (companion and owners):
                del given[key]
    for key, value in given.items():
        owners = [f for c, f in transforms if key in _fields(c)]
        if len(owners) != 1:
            break
        owners[0][key] = value
    else:
        given = {}
    method = method_cls.from_config({**fields, **given})
    for name in method_cls.before:
        if name not in (c.id for c, _ in transforms):
            transforms.append((registry.get_transform(name), {}))
    made = tuple(c.from_config(f) for c, f in transforms)
    return Pipeline(made, method) if made else method  # type: ignore[arg-type,return-value]


def create(method: str | Method, config: Mapping[str, Any] | None = None) -> Method:
    """A method from a pipeline string and config, or the object itself, with its `before` put in front."""
    if isinstance(method, str):
        return parse(method, config)
    if config:
        raise ConfigError(f"config fields {sorted(config)} were given beside a method object; set them on the object")
    inner = method.method if isinstance(method, Pipeline) else method
    transforms = method.transforms if isinstance(method, Pipeline) else ()
    missing = [n for n in getattr(inner, "before", ()) if n not in {t.id for t in transforms}]
    extra = tuple(registry.get_transform(n).from_config({}) for n in missing)
    return Pipeline((*transforms, *extra), inner) if transforms or extra else inner
