"""Which method suits a table: the likely ones tried on a sample of it, and what each would come to on the whole."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ..arrays import TableShape
from ..budgets import Budget, parse_budget
from ..compression import open_rows
from ..errors import BudgetError, ConfigError
from . import trial
from .candidates import Candidate, Family, bits_per_value, each, families
from .sample import Metric, Sample, draw
from .trial import Trial

Need = Literal["error", "search", "lookup"]

# Rows of the last round where they are not long.
_ROWS, _VALUES, _FEWEST = 20_000, 1 << 21, 4000


@dataclass(frozen=True)
class _Round:
    """A round before the last: its rows and queries; what it may be wrong by, in error (a factor) and recall; how many
    go on."""

    rows: int
    queries: int
    error: float
    recall: float
    most: int


_FIRST, _MIDDLE = _Round(3000, 50, 1.35, 0.06, 5), _Round(8000, 100, 1.12, 0.04, 3)
# Of those that need the fewest bytes in the first round: steps of size that it may be wrong by, and how many go on.
_STEP_SLACK, _FINALISTS = 5, 4
# need="lookup" gives up a factor in error for speed: what a bit a value is worth.
_WORTH = 4.0
# Sizes are searched in steps of this ratio, down to this many bits a value.
_RATIO, _LEAST_BITS = 1.02, 0.02


@dataclass(frozen=True)
class Option:
    """One method, and what is predicted of it for the whole table.

    Attributes
    ----------
    method, config, budget : as `compress` takes them; `arguments` are the same as keywords.
    nbytes : bytes of everything stored, exact.
    bits_per_value : of those, for each value of the source.
    error : relative squared error, sum((decoded - original)²) / sum(original²).
    recall : share of the k nearest rows of the whole table that a search of the codes finds, estimated among the rows
        sampled and the nearest rows of each query.
    lookup_us : microseconds a row, on one core, here.
    compress_seconds : to fit and encode, on the cores used here; None for those dropped early.
    sample_rows : rows it was tried on; fewer for those that were dropped early.
    """

    method: str
    config: dict[str, Any]
    budget: int | None
    nbytes: int
    bits_per_value: float
    error: float
    recall: float
    lookup_us: float
    compress_seconds: float | None
    sample_rows: int

    @property
    def arguments(self) -> dict[str, Any]:
        """Keywords of `compress`."""
        return {"method": self.method, **({} if self.budget is None else {"budget": self.budget}), **self.config}

    def command(self, source: str, dest: str, *more: str) -> str:
        """The `embstore compress` command with options `more`, quoted for a shell."""
        words = ["embstore", "compress", source, dest, "--method", self.method]
        if self.budget is not None:
            words += ["--budget", str(self.budget)]
        for name, value in self.config.items():
            words += ["--set", f"{name}={value}"]
        return shlex.join([*words, *more])


@dataclass(frozen=True)
class Advice:
    """The method to take and those it was chosen from.

    Attributes
    ----------
    best : the recommendation, one of `options`.
    options : those of the last round, best first, then those dropped before, from those that came furthest.
    shape : of the table.
    sample_rows, queries : that the recommendation rests on; `sample_rows` of all rows makes error and recall exact.
    """

    best: Option
    options: tuple[Option, ...]
    shape: TableShape
    sample_rows: int
    queries: int

    def asdict(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        return asdict(self)


def advise(
    source: Any,
    *,
    budget: Budget | None = None,
    max_loss: float | None = None,
    min_recall: float | None = None,
    need: Need = "error",
    k: int = 10,
    metric: Metric = "cosine",
    sample: int | None = None,
    queries: int = 200,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Advice:
    """Recommend a method for a table, from trials on a sample of its rows.

    Give one of `budget`, `max_loss` and `min_recall`. All candidates are tried on 3,000 rows, with a budget the best of
    them on 8,000, and the best of those on `sample` rows. Methods that need counts, keys or training with a model are
    not among them, nor `dedup`, whose size no sample tells.

    Parameters
    ----------
    source, options : as `compress` takes them.
    budget : bytes not to exceed, as `compress` takes it: the method of least error.
    max_loss : relative squared error not to exceed: the fewest bytes.
    min_recall : recall@k to reach: the fewest bytes.
    need : with a budget, what counts: "error" the least error; "search" the best recall; "lookup" the fastest lookups
        among those of at most four times the least error.
    k, queries, metric : recall@k of that many sampled rows as queries, none being its own neighbour.
    sample : rows to try the best on; by default 20,000, fewer where rows have more than 100 values.
    seed : of everything drawn, and of `compress`.
    progress : called with each method before it is tried.

    Raises `BudgetError` where no method is small or good enough, naming the nearest; `ConfigError` for fewer than
    k + 1 rows or arguments that make no sense; `SourceError` for NaN and infinity among sampled rows.
    """
    _check(budget, max_loss, min_recall, need, sample)
    with open_rows(source, None, options) as opened:
        shape = opened.shape
        if shape.num_embeddings <= k:
            raise ConfigError(f"recall@{k} needs at least {k + 1} rows, found {shape.num_embeddings}; lower k")
        if budget is not None:
            _check_floor(shape, parse_budget(budget, shape), budget)
        rng = np.random.default_rng(seed)
        rows = sample or max(_FEWEST, min(_ROWS, _VALUES // shape.embedding_dim))
        last = draw(opened, rows, queries, metric, rng)
    # Half as many rows as in the last round save less than they cost.
    rounds = [_FIRST] if last.rows < 2 * _MIDDLE.rows or budget is None else [_FIRST, _MIDDLE]
    trials = _Trials([*(last.smaller(r.rows, r.queries, rng) for r in rounds), last], k, seed, progress)
    if budget is not None:
        return _within(parse_budget(budget, shape), need, trials, rounds)
    if max_loss is not None:
        return _smallest(lambda t: t.error <= max_loss, f"lose at most {max_loss:g}", lambda t: t.error, trials)
    return _smallest(
        lambda t: t.recall >= (min_recall or 0), f"reach a recall@{k} of {min_recall:g}", lambda t: -t.recall, trials
    )


def _check(budget: Any, max_loss: Any, min_recall: Any, need: Any, sample: Any) -> None:
    given = [n for n, v in (("budget", budget), ("max_loss", max_loss), ("min_recall", min_recall)) if v is not None]
    if len(given) != 1:
        raise ConfigError(f"advice needs one of budget, max_loss and min_recall, found {' and '.join(given) or 'none'}")
    for name, value in (("max_loss", max_loss), ("min_recall", min_recall)):
        if value is not None and not (isinstance(value, (int, float)) and 0 < value <= 1):
            raise ConfigError(f"{name} must be above 0 and at most 1, found {value!r}; 0.01 is one in a hundred")
    if need not in ("error", "search", "lookup"):
        raise ConfigError(f'need must be "error", "search" or "lookup", found {need!r}')
    if need != "error" and budget is None:
        raise ConfigError(f"need={need!r} chooses within a budget, found none; give one")
    if sample is not None and (type(sample) is not int or sample < 100):
        raise ConfigError(f"sample must be an integer of at least 100 rows, found {sample!r}; leave it out")


def _check_floor(shape: TableShape, limit: int, given: Budget) -> None:
    if next(each(shape, limit), None) is not None:
        return
    low, high = limit, shape.nbytes_float32
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if next(each(shape, middle), None) is not None else (middle, high)
    least = next(each(shape, high))
    raise BudgetError(
        f"no method takes at most {limit:,} bytes for {shape.num_embeddings:,} x {shape.embedding_dim}, found a budget "
        f"of {given!r}; the least is {least.nbytes:,} bytes by {least.text!r}"
    )


class _Trials:
    """Trials in rounds of `samples`, from the smallest to the largest, each method once in each."""

    def __init__(self, samples: Sequence[Sample], k: int, seed: int, progress: Callable[[str], None] | None) -> None:
        self.samples, self.shape = samples, samples[-1].shape
        self._k, self._seed, self._progress = k, seed, progress
        self._done: dict[tuple[str, int], tuple[Candidate, Trial]] = {}

    def run(self, candidate: Candidate, sample: Sample) -> Trial:
        key = (repr(candidate.method), sample.rows)
        if key not in self._done:
            if self._progress is not None:
                self._progress(f"{candidate.text}, {bits_per_value(self.shape, candidate.nbytes):.2f} bits a value")
            self._done[key] = (candidate, trial.run(candidate.method, sample, self._k, self._seed))
        return self._done[key][1]

    def option(self, candidate: Candidate) -> Option:
        """What is known of a candidate, from the larger sample if it was tried on that."""
        tried = {s.rows: self._done.get((repr(candidate.method), s.rows)) for s in self.samples}
        done = {rows: found[1] for rows, found in tried.items() if found is not None}
        rows, last = list(done.items())[-1]
        return Option(
            method=candidate.text,
            config=candidate.config,
            budget=candidate.nbytes if candidate.sized else None,
            nbytes=candidate.nbytes,
            bits_per_value=bits_per_value(self.shape, candidate.nbytes),
            error=last.error,
            recall=last.recall,
            lookup_us=last.lookup_us,
            compress_seconds=trial.seconds(list(done.values()), self.shape.num_embeddings)
            if rows == self.samples[-1].rows
            else None,
            sample_rows=rows,
        )

    def nearest(self, cost: Callable[[Trial], float]) -> tuple[Candidate, float]:
        """Of all tried the candidate of least cost, and that."""
        candidate, tried = min(self._done.values(), key=lambda pair: cost(pair[1]))
        return candidate, abs(cost(tried))

    def advice(self, finalists: Sequence[Candidate], others: Sequence[Candidate]) -> Advice:
        # Two families may come to the same.
        made = [self.option(c) for c in {repr(c.method): c for c in (*others[::-1], *finalists[::-1])}.values()][::-1]
        return Advice(made[0], tuple(made), self.shape, self.samples[-1].rows, len(self.samples[-1].queries))


def _within(limit: int, need: Need, trials: _Trials, rounds: Sequence[_Round]) -> Advice:
    found = list(each(trials.shape, limit))
    if limit >= trials.shape.nbytes_float32:
        found = [c for c in found if c.text == "float32"]
    order: dict[Need, Callable[[Trial], float]] = {
        "error": lambda t: t.error,
        "search": lambda t: -t.recall,
        "lookup": lambda t: t.lookup_us,
    }
    left, dropped = found, list[Candidate]()
    for sample, early in zip(trials.samples, rounds, strict=False):
        tried = {c: trials.run(c, sample) for c in left}
        kept = _kept(tried, order[need], need, early)
        dropped[:0] = sorted((c for c in left if c not in kept), key=lambda c: tried[c].error)
        left = kept
    last = {c: trials.run(c, trials.samples[-1]) for c in left}
    if need == "lookup":
        enough = _WORTH * min(t.error for t in last.values())
        ranked = sorted(left, key=lambda c: (last[c].error > enough, last[c].lookup_us))
    else:
        ranked = sorted(left, key=lambda c: (order[need](last[c]), last[c].error))
    return trials.advice(ranked, dropped)


def _kept(tried: dict[Candidate, Trial], order: Callable[[Trial], float], need: Need, early: _Round) -> list[Candidate]:
    """Which go on to the next round: those within reach of the best, and that of least error."""
    least, most = min(t.error for t in tried.values()), max(t.recall for t in tried.values())

    def within(t: Trial) -> bool:
        if need == "search":
            return t.recall >= most - early.recall
        return t.error <= least * early.error * (_WORTH if need == "lookup" else 1)

    kept = sorted((c for c in tried if within(tried[c])), key=lambda c: order(tried[c]))[: early.most]
    best = min(tried, key=lambda c: tried[c].error)
    return kept if best in kept else [*kept, best]


def _smallest(enough: Callable[[Trial], bool], goal: str, cost: Callable[[Trial], float], trials: _Trials) -> Advice:
    shape = trials.shape
    unit = shape.num_embeddings * shape.embedding_dim * _LEAST_BITS / 8
    top = int(np.log((shape.nbytes_float32 - 1) / unit) / np.log(_RATIO))

    def made(family: Family, step: int) -> Candidate | None:
        return family(shape, shape.nbytes_float32 - 1 if step >= top else int(unit * _RATIO**step))

    def passes(family: Family, sample: Sample, step: int) -> bool:
        candidate = made(family, step)
        return candidate is not None and enough(trials.run(candidate, sample))

    best = top
    first: dict[Family, int] = {}
    for family in families(shape.embedding_dim).values():
        start = min(top, best + _STEP_SLACK)
        if passes(family, trials.samples[0], start):
            step = _least(functools.partial(passes, family, trials.samples[0]), start, top)
            assert step is not None
            first[family], best = step, min(best, step)
    chosen = sorted(first, key=lambda f: first[f])[:_FINALISTS]
    found = [_least(functools.partial(passes, f, trials.samples[-1]), first[f], top) for f in chosen]
    ranked = sorted(
        (c for family, step in zip(chosen, found, strict=True) if step is not None and (c := made(family, step))),
        key=lambda c: c.nbytes,
    )
    if not ranked:
        nearest, value = trials.nearest(cost)
        raise BudgetError(
            f"no method smaller than float32 can {goal}; the nearest is {nearest.text!r} with {value:.2e}, so take "
            "'float32' or ask for less"
        )
    others = [c for family in first if family not in chosen and (c := made(family, first[family]))]
    return trials.advice(ranked, sorted(others, key=lambda c: c.nbytes))


def _least(passes: Callable[[int], bool], start: int, top: int) -> int | None:
    """The least step that passes, those above it taken to pass as well; sought from `start` on, None up to `top`."""
    low, high, stride = -1, start, 1
    if passes(start):
        while high > 0 and passes(max(0, high - stride)):
            high, stride = max(0, high - stride), 2 * stride
        low = max(-1, high - stride)
    else:
        low, high = start, min(top, start + 1)
        while not passes(high):
            if high == top:
                return None
            low, stride = high, 2 * stride
            high = min(top, high + stride)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high
