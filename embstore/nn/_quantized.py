"""A parameter that is stored as integer codes, under any optimizer.

To autograd and to an optimizer it is a float32 tensor (num_embeddings, dim); what lies in memory is one small integer
per value and a step per table or row. An in-place operation of an optimizer (`add_`, `addcdiv_`, `mul_`, …) acts on
float32 values that live until `settle`, which rounds them stochastically: once a step, however many operations the
optimizer needs. With sparse gradients only the touched rows are ever floats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from . import _ops

aten = torch.ops.aten


def stochastic_codes(values: Tensor, step: Tensor, noise: Tensor, top: int) -> Tensor:
    """Integer-valued floats c with E[c] = values / step: floor(values / step + noise), noise U[0, 1) for each element.

    Values that are a code times the step in float32 keep it: otherwise the rounding of the quotient would now and then
    move a value that no optimizer touched.
    """
    quotient = values / step
    near = quotient.round()
    codes = torch.where(near * step == values, near, torch.floor(quotient + noise))
    return codes.clamp_(-top, top)


class Codes:
    """The memory of a `QuantizedRows`, shared by its aliases.

    Attributes
    ----------
    codes : int8 or int16 (num_embeddings, dim), between -top and top = 2^(bits - 1) - 1.
    step : float32 (1, 1), one for the table, or (num_embeddings, 1).
    pending : what an optimizer made of the rows and `settle` has yet to round: None, float values of all rows, or
        (ids, float values of those rows).
    """

    def __init__(self, codes: Tensor, step: Tensor, seed: int, pending: Any = None) -> None:
        self.codes, self.step, self.seed, self.pending = codes, step, seed, pending
        # A stream of its own, from the module's seed: the replicas of data-parallel training must round alike.
        self._generator: torch.Generator | None = None

    @property
    def top(self) -> int:
        """The largest code."""
        return int(torch.iinfo(self.codes.dtype).max)

    def step_of(self, ids: Tensor | None) -> Tensor:
        """The step of each row, or the one of all."""
        return self.step if ids is None or len(self.step) == 1 else self.step.index_select(0, ids)

    def decode(self, ids: Tensor | None = None) -> Tensor:
        """Float rows (of `ids`) as stored, what is pending left out."""
        if ids is None:
            return self.codes.to(self.step.dtype) * self.step
        rows = _ops.decoded(ids.reshape(-1), self.codes, self.step)
        return rows.reshape(*ids.shape, rows.shape[1])

    def rows(self, ids: Tensor) -> Tensor:
        """Float rows of ids with what is pending; of a sparse gradient, whose ids are sorted."""
        if self.pending is None or isinstance(self.pending, Tensor):
            return self.decode(ids) if self.pending is None else self.pending[ids]
        own, values = self.pending
        rows = self.decode(ids)
        if len(own):
            at = torch.searchsorted(own, ids).clamp_(max=len(own) - 1)
            hit = own[at] == ids
            rows[hit] = values[at[hit]]
        return rows

    def values(self) -> Tensor:
        """Float values of all rows, with what is pending."""
        if isinstance(self.pending, Tensor):
            return self.pending
        values = self.decode()
        if self.pending is not None:
            values[self.pending[0]] = self.pending[1]
        return values

    def floats(self) -> tuple[Tensor | None, Tensor] | None:
        """What is pending, as (ids or None for all rows, values); None for nothing."""
        return (None, self.pending) if isinstance(self.pending, Tensor) else self.pending

    def settle(self) -> None:
        """Round what is pending to codes of the current step, stochastically, each element on its own."""
        found = self.floats()
        if found is None:
            return
        ids, values = found
        if self._generator is None or self._generator.device != values.device:
            self._generator = torch.Generator(values.device).manual_seed(self.seed)
        noise = torch.rand(values.shape, generator=self._generator, dtype=values.dtype, device=values.device)
        codes = stochastic_codes(values, self.step_of(ids), noise, self.top).to(self.codes.dtype)
        if ids is None:
            self.codes.copy_(codes)
        else:
            self.codes[ids] = codes
        self.pending = None

    def add_sparse(self, other: Tensor, alpha: float) -> None:
        """Add `alpha` times a sparse gradient; only its rows become floats."""
        self.settle()
        other = other.coalesce()
        ids = other.indices()[0]
        self.pending = (ids, self.decode(ids) + alpha * other.values())

    def like(self, change: Callable[[Tensor], Tensor]) -> Codes:
        """A copy with `change` done to each tensor."""
        pending = None if self.pending is None else tree_map(change, self.pending)
        return Codes(change(self.codes), change(self.step), self.seed, pending)


class QuantizedRows(torch.Tensor):
    """`store.codes * store.step` as a float32 tensor; see the page above."""

    store: Codes

    @staticmethod
    def __new__(cls, store: Codes) -> QuantizedRows:
        made: QuantizedRows = torch.Tensor._make_wrapper_subclass(
            cls, store.codes.shape, dtype=store.step.dtype, device=store.codes.device
        )
        return made

    def __init__(self, store: Codes) -> None:
        self.store = store

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"QuantizedRows({tuple(self.shape)}, {self.store.codes.dtype}, step {tuple(self.store.step.shape)})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        first = args[0]
        if func is _ops.codes.overload:
            return args[1][0].store.decode(first)
        if isinstance(first, QuantizedRows):
            store = first.store
            if func in (aten.detach.default, aten.alias.default):
                return QuantizedRows(store)
            if func is aten.clone.default:
                return QuantizedRows(store.like(torch.clone))
            if func is aten._to_copy.default:
                return _converted(store, kwargs)
            if func is aten.embedding.default:
                return store.decode(args[1])
            if func is aten.add_.Tensor and getattr(args[1], "layout", None) == torch.sparse_coo:
                store.add_sparse(args[1], kwargs.get("alpha", 1))
                return first
            if _writes_first(func):
                values = store.values()
                func(values, *tree_map(_plain, args[1:]), **tree_map(_plain, kwargs))
                store.pending = values
                return first
        return func(*tree_map(_plain, args), **tree_map(_plain, kwargs))


def _converted(store: Codes, kwargs: dict[str, Any]) -> Tensor:
    """On another device or in another float type; codes stay integers."""
    device, dtype = kwargs.get("device"), kwargs.get("dtype") or store.step.dtype
    if not dtype.is_floating_point:
        return store.values().to(device=device, dtype=dtype)
    return QuantizedRows(store.like(lambda t: t.to(device, dtype if t.is_floating_point() else t.dtype, copy=True)))


def _writes_first(func: Any) -> bool:
    """Whether an operation changes its first argument in place, and no other."""
    written = [a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments]
    return written[0] and sum(written) == 1


def _plain(value: Any) -> Any:
    return value.store.values() if isinstance(value, QuantizedRows) else value
