"""Rows pruned by learned thresholds, dimensions of fields by evolution (OptEmbed; Lyu et al., CIKM 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..arrays import TableShape
from ..errors import ConfigError
from ..method import Method, nbytes
from ..methods import _groups
from ..methods.mixed_dim import MixedDim
from ._joint import Joint
from ._narrow import check_fields, check_floor, narrow_arrays
from .base import Asked, CompressedEmbedding, Stage, array

_SEARCH, _EVOLVE, _RETRAIN = "search", "evolve", "retrain"
_MUTATION = 0.1  # of each field
_TRIES = 50  # draws for a candidate not seen before


class OptEmbedFields(Joint):
    """Evolution of one width a field on the values that the loop gives, the weights standing still.

    The first generation is random. Each later one is half mutated and half crossed from the best half of a population
    among all seen so far; none is scored twice. Candidates beyond the limit have fields narrowed at random until they
    fit. Without any score the widths are the largest that fit, all alike.
    """

    fields: list[OptEmbed]

    def __init__(self, fields: Sequence[OptEmbed], limit: int | None, seed: int) -> None:
        super().__init__(fields, limit, seed)
        self._scores: dict[tuple[int, ...], float] = {}
        self._costs: list[list[int]] = []

    @classmethod
    def plan(
        cls, shapes: Sequence[TableShape], limit: int | None, config: Mapping[str, Any]
    ) -> list[dict[str, Any] | None]:
        costs = [least_nbytes(shape) for shape in shapes]
        check_floor("optembed", sum(min(c, s.nbytes_float32) for c, s in zip(costs, shapes, strict=True)), limit)
        return [dict(config) if c < s.nbytes_float32 else None for c, s in zip(costs, shapes, strict=True)]

    def candidates(self) -> Iterator[tuple[int, ...]]:
        """Widths of the fields, put in force one after the other; `score` each before asking for the next."""
        if not self.fields or any(int(field.stage) != 1 for field in self.fields):
            return
        rng, option = np.random.default_rng(self.seed), self.fields[0].option
        self._scores = {}
        self._weigh()
        for generation in range(option["generations"]):
            for i in range(option["population"]):
                candidate = self._new(rng, generation, 2 * i < option["population"], option["population"] // 2)
                if candidate is not None:
                    self._put(candidate)
                    yield candidate

    def score(self, candidate: tuple[int, ...], value: float) -> None:
        self._scores[candidate] = value

    def end_of_stage(self, name: str) -> None:
        if name == _SEARCH:
            for field in self.fields:
                field.fix_rows()
            self._weigh()
            self._put(self._uniform())
        if name == _EVOLVE:
            self._weigh()
            best = max(self._scores, key=lambda c: self._scores[c]) if self._scores else self._uniform()
            for field, width in zip(self.fields, best, strict=True):
                field.fix_width(width)

    def _weigh(self) -> None:
        """Bytes of each field by its width less 1, for the rows that are kept."""
        self._costs = [[field.nbytes_of(w + 1) for w in range(field.embedding_dim)] for field in self.fields]

    def _put(self, candidate: Sequence[int]) -> None:
        for field, width in zip(self.fields, candidate, strict=True):
            field.width.fill_(width)

    def _new(self, rng: np.random.Generator, generation: int, mutate: bool, parents: int) -> tuple[int, ...] | None:
        """A candidate not seen before; None where none is found soon."""
        best = sorted(self._scores, key=lambda c: -self._scores[c])[: max(1, parents)]
        dims = np.array([field.embedding_dim for field in self.fields])
        for _ in range(_TRIES):
            drawn = rng.integers(1, dims + 1)
            if generation and best:
                first, second = (np.array(best[rng.integers(len(best))]) for _ in range(2))
                if mutate:
                    drawn = np.where(rng.random(len(dims)) < _MUTATION, drawn, first)
                else:
                    drawn = np.where(np.arange(len(dims)) < rng.integers(0, len(dims) + 1), first, second)
            found = self._within(drawn, rng)
            if found not in self._scores:
                return found
        return None

    def _within(self, widths: npt.NDArray[Any], rng: np.random.Generator) -> tuple[int, ...]:
        """Widths narrowed at random until they fit."""
        while not self._fits(widths):
            widths[rng.choice(np.flatnonzero(widths > 1))] -= 1
        return tuple(int(w) for w in widths)

    def _uniform(self) -> tuple[int, ...]:
        """The largest width of all fields that fits."""
        dim = max((field.embedding_dim for field in self.fields), default=1)
        fit = [w for w in range(1, dim + 1) if self._fits([w] * len(self.fields))]
        return (max(fit),) * len(self.fields)

    def _fits(self, widths: Sequence[int] | npt.NDArray[Any]) -> bool:
        total = sum(costs[int(w) - 1] for costs, w in zip(self._costs, widths, strict=True))
        return self.limit is None or total <= self.limit


def least_nbytes(shape: TableShape) -> int:
    """Bytes of a table with all rows kept at a width of 1: what no decision can exceed."""
    return _nbytes(shape, shape.num_embeddings, 1, in_order=True)


def _nbytes(shape: TableShape, kept: int, width: int, in_order: bool) -> int:
    """Bytes of a table of `kept` rows of `width` values and one value for each other row."""
    n, dim = shape.num_embeddings, shape.embedding_dim
    projections = (width if width < dim else 0) + (1 if dim > 1 else 0)
    sizes = {"values_0": kept * width, "values_1": n - kept, "projection_rows": projections}
    return nbytes(MixedDim(blocks=2, values="float32"), shape, **sizes, **_groups.free_sizes(shape, 2, in_order))


class _Step(torch.autograd.Function):
    """1 where z > 0, else 0; its gradient is that of the paper's surrogate."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return (z > 0).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        size = ctx.saved_tensors[0].abs()
        slope = torch.where(size <= 0.4, 2 - 4 * size, torch.where(size <= 1, 0.4, 0.0))
        return gradient * slope.to(gradient.dtype)


class OptEmbed(CompressedEmbedding):
    """Rows and widths pruned to what the model uses: a pruned row is zeros, and so are a row's values from `width` on.

    In the stage "search" a row is kept while its L1 norm is above a learned threshold, and each sample has a width
    drawn uniformly, so that every width works with the same weights. The threshold is pushed up by `penalty` times
    exp(-threshold), and by SGD of its own. Then rows are fixed, and the stage "evolve" asks the loop for values of
    widths, one for each field, by `candidates` and `score`. "retrain" goes on with the weights of what is kept.

    It is stored as `mixed_dim` with two blocks: rows kept, of `width` values, and rows pruned, of one; the projections
    are parts of the identity. The paper keeps a place of 4 bytes for each row, here a pruned row costs that.

    Options
    -------
    penalty : weight of the term that pushes the threshold up; the paper tunes 1e-6 to 1e-4 for far more steps.
    threshold_lr : learning rate of the threshold, which is 0 at the start.
    generations, population : of the evolution; their product is the number of validation passes at most.
    """

    id: ClassVar[str] = "optembed"
    preset: ClassVar[Mapping[str, Any]] = {"blocks": 2, "values": "float32"}
    options: ClassVar[Mapping[str, Any]] = {
        "penalty": 1e-4,
        "threshold_lr": 10.0,
        "generations": 30,
        "population": 20,
    }
    joint: ClassVar[type[Joint] | None] = OptEmbedFields

    threshold: Tensor
    kept: Tensor
    width: Tensor
    stage: Tensor

    @classmethod
    def solve(cls, asked: Asked) -> Method:
        check_fields(cls, asked.config)
        for name, low in (("penalty", 0), ("threshold_lr", 0), ("generations", 0), ("population", 2)):
            whole = isinstance(cls.options[name], int)
            value = asked.option[name]
            fair = type(value) is int or (not whole and isinstance(value, float))
            if not fair or not low <= value < np.inf:
                raise ConfigError(
                    f"{name} of optembed must be {'an integer' if whole else 'a number'} from {low} on, found "
                    f"{value!r}; the default is {cls.options[name]}"
                )
        check_floor(cls.id, least_nbytes(asked.shape), asked.limit)
        _groups.check_rows(cls.id, asked.shape)
        return asked.stored.from_config({**asked.config, "limit": asked.limit})

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        self.weight = self._uniform(self.num_embeddings, self.embedding_dim, bound=self._bound)
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("kept", torch.ones(self.num_embeddings, dtype=torch.bool))
        self.register_buffer("width", torch.tensor(self.embedding_dim))
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))  # of `stages`, the one it is in
        self._leaf: Tensor | None = None
        limit = cast(MixedDim, self.method).limit
        self._alone = OptEmbedFields([self], limit, self._generator.initial_seed())

    @property
    def straight_through(self) -> bool:
        """Whether gradients are those of a surrogate."""
        return not self.stage

    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage(_SEARCH, advice="as the uncompressed model"),
            Stage(_EVOLVE, "scores", "no step: score each candidate on validation data"),
            Stage(_RETRAIN, advice="as the uncompressed model"),
        )

    def rows(self, ids: Tensor) -> Tensor:
        values = nn.functional.embedding(ids, self.weight)
        columns = torch.arange(self.embedding_dim, device=ids.device)
        if self.stage:
            return values * (self.kept[ids][:, None] & (columns < self.width)).to(values.dtype)
        threshold = self.threshold
        if self.training:
            if self._leaf is None:  # one of all forward passes of a step
                self._leaf = self.threshold.clone().requires_grad_()
            threshold = self._leaf
        kept = cast(Tensor, _Step.apply(values.abs().sum(dim=1) - threshold))
        values = values * kept[:, None]
        if not self.training:
            return values
        widths = torch.randint(1, self.embedding_dim + 1, (len(ids), 1), generator=self._generator).to(ids.device)
        return values * (columns < widths).to(values.dtype)

    def before_step(self, step: int, validation: bool = False) -> None:
        self._leaf = None

    def after_step(self, step: int) -> None:
        if self._leaf is not None and self._leaf.grad is not None:
            push = float(self.option["penalty"]) * torch.exp(-self.threshold)
            self.threshold -= float(self.option["threshold_lr"]) * (self._leaf.grad - push)
        self._leaf = None

    # Decisions: a single table makes them as a list of one field.

    def candidates(self) -> Iterator[Any]:
        return self._alone.candidates()

    def score(self, candidate: Any, value: float) -> None:
        self._alone.score(candidate, value)

    def end_of_stage(self, name: str) -> None:
        self._alone.end_of_stage(name)

    def fix_rows(self) -> None:
        """End the search: rows at or below the threshold are pruned for good."""
        self.kept.copy_(self.weight.detach().abs().sum(dim=1) > self.threshold)
        self.stage.fill_(1)

    def fix_width(self, width: int) -> None:
        """End the evolution."""
        self.width.fill_(width)
        self.stage.fill_(2)

    # Storage ---------------------------------------------------------------------------------------------------

    def _grouped(self) -> npt.NDArray[np.uint8]:
        """1 for rows to store apart, as pruned ones."""
        return array(~self.kept).astype(np.uint8)

    def nbytes_of(self, width: int) -> int:
        """Bytes of the table for a width and the rows that are kept now."""
        n, pruned = self.num_embeddings, self._grouped()
        apart = _nbytes(self.shape, n - int(pruned.sum()), width, _groups.consecutive(pruned))
        return min(apart, _nbytes(self.shape, n, width, in_order=True))

    def nbytes_inference(self) -> int:
        """Bytes of the exported table; before its stages are done, for what is kept now."""
        return self.nbytes_of(int(self.width))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        if int(self.stage) < 2:
            raise ConfigError("optembed has no widths before its evolution ends; call end_of_stage('evolve')")
        dim, width, pruned = self.embedding_dim, int(self.width), self._grouped()
        values = array(self.weight[:, :width] * self.kept[:, None])
        n = self.num_embeddings
        alone = _nbytes(self.shape, n, width, in_order=True)
        if alone <= _nbytes(self.shape, n - int(pruned.sum()), width, _groups.consecutive(pruned)):
            pruned = np.zeros_like(pruned)  # zeros are cheaper than telling rows apart
        identity = np.eye(dim, dtype=np.float32)
        return narrow_arrays(
            pruned,
            [values[pruned == 0], values[pruned == 1][:, :1]],
            [identity[:width] if width < dim else None, identity[:1] if dim > 1 else None],
            dim,
        )
