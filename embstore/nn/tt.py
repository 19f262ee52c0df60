"""Tensor trains (TT-Rec, Yin et al., MLSys 2021): see `embstore.methods.tt`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, cast

import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..method import Method, nbytes
from ..methods.tt import TT as TTMethod
from . import _ops
from ._coded import F32, CodedEmbedding
from .base import Asked, array

# Values of cores start beyond this many standard deviations of a Gaussian, so that products of few do not pile up at 0.
BEYOND = 2.0


class TT(CodedEmbedding):
    """Rows are products of a slice of each core, chosen by the digits of the id.

    Cores start as Gaussians without their middle, as TT-Rec has it, at a scale that also divides by the ranks: rows
    start with the variance of a full table's whatever the rank. Products that ids of a batch share are made once.

    Where `cores` is left out there are as few as the budget allows: at equal bytes two learn more than three (measured
    on MovieLens-1M and Frappe) and their products are much cheaper; more cores reach smaller budgets.

    TT-Rec's cache of the hottest rows is left out: a stored tensor train has no place for rows of their own.
    """

    id: ClassVar[str] = "tt"

    @classmethod
    def solve(cls, asked: Asked) -> Method:
        if "cores" not in asked.config:
            one = TTMethod.from_config({**asked.config, "rank": 1})
            floors = {cores: nbytes(dataclasses.replace(one, cores=cores), asked.shape) for cores in (2, 3, 4)}
            within = [cores for cores, floor in floors.items() if asked.limit is None or floor <= asked.limit]
            cores = within[0] if within else min(floors, key=lambda cores: floors[cores])
            asked = dataclasses.replace(asked, config={**asked.config, "cores": cores})
        return super().solve(asked)

    def _build(self, counts: npt.NDArray[Any] | None) -> None:
        method = cast(TTMethod, self.method)
        sizes = method.core_sizes(self.shape)
        std = (self._bound**2 / 3 / math.prod(method.ranks(self.shape))) ** (0.5 / len(sizes))
        self.cores = nn.ParameterList([self._core(std, *size) for size in sizes])

    def _core(self, std: float, *shape: int) -> nn.Parameter:
        """Values of a Gaussian at more than `BEYOND` from 0, scaled to the standard deviation `std`."""
        tail = math.erfc(BEYOND / math.sqrt(2)) / 2
        density = math.exp(-(BEYOND**2) / 2) / math.sqrt(2 * math.pi)
        variance = 1 + BEYOND * density / tail
        # U(-1, 1) times the tail's mass: the sign is the value's, the magnitude says how far out it lies.
        drawn = torch.empty(shape, dtype=torch.float64).uniform_(-1, 1, generator=self._generator)
        values = -torch.special.ndtri(drawn.abs().clamp(min=1e-12) * tail) * drawn.sign()
        return nn.Parameter((values * (std / math.sqrt(variance))).float())

    @property
    def _coded(self) -> bool:
        return cast(TTMethod, self.method).core_dtype != "float32"

    def _round_trip(self, values: F32) -> F32:
        method = cast(TTMethod, self.method)
        return method.decode_core(method.encode_cores([values]), 0)

    def rows(self, ids: Tensor) -> Tensor:
        return _ops.tt(ids, [self._read(core) for core in self.cores], [], self.num_embeddings, self.embedding_dim)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return cast(TTMethod, self.method).encode_cores([array(core) for core in self.cores])
