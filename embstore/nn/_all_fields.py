"""Modules that decide over all fields at once what to store."""

from __future__ import annotations

import abc
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy.typing as npt
import torch

from ..arrays import TableShape
from ..errors import ConfigError
from ..method import Method
from .base import CompressedEmbedding

if TYPE_CHECKING:
    from ..table import Table


class AllFields(CompressedEmbedding):
    """Base of modules of which a `FieldEmbedding` makes one, for the rows of all fields one after the other.

    Options
    -------
    fields : rows of each field; None for one field. `embedding(field_sizes=…)` sets it.
    """

    options: ClassVar[Mapping[str, Any]] = {"fields": None}

    @property
    def field_sizes(self) -> tuple[int, ...]:
        """Rows of each field."""
        found = tuple(self.option["fields"] or (self.num_embeddings,))
        if sum(found) != self.num_embeddings:
            raise ConfigError(f"fields must add up to {self.num_embeddings} rows, found {sum(found)}; leave it out")
        return found

    @abc.abstractmethod
    def part(self, first: int, last: int) -> tuple[Method, dict[str, npt.NDArray[Any]]]:
        """The method and the arrays of a table of the rows from `first` to before `last`."""

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return self.part(0, self.num_embeddings)[1]

    def export_field(
        self, field: int, path: str | os.PathLike[str], *, keys: Any = None, overwrite: bool = False
    ) -> Table:
        """Write the rows of one field as a table of their own and open it; see `CompressedEmbedding.export`."""
        first, rows = sum(self.field_sizes[:field]), self.field_sizes[field]
        with torch.no_grad():
            method, arrays = self.part(first, first + rows)
        return self._store(path, method, TableShape(rows, self.embedding_dim), arrays, keys=keys, overwrite=overwrite)
