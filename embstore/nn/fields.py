"""Several categorical fields in one module: a table each, compressed only where that makes it smaller."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..arrays import TableShape
from ..budgets import Budget, parse_budget
from ..errors import BudgetError, ConfigError, ShapeError
from ._all_fields import AllFields
from .base import CompressedEmbedding, Mode, Stage, check_ids

if TYPE_CHECKING:
    from ..table import Table
    from ..table_set import TableSet
    from ._joint import Joint

_NEVER = 2**62  # bytes of a table that cannot be made
# Of a budget, for small fields that stay full: sharing the rows of a field of ten ids costs much and saves nothing.
_SMALL_FIELDS = 0.05


class FieldEmbedding(nn.Module):
    """One `CompressedEmbedding` for each field; input (batch, fields) of ids within each field.

    A budget is spent by one ratio for all fields that are worth compressing: the largest at which everything fits,
    found by bisection. The others stay full, and so do the smallest, as many as fit a twentieth of the budget. Methods
    that prune have one module for all fields; those that choose dimensions have a module each and decide over all of
    them together, by their `joint`.
    """

    def __init__(
        self,
        method: str,
        field_sizes: Sequence[int],
        embedding_dim: int,
        budget: Budget | None,
        counts: npt.NDArray[Any] | None,
        seed: int,
        mode: Mode | None,
        config: dict[str, Any],
    ) -> None:
        super().__init__()
        if not field_sizes or any(type(n) is not int or n < 1 for n in field_sizes):
            raise ConfigError(f"field_sizes must be positive integers, one a field, found {field_sizes!r}")
        self.field_sizes, self.embedding_dim = tuple(field_sizes), embedding_dim
        from ._create import embedding, module_class

        self._joint: Joint | None = None
        if issubclass(module_class(method)[0], AllFields):
            one = embedding(
                method, sum(field_sizes), embedding_dim, budget=budget, counts=counts, seed=seed, mode=mode,
                **{**config, "fields": tuple(self.field_sizes)},
            )  # fmt: skip
            self.fields = nn.ModuleList([one])
            return
        bounds = np.cumsum([0, *field_sizes])
        if (joint := module_class(method)[0].joint) is not None:
            self._decide_jointly(joint, method, budget, seed, mode, config)
            return
        ratios = _ratios(method, field_sizes, embedding_dim, budget, config)
        modules = []
        for i, (n, ratio) in enumerate(zip(field_sizes, ratios, strict=True)):
            own = None if counts is None else counts[bounds[i] : bounds[i + 1]]
            if ratio is None:
                modules.append(embedding("float32", n, embedding_dim, seed=seed + i, mode=mode))
            else:
                limit = None if ratio == "default" else ratio
                modules.append(
                    embedding(method, n, embedding_dim, budget=limit, counts=own, seed=seed + i, mode=mode, **config)
                )
        self.fields = nn.ModuleList(modules)

    def _decide_jointly(
        self,
        joint: type[Joint],
        method: str,
        budget: Budget | None,
        seed: int,
        mode: Mode | None,
        config: dict[str, Any],
    ) -> None:
        """Make the modules that `joint` plans, and what decides for them from then on."""
        from ._create import embedding, solve

        dim = self.embedding_dim
        shapes = [TableShape(n, dim) for n in self.field_sizes]
        solve(method, shapes[0], None, dict(config))  # refuses unknown fields
        limit = None if budget is None else parse_budget(budget, TableShape(sum(self.field_sizes), dim))
        modules, compressed = [], []
        for i, (shape, own) in enumerate(zip(shapes, joint.plan(shapes, limit, config), strict=True)):
            n = shape.num_embeddings
            if own is None:
                modules.append(embedding("float32", n, dim, seed=seed + i, mode=mode))
                limit = None if limit is None else limit - shape.nbytes_float32
            else:
                modules.append(embedding(method, n, dim, seed=seed + i, mode=mode, **own))
                compressed.append(modules[-1])
        self.fields = nn.ModuleList(modules)
        self._joint = joint(compressed, limit, seed)

    def forward(self, input: Tensor) -> Tensor:
        """Rows (batch, fields, embedding_dim) of ids (batch, fields)."""
        if input.dim() != 2 or input.shape[1] != len(self.field_sizes):
            raise ShapeError(f"input must have shape (batch, {len(self.field_sizes)}), found {tuple(input.shape)}")
        if isinstance(self.fields[0], AllFields):
            return self._one(self.fields[0], input)
        return torch.stack([field(input[:, i]) for i, field in enumerate(self.fields)], dim=1)

    def _one(self, module: AllFields, input: Tensor) -> Tensor:
        """The rows of all fields from one module, each id held against its own field."""
        if not torch.compiler.is_compiling():
            for i, n in enumerate(self.field_sizes):
                check_ids(input[:, i], n)
        first = torch.from_numpy(np.cumsum([0, *self.field_sizes[:-1]])).to(input.device)
        rows: Tensor = module((input + first).reshape(-1))
        return rows.reshape(*input.shape, self.embedding_dim)

    # Training: the hooks of every field's module; see `CompressedEmbedding`.

    def stages(self) -> tuple[Stage, ...]:
        """The stages of the fields with the most of them; fields left full have one, and wait in the others."""
        return max((field.stages() for field in self._each()), key=len)

    def begin_stage(self, name: str, steps: int | None = None) -> None:
        for field in self._each():
            field.begin_stage(name, steps)

    def before_step(self, step: int, validation: bool = False) -> None:
        for field in self._each():
            field.before_step(step, validation)

    def after_step(self, step: int) -> None:
        for field in self._each():
            field.after_step(step)

    def second_pass(self, loss: Callable[[], Tensor]) -> None:
        """One second pass for all fields; see `CompressedEmbedding.second_pass`."""
        wanted = [(field, field.begin_second_pass()) for field in self._each()]
        leaves = [leaf for _, own in wanted for leaf in own]
        if not leaves:
            return
        gradients = iter(torch.autograd.grad(loss(), leaves, allow_unused=True))
        for field, own in wanted:
            if own:
                field.end_second_pass([next(gradients) for _ in own])

    def candidates(self) -> Iterator[Any]:
        """See `CompressedEmbedding.candidates`; one candidate is of all fields."""
        return iter(()) if self._joint is None else self._joint.candidates()

    def score(self, candidate: Any, value: float) -> None:
        """See `CompressedEmbedding.score`."""
        if self._joint is not None:
            self._joint.score(candidate, value)

    def end_of_stage(self, name: str) -> None:
        if self._joint is not None:
            self._joint.end_of_stage(name)
            return
        for field in self._each():
            if name in [stage.name for stage in field.stages()]:
                field.end_of_stage(name)

    def regularizer(self) -> Tensor | None:
        """The sum of the fields' terms."""
        terms = [term for field in self._each() if (term := field.regularizer()) is not None]
        return sum(terms[1:], terms[0]) if terms else None

    def nbytes_inference(self) -> int:
        """Bytes of all exported tables."""
        return sum(field.nbytes_inference() for field in self._each())

    def nbytes_training(self, optimizer: str | torch.optim.Optimizer = "adam") -> int:
        """Bytes in training; see `CompressedEmbedding.nbytes_training`."""
        return sum(field.nbytes_training(optimizer) for field in self._each())

    def _each(self) -> list[CompressedEmbedding]:
        return list(self.fields)

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        names: Sequence[str] | None = None,
        keys: Sequence[Any] | None = None,
        overwrite: bool = False,
    ) -> TableSet:
        """Write every field's table into one directory and open it; see `CompressedEmbedding.export`.

        Parameters
        ----------
        path, overwrite : of the set; it appears whole or not at all.
        names : of the fields; "0", "1", … by default.
        keys : for each field its keys, or None.
        """
        from ..table_set import make_set

        count = len(self.field_sizes)
        called = [str(i) for i in range(count)] if names is None else list(names)
        for given, what in ((called, "names"), (keys, "keys")):
            if given is not None and len(given) != count:
                raise ConfigError(f"{what} must be one a field, {count}, found {len(given)}; give one for each")
        if len(set(called)) != len(called):
            raise ConfigError(f"names of fields must differ, found {called!r}; rename one")

        def maker(i: int) -> Callable[[str], Table]:
            own = None if keys is None else keys[i]
            if isinstance(one := self.fields[0], AllFields):
                return lambda path: one.export_field(i, path, keys=own)
            return lambda path: self._each()[i].export(path, keys=own)

        return make_set(path, {name: maker(i) for i, name in enumerate(called)}, overwrite=overwrite)


def _ratios(
    method: str, sizes: Sequence[int], dim: int, budget: Budget | None, config: dict[str, Any]
) -> list[int | str | None]:
    """For each field: bytes to compress it to, "default" without a budget, or None to leave it full."""

    full = [TableShape(n, dim).nbytes_float32 for n in sizes]
    if budget is None:
        return [
            "default" if _cost(method, n, dim, None, config) < whole else None
            for n, whole in zip(sizes, full, strict=True)
        ]
    limit = parse_budget(budget, TableShape(sum(sizes), dim))

    def spend(ratio: float, small: set[int]) -> tuple[int, list[int | str | None]]:
        total, chosen = 0, list[int | str | None]()
        for i, (n, whole) in enumerate(zip(sizes, full, strict=True)):
            cost = _NEVER if i in small else _cost(method, n, dim, int(whole * ratio), config)
            chosen.append(int(whole * ratio) if cost < whole else None)
            total += min(cost, whole)
        return total, chosen

    if sum(full) <= limit:
        return [None] * len(sizes)
    least = sum(full)
    for small in (_small(full, limit), set[int]()):
        low, high = 0.0, 1.0
        best: list[int | str | None] | None = None
        for _ in range(40):
            middle = (low + high) / 2
            total, chosen = spend(middle, small)
            least = min(least, total)
            if total <= limit:
                low, best = middle, chosen
            else:
                high = middle
        if best is not None:
            return best
    raise BudgetError(
        f"method {method!r} needs at least about {least:,} bytes for these fields, the budget is {limit:,}; raise it"
    )


def _small(full: Sequence[int], limit: int) -> set[int]:
    """The smallest fields, as many as fit their share of the budget."""
    found: set[int] = set()
    left = _SMALL_FIELDS * limit
    for i in sorted(range(len(full)), key=full.__getitem__):
        left -= full[i]
        if left < 0:
            break
        found.add(i)
    return found


def _cost(method: str, n: int, dim: int, limit: int | None, config: dict[str, Any]) -> int:
    """Bytes of a field's table within `limit`; more than any table where `limit` is out of reach."""
    from ..method import nbytes
    from ._create import solve

    shape = TableShape(n, dim)
    if limit == 0:
        return _NEVER
    try:
        return nbytes(solve(method, shape, limit, dict(config)), shape)
    except BudgetError:
        return _NEVER
