"""Rows of trainable methods as operators of torch: one forward and one backward for each kind of weights.

On a device one kernel makes the rows and one their gradient (csrc/cuda/nn), where torch's own chain takes a kernel for
every step of an address and a product. Where there is no such kernel, for lack of the extension or for weights that are
not float32, an operator does what the chain does (`_rows`), with equal results.

`fused` is the one place that says whether a module takes its operator or the chain.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..cuda import driver
from ..cuda import trained as _kernels
from . import _rows
from ._rows import Shapes

# Kinds of devices whose tensors the kernels take. Tests add the host's, where the same kernels run in loops.
KERNELS_ON = ["cuda"]
# Of csrc/cuda/nn/tt.cu: cores, and bytes of a block's own memory for a row.
_TT_CORES, _TT_ROW = 4, 48 << 10
_choice: bool | None = None


@contextlib.contextmanager
def use_fused(choice: bool | None) -> Iterator[None]:
    """Have modules take their operators always (True), never (False), or where a kernel serves them (None).

    Gradients of gradients need False: operators have none.
    """
    global _choice
    before, _choice = _choice, choice
    try:
        yield
    finally:
        _choice = before


def fused(*weights: Tensor) -> bool:
    """Whether rows of these weights come of their operator and not of torch's own chain."""
    if _choice is not None:
        return _choice
    # Atomics add in any order.
    return _serves(*weights) and not torch.are_deterministic_algorithms_enabled()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _built() -> bool:
    return driver.built()


def _serves(*weights: Tensor) -> bool:
    """Whether kernels take these: float32, dense, on a device."""
    return (
        all(w.device.type in KERNELS_ON and w.dtype == torch.float32 and w.is_contiguous() for w in weights)
        and _built()
    )


def _reaches(ids: Tensor, *others: Tensor) -> bool:
    """Whether a kernel can follow these ids: int64, where the rest is. Else torch says what is wrong."""
    return ids.dtype == torch.int64 and all(other.device == ids.device for other in others)


def _as_given(ids: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Products of matrices in the dtype of the weights, as the kernels make them and the fake forms say."""
    found: contextlib.AbstractContextManager[Any] = torch.autocast(ids.device.type, enabled=False)
    return found


@dataclass(frozen=True)
class Launch:
    """What a kernel takes besides ids and rows.

    Attributes
    ----------
    config : numbers and texts by the names it reads them by.
    trained : names of the weights.
    fixed : tensors that are not trained, by name.
    """

    config: dict[str, Any]
    trained: Sequence[str]
    fixed: Mapping[str, Tensor]


def _run(
    kind: str, launch: Launch, ids: Tensor, rows: Tensor, shape: tuple[int, int], gradients: Sequence[Tensor] | None,
    weights: Sequence[Tensor],
) -> None:  # fmt: skip
    """Rows (n, dim) of ids to `rows`, or with `gradients` theirs, of `rows`, added to these."""
    held: dict[str, tuple[int, int, int]] = {}
    for i, name in enumerate(launch.trained):
        values = weights[i].data_ptr() if weights else 0
        gradient = gradients[i].data_ptr() if gradients is not None else 0
        like = weights[i] if gradients is None else gradients[i]
        held[name] = (values, like.numel() * 4, gradient)
    for name, tensor in launch.fixed.items():
        held[name] = (tensor.data_ptr(), tensor.nbytes, 0)
    if ids.device.type == "cuda":
        device, stream = ids.device.index, torch.cuda.current_stream(ids.device).cuda_stream
    else:
        device, stream = _kernels.HOST, 0
    _kernels.run(
        kind, launch.config, shape, held, (ids.data_ptr(), ids.numel()), rows.data_ptr(),
        backward=gradients is not None, device=device, stream=stream,
    )  # fmt: skip


class RowsOperator:
    """`embstore::<kind>_rows` and `embstore::<kind>_gradients`.

    The first takes ids (n,), int64; the weights; tensors that are not trained; the number of rows of the table; and the
    kind's settings. The second takes the gradient (n, dim) before them, and the sizes of the weights in place of the
    weights where it does not need their values.

    Parameters
    ----------
    kind : as in csrc/cuda/nn.
    settings : their part of the operators' schema.
    rows, gradients : of `_rows`.
    width : dims of a row by the weights' sizes and settings.
    launch : what the kernel takes, of fixed tensors, the weights' sizes and settings; None where it cannot serve.
    rank : dimensions of each weight.
    makes_rows : whether the kernel makes rows too, not gradients alone.
    needs : whether the backward direction reads the weights, by settings.
    """

    def __init__(
        self,
        kind: str,
        settings: str,
        rows: Callable[..., Tensor],
        gradients: Callable[..., list[Tensor]],
        *,
        width: Callable[..., int],
        launch: Callable[..., Launch | None],
        rank: int = 2,
        makes_rows: bool = True,
        needs: Callable[..., bool] = lambda *settings: False,
    ) -> None:
        self._kind, self._rows, self._gradients = kind, rows, gradients
        self._width, self._launch, self._rank, self._needs = width, launch, rank, needs
        self._makes_rows = makes_rows
        own = f", {settings}" if settings else ""
        given = "Tensor ids, Tensor[] weights, Tensor[] fixed"
        self._forward: Any = torch.library.custom_op(
            f"embstore::{kind}_rows", self._make_rows, mutates_args=(),
            schema=f"({given}, int num_embeddings{own}) -> Tensor",
        )  # fmt: skip
        self._backward: Any = torch.library.custom_op(
            f"embstore::{kind}_gradients", self._make_gradients, mutates_args=(),
            schema=f"(Tensor grad, {given}, int[] sizes, int num_embeddings{own}) -> Tensor[]",
        )  # fmt: skip
        self._forward.register_fake(self._fake_rows)
        self._backward.register_fake(self._fake_gradients)
        self._forward.register_autograd(self._differentiate, setup_context=self._save)

    def __call__(
        self, ids: Tensor, weights: Sequence[Tensor], fixed: Sequence[Tensor], num_embeddings: int, *settings: Any
    ) -> Tensor:
        """Rows (n, dim) of ids (n,), differentiable in the weights."""
        if not fused(*weights):
            return self._rows(ids, weights, fixed, *settings)
        found: Tensor = self._forward(ids, list(weights), list(fixed), num_embeddings, *settings)
        return found

    @property
    def overload(self) -> Any:
        """The forward operator, as `__torch_dispatch__` is given it."""
        return getattr(torch.ops.embstore, f"{self._kind}_rows").default

    def _make_rows(
        self, ids: Tensor, weights: Sequence[Tensor], fixed: Sequence[Tensor], num_embeddings: int, *settings: Any
    ) -> Tensor:
        shapes = [w.shape for w in weights]
        serves = self._makes_rows and _serves(*weights) and _reaches(ids, *weights, *fixed)
        launch = self._launch(fixed, shapes, *settings) if serves else None
        if launch is None:
            with _as_given(ids):
                return self._rows(ids, weights, fixed, *settings)
        dim = self._width(shapes, *settings)
        out = weights[0].new_empty((len(ids), dim))
        _run(self._kind, launch, ids.contiguous(), out, (num_embeddings, dim), None, weights)
        return out

    def _make_gradients(
        self, grad: Tensor, ids: Tensor, weights: Sequence[Tensor], fixed: Sequence[Tensor], sizes: Sequence[int],
        num_embeddings: int, *settings: Any,
    ) -> list[Tensor]:  # fmt: skip
        shapes, grad = self._shapes(sizes), grad.contiguous()
        serves = _serves(grad, *weights) and _reaches(ids, grad, *weights, *fixed)
        launch = self._launch(fixed, shapes, *settings) if serves else None
        if launch is None:
            with _as_given(ids):
                return self._gradients(grad, ids, weights, fixed, shapes, *settings)
        found = [grad.new_zeros(shape) for shape in shapes]
        _run(self._kind, launch, ids.contiguous(), grad, (num_embeddings, grad.shape[1]), found, weights)
        return found

    def _fake_rows(
        self, ids: Tensor, weights: Sequence[Tensor], fixed: Sequence[Tensor], num_embeddings: int, *settings: Any
    ) -> Tensor:
        return weights[0].new_empty((ids.shape[0], self._width([w.shape for w in weights], *settings)))

    def _fake_gradients(
        self, grad: Tensor, ids: Tensor, weights: Sequence[Tensor], fixed: Sequence[Tensor], sizes: Sequence[int],
        num_embeddings: int, *settings: Any,
    ) -> list[Tensor]:  # fmt: skip
        return [grad.new_empty(shape) for shape in self._shapes(sizes)]

    def _shapes(self, sizes: Sequence[int]) -> list[tuple[int, ...]]:
        return [tuple(sizes[i : i + self._rank]) for i in range(0, len(sizes), self._rank)]

    def _save(self, ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ids, weights, fixed, *ctx.settings = inputs
        needed = weights if self._needs(*ctx.settings[1:]) else []
        ctx.sizes = [size for w in weights for size in w.shape]
        ctx.counts = len(needed), len(fixed)
        ctx.save_for_backward(ids, *needed, *fixed)

    def _differentiate(self, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        ids, *others = ctx.saved_tensors
        needed, fixed = ctx.counts
        found = self._backward(grad, ids, others[:needed], others[needed:], ctx.sizes, *ctx.settings)
        return None, found, [None] * fixed, *[None] * len(ctx.settings)


def _compo(fixed: Sequence[Tensor], shapes: Shapes, collisions: int, op: str) -> Launch:
    config = {"partitions": len(shapes), "collisions": collisions, "op": op}
    return Launch(config, [f"table{i}" for i in range(len(shapes))], {})


compo = RowsOperator(
    "compo",
    "int collisions, str op",
    _rows.compo_rows,
    _rows.compo_gradients,
    width=lambda shapes, collisions, op: sum(s[1] for s in shapes) if op == "concat" else shapes[0][1],
    launch=_compo,
    needs=lambda collisions, op: op == "multiply",
)


def _tt(fixed: Sequence[Tensor], shapes: Shapes, dim: int) -> Launch | None:
    kept = sum(math.prod(s[2] for s in shapes[: i + 1]) * shapes[i][3] for i in range(1, len(shapes) - 1))
    if len(shapes) > _TT_CORES or 4 * (_TT_CORES + 2 * kept) > _TT_ROW:
        return None
    config: dict[str, Any] = {"cores": len(shapes)}
    for i, (n, _, values, rank) in enumerate(shapes):
        config |= {f"rows{i}": n, f"values{i}": values, f"rank{i}": rank}
    return Launch(config, [f"core{i}" for i in range(len(shapes))], {})


tt = RowsOperator(
    "tt",
    "int dim",
    _rows.tt_rows,
    _rows.tt_gradients,
    width=lambda shapes, dim: dim,
    launch=_tt,
    rank=4,
    needs=lambda dim: True,
)


def _robe(
    fixed: Sequence[Tensor], shapes: Shapes, dim: int, chunk: int, wrap: bool, sign: bool, factors: Sequence[int]
) -> Launch:
    hashes = {f"factor{k}": factor for k, factor in enumerate(factors)}
    config = {"size": shapes[0][0], "chunk": chunk, "wrap": wrap, "sign": sign, **hashes}
    return Launch(config, ["pool"], {})


robe = RowsOperator(
    "robe",
    "int dim, int chunk, bool wrap, bool sign, int[] factors",
    _rows.robe_rows,
    _rows.robe_gradients,
    width=lambda shapes, dim, *others: dim,
    launch=_robe,
    rank=1,
)


def _adapt(
    fixed: Sequence[Tensor], shapes: Shapes, by_map: bool, hot: int, cold: int, seed: int, sign: bool
) -> Launch | None:
    if by_map and fixed[0].dtype != torch.int32:  # of more than 2**31 rows
        return None
    config = {"by_map": by_map, "hot": hot, "cold": cold, "seed": seed, "sign": sign}
    return Launch(config, ["table"], {"where": fixed[0].contiguous()})


adapt = RowsOperator(
    "adapt",
    "bool by_map, int hot, int cold, int seed, bool sign",
    _rows.adapt_rows,
    _rows.adapt_gradients,
    width=lambda shapes, *settings: shapes[0][1],
    launch=_adapt,
)

codes = RowsOperator(
    "codes",
    "",
    _rows.codes_rows,
    _rows.codes_gradients,
    width=lambda shapes: shapes[0][1],
    launch=lambda fixed, shapes: Launch({}, ["weight"], {}),
    makes_rows=False,  # of codes; see `decoded`
)


def _make_decoded(ids: Tensor, codes: Tensor, step: Tensor) -> Tensor:
    held = codes.dtype in (torch.int8, torch.int16) and codes.is_contiguous()
    if not (held and _serves(step) and _reaches(ids, codes, step)):
        return _rows.decoded(ids, codes, step)
    out = step.new_empty((len(ids), codes.shape[1]))
    config = {"bytes": codes.element_size(), "step_by_row": len(step) > 1}
    launch = Launch(config, [], {"codes": codes, "step": step})
    _run("codes", launch, ids.contiguous(), out, (codes.shape[0], codes.shape[1]), None, [])
    return out


def _fake_decoded(ids: Tensor, codes: Tensor, step: Tensor) -> Tensor:
    return step.new_empty((ids.shape[0], codes.shape[1]))


_decoded: Any = torch.library.custom_op(
    "embstore::decoded", _make_decoded, mutates_args=(), schema="(Tensor ids, Tensor codes, Tensor step) -> Tensor"
)
_decoded.register_fake(_fake_decoded)


def decoded(ids: Tensor, codes: Tensor, step: Tensor) -> Tensor:
    """Float rows (n, dim) of integer codes (num_embeddings, dim) times the one step (1, 1) or that of each row."""
    found: Tensor = _decoded(ids, codes, step) if fused(step) else _rows.decoded(ids, codes, step)
    return found
