"""What tables on one device and on several have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from .. import oov as _oov
from ..arguments import as_ids, is_text
from ..errors import ConfigError, IdRangeError
from . import interop

if TYPE_CHECKING:
    from ..method import Method
    from ..table import Table

Check = Literal["deferred", "eager"]


class DeviceRows(ABC):
    """A table whose rows are decoded on devices."""

    _table: Table

    @property
    def table(self) -> Table:
        """The same table on the host."""
        return self._table

    @property
    def num_embeddings(self) -> int:
        """Number of rows."""
        return self._table.num_embeddings

    @property
    def embedding_dim(self) -> int:
        """Values per row."""
        return self._table.embedding_dim

    @property
    def method(self) -> Method:
        """The compression method, resolved."""
        return self._table.method

    def __len__(self) -> int:
        return self.num_embeddings

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        self.close(raise_faults=kind is None)

    def __getitem__(self, item: Any) -> Any:
        """`table[ids]`, `table["word"]`, `table[10:20]`: float32 rows; see `lookup`."""
        if isinstance(item, slice):
            item = np.arange(*item.indices(self.num_embeddings), dtype=np.int64)
        return self.lookup(item)

    @abstractmethod
    def lookup(self, ids_or_keys: Any) -> Any:
        """Rows by id or key."""

    @abstractmethod
    def close(self, raise_faults: bool = True) -> None:
        """Give memory of devices back; raises what an earlier call found wrong."""

    def _on_host(self, ids_or_keys: Any, oov: str | int, by: Literal["id", "key"] | None) -> npt.NDArray[np.int64]:
        """Ids of ids or keys of the host, in range."""
        values = interop.to_host(ids_or_keys)
        text = by == "key" or (by is None and is_text(values))
        ids = self._ids_of_keys(values, oov) if text else as_ids(values)
        bad = (ids < 0) | (ids >= self.num_embeddings)
        if bad.any():
            at = int(np.argmax(bad))
            raise self._out_of_range(int(ids.reshape(-1)[at]), at if ids.ndim else None)
        return ids

    def _ids_of_keys(self, values: Any, policy: str | int) -> npt.NDArray[np.int64]:
        """Ids of keys of the host; an unknown one is an error, or a row that takes its place."""
        keys = self._table._need_keys("lookup by key")
        kind = self._table._stored.keys["type"] if self._table._stored.keys else None
        chosen = _oov.parse(policy, num_embeddings=self.num_embeddings, key_type=kind, subwords=None)
        if chosen.kind not in ("raise", "row"):
            raise ConfigError(f"oov on a GPU must be 'raise' or a row id, found {policy!r}; look up on the host")
        single = isinstance(values, (str, bytes)) or np.ndim(values) == 0
        flat = [values] if single else np.reshape(np.asarray(values, object), -1).tolist()
        ids: npt.NDArray[np.int64] = np.asarray(keys.ids(flat), np.int64)
        unknown = np.flatnonzero(ids < 0)
        if len(unknown) and chosen.kind == "raise":
            raise keys.missing_error(flat[int(unknown[0])])
        ids[unknown] = chosen.row if len(unknown) else 0
        return ids.reshape(() if single else np.shape(np.asarray(values, object)))

    def _out_of_range(self, row: int, position: int | None) -> IdRangeError:
        return self._table._out_of_range(row, position)


def one_of(value: Any, known: tuple[Any, ...], what: str) -> None:
    """`ConfigError` unless an argument is one of those known."""
    if value not in known:
        choices = ", ".join(repr(v) for v in known if v is not None)
        raise ConfigError(f"{what} must be one of {choices}, found {value!r}; choose one of these")
