"""What every module is: ids to rows, differentiable; its size counted; its arrays exported."""

from __future__ import annotations

import abc
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..arrays import TableShape, check
from ..errors import ConfigError, IdRangeError, IdTypeError, ShapeError
from ..method import Method, RowMethod, nbytes

if TYPE_CHECKING:
    from ..table import Table
    from ._joint import Joint
    from .output import OutputProjection

Mode = Literal["sum", "mean", "max"]

# Words of state that optimizers keep for each weight.
OPTIMIZER_WORDS = {"sgd": 0, "momentum": 1, "adagrad": 1, "rmsprop": 1, "adam": 2, "adamw": 2}


@dataclass(frozen=True)
class Stage:
    """One part of a training: its name, and what the module expects of the loop in it.

    Attributes
    ----------
    name : "train", "warm-up", "search", "retrain", …
    needs : "train", batches of training data alone; "validation", validation batches too, see `before_step`, of which
        the model around the module must not learn; or "scores", no batch but a value for each of `candidates`.
    advice : how long and how, in a sentence.
    fresh : whether the model around the module begins with its initial weights again, as the module does.
    """

    name: str
    needs: Literal["train", "validation", "scores"] = "train"
    advice: str = ""
    fresh: bool = False


@dataclass(frozen=True)
class Asked:
    """What `solve` resolves to a storage method.

    Attributes
    ----------
    stored : class of the storage method.
    shape : rows and dims.
    limit : bytes of the exported table; None for no limit.
    config : fields of the storage method.
    option : training options, every one of the module's.
    """

    stored: type[RowMethod]
    shape: TableShape
    limit: int | None
    config: dict[str, Any]
    option: Mapping[str, Any]


class CompressedEmbedding(nn.Module, abc.ABC):
    """A table of `num_embeddings` rows of `embedding_dim` values, held in fewer weights.

    Subclasses define `id`, `rows`, `arrays`. They are made by `embstore.nn.embedding`.

    Parameters
    ----------
    method : the resolved storage method; its config is what was asked for or what the budget allows.
    shape : rows and dims.
    counts : how often each id occurs in training data, for methods that use it; None when not known.
    seed : of the initial weights.
    mode : None for rows as `nn.Embedding` gives them; "sum", "mean" or "max" for bags as `nn.EmbeddingBag` does.
    """

    id: ClassVar[str]
    # Training-only settings and their defaults: config fields that the storage method does not know.
    options: ClassVar[Mapping[str, Any]] = {}
    needs_counts: ClassVar[bool] = False
    # Fields of the storage method that the module chooses.
    preset: ClassVar[Mapping[str, Any]] = {}
    # How the fields of a data set are decided together; None for each on its own.
    joint: ClassVar[type[Joint] | None] = None

    def __init__(
        self,
        method: Method,
        shape: TableShape,
        *,
        counts: npt.NDArray[Any] | None = None,
        seed: int = 0,
        mode: Mode | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if mode not in (None, "sum", "mean", "max"):
            raise ConfigError(f"mode must be None, 'sum', 'mean' or 'max', found {mode!r}; choose one of these")
        self.method, self.shape, self.mode = method, shape, mode
        self.num_embeddings, self.embedding_dim = shape.num_embeddings, shape.embedding_dim
        self.option = {**self.options, **options}
        self._generator = torch.Generator().manual_seed(seed)
        self._build(counts)

    @classmethod
    def takes(cls, stored: type[RowMethod]) -> Sequence[str] | None:
        """Config fields that the module takes besides its options; None for those of a method chosen by an option."""
        names = (field.name for field in dataclasses.fields(stored))  # type: ignore[arg-type]
        return [name for name in names if name not in cls.preset]

    @classmethod
    def solve(cls, asked: Asked) -> Method:
        """The resolved storage method for what is asked."""
        from ..budgets import choose

        return choose(asked.stored.from_config(asked.config), asked.shape, asked.limit, {})

    # What a subclass defines -----------------------------------------------------------------------------------

    @abc.abstractmethod
    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        """Make parameters and buffers, drawing from `self._generator`."""

    @abc.abstractmethod
    def rows(self, ids: Tensor) -> Tensor:
        """Rows (n, embedding_dim) of ids (n,), int64 and in range; differentiable in the parameters."""

    @abc.abstractmethod
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Every array of `self.method.layout(self.shape)`, as trained so far; `ConfigError` in a half-done stage."""

    def logits(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Products (n, k) of hidden states (n, embedding_dim) and the rows of ids (k,), for `as_output_projection`."""
        return nn.functional.linear(hidden, self.rows(ids))

    # Training --------------------------------------------------------------------------------------------------

    def stages(self) -> tuple[Stage, ...]:
        """The stages of training, in order. A loop runs each, then calls `end_of_stage` with its name."""
        return (Stage("train", advice="as the uncompressed model"),)

    def begin_stage(self, name: str, steps: int | None = None) -> None:
        """Called before a stage; `steps` is how many it will have, for schedules to follow, None if not known."""

    def before_step(self, step: int, validation: bool = False) -> None:
        """Called before each forward pass; `validation` where the batch is one of validation data."""

    def after_step(self, step: int) -> None:
        """Called after each step of the optimizer."""

    def begin_second_pass(self) -> list[Tensor]:
        """Leaves whose gradient the module wants of the loss of the same batch, computed again; none by default.

        Called after the optimizer's step; `forward` then depends on these leaves until `end_second_pass`.
        """
        return []

    def end_second_pass(self, gradients: Sequence[Tensor | None]) -> None:
        """Takes the gradients of the leaves; None for a leaf that the loss does not depend on."""

    def second_pass(self, loss: Callable[[], Tensor]) -> None:
        """Called after each step of the optimizer and before `after_step`; `loss` computes the batch's loss anew.

        Only modules that learn from a second pass compute it.
        """
        leaves = self.begin_second_pass()
        if leaves:
            self.end_second_pass(torch.autograd.grad(loss(), leaves, allow_unused=True))

    def candidates(self) -> Iterator[Any]:
        """In a stage that needs scores: what to evaluate. The module is the candidate until the next one is asked for.

        The loop measures the model in evaluation mode on validation data and calls `score` with each. Other stages have
        no candidates.
        """
        return iter(())

    def score(self, candidate: Any, value: float) -> None:
        """The value of a candidate, the larger the better: AUC, for example."""

    def end_of_stage(self, name: str) -> None:
        """Called when a stage is done; parameters may change, so make a new optimizer after it."""

    def regularizer(self) -> Tensor | None:
        """A term to add to the loss of the batch just seen; None for none."""
        return None

    # Use -------------------------------------------------------------------------------------------------------

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """Rows of shape (*input.shape, embedding_dim), or with a `mode` bags, as `nn.Embedding` and `nn.EmbeddingBag`.

        Raises `IdTypeError`, `IdRangeError` (ids on an accelerator are checked there, at the price of a
        synchronization), `ShapeError`.
        """
        check_ids(input, self.num_embeddings)
        flat = input.reshape(-1).long()
        if self.mode is None:
            if offsets is not None or per_sample_weights is not None:
                raise ShapeError("offsets and per_sample_weights need bags, found a module of rows; set mode='sum'")
            return self.rows(flat).reshape(*input.shape, self.embedding_dim)
        if input.dim() == 2:
            if offsets is not None:
                raise ShapeError("offsets must be left out for a 2-D input, found both; flatten input or drop offsets")
            offsets = torch.arange(0, flat.numel() + 1, max(input.shape[1], 1), device=input.device)[: input.shape[0]]
        elif input.dim() != 1 or offsets is None:
            raise ShapeError(f"a bag needs a 2-D input, or a 1-D one with offsets, found {input.dim()}-D")
        rows = self.rows(flat)
        order = torch.arange(len(flat), device=input.device)
        weights = None if per_sample_weights is None else per_sample_weights.reshape(-1).to(rows.dtype)
        return nn.functional.embedding_bag(order, rows, offsets, mode=self.mode, per_sample_weights=weights)

    def as_output_projection(self, block: int = 16384) -> OutputProjection:
        """A layer of logits (..., num_embeddings) of hidden states (..., embedding_dim), with the weights of this one.

        It equals `hidden @ rows.T` of all rows, of which it makes `block` at a time. Batch normalization inside the
        module (`dhe`) takes its running statistics there.
        """
        from .output import OutputProjection

        return OutputProjection(self, block)

    def nbytes_inference(self) -> int:
        """Bytes of the exported table: everything a lookup needs, maps, masks, scales and seeds too."""
        specs = self.method.layout(self.shape)
        if all(isinstance(size, int) for spec in specs for size in spec.shape):
            return nbytes(self.method, self.shape)
        return sum(array.nbytes for array in self.arrays().values())

    def nbytes_training(self, optimizer: str | torch.optim.Optimizer = "adam") -> int:
        """Bytes of parameters and buffers in training, with the state that `optimizer` keeps for each weight.

        `optimizer` is a torch optimizer or one of sgd, momentum, adagrad, rmsprop, adam, adamw. Gradients and
        activations are left out.
        """
        name = optimizer if isinstance(optimizer, str) else type(optimizer).__name__.lower()
        if name == "sparseadam":
            name = "adam"
        if not isinstance(optimizer, str) and name == "sgd" and optimizer.defaults.get("momentum"):
            name = "momentum"
        if name not in OPTIMIZER_WORDS:
            raise ConfigError(f"optimizer must be one of {', '.join(OPTIMIZER_WORDS)}, found {name!r}; name one")
        weights = sum(p.numel() * p.element_size() for p in self.parameters() if p.requires_grad)
        others = sum(p.numel() * p.element_size() for p in self.parameters() if not p.requires_grad)
        buffers = sum(b.numel() * b.element_size() for b in self.buffers())
        return int(weights * (1 + OPTIMIZER_WORDS[name]) + others + buffers)

    def export(self, path: str | os.PathLike[str], *, keys: Any = None, overwrite: bool = False) -> Table:
        """Write the trained table to `path` and open it: its lookups are this module's rows in evaluation mode.

        Raises `ConfigError` in a half-done stage, `DestinationExistsError`, `StorageError`.
        """
        with torch.no_grad():
            arrays = self.arrays()
        return self._store(path, self.method, self.shape, arrays, keys=keys, overwrite=overwrite)

    def _store(
        self,
        path: str | os.PathLike[str],
        method: Method,
        shape: TableShape,
        arrays: dict[str, npt.NDArray[Any]],
        *,
        keys: Any = None,
        overwrite: bool = False,
    ) -> Table:
        """Check arrays against the method's layout, write them as a table and open it."""
        from ..compression import store

        specs = method.layout(shape)
        partition: Literal["rows", "shared"]
        for partition in ("rows", "shared"):
            own = {s.name for s in specs if (s.partition == "shared") == (partition == "shared")}
            part = {k: v for k, v in arrays.items() if k in own}
            check(specs, part, partition=partition, rows=shape.num_embeddings)
        about = {"trained": self.id}
        return store(path, method, shape, arrays, keys=keys, overwrite=overwrite, provenance=about)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, method={self.method!r}"

    # For subclasses --------------------------------------------------------------------------------------------

    def _uniform(self, *shape: int, bound: float) -> nn.Parameter:
        """A parameter drawn from U(-bound, bound)."""
        values = torch.empty(shape).uniform_(-bound, bound, generator=self._generator)
        return nn.Parameter(values)

    @property
    def _bound(self) -> float:
        """The bound of a full table's initial values, as recommenders draw them: U(±sqrt(1 / num_embeddings))."""
        return float(np.sqrt(1.0 / max(self.num_embeddings, 1)))


def array(tensor: Tensor) -> npt.NDArray[Any]:
    """A tensor as a numpy array to store."""
    found: npt.NDArray[Any] = tensor.detach().cpu().contiguous().numpy()
    return found


def once(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct ids of ids (n,), the place of each of the n among them, and how many times each is there.

    For rows that cost more than to sort ids. Compiled graphs and captured ones, whose shapes must not depend on values,
    get the ids as they are.
    """
    if torch.compiler.is_compiling() or (ids.is_cuda and torch.cuda.is_current_stream_capturing()):
        return ids, torch.arange(len(ids), device=ids.device), torch.ones_like(ids)
    distinct, places, counts = torch.unique(ids, return_inverse=True, return_counts=True)
    return distinct, places, counts


def check_ids(ids: Tensor, rows: int) -> None:
    """`IdTypeError` where ids are no integers, `IdRangeError` where one is not from 0 to `rows` - 1."""
    if ids.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        raise IdTypeError(f"ids must be integers, found {ids.dtype}; convert them with .long()")
    if ids.numel() and not torch.compiler.is_compiling():
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= rows:
            found = low if low < 0 else high
            raise IdRangeError(f"ids must be from 0 to {rows - 1}, found {found}; check the ids")
