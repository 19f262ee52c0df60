"""Dimensions of fields found by search (AutoDim; Zhao et al., WWW 2021), stored as `mixed_dim`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..arrays import TableShape
from ..errors import ConfigError
from ..method import Method
from ..methods.mixed_dim import MixedDim
from ._joint import LAST, Joint, least
from ._narrow import check_fields, check_floor, first_projection, narrow_arrays, narrow_nbytes
from .base import Asked, CompressedEmbedding, Stage, array

# The temperature of the Gumbel-softmax falls by so much for each sample, down to the lowest.
_COOLING, _COLDEST = 5e-5 / 2000, 0.01
_SEARCH, _RETRAIN = "search", "retrain"


def candidate_dims(dim: int, given: Any = None) -> tuple[int, ...]:
    """Dimensions to choose among, ascending: those given, or 2, 4, 8, … and `dim`; `ConfigError`."""
    if given is None:
        return (*(2**i for i in range(1, (dim - 1).bit_length())), dim)
    fair = isinstance(given, Sequence) and all(type(d) is int and 1 <= d <= dim for d in given)
    if not fair or not given or sorted(set(given)) != list(given):
        raise ConfigError(f"dims of autodim must be ascending integers from 1 to {dim}, found {given!r}; leave it out")
    return tuple(given)


class AutoDimFields(Joint):
    """After the search: for each field the dimensions it likes best, within the limit for all fields.

    Within a limit, each field has the candidate of the highest log-weight less a price per byte, the lowest price at
    which everything fits; below zero it is a reward, so that a budget is spent. What is left goes to the fields that
    would have more at a price a little lower: as many dimensions as fit, candidates or not, unless weights are
    inherited.
    """

    fields: list[AutoDim]

    @classmethod
    def plan(
        cls, shapes: Sequence[TableShape], limit: int | None, config: Mapping[str, Any]
    ) -> list[dict[str, Any] | None]:
        smallest = candidate_dims(shapes[0].embedding_dim, config.get("dims"))[0]
        costs = [narrow_nbytes(shape, smallest) for shape in shapes]
        check_floor("autodim", sum(min(c, s.nbytes_float32) for c, s in zip(costs, shapes, strict=True)), limit)
        return [dict(config) if c < s.nbytes_float32 else None for c, s in zip(costs, shapes, strict=True)]

    def end_of_stage(self, name: str) -> None:
        if name == _SEARCH:
            for field, dims in zip(self.fields, self.favourites(), strict=True):
                field.become(dims)

    def favourites(self) -> list[int]:
        """The dimensions of each field that the weights of the search ask for."""
        liking = [torch.log_softmax(field.preference.detach().double(), 0).cpu().numpy() for field in self.fields]
        nbytes = [np.array([narrow_nbytes(field.shape, d) for d in field.dims], float) for field in self.fields]

        def at(price: float) -> list[int]:
            # Of equals the largest, which is the last.
            found = [len(v) - 1 - int(np.argmax((v - price * b)[::-1])) for v, b in zip(liking, nbytes, strict=True)]
            return [field.dims[i] for field, i in zip(self.fields, found, strict=True)]

        if self.limit is None:
            return at(0.0)
        limit = self.limit

        def fits(chosen: list[int]) -> bool:
            total = sum(narrow_nbytes(field.shape, d) for field, d in zip(self.fields, chosen, strict=True))
            return total <= limit

        t = least(lambda t: fits(at(_price(t))))
        chosen = at(_price(t))
        if t > 0 and not any(field.option["inherit"] for field in self.fields):
            for i, more in enumerate(at(_price(t - 2 * LAST))):
                raised = [[*chosen[:i], d, *chosen[i + 1 :]] for d in range(chosen[i], more + 1)]
                chosen = max(filter(fits, raised), default=chosen)
        return chosen


def _price(t: float) -> float:
    """Nats a byte, rising from below to above any difference of two log-weights as t goes from 0 to 1."""
    away = 2 * t - 1
    return float(np.sign(away) * 10.0 ** (40 * abs(away) - 20))


class AutoDim(CompressedEmbedding):
    """Dimensions chosen by search among candidates, then retrained with them alone.

    In the stage "search" a row is the weighted sum of one row of each candidate's table times its projection, each
    batch-normalized without scale and shift, so that weights and not magnitudes decide. Weights are softmax((log
    softmax(preference) + Gumbel noise) / temperature), with noise drawn before each step. Preferences learn from
    validation batches alone, and everything else from training batches, to first order: without the paper's optional
    correction by a second gradient. A loop that does not call `before_step` trains all of it together, without noise.
    Normalization needs two ids a batch.

    The retraining begins with new weights, as in the paper: begin with a new model too where that is to be had. It has
    the narrow table and a projection. The paper's bias is left out of both stages: normalization takes it away in the
    search, and a constant of the field is no more than the model's own bias in the retraining.

    Options
    -------
    dims : candidates, ascending; None for 2, 4, 8, … and embedding_dim.
    inherit : retrain from the weights of the search, normalization folded in.
    """

    id: ClassVar[str] = "autodim"
    preset: ClassVar[Mapping[str, Any]] = {"blocks": 1, "values": "float32"}
    options: ClassVar[Mapping[str, Any]] = {"dims": None, "inherit": False}
    joint: ClassVar[type[Joint] | None] = AutoDimFields

    chosen: Tensor
    seen: Tensor

    @classmethod
    def solve(cls, asked: Asked) -> Method:
        check_fields(cls, asked.config)
        least = candidate_dims(asked.shape.embedding_dim, asked.option["dims"])[0]
        check_floor(cls.id, narrow_nbytes(asked.shape, least), asked.limit)
        return asked.stored.from_config({**asked.config, "limit": asked.limit}).resolve(asked.shape)

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        self.dims = candidate_dims(self.embedding_dim, self.option["dims"])
        # Projections that keep variances: all candidates are normalized by the same factor at first.
        self.tables = nn.ParameterList([self._uniform(self.num_embeddings, d, bound=self._bound) for d in self.dims])
        self.projections = nn.ParameterList([self._projection(d) for d in self.dims])
        self.norms = nn.ModuleList([nn.BatchNorm1d(self.embedding_dim, affine=False) for _ in self.dims])
        self.preference = nn.Parameter(torch.zeros(len(self.dims)))
        # The dimensions in the end; 0 while they are searched for.
        self.register_buffer("chosen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._batch = 0
        self._noise = torch.zeros(len(self.dims))
        self._validation: bool | None = None
        limit = cast(MixedDim, self.method).limit
        self._alone = AutoDimFields([self], limit, 0)

    def _projection(self, dims: int) -> nn.Parameter:
        return self._uniform(dims, self.embedding_dim, bound=float(np.sqrt(3 / dims)))

    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage(_SEARCH, "validation", "a validation batch for each training batch, as long as the plain model"),
            Stage(_RETRAIN, advice="as the uncompressed model", fresh=not self.option["inherit"]),
        )

    def before_step(self, step: int, validation: bool = False) -> None:
        self._validation = validation
        if not self.chosen:
            uniform = torch.rand(len(self.dims), generator=self._generator)
            self._noise = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
            self.seen += self._batch

    def rows(self, ids: Tensor) -> Tensor:
        if self.chosen:
            values = nn.functional.embedding(ids, self.tables[0])
            return values @ self.projections[0] if len(self.projections) else values
        learn_weights, learn_preference = self._validation is not True, self._validation is not False
        logits = torch.log_softmax(self.preference if learn_preference else self.preference.detach(), 0)
        if self.training:
            self._batch = len(ids)
            logits = logits + self._noise.to(logits)
        weights = torch.softmax(logits / max(_COLDEST, 1 - _COOLING * float(self.seen)), 0)
        parts = []
        for table, projection, norm in zip(self.tables, self.projections, self.norms, strict=True):
            if not learn_weights:
                table, projection = table.detach(), projection.detach()
            parts.append(norm(nn.functional.embedding(ids, table) @ projection))
        return torch.einsum("m,mnd->nd", weights, torch.stack(parts))

    def end_of_stage(self, name: str) -> None:
        self._alone.end_of_stage(name)

    def become(self, dims: int) -> None:
        """End the search with a table of rows of `dims` values."""
        like = self.preference
        table = self._uniform(self.num_embeddings, dims, bound=self._bound).data
        projection = first_projection(dims, self.embedding_dim)
        if self.option["inherit"]:
            table, projection = self._folded(self.dims.index(dims))
            table = table @ projection if dims == self.embedding_dim else table
        for name in ("tables", "projections", "norms", "preference"):
            delattr(self, name)
        self.tables = nn.ParameterList([nn.Parameter(table.to(like))])
        stored = [] if dims == self.embedding_dim else [nn.Parameter(projection.to(like))]
        self.projections = nn.ParameterList(stored)
        self.chosen.fill_(dims)

    def _folded(self, at: int) -> tuple[Tensor, Tensor]:
        """Table and projection that give normalized rows: the mean as what the projection makes of some row."""
        norm = cast(nn.BatchNorm1d, self.norms[at])
        mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        table, projection = self.tables[at].detach(), self.projections[at].detach()
        return table - mean @ torch.linalg.pinv(projection), projection / torch.sqrt(variance + norm.eps)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """A state from after the search ends the search here too."""
        chosen = int(state_dict.get(prefix + "chosen", 0))
        if chosen and not self.chosen:
            self.become(chosen)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def nbytes_inference(self) -> int:
        """Bytes of the exported table; while the search goes on, of the table it would end with now."""
        return narrow_nbytes(self.shape, int(self.chosen) or self._alone.favourites()[0])

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        if not self.chosen:
            raise ConfigError("autodim has no dimensions before its search ends; call end_of_stage('search')")
        projection = array(self.projections[0]) if len(self.projections) else None
        group = np.zeros(self.num_embeddings, np.uint8)
        return narrow_arrays(group, [array(self.tables[0])], [projection], self.embedding_dim)
