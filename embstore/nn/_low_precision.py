"""Shared by int8, int16 and alpt: rows held as integer codes while they train."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import BudgetError
from ..method import Method, RowMethod, nbytes
from ..methods._affine import AffineMethod
from . import _ops
from ._quantized import Codes, QuantizedRows
from .base import Asked, CompressedEmbedding, array

# The reach of codes where no step is given: 127 * 0.01, about twice what trained rows of recommenders hold.
REACH = 1.27


class LowPrecision(CompressedEmbedding):
    """Base of the modules whose weight is a `QuantizedRows`."""

    straight_through: ClassVar[bool] = True
    # False gives dense gradients, which every optimizer takes; True touches no row but those of the batch.
    options: ClassVar[Mapping[str, Any]] = {"sparse": False}

    @property
    def store(self) -> Codes:
        """The codes, steps and pending floats behind `weight`."""
        found: Codes = self.weight.store
        return found

    @classmethod
    def solve(cls, asked: Asked) -> Method:
        method = cls._codes(asked).resolve(asked.shape)
        if asked.limit is not None and (floor := nbytes(method, asked.shape)) > asked.limit:
            raise BudgetError(
                f"method {cls.id!r} needs {floor:,} bytes for this table, the budget is {asked.limit:,}; raise it"
            )
        return method

    @classmethod
    @abc.abstractmethod
    def _codes(cls, asked: Asked) -> RowMethod:
        """The storage method, whose size is fixed; argument as of `solve`."""

    def _build_rows(self, bits: int, step: Tensor) -> None:
        """Make `weight` of initial values U(-bound, bound), rounded stochastically."""
        n, dim = self.num_embeddings, self.embedding_dim
        seed = int(torch.randint(0, 2**62, (), generator=self._generator))
        codes = torch.zeros((n, dim), dtype=torch.int8 if bits == 8 else torch.int16)
        values = torch.empty((n, dim)).uniform_(-self._bound, self._bound, generator=self._generator)
        store = Codes(codes, step, seed, values)
        store.settle()
        self.weight = nn.Parameter(QuantizedRows(store))

    def rows(self, ids: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self.store.settle()
        if self.option["sparse"]:
            return nn.functional.embedding(ids, self.weight, sparse=True)
        return _ops.codes(ids, [self.weight], [], self.num_embeddings)

    def after_step(self, step: int) -> None:
        self.store.settle()

    def nbytes_training(self, optimizer: str | torch.optim.Optimizer = "adam") -> int:
        """As in the base, with the weight counted as its codes and steps.

        With dense gradients the optimizer's step also holds the whole table in float32 for its duration.
        """
        whole = super().nbytes_training(optimizer)
        floats = self.weight.numel() * self.weight.element_size()
        return int(whole - floats + self.store.codes.nbytes + self.store.step.nbytes)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """`.to`, `.double`, `.cuda` …: codes stay integers, and the parameter stays the one an optimizer holds."""
        store = self.store
        store.settle()
        store.codes, store.step = fn(store.codes), fn(store.step)
        made, grad = QuantizedRows(store), self.weight.grad
        if torch._has_compatible_shallow_copy_type(self.weight, made):
            self.weight.data = made
        else:  # to the meta device and back, as in nn.Module
            self.weight = nn.Parameter(made, self.weight.requires_grad)
        self.weight.grad = None if grad is None else fn(grad)
        return self

    # The state is plain tensors, so that it is read without this class.

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        self.store.settle()
        destination[prefix + "codes"] = self.store.codes.detach()
        destination[prefix + "step"] = self.store.step.detach()

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        self.store.pending = None
        for name in ("codes", "step"):
            own, found = getattr(self.store, name), state_dict.get(prefix + name)
            if found is None:
                missing_keys.append(prefix + name)
            elif found.shape != own.shape or found.dtype != own.dtype:
                error_msgs.append(f"{prefix}{name} must be {own.dtype} {tuple(own.shape)}, found {found.dtype}")
            else:
                own.copy_(found)
        known = {prefix + "codes", prefix + "step"}
        if strict:
            unexpected_keys += [key for key in state_dict if key.startswith(prefix) and key not in known]


class OneStep(LowPrecision):
    """Low-precision training (Xu et al., SIGMOD 2021): rows are integer codes times one step Delta, in training too.

    A step of the optimizer acts on floats, which are rounded to multiples of Delta stochastically, each element on its
    own: the expected row is the float one, so that updates far below Delta are learned, where nearest rounding would
    lose them all.

    `weight` is a `QuantizedRows`: a float32 parameter to autograd and to every torch optimizer, stored as codes. The
    price: a dense optimizer updates all rows and so holds the table in float32 from its step to the end of
    `after_step` (or to the next forward pass, in a loop without hooks), and Adam's moments are 8 bytes a value as
    ever. Training memory shrinks with `sparse=True` and SGD: then only the rows of a batch are ever floats.

    Config
    ------
    step : Delta, in the unit of the values; None for 1.27 / the largest code. Values are clipped to the largest code.
    sparse : True for sparse gradients, which SGD, Adagrad and SparseAdam take.
    """

    bits: ClassVar[int]

    @classmethod
    def takes(cls, stored: type[RowMethod]) -> Sequence[str]:
        return ["step"]

    @classmethod
    def _codes(cls, asked: Asked) -> RowMethod:
        step = asked.config.get("step") or REACH / (2 ** (cls.bits - 1) - 1)
        return asked.stored.from_config({"symmetric": True, "step": step})

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        self._build_rows(self.bits, torch.full((1, 1), float(cast(AffineMethod, self.method).step or 0)))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        self.store.settle()
        return {"codes": array(self.store.codes)}
