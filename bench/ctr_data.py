"""Click data with categorical fields: MovieLens-1M interactions, Frappe, and generated clicks.

The files lie in `$EMBSTORE_TEST_DATA`: rec/ml-1m/train.txt.gz and test.txt.gz, ctr/frappe/frappe.csv.gz. Both data sets
hold positives only; negatives are drawn by seed, two for each positive.
"""

from __future__ import annotations

import gzip
import itertools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embstore.errors import SourceError

Ids = npt.NDArray[np.int64]
NEGATIVES = 2
FRAPPE = (
    "user", "item", "cnt", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city",
)  # fmt: skip


@dataclass(frozen=True)
class Clicks:
    """Samples of a click model.

    Attributes
    ----------
    fields : int64 (n, F), ids within each field.
    labels : float32 (n,), 0 or 1.
    field_sizes : ids of each field.
    train, valid, test : rows of each part.
    item : the field whose popularity the baseline scores by.
    """

    name: str
    fields: Ids
    labels: npt.NDArray[np.float32]
    field_sizes: tuple[int, ...]
    train: Ids
    valid: Ids
    test: Ids
    item: int

    @property
    def counts(self) -> Ids:
        """How often each id occurs in the training part: the fields' counts, one after the other."""
        train = self.fields[self.train]
        return np.concatenate([np.bincount(train[:, f], minlength=n) for f, n in enumerate(self.field_sizes)])

    def popularity(self, rows: Ids) -> npt.NDArray[np.float64]:
        """The baseline's scores of `rows`: the share of training samples of the item that are positive, smoothed.

        Smoothing adds one sample of the mean label, so an item not seen in training scores the mean.
        """
        item, labels = self.fields[self.train, self.item], self.labels[self.train]
        n = self.field_sizes[self.item]
        positive, seen = np.bincount(item, labels, n), np.bincount(item, minlength=n)
        return ((positive + labels.mean()) / (seen + 1))[self.fields[rows, self.item]]


def folder() -> Path:
    """Where the data sets lie."""
    return Path(os.environ.get("EMBSTORE_TEST_DATA", "../shared/data"))


def available() -> tuple[str, ...]:
    """Names of the data sets whose files are there."""
    files = {"ml-1m": "rec/ml-1m/train.txt.gz", "frappe": "ctr/frappe/frappe.csv.gz"}
    return tuple(name for name, file in files.items() if (folder() / file).exists())


def load(name: str, seed: int = 0) -> Clicks:
    """The data set `name`; the same seed draws the same negatives and split."""
    return {"ml-1m": movielens, "frappe": frappe}[name](seed)


def movielens(seed: int = 0, where: Path | None = None) -> Clicks:
    """MovieLens-1M as implicit feedback, of the files in folder `where`: (user, item), 1 for what the user rated.

    The files list interactions without their ratings, split by the authors into train and test; the test list is
    halved at random into validation and test. Negatives are uniform over the items that the user never rated.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for part in ("train", "test"):
        with gzip.open((where or folder() / "rec/ml-1m") / f"{part}.txt.gz", "rt") as lines:
            lists = [_integers(f"{part}.txt.gz", number, line.split()) for number, line in enumerate(lines, 1)]
        users = np.repeat([row[0] for row in lists], [len(row) - 1 for row in lists])
        parts.append(np.stack([users, np.concatenate([row[1:] for row in lists])], axis=1))
    positives = np.concatenate(parts)
    sizes = tuple(int(n) + 1 for n in positives.max(axis=0))
    rated = np.zeros(sizes, bool)
    rated[positives[:, 0], positives[:, 1]] = True
    users = np.repeat(positives[:, 0], NEGATIVES)
    items = draw(rng, sizes[1], lambda at, items: rated[users[at], items], len(users))
    fields = np.concatenate([positives, np.stack([users, items], axis=1)])
    first = len(parts[0])
    in_train = np.concatenate(
        [np.arange(len(positives)) < first, np.repeat(np.arange(len(positives)) < first, NEGATIVES)]
    )
    later = rng.permutation(np.flatnonzero(~in_train))
    half = len(later) // 2
    labels = _labels(len(positives))
    return Clicks("ml-1m", fields, labels, sizes, np.flatnonzero(in_train), later[:half], later[half:], item=1)


def frappe(seed: int = 0, file: Path | None = None) -> Clicks:
    """Frappe: which app a user ran in a context; ten fields, split 7:2:1 at random, as in He and Chua (SIGIR 2017).

    Negatives are uniform over the apps that the user did not run in the same context. Their draw is not that of the
    published split, whose training part is not to be had.
    """
    rng = np.random.default_rng(seed)
    path = file or folder() / "ctr/frappe/frappe.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        header, *rows = [line.rstrip("\r\n").split("\t") for line in lines] or [[]]
    for column, (wanted, found) in enumerate(itertools.zip_longest(FRAPPE, header), 1):
        if wanted != found:
            raise SourceError(
                f"{path.name}, line 1, column {column} must be {wanted!r}, found {found!r}; check the file"
            )
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise SourceError(f"{path.name}, line {number} must have {len(header)} columns, found {len(row)}; mend it")
    columns = [np.array(column) for name, column in zip(header, zip(*rows, strict=True), strict=True) if name != "cnt"]
    coded = [np.unique(column, return_inverse=True) for column in columns]
    sizes = tuple(len(values) for values, _ in coded)
    positives = np.stack([codes for _, codes in coded], axis=1).astype(np.int64)
    context = np.unique(np.delete(positives, 1, axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    ran = np.sort(context * sizes[1] + positives[:, 1])
    at_context = np.repeat(context, NEGATIVES)

    def known(at: Ids, items: Ids) -> npt.NDArray[np.bool_]:
        key = at_context[at] * sizes[1] + items
        return ran[np.searchsorted(ran, key).clip(max=len(ran) - 1)] == key

    negatives = np.repeat(positives, NEGATIVES, axis=0)
    negatives[:, 1] = draw(rng, sizes[1], known, len(negatives))
    fields = np.concatenate([positives, negatives])
    order = rng.permutation(len(fields))
    a, b = int(0.7 * len(order)), int(0.9 * len(order))
    labels = _labels(len(positives))
    return Clicks("frappe", fields, labels, sizes, order[:a], order[a:b], order[b:], item=1)


def _integers(file: str, line: int, cells: list[str]) -> Ids:
    for column, cell in enumerate(cells, 1):
        if not cell.isdigit():
            raise SourceError(f"{file}, line {line}, column {column} must be an integer, found {cell!r}; mend it")
    return np.array(cells, np.int64)


def generated(n: int = 40_000, field_sizes: tuple[int, ...] = (2000, 1000, 10), seed: int = 0) -> Clicks:
    """Clicks with power-law ids and planted interactions: the logit is a bias of the item and dots of hidden vectors.

    Popularity alone orders them poorly; a model of the pairs of fields orders them well.
    """
    rng = np.random.default_rng(seed)
    fields = np.stack([_power_law(rng, size, n) for size in field_sizes], axis=1)
    hidden = [rng.standard_normal((size, 4)) for size in field_sizes]
    logits = 0.5 * rng.standard_normal(field_sizes[1])[fields[:, 1]]
    for f in range(len(field_sizes)):
        for g in range(f):
            logits += (hidden[f][fields[:, f]] * hidden[g][fields[:, g]]).sum(axis=1)
    labels = (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    a, b = int(0.8 * n), int(0.9 * n)
    order = np.arange(n)
    return Clicks("generated", fields, labels, field_sizes, order[:a], order[a:b], order[b:], item=1)


def _power_law(rng: np.random.Generator, size: int, n: int) -> Ids:
    """Ids 0 … size - 1 with probability falling as 1 / rank, ranks dealt at random."""
    weights = 1 / np.arange(1, size + 1)
    return rng.permutation(size)[rng.choice(size, n, p=weights / weights.sum())].astype(np.int64)


def draw(rng: np.random.Generator, size: int, refused, n: int) -> Ids:  # type: ignore[no-untyped-def]
    """n items, each uniform over those that `refused(positions, items)` lets pass."""
    items = rng.integers(0, size, n)
    at = np.arange(n)
    while len(at):
        at = at[refused(at, items[at])]
        items[at] = rng.integers(0, size, len(at))
    return items


def _labels(positives: int) -> npt.NDArray[np.float32]:
    return np.repeat([1.0, 0.0], [positives, positives * NEGATIVES]).astype(np.float32)
