"""`Table.to`: which devices a table is taken to, and how much of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..arguments import parse_device
from ..budgets import parse_budget
from ..errors import ConfigError
from .cache import CachePlan, check_counts
from .driver import Driver
from .placed import PADDING
from .split import SplitTable
from .table import GpuTable

if TYPE_CHECKING:
    from ..table import Table


def to_device(
    table: Table,
    device: Any = "cuda",
    driver: Driver | None = None,
    *,
    cache_bytes: int | str | None = None,
    counts: Any = None,
    refill_every: int | None = None,
) -> GpuTable | SplitTable | Table:
    """`Table.to`; `driver` is CUDA's by default."""
    plan = cache_plan(table, cache_bytes, counts, refill_every)
    if isinstance(device, (list, tuple)):
        if cache_bytes is not None:
            raise ConfigError("cache_bytes is of one device, found several devices; leave it out, or name one device")
        numbers = [parse_device(each) for each in device]
        cuda = [number for number in numbers if number is not None]
        if not cuda or len(cuda) < len(numbers):
            raise ConfigError(f"devices must be CUDA devices, one or more, found {device!r}; name them as 'cuda:0'")
        return SplitTable(table, cuda, driver or Driver())
    number = parse_device(device)
    return table if number is None else GpuTable(table, number, driver or Driver(), plan)


def cache_plan(table: Table, cache_bytes: int | str | None, counts: Any, every: int | None) -> CachePlan | None:
    """What of the table is kept on the device; None where all of it fits `cache_bytes`, or there is none."""
    if cache_bytes is None:
        if counts is not None or every is not None:
            raise ConfigError("counts and refill_every are of a table with cache_bytes, found none; pass cache_bytes")
        return None
    if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
        raise ConfigError(
            f"refill_every must be a number of ids, found {every!r}; leave it out to call refill yourself"
        )
    stored, n = table._stored, table.num_embeddings
    given = None if counts is None else check_counts(counts, n)
    if given is not None and every is not None:
        raise ConfigError("refill_every is for counts learned from ids, found counts too; drop one of them")
    nbytes = parse_budget(cache_bytes, stored.shape)
    rows = [spec for spec in stored.specs if spec.partition == "rows"]
    if sum((n + 1) * spec.row_nbytes + PADDING for spec in rows) <= nbytes:
        return None
    return CachePlan(nbytes, given, every)
