"""Compress real embeddings, and show what was gained and what was lost."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

import embstore
from embstore.errors import EmbstoreError
from embstore.sources import open_source

Floats = npt.NDArray[np.float32]

METHODS = ("int8", "int4")
# What is read of a large source for the comparison with numpy; the tables hold all of it.
MOST_BYTES = 2 << 30
# Small tables are repeated to this size before lookups are timed: in the processor's cache, bytes cost nothing.
TIMED_BYTES = 1 << 30
FAVOURITES = (
    *("socket", "thread", "month", "encode", "directory", "red"),
    *("king", "paris", "music", "monday", "computer", "seven"),
)


def say(text: str = "") -> None:
    print(text, flush=True)


def make_source(work: Path) -> Path:
    path = work / "words.vec"
    if path.exists():
        say(f"Word vectors of an earlier run: {path}")
        return path
    from . import words

    say("Making word vectors from the source and docstrings of Python's standard library ...")
    start = time.perf_counter()
    vocab, vectors = words.make()
    words.write_word2vec(path, vocab, vectors)
    say(f"  {len(vocab):,} words x {vectors.shape[1]} dims in {time.perf_counter() - start:.0f} s: {path}")
    return path


def read(path: Path) -> Floats:
    """The first rows of the source as one float32 array: what the tables are compared with."""
    with open_source(path) as source:
        most = min(source.shape.num_embeddings, max(1, MOST_BYTES // (4 * source.shape.embedding_dim)))
        out = np.empty((most, source.shape.embedding_dim), np.float32)
        for chunk in source.chunks(65_536):
            part = out[chunk.start : chunk.start + len(chunk.rows)]
            part[:] = chunk.rows[: len(part)]
            if chunk.start + len(part) == most:
                break
    return out


def relative_squared_error(table: embstore.Table, original: Floats) -> float:
    lost = total = 0.0
    for start in range(0, len(original), 65_536):
        want = original[start : start + 65_536].astype(np.float64)
        got = table.lookup(np.arange(start, start + len(want)))
        lost += float(np.square(got - want).sum())
        total += float(np.square(want).sum())
    return lost / total if total else 0.0


def seconds(call: Callable[[], object], repeats: int = 9) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def speed(table: embstore.Table, original: Floats, count: int = 200_000) -> tuple[float, float]:
    """Rows per second of a lookup and of numpy.take of the float32 rows, on the same random ids."""
    ids = np.random.default_rng(0).integers(0, len(original), count)
    out = np.empty((count, original.shape[1]), np.float32)
    taken = seconds(lambda: np.take(original, ids, axis=0, out=out, mode="clip"))
    embstore.set_num_threads(1)  # numpy.take has no more
    looked = seconds(lambda: table.lookup(ids, out=out))
    embstore.set_num_threads(None)
    return count / looked, count / taken


def speed_beyond_cache(work: Path, method: str, original: Floats) -> tuple[float, float]:
    """`speed` on the rows repeated until they leave the processor's cache."""
    repeated = np.tile(original, (-(-TIMED_BYTES // original.nbytes), 1))
    path = work / f"repeated.{method}"
    try:
        return speed(embstore.compress(repeated, path, method, overwrite=True), repeated)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def neighbours(rows: Floats, row: int, count: int = 5) -> list[int]:
    """The rows of least angle to `row`, by brute force."""
    lengths = np.maximum(np.linalg.norm(rows, axis=1), 1e-12)
    cosine = rows @ rows[row] / lengths
    cosine[row] = -np.inf
    return [int(i) for i in np.argsort(-cosine)[:count]]


def show_neighbours(table: embstore.Table, original: Floats) -> None:
    keys = table.keys
    if keys is None:
        rows = np.linspace(0, len(original) - 1, 4).astype(int).tolist()
        names: Callable[[list[int]], list[object]] = lambda ids: list(ids)  # noqa: E731
    else:
        known = [word for word in FAVOURITES if keys.type == "string" and word in keys]
        rows = [r for r in keys.ids(known).tolist() if r < len(original)] if known else []
        rows = rows[:6] or np.linspace(0, min(len(keys), len(original)) - 1, 4).astype(int).tolist()
        names = keys.take
        original = original[: len(keys)]
    decoded = table.lookup(np.arange(len(original)))
    same = 0
    for row in rows:
        before, after = neighbours(original, row), neighbours(decoded, row)
        same += len(set(before) & set(after))
        say(f"  {names([row])[0]!s:>12}: {', '.join(str(n) for n in names(after))}")
    say(f"  {same} of these {5 * len(rows)} are neighbours in float32 too")


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("source", nargs="?", type=Path, help="a file of embeddings; word vectors are made without one")
    parser.add_argument("--work", type=Path, default=Path(".demo"), help="directory for what the demo makes")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)

    path = args.source or make_source(args.work)
    original = read(path)
    say(f"\n{path.name}: comparing {len(original):,} rows x {original.shape[1]} dims\n")
    say(
        f"{'method':<8} {'size':>10} {'bytes/row':>10} {'smaller':>8} {'rel. sq. error':>15} "
        f"{'lookup':>11} {'numpy.take':>14}"
    )
    for method in METHODS:
        start = time.perf_counter()
        table = embstore.compress(path, args.work / f"{path.stem}.{method}", method, overwrite=True)
        took = time.perf_counter() - start
        ratio = 4 * table.num_embeddings * table.embedding_dim / table.nbytes
        error = relative_squared_error(table, original)
        small = original.nbytes < TIMED_BYTES
        looked, taken = speed_beyond_cache(args.work, method, original) if small else speed(table, original)
        say(
            f"{method:<8} {table.nbytes / 1e6:>7.2f} MB {table.nbytes / table.num_embeddings:>10.1f} {ratio:>6.2f} x "
            f"{error:>15.2e} {looked / 1e6:>7.1f} M/s    {taken / 1e6:>7.1f} M/s   "
            f"= {looked / taken:.2f} x  (compressed in {took:.1f} s)"
        )
    size = f"these rows repeated to {TIMED_BYTES / 1e9:.1f} GB" if original.nbytes < TIMED_BYTES else "these rows"
    say(f"Lookup and numpy.take: random ids into {size}, one thread each.")
    say(f"\nNearest neighbours in the {METHODS[-1]} table:")
    show_neighbours(table, original)
    say(f"\nTry: {Path(sys.executable).with_name('embstore')} inspect {args.work / f'{path.stem}.int8'}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EmbstoreError as error:
        sys.exit(f"demo: {error}")
