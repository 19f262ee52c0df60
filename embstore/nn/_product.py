"""Shared by dpq and mgqe: rows whose parts are centroids, chosen by a full table that training alone keeps."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .base import CompressedEmbedding, array

# Rows compared with all centroids at a time: the distances stay in the second-level cache.
TILE = 1024


class ProductCodes(CompressedEmbedding):
    """Base of the modules that learn product codes (DPQ, Chen, Li and Sun, ICML 2020).

    Part p of a row is the centroid nearest to part p of its query, a row of a full table; of equals the first. The
    codes are found anew in every forward pass, in training and evaluation alike, and for all rows at export: a row that
    no batch had gets the code of its own query too. Training keeps the full table and saves nothing.

    Two things differ from the paper. Distances are not normalized over the batch: that balances how often centroids
    are chosen, but makes the code of a row depend on the rows beside it, so that tables would not hold what training
    saw. Centroids that no row chooses are moved instead, to queries drawn by the error they are left with. And "sx"
    compares by distance too: by dot product only centroids on the convex hull of their part are ever chosen, 2 of 256
    where a part has one value.

    Options
    -------
    variant : "vq", the gradient of a row goes to its query as it is, and `regularizer` draws centroids to the queries
        that chose them; nothing else moves them, so the loop must add it to the loss. Or "sx", a softmax of negative
        squared distances between queries and keys, whose gradient stands for that of the choice, with centroids of
        their own.
    commitment : weight of the term of "vq" that draws queries to their centroids.
    temperature : of the softmax.
    restart_every : steps after which centroids not chosen meanwhile are moved.
    """

    options: ClassVar[Mapping[str, Any]] = {
        "variant": "vq",
        "commitment": 0.25,
        "temperature": 1.0,
        "restart_every": 50,
    }
    straight_through: ClassVar[bool] = True

    part_of: Tensor
    used: Tensor

    @abc.abstractmethod
    def parts(self) -> list[tuple[int, int]]:
        """The first column of each part, and the one after its last."""

    def centroids(self, ids: Tensor) -> list[tuple[Tensor, int]]:
        """Places in `ids` (n,), and how many centroids these rows choose from."""
        return [(torch.arange(len(ids), device=ids.device), len(self.codebooks))]

    def _check_options(self) -> None:
        if self.option["variant"] not in ("vq", "sx"):
            raise ConfigError(
                f"variant of {self.id} must be 'vq' or 'sx', found {self.option['variant']!r}; choose one"
            )
        for name, least in (("commitment", 0.0), ("temperature", 1e-6), ("restart_every", 1)):
            value = self.option[name]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < np.inf:
                raise ConfigError(
                    f"{name} of {self.id} must be a number from {least:g} on, found {value!r}; "
                    f"the default is {self.options[name]}"
                )

    def _build_codes(self, count: int) -> None:
        """Make queries and `count` centroids for each part, queries drawn at random."""
        self._check_options()
        n, dim = self.num_embeddings, self.embedding_dim
        part_of = np.repeat(np.arange(len(self.parts())), [last - first for first, last in self.parts()])
        self.register_buffer("part_of", torch.from_numpy(part_of), persistent=False)
        self.register_buffer("used", torch.zeros(count, len(self.parts()), dtype=torch.bool), persistent=False)
        # Queries of "sx" are no values of rows: only their distances matter, and those of variance 1 suit a softmax.
        bound = self._bound if self.option["variant"] == "vq" else 3.0**0.5
        self.weight = self._uniform(n, dim, bound=bound)
        drawn = torch.randperm(n, generator=self._generator)[:count]
        chosen = self.weight.detach()[drawn[torch.arange(count) % max(len(drawn), 1)]]
        if self.option["variant"] == "vq":
            self.codebooks = nn.Parameter(chosen.clone())
            self.keys: nn.Parameter | None = None
        else:
            self.keys = nn.Parameter(chosen.clone())
            self.codebooks = self._uniform(count, dim, bound=self._bound)
        self._seen: tuple[Tensor, Tensor, Tensor] | None = None

    # Rows ------------------------------------------------------------------------------------------------------

    def _values(self) -> Tensor:
        """The centroids of all parts (count, dim), as they are stored."""
        return self.codebooks

    def _compared(self) -> Tensor:
        """What queries are compared with, (count, dim)."""
        return self._values() if self.keys is None else self.keys

    def codes(self, ids: Tensor) -> Tensor:
        """Codes (n, parts) of ids (n,)."""
        with torch.no_grad():
            queries, compared = self.weight.detach()[ids], self._compared().detach()
            found = torch.empty((len(ids), len(self.parts())), dtype=torch.int64, device=ids.device)
            for at, count in self.centroids(ids):
                for some in at.split(TILE):
                    own = queries[some]
                    for p, (first, last) in enumerate(self.parts()):
                        found[some, p] = _distances(own[:, first:last], compared[:count, first:last]).argmin(dim=1)
        return found

    def rows(self, ids: Tensor) -> Tensor:
        unique, inverse, occurrences = torch.unique(ids, return_inverse=True, return_counts=True)
        codes = self.codes(unique)
        values = self._decoded(codes)
        if torch.is_grad_enabled():
            if self.keys is None:
                queries = nn.functional.embedding(unique, self.weight)
                values = values.detach() + (queries - queries.detach())
            else:
                soft = self._softened(unique)
                values = values + (soft - soft.detach())
            if self.training:
                self._seen = unique, occurrences, codes
        return nn.functional.embedding(inverse, values)

    def _decoded(self, codes: Tensor) -> Tensor:
        return torch.gather(self._values(), 0, codes[:, self.part_of])

    def _softened(self, ids: Tensor) -> Tensor:
        """Mixtures of centroids by the softmax of distances (n, dim), differentiable in queries and keys alone."""
        queries, keys = nn.functional.embedding(ids, self.weight), cast(Tensor, self.keys)
        values = self._values().detach()
        parts = []
        for first, last in self.parts():
            q, k = queries[:, first:last], keys[:, first:last]
            near = 2 * q @ k.T - k.square().sum(dim=1)  # the square of q is the same for all centroids
            allowed = near.new_full((len(ids), 1), len(keys))
            for at, count in self.centroids(ids):
                allowed[at] = count
            near = near.masked_fill(torch.arange(len(keys), device=ids.device) >= allowed, -torch.inf)
            parts.append(torch.softmax(near / self.option["temperature"], dim=1) @ values[:, first:last])
        return torch.cat(parts, dim=1)

    # Training --------------------------------------------------------------------------------------------------

    def regularizer(self) -> Tensor | None:
        """The mean squared distance of centroids from the queries that chose them, and `commitment` times the reverse.

        None for "sx", and where nothing was looked up in training mode.
        """
        if self._seen is None or self.keys is not None:
            return None
        unique, occurrences, codes = self._seen
        queries, values = nn.functional.embedding(unique, self.weight), self._decoded(codes)
        share = (occurrences / (occurrences.sum() * self.embedding_dim)).to(values.dtype)[:, None]
        drawn = (values - queries.detach()).square() * share
        held = (values.detach() - queries).square() * share
        return drawn.sum() + float(self.option["commitment"]) * held.sum()

    def after_step(self, step: int) -> None:
        if self._seen is None:
            return
        unique, occurrences, codes = self._seen
        self._seen = None
        for p in range(codes.shape[1]):
            self.used[codes[:, p], p] = True
        if (step + 1) % int(self.option["restart_every"]) == 0:
            with torch.no_grad():
                self._restart(unique, occurrences, codes)
            self.used.zero_()

    def _restart(self, ids: Tensor, occurrences: Tensor, codes: Tensor) -> None:
        """Move centroids that no row chose to queries of `ids`, drawn by how often they occur times their error."""
        queries, compared = self.weight.detach()[ids], self._compared().detach()
        for p, (first, last) in enumerate(self.parts()):
            own = queries[:, first:last]
            error = (own - compared[codes[:, p], first:last]).square().sum(dim=1) * occurrences
            start = 0
            # Centroids that fewer rows may choose come later, and go to those rows.
            for at, count in sorted(self.centroids(ids), key=lambda group: group[1]):
                if not len(at):
                    continue
                dead = (~self.used[start:count, p]).nonzero()[:, 0] + start
                start = count
                weight = error[at].double().cpu()
                take = min(len(dead), int((weight > 0).sum()))
                if take:
                    drawn = at[torch.multinomial(weight, take, generator=self._generator).to(at.device)]
                    if self.keys is not None:  # whoever chooses it next keeps its value
                        self.codebooks[dead[:take], first:last] = self.codebooks[codes[drawn, p], first:last]
                        self.keys[dead[:take], first:last] = own[drawn]
                    else:
                        self.codebooks[dead[:take], first:last] = own[drawn]

    # Export ----------------------------------------------------------------------------------------------------

    def _all_codes(self) -> npt.NDArray[np.uint16]:
        """Codes of every row (num_embeddings, parts)."""
        every = torch.arange(self.num_embeddings, device=self.weight.device)
        found = [array(self.codes(ids)).astype(np.uint16) for ids in every.split(TILE)]
        return np.concatenate([np.zeros((0, len(self.parts())), np.uint16), *found])


def _distances(queries: Tensor, centroids: Tensor) -> Tensor:
    """Squared distances (n, count), each summed in the order of columns.

    Not by a matrix product, and each operation rounded on its own: so the distances of a row, and with them its codes,
    do not depend on the rows beside it.
    """
    total = torch.zeros((len(queries), len(centroids)), dtype=queries.dtype, device=queries.device)
    for j in range(queries.shape[1]):
        away = queries[:, j : j + 1] - centroids[:, j]
        total += away.mul_(away)
    return total
