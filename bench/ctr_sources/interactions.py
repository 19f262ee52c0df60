"""Files of who used what (MovieLens-1M, Amazon, Gowalla), Frappe, and libfm or libsvm lines."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from embstore.errors import SourceError

from .. import ctr_data
from .coding import CHUNK
from .source import Chunk, Source, described, find, of_files, text

MOVIELENS = "https://grouplens.org/datasets/movielens/1m (ratings.dat)"
FRAPPE = "https://www.baltrunas.info/context-aware (frappe.csv)"


def movielens(paths: Sequence[str], seed: int) -> Source:
    """MovieLens-1M: `ratings.dat`, or lists of items a user in train.txt and test.txt, as the tests have it."""
    own = Path(paths[0]) if paths else ctr_data.folder() / "rec/ml-1m"
    if own.is_dir() and (own / "train.txt.gz").exists():
        return _clicks("ml-1m", lambda: ctr_data.movielens(seed, own), [own / "train.txt.gz", own / "test.txt.gz"])
    files = find([str(own)], ("ratings.dat", "ratings.dat.gz"), "MovieLens-1M", MOVIELENS)
    return of_pairs([str(f) for f in files], seed, "ml-1m", separator="::")


def frappe(paths: Sequence[str], seed: int) -> Source:
    """Frappe: `frappe.csv`, tab separated with a header line."""
    own = list(paths) or [str(ctr_data.folder() / "ctr/frappe")]
    file = find(own, ("frappe.csv.gz", "frappe.csv"), "Frappe", FRAPPE)[0]
    return _clicks("frappe", lambda: ctr_data.frappe(seed, file), [file])


def of_pairs(paths: Sequence[str], seed: int, name: str | None, separator: str | None = None) -> Source:
    """Lines of a user and one or more items; two negatives are drawn for each positive.

    One file, or a folder's train and test files. Of one file each user's last fifth of items, the file's order being
    that of time, is validation and test; as in two files, what is not training is halved at random. Interactions are
    held in memory.
    """
    files = [Path(p) for p in paths]
    if len(files) == 1 and files[0].is_dir():
        both = [[files[0] / f"{part}.txt{end}" for end in ("", ".gz")] for part in ("train", "test")]
        files = [next((f for f in of if f.exists()), of[0]) for of in both]
    files = find([str(f) for f in files], (), "interactions", "your own data, or http://jmcauley.ucsd.edu/data/amazon")
    if len(files) > 2:
        raise SourceError(f"interactions must be one file, or train and test, found {len(files)} files; join some")
    whole = name or (Path(paths[0]).name if Path(paths[0]).is_dir() else files[0].name.split(".")[0])
    return _clicks(whole, lambda: _pairs(whole, files, seed, separator), files)


def _pairs(name: str, files: Sequence[Path], seed: int, separator: str | None) -> ctr_data.Clicks:
    rng = np.random.default_rng(seed)
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    parts = []
    for path in files:
        found = array("q")
        with text(path) as lines:
            for number, line in enumerate(lines, 1):
                cells = line.split(separator)
                if len(cells) < 2:
                    raise SourceError(
                        f"{path.name}, line {number} must have a user and items, 2 columns or more, "
                        f"found {len(cells)}; mend the file"
                    )
                if separator:  # the rest is a rating and its time
                    del cells[2:]
                user = users.setdefault(cells[0], len(users))
                for cell in cells[1:]:
                    found.extend((user, items.setdefault(cell, len(items))))
        if not found:
            raise SourceError(
                f"{path.name} must have interactions, a user and items a line, found none; check the file"
            )
        parts.append(np.frombuffer(found, np.int64).reshape(-1, 2))
    positives = np.concatenate(parts)
    later = np.arange(len(positives)) >= len(parts[0]) if len(parts) == 2 else _last_fifth(positives[:, 0])
    sizes = (len(users), len(items))
    key = np.unique(positives[:, 0] * sizes[1] + positives[:, 1])
    own = np.repeat(positives[:, 0], ctr_data.NEGATIVES)
    per_user = np.bincount(key // sizes[1], minlength=sizes[0])
    if per_user.max() == sizes[1]:
        user = next(u for u, i in users.items() if per_user[i] == sizes[1])
        raise SourceError(f"user {user!r} must have items left to draw negatives from, found none; leave the user out")

    def known(at: ctr_data.Ids, drawn: ctr_data.Ids) -> np.ndarray:
        pairs = own[at] * sizes[1] + drawn
        return key[np.searchsorted(key, pairs).clip(max=len(key) - 1)] == pairs

    drawn = ctr_data.draw(rng, sizes[1], known, len(own))
    fields = np.concatenate([positives, np.stack([own, drawn], axis=1)])
    held = rng.permutation(np.flatnonzero(np.concatenate([later, np.repeat(later, ctr_data.NEGATIVES)])))
    train = np.flatnonzero(~np.concatenate([later, np.repeat(later, ctr_data.NEGATIVES)]))
    half = len(held) // 2
    labels = np.repeat([1.0, 0.0], [len(positives), len(own)]).astype(np.float32)
    return ctr_data.Clicks(name, fields, labels, sizes, train, held[:half], held[half:], item=1)


def _last_fifth(users: ctr_data.Ids) -> np.ndarray:
    """Whether a row is of the last fifth of its user's."""
    order = np.argsort(users, kind="stable")
    counts = np.bincount(users)
    place = np.empty(len(users), np.int64)
    place[order] = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    return place >= (counts - counts // 5)[users]


def _clicks(name: str, make: Callable[[], ctr_data.Clicks], files: Sequence[Path]) -> Source:
    """A source of samples that are in memory."""
    fields = tuple(n for n in ctr_data.FRAPPE if n != "cnt") if name == "frappe" else ("user", "item")

    def chunks() -> Iterator[Chunk]:
        data = make()
        # Their negatives come after all positives, or after those of a user, where windows would show the model no mix.
        train = np.random.default_rng(0).permutation(data.train)
        for part, rows in enumerate((train, data.valid, data.test)):
            for start in range(0, len(rows), CHUNK):
                at = rows[start : start + CHUNK]
                yield data.fields[at].astype(np.uint64), data.labels[at].astype(np.uint8), np.full(len(at), part)

    return Source(name, fields, chunks, "parts", {"files": described(files)}, item=1)


def libfm(paths: Sequence[str], rows: int | None, name: str | None) -> Source:
    """Lines of a label (1, 0 or -1) and as many one-hot features `id:1` in each, one a field."""
    files = find(paths, (), "libfm or libsvm", "your own data")
    with text(files[0]) as lines:
        width = len(next(lines, "").partition("#")[0].split()) - 1
    if width < 1:
        raise SourceError(f"{files[0].name}, line 1 must be a label and features id:1, found none; check the file")

    def chunks() -> Iterator[Chunk]:
        for group, path in enumerate(files):
            ids: list[list[int]] = []
            labels: list[int] = []
            with text(path) as lines:
                for number, line in enumerate(lines, 1):
                    if rows is not None and number > rows:
                        break
                    label, own = _features(path, number, line, width)
                    ids.append(own)
                    labels.append(label)
                    if len(ids) == CHUNK // 16:
                        yield _chunk(ids, labels, group)
                        ids, labels = [], []
            if ids:
                yield _chunk(ids, labels, group)

    fields = tuple(str(i) for i in range(width))
    about = {"files": described(files), "first_rows": rows}
    return Source(name or files[0].name.split(".")[0], fields, chunks, of_files(files, "libfm"), about)


def _chunk(ids: list[list[int]], labels: list[int], group: int) -> Chunk:
    return np.array(ids, np.uint64), np.array(labels, np.uint8), np.full(len(ids), group, np.int32)


def _features(path: Path, number: int, line: str, width: int) -> tuple[int, list[int]]:
    """Label and feature ids of a line."""
    at = f"{path.name}, line {number}"
    label, *cells = line.partition("#")[0].split() or [""]
    if label not in ("1", "+1", "0", "-1", "1.0", "0.0", "-1.0"):
        raise SourceError(f"{at}, column 1 must be the label 1, 0 or -1, found {label!r}; mend the file")
    if len(cells) != width:
        raise SourceError(
            f"{at} must have {width + 1} columns as line 1 has, found {len(cells) + 1}; give one feature a field"
        )
    ids = []
    for column, cell in enumerate(cells, 2):
        feature, _, value = cell.partition(":")
        if not feature.isdigit() or value not in ("1", "1.0"):
            raise SourceError(f"{at}, column {column} must be a feature id:1, found {cell!r}; only one-hot fields work")
        ids.append(int(feature))
    return int(float(label) > 0), ids
