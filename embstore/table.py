"""An open table: ids or keys in, vectors out."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from . import kernels, registry, table_keys
from .arguments import Floats, as_ids, bag_bounds, bag_weights, check_out, is_text
from .arrays import fits
from .errors import (
    ConfigError,
    CorruptionError,
    FormatError,
    FormatVersionError,
    IdRangeError,
    NoKeysError,
    ShapeError,
)
from .format.reader import StoredTable, open_rerank, open_table
from .method import Ids, Method
from .pipeline import Pipeline
from .search import words
from .search.exact import search
from .search.scan import Scan
from .sources.base import Subwords
from .table_keys import Oov

if TYPE_CHECKING:
    from .format.keys import Keys
    from .format.verify import Fault
    from .search.faiss_index import TableIndex
    from .transform import Transform


def open(path: str | os.PathLike[str], mmap: bool = True) -> Table:
    """Open a table.

    Parameters
    ----------
    path : directory of the table.
    mmap : map the files, so that opening costs about a millisecond and processes share memory; False reads
        everything into memory now.

    Raises
    ------
    TableNotFoundError, FormatError, FormatVersionError, CorruptionError : nothing there; metadata not as the format
        allows; written by a newer embstore; a file missing or of the wrong size.
    """
    return Table(open_table(path, mmap))


class Table:
    """A compressed table of `num_embeddings` rows of `embedding_dim` values. Made by `open` and `compress`.

    Safe to use from many threads at once, after fork, and to pickle (the path travels, not the data).
    """

    def __init__(self, stored: StoredTable, backend: str | None = None) -> None:
        self._stored = stored
        self._method = _resolved(stored)
        self._backend = backend
        self._keys: Keys | None = None
        self._norm: float | None = None
        self._indexes: dict[str, TableIndex] = {}
        self._dim = stored.shape.embedding_dim

    # Bound when first used: that touches every shard's mapping, which opening need not.
    @functools.cached_property
    def _binding(self) -> tuple[kernels.Bound, kernels.Choice]:
        stored = self._stored
        return kernels.bind(
            self._method, stored.shape, stored.rows_per_shard, stored.shards, stored.shared, self._backend
        )

    @functools.cached_property
    def _bound(self) -> kernels.Bound:
        return self._binding[0]

    @property
    def num_embeddings(self) -> int:
        """Number of rows, subword rows of a fastText model included."""
        return self._stored.shape.num_embeddings

    @property
    def embedding_dim(self) -> int:
        """Values per row."""
        return self._dim

    @property
    def nbytes(self) -> int:
        """Bytes a lookup by id needs: every array, shared ones too; keys and checksums come on top on disk."""
        return self._stored.nbytes

    @property
    def method(self) -> Method:
        """The compression method, resolved, as stored; without the transforms before it."""
        return self._method.method if isinstance(self._method, Pipeline) else self._method

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """The transforms rows pass before the method, in order; lookups undo them."""
        return self._method.transforms if isinstance(self._method, Pipeline) else ()

    @property
    def metadata(self) -> dict[str, Any]:
        """The `embstore` object of the table's `zarr.json`."""
        return self._stored.metadata

    @property
    def path(self) -> str:
        """The table's directory."""
        return self._stored.path

    @property
    def keys(self) -> Keys | None:
        """The keys of the first `len(keys)` rows, or None."""
        if self._keys is None and self._stored.keys is not None:
            from .format.keys import Keys

            self._keys = Keys.open(self._stored.path, self._stored.keys)
        return self._keys

    @functools.cached_property
    def subwords(self) -> Subwords | None:
        """fastText's subword buckets, when the table was made from a model that has them."""
        meta, kept = self._stored.subwords, self._stored.subword_buckets
        if meta is None:
            return None
        if kept is not None and len(kept) and not (kept[-1] < meta["buckets"] and (kept[1:] > kept[:-1]).all()):
            raise CorruptionError(
                f"subword_buckets of {os.path.basename(self.path)!r} must ascend and be below {meta['buckets']}, found "
                "others; restore the table from a copy"
            )
        return Subwords(meta["minn"], meta["maxn"], meta["buckets"], meta["first_row"], kept)

    def explain(self) -> str:
        """Which kernel serves lookups and bags, and why."""
        choice = self._binding[1]
        return f"lookup, bag: {choice.backend} ({choice.reason}), {kernels.get_num_threads()} threads"

    def __len__(self) -> int:
        return self.num_embeddings

    def __repr__(self) -> str:
        return f"<embstore.Table {self.num_embeddings} x {self._dim}, {self._method!r}, {self.nbytes:,} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._stored.path,)

    def __contains__(self, key: object) -> bool:
        return self._need_keys("`in`").__contains__(key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing to close: mappings go with the last array that uses them."""

    def __getitem__(self, item: Any) -> Floats:
        """`table[5]`, `table["word"]`, `table[[1, 2]]`, `table[10:20]`: float32 rows; see `lookup`."""
        if type(item) is int:
            return self._one(item)
        if type(item) is str and self._keys is not None:
            row = self._keys.id(item)
            if row >= 0:
                return self._one(row)
        if isinstance(item, slice):
            item = np.arange(*item.indices(self.num_embeddings), dtype=np.int64)
        rows: Floats = self.lookup(item)
        return rows

    def _one(self, row: int) -> Floats:
        out = np.empty(self._dim, np.float32)
        if not -(2**63) <= row < 2**63 or self._bound.lookup_one(row, out) >= 0:
            raise self._out_of_range(row)
        return out

    def lookup(
        self,
        ids_or_keys: Any,
        out: Floats | None = None,
        *,
        oov: Oov = "raise",
        by: Literal["id", "key"] | None = None,
        return_mask: bool = False,
    ) -> Any:
        """Rows by id or key.

        Parameters
        ----------
        ids_or_keys : an id, a key, or an array or sequence of either, of any shape. Integers are row ids and text is
            keys; a table with 64-bit integer keys takes them with `by="key"`.
        out : C-contiguous float32 or float16 array of shape (*ids.shape, embedding_dim) to fill and return; by
            default a new float32 array.
        oov : what an unknown key gives: "raise", "zeros", a row id, "ngrams" (a deterministic vector from the key's
            characters) or "subwords" (fastText's own vector).
        by : "id" or "key" to say which the integers are.
        return_mask : also return a bool array of shape ids.shape, True where the key was known.

        Returns
        -------
        float array of shape (*ids.shape, embedding_dim), or (array, mask).

        Raises
        ------
        IdRangeError, IdTypeError : an id negative or too large; ids that are not integers.
        UnknownKeyError, NoKeysError : a key that is not there, under `oov="raise"`; a table without keys. Neither of a
            method that computes rows from keys (`ngram_hash`): there every string has a row.
        ShapeError : an `out` of the wrong shape, dtype or order.
        """
        if by not in (None, "id", "key"):
            raise ConfigError(f"by must be 'id' or 'key', found {by!r}; leave it out to let text be keys")
        if type(ids_or_keys) is int and by != "key" and out is None and not return_mask:
            return self._one(ids_or_keys)
        if by == "key" or (by is None and is_text(ids_or_keys)):
            return table_keys.lookup(self, ids_or_keys, out, oov, return_mask)
        ids = as_ids(ids_or_keys)
        rows = self._gather(ids, out)
        return (rows, np.ones(ids.shape, bool)) if return_mask else rows

    def _gather(self, ids: Ids, out: Floats | None) -> Floats:
        out = check_out(out, ids.shape, self._dim)
        flat = ids.reshape(-1)
        target = out.reshape(-1, self._dim)
        if out.dtype == np.float16:
            bad = self._bound.lookup_half(flat, target.view(np.uint16), kernels.get_num_threads())
        else:
            bad = self._bound.lookup(flat, target, kernels.get_num_threads())
        if bad >= 0:
            raise self._out_of_range(int(flat[bad]), bad if ids.ndim else None)
        return out

    def _out_of_range(self, row: int, position: int | None = None) -> IdRangeError:
        where = "" if position is None else f" at position {position}"
        hint = "negative ids do not count from the end; use num_embeddings - k" if row < 0 else "check the ids"
        if self.num_embeddings == 0:
            return IdRangeError(f"the table has no rows, found id {row}{where}; check the source it was made from")
        return IdRangeError(f"ids must be from 0 to {self.num_embeddings - 1}, found {row}{where}; {hint}")

    def _need_keys(self, what: str) -> Keys:
        keys = self.keys
        if keys is None:
            raise NoKeysError(f"{what} needs a table with keys, found one with ids only; compress it with keys=...")
        return keys

    def bag(
        self,
        input: Any,
        offsets: Any = None,
        mode: Literal["sum", "mean", "max"] = "sum",
        per_sample_weights: Any = None,
        include_last_offset: bool = False,
    ) -> npt.NDArray[np.float32]:
        """Pooled rows, with the meaning of `torch.nn.functional.embedding_bag`.

        Parameters
        ----------
        input : row ids; 2-D of shape (bags, length), or 1-D with `offsets`.
        offsets : 1-D integers, where each bag starts in `input`; the first is 0, none decreases.
        mode : "sum", "mean" or "max"; an empty bag gives zeros.
        per_sample_weights : floats of the shape of `input`, for "sum" only.
        include_last_offset : `offsets` has one more entry, the end of the last bag.

        Returns
        -------
        float32 array of shape (bags, embedding_dim). Rows are added in the order of `input`, in float32.
        """
        ids = as_ids(input)
        if mode not in kernels.BAG_MODES:
            raise ConfigError(f"mode must be sum, mean or max, found {mode!r}; choose one of these")
        bounds = bag_bounds(ids, offsets, include_last_offset)
        weights = bag_weights(per_sample_weights, ids, mode)
        out = np.empty((len(bounds) - 1, self._dim), np.float32)
        flat = ids.reshape(-1)
        bad = self._bound.bag(flat, bounds, weights, kernels.BAG_MODES.index(mode), out, kernels.get_num_threads())
        if bad >= 0:
            raise self._out_of_range(int(flat[bad]), bad)
        return out

    # Functions of the search room, a table their first argument.
    search = search
    most_similar = words.most_similar
    analogy = words.analogy
    similarity = words.similarity
    doesnt_match = words.doesnt_match

    @functools.cached_property
    def _scan(self) -> Scan:
        return Scan(self._method, self._stored.shared, self._bound, self.num_embeddings)

    def index(self, name: str = "default") -> TableIndex:
        """A FAISS index kept beside the table, read and checked when first asked for; see `embstore.search`."""
        if name not in self._indexes:
            from .search.faiss_index import load

            self._indexes[name] = load(self, name)
        return self._indexes[name]

    @functools.cached_property
    def reranker(self) -> Table | None:
        """The same rows by the second, finer method the table was compressed with; None without one."""
        return None if self._stored.rerank is None else Table(open_rerank(self._stored), self._backend)

    @property
    def rerank_nbytes(self) -> int:
        """Bytes of the second method's arrays, which `nbytes` leaves out; 0 without one."""
        return 0 if self.reranker is None else self.reranker.nbytes

    def to(
        self,
        device: Any = "cuda",
        *,
        cache_bytes: int | str | None = None,
        counts: Any = None,
        refill_every: int | None = None,
    ) -> Any:
        """The same table on a CUDA device: its compressed arrays are copied there, and rows are decoded there.

        Parameters
        ----------
        device : "cuda", "cuda:1", a device of PyTorch or the number of one; "cpu" gives this table. A list of CUDA
            devices shares the rows out to them.
        cache_bytes : device memory for rows, as an int or like "24GB", for a table that is larger: rows then lie in
            pinned memory of the host, and those asked for most also on the device. What all rows share is there whole,
            beside `cache_bytes`.
        counts : how often each row is asked for, finite numbers of shape (num_embeddings,), by which rows are kept;
            by default the first rows are, until `GpuTable.refill` keeps those that calls asked for most.
        refill_every : ids after which the next call begins with such a refill, which waits for the device.

        Returns
        -------
        `embstore.cuda.GpuTable`, whose `lookup` and `bag` take and give CuPy arrays, tensors and others of that device;
        `embstore.cuda.SplitTable` for a list.

        Raises
        ------
        MissingDependencyError, DeviceError : embstore's CUDA extension was not built; there is no such device.
        DeviceMemoryError : the table does not fit, or the host cannot pin its rows; this one stays usable.
        ConfigError, ShapeError : a method or transform without a CUDA kernel; `cache_bytes` with a method whose rows
            are not codes of their own, or too few for any row; counts that do not fit.
        """
        from .cuda import to_device

        return to_device(self, device, cache_bytes=cache_bytes, counts=counts, refill_every=refill_every)

    def blocks(self, max_rows: int = 65536) -> Iterator[npt.NDArray[np.float32]]:
        """Every row in order, decoded, as float32 blocks of shape (n, embedding_dim), n <= `max_rows`."""
        for start in range(0, self.num_embeddings, max_rows):
            yield self._gather(np.arange(start, min(start + max_rows, self.num_embeddings), dtype=np.int64), None)

    def verify(self) -> list[Fault]:
        """Read everything once against its checksums; one fault per damaged block, none when all is well."""
        from .format.verify import verify

        return verify(self._stored)


def _resolved(stored: StoredTable) -> Method:
    """The stored method, with its transforms, which must be known here and store exactly the arrays it says."""
    cls = _known("method", registry.get, stored.method_id, stored.method_version)
    steps = [
        (_known("transform", registry.get_transform, t["id"], t["version"]), t["config"]) for t in stored.transforms
    ]
    try:
        method: Method = cls.from_config(stored.config)
        if steps:
            method = Pipeline(tuple(t.from_config(config) for t, config in steps), method)
        expected = method.layout(stored.shape)
        resolved = method.resolve(stored.shape) == method
    except (ConfigError, ShapeError, TypeError) as error:
        raise FormatError(f"the table's config {stored.config} does not fit {cls.id!r}: {error}") from error
    if not resolved or not fits(expected, stored.specs):
        raise FormatError(
            f"the arrays of a {cls.id!r} table must be {expected}, found {stored.specs}; the metadata was changed"
        )
    return method


def _known(kind: str, get: Callable[[str], type[Any]], id: str, version: int) -> type[Any]:
    try:
        cls = get(id)
    except ConfigError as error:
        raise FormatVersionError(
            f"the table's {kind} {id!r} is not installed here ({error}); install the package that has it"
        ) from error
    if version > cls.version:
        raise FormatVersionError(
            f"the table needs version {version} of {kind} {id!r}, found {cls.version}; upgrade embstore"
        )
    return cls
