"""Shared by int16, int8, int4, int2: uniform codes with a scale, and an offset, per block of a row.

The numpy code is the reference of `csrc/methods/_affine_encode.h`, operation by operation: float32
throughout, sums over 16 lanes in a fixed order, so that both give the same bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from ..arrays import Arrays, ArraySpec, TableShape
from ..errors import BudgetError, ConfigError
from ..method import FloatRows, Ids, Named, RowMethod
from ._bits import pack, packed_bytes, unpack
from ._scales import check_block_size, check_scales, lane_sum, pad_to_lanes, round_down, round_near, round_up

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AffineMethod(RowMethod):
    """value = code * scale + offset, each operation rounded to float32.

    Parameters
    ----------
    block_size : values that share a scale, along the row; None for the whole row.
    symmetric : no offset, codes around zero; saves 2 or 4 bytes a block, loses precision on skewed rows.
    scale_dtype : "float16" or "float32" for scale and offset. float16 holds magnitudes up to 65504 and
        resolves steps down to 6e-8.
    range : "lse" searches the range of least squared error in the block, "minmax" covers every value.
    step : one scale for the whole table, kept in the config and not stored by row; codes of 8 or 16 bits only. Values
        beyond step times the largest code are refused.
    offset : the value of code 0 beside a step, for codes that are not symmetric: rows of bytes are kept exactly by
        ``step=1.0, offset=0.0``.

    A block that holds a NaN or an infinity decodes to NaN as a whole; a constant block is exact to the
    rounding of its offset.
    """

    bits: ClassVar[int]
    later: ClassVar[tuple[str, ...]] = ("step", "offset")

    block_size: int | None = None
    symmetric: bool = False
    scale_dtype: Literal["float16", "float32"] = "float16"
    range: Literal["lse", "minmax"] = "lse"
    step: float | None = None
    offset: float | None = None

    def __post_init__(self) -> None:
        check_block_size(self.id, self.block_size, multiple=max(1, 8 // self.bits))
        if self.scale_dtype not in ("float16", "float32"):
            raise ConfigError(
                f"scale_dtype of {self.id} must be 'float16' or 'float32', found {self.scale_dtype!r}; choose one"
            )
        if self.range not in ("lse", "minmax"):
            raise ConfigError(f"range of {self.id} must be 'lse' or 'minmax', found {self.range!r}")
        if not isinstance(self.symmetric, bool):
            raise ConfigError(f"symmetric of {self.id} must be true or false, found {self.symmetric!r}")
        if (self.offset is not None) != (self.step is not None and not self.symmetric):
            raise ConfigError(
                f"offset of {self.id} goes with a step and codes that are not symmetric, found step={self.step}, "
                f"symmetric={self.symmetric}, offset={self.offset}; set symmetric=True, or both step and offset"
            )
        if self.step is None:
            return
        if not isinstance(self.step, float) or not 1e-30 < self.step < 1e30:
            raise ConfigError(f"step of {self.id} must be a positive float, found {self.step!r}; 0.01 is usual")
        if self.offset is not None and not (isinstance(self.offset, float) and abs(self.offset) < 1e30):
            raise ConfigError(f"offset of {self.id} must be a finite float, found {self.offset!r}; 0.0 is usual")
        if self.bits < 8:
            raise ConfigError(f"a step needs codes of 8 or 16 bits, found {self.id}; leave the step out")

    def resolve(self, shape: TableShape) -> Self:
        """Replace an open or too large `block_size` by the row's length, a `step` by the float32 next to it."""
        if self.step is not None:
            step, whole = float(np.float32(self.step)), shape.embedding_dim
            offset = None if self.offset is None else float(np.float32(self.offset))
            return dataclasses.replace(self, block_size=whole, scale_dtype="float32", step=step, offset=offset)
        size = min(self.block_size or shape.embedding_dim, shape.embedding_dim)
        multiple = max(1, 8 // self.bits)
        return dataclasses.replace(self, block_size=-(-size // multiple) * multiple)

    def _blocks(self, dim: int) -> int:
        return -(-dim // (self.block_size or dim))

    def layout(self, shape: TableShape) -> tuple[ArraySpec, ...]:
        n, dim = shape.num_embeddings, shape.embedding_dim
        if self.bits >= 8:
            codes = ArraySpec("codes", f"{'' if self.symmetric else 'u'}int{self.bits}", (n, dim), "rows")
        else:
            codes = ArraySpec("codes", "uint8", (n, packed_bytes(dim, self.bits)), "rows")
        blocks = self._blocks(dim)
        if self.step is not None:
            return (codes,)
        if self.symmetric:
            return codes, ArraySpec("scale", self.scale_dtype, (n, blocks), "rows")
        return codes, ArraySpec("affine", self.scale_dtype, (n, blocks, 2), "rows")

    def for_budget(self, shape: TableShape, nbytes: int) -> Self:
        """The finest blocks (then scale dtype) that fit; `BudgetError` names the floor."""
        sizes: list[int | None] = [*(s for s in (16, 32, 64, 128, 256) if s < shape.embedding_dim), None]
        options = (
            [self.resolve(shape)]
            if self.step is not None
            else [
                dataclasses.replace(self, block_size=s, scale_dtype=t).resolve(shape)
                for s in sizes
                for t in ("float32", "float16")
            ]
        )
        costs = [sum(a.nbytes() for a in o.layout(shape)) for o in options]
        fitting = [(cost, o) for cost, o in zip(costs, options, strict=True) if cost <= nbytes]
        if not fitting:
            raise BudgetError(
                f"method {self.id!r} needs at least {min(costs):,} bytes for {shape.num_embeddings:,} x "
                f"{shape.embedding_dim}, found a budget of {nbytes:,}; raise it or choose a smaller method",
                floor=min(costs),
            )
        return max(fitting, key=lambda pair: pair[0])[1]

    @property
    def _top(self) -> int:
        return (1 << (self.bits - 1)) - 1 if self.symmetric else (1 << self.bits) - 1

    def encode(self, shared: Mapping[str, npt.NDArray[Any]], ids: Ids, rows: FloatRows) -> Named:
        n, dim = rows.shape
        size = self.block_size or dim
        codes = np.zeros((n, dim), np.float32)
        steps = np.zeros((n, self._blocks(dim), 2), np.float32)
        # A NaN or inf turns a block's arithmetic to NaN on purpose; it is replaced below.
        with np.errstate(all="ignore"):
            for block, start in enumerate(np.arange(0, dim, size)):
                x = rows[:, start : start + size]
                if self.step is None:
                    scale, offset = self._fit(x)
                else:
                    scale, offset = np.full(n, self.step, np.float32), np.full(n, self.offset or 0.0, np.float32)
                steps[:, block, 0], steps[:, block, 1] = scale, offset
                inverse = np.where(scale > 0, np.float32(1) / scale, np.float32(0))
                found = self._quantize(x, offset[:, None], inverse[:, None])
                if self.step is not None and self.symmetric:  # a code that no value in range has, for check_encoded
                    found = np.where(np.abs(x * inverse[:, None]) <= self._top + 0.5, found, -self._top - 1)
                codes[:, start : start + size] = found
        named: Named = {}
        if self.bits >= 8:
            dtype = f"{'' if self.symmetric else 'u'}int{self.bits}"
            named["codes"] = codes.astype(np.int32).astype(dtype)
        else:
            middle = 2 ** (self.bits - 1) if self.symmetric else 0
            named["codes"] = pack((codes.astype(np.int32) + middle).astype(np.uint8), self.bits)
        with np.errstate(over="ignore"):
            if self.step is not None:
                return named
            if self.symmetric:
                named["scale"] = steps[:, :, 0].astype(self.scale_dtype)
            else:
                named["affine"] = steps.astype(self.scale_dtype)
        return named

    def check_encoded(self, encoded: Named, rows: FloatRows, first_row: int) -> None:
        """Refuse rows too large for the scale's dtype or the `step`; `ConfigError` names the first."""
        if self.step is not None:
            if self.offset is None:
                beyond = (encoded["codes"] == -self._top - 1).any(axis=1)
                reach = f"up to {self.step * self._top:g}"
            else:
                low, high = self.offset - 0.5 * self.step, self.offset + (self._top + 0.5) * self.step
                beyond = ~((rows >= low) & (rows <= high)).all(axis=1)
                reach = f"from {self.offset:g} to {self.offset + self.step * self._top:g}"
            if beyond.any():
                row = first_row + int(np.argmax(beyond))
                raise ConfigError(
                    f"{self.id} with step {self.step:g} holds values {reach}, found others in "
                    f"row {row}; use a larger step, or leave it out for a scale per row"
                )
            return
        check_scales(self.id, encoded["scale" if self.symmetric else "affine"], first_row, self.scale_dtype)

    def constants(self, shared: Mapping[str, npt.NDArray[Any]]) -> Named:
        """The step as the kernels read it: a `scale`, or an `affine` with its offset, that all rows share."""
        if self.step is None:
            return {}
        if self.offset is None:
            return {"scale": np.array([self.step], np.float32)}
        return {"affine": np.array([self.step, self.offset], np.float32)}

    def _quantize(self, x: F32, offset: F32, inverse: F32) -> F32:
        t = x * inverse if self.symmetric else (x - offset) * inverse
        t = np.where(t > self._top, np.float32(self._top), t)
        bottom = np.float32(-self._top if self.symmetric else 0)
        return np.rint(np.where(t > bottom, t, bottom))

    def _fit(self, x: F32) -> tuple[F32, F32]:
        half = self.scale_dtype == "float16"
        top = np.float32(self._top)
        low, high = np.fmin.reduce(x, axis=1), np.fmax.reduce(x, axis=1)

        def span(shrink: float, cover: bool) -> tuple[F32, F32]:
            s = np.float32(shrink)
            up, down = (round_up, round_down) if cover else (round_near, round_near)
            if self.symmetric:
                reach = np.where(-low > high, -low, high) * (np.float32(1) - s)
                return up(reach / top, half), np.zeros_like(low)
            width = high - low
            offset = down(low + s * width, half)
            return up((high - s * width - offset) / top, half), offset

        best_scale, best_offset = whole = span(0.0, True)
        if self.range == "lse":
            shrinks, rounds = {2: ((0.0, 0.08, 0.16, 0.24), 3), 4: ((0.0, 0.03, 0.06, 0.09), 3)}.get(
                self.bits, ((0.0,), 2)
            )
            best_error = np.full(len(x), np.inf, np.float32)
            keep = pad_to_lanes(np.ones(x.shape[1], np.float32)[None], 0.0)
            padded = pad_to_lanes(x, None)
            # The search starts from a usable scale only, and each start ends at the first unusable refit.
            searchable = whole[0] > 0
            for shrink in shrinks:
                scale, offset = whole if shrink == 0.0 else span(shrink, False)
                alive = searchable & (scale > 0)
                for turn in range(rounds + 1):
                    inverse = (np.float32(1) / scale)[:, None]
                    c = self._quantize(padded, offset[:, None], inverse) * keep
                    y = padded * keep if self.symmetric else (padded - low[:, None]) * keep
                    value = c * scale[:, None] if self.symmetric else c * scale[:, None] + offset[:, None]
                    miss = (value - padded) * keep
                    error = lane_sum(miss * miss)
                    better = alive & (error < best_error)
                    best_error = np.where(better, error, best_error)
                    best_scale = np.where(better, scale, best_scale)
                    best_offset = np.where(better, offset, best_offset)
                    if turn == rounds:
                        break
                    scale, offset = self._refit(c, y, low, x.shape[1], half)
                    alive = alive & (scale > 0)
        bad = ~np.isfinite(x).all(axis=1)
        nan = np.float32(np.nan)
        return np.where(bad, nan, best_scale), np.where(bad, nan, best_offset)

    def _refit(self, c: F32, y: F32, low: F32, n: int, half: bool) -> tuple[F32, F32]:
        sc, scc, sy, syc = (lane_sum(v).astype(np.float64) for v in (c, c * c, y, y * c))
        if self.symmetric:
            scale = np.where(scc == 0, 0.0, syc / scc)
            return round_near(scale.astype(np.float32), half), np.zeros_like(low)
        spread = n * scc - sc * sc
        scale = np.where(spread <= 0, 0.0, (n * syc - sy * sc) / spread)
        offset = low.astype(np.float64) + (sy - scale * sc) / n
        return round_near(scale.astype(np.float32), half), round_near(offset.astype(np.float32), half)

    def lookup(self, arrays: Arrays, ids: Ids, out: FloatRows) -> None:
        dim = out.shape[1]
        at = ids - arrays.start
        codes = arrays["codes"][at]
        if self.bits < 8:
            codes = unpack(codes, self.bits, dim)
        out[:] = codes.astype(np.float32)
        if self.symmetric and self.bits < 8:
            out -= np.float32(2 ** (self.bits - 1))
        columns = np.arange(dim) // (self.block_size or dim)
        if self.step is not None:
            out *= np.float32(self.step)
            if self.offset is not None:
                out += np.float32(self.offset)
        elif self.symmetric:
            out *= arrays["scale"][at].astype(np.float32)[:, columns]
        else:
            affine = arrays["affine"][at].astype(np.float32)[:, columns]
            out *= affine[..., 0]
            out += affine[..., 1]
