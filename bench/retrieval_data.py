"""Rows, queries and what is relevant to each: folders in BEIR's layout, and HDF5 files of ann-benchmarks.

Vectors of a BEIR folder lie beside its texts: corpus and queries as .npy, in the order of the lines, or as .parquet
with a column of lists and, if not in that order, a column of ids. Where a folder has none, its texts are hashed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embstore.errors import MissingDependencyError, SourceError, SourceNotFoundError

F32 = npt.NDArray[np.float32]
# As ann-benchmarks calls them, and as `Table.search` does.
DISTANCES = {"angular": "cosine", "euclidean": "l2", "dot": "ip"}
LIMIT = "limit/limit-small"


@dataclass(frozen=True)
class Questions:
    """What is searched, and what should be found.

    Attributes
    ----------
    rows, queries : float32 (n, dim) and (q, dim).
    metric : "cosine", "ip" or "l2".
    relevant : for each query the rows that are, the most relevant first.
    gains : their relevance, or None where `relevant` holds the nearest rows in the metric, of which the first k are
        those to find among k.
    vectors : where the vectors are from.
    """

    name: str
    rows: F32
    queries: F32
    metric: str
    relevant: list[npt.NDArray[np.int64]]
    gains: list[npt.NDArray[np.float64]] | None
    vectors: str


def read(what: str, metric: str | None, dim: int) -> Questions:
    """The questions of a file, a folder, or of "limit-small"; `dim` is that of vectors of hashed words.

    Raises `SourceError` or `SourceNotFoundError` in one sentence.
    """
    path = Path(os.environ.get("EMBSTORE_TEST_DATA", "../shared/data")) / LIMIT if what == "limit-small" else Path(what)
    if not path.exists():
        cure = "set EMBSTORE_TEST_DATA" if what == "limit-small" else "give a folder of BEIR or an HDF5 file"
        raise SourceNotFoundError(f"no {path}; {cure}")
    if path.is_dir():
        return _beir(path, metric or "cosine", dim)
    return _ann(path, metric)


def _beir(folder: Path, metric: str, dim: int) -> Questions:
    texts = {name: _texts(folder, name) for name in ("corpus", "queries")}
    names = {kind: {name: i for i, (name, _) in enumerate(found)} for kind, found in texts.items()}
    given = {kind: _vectors(folder, kind, list(names[kind])) for kind in texts}
    if (given["corpus"] is None) != (given["queries"] is None):
        here, gone = ("queries", "corpus") if given["corpus"] is None else ("corpus", "queries")
        raise SourceError(f"{folder} must have vectors of corpus and queries, found those of {here}; add {gone}.npy")
    rows, queries = given["corpus"], given["queries"]
    vectors = "given"
    if rows is None or queries is None:
        corpus = [text for _, text in texts["corpus"]]
        rows, queries = hashed(corpus, corpus, dim), hashed([text for _, text in texts["queries"]], corpus, dim)
        vectors = f"words hashed to {dim} values"
    if rows.shape[1] != queries.shape[1]:
        raise SourceError(
            f"vectors of queries must have the {rows.shape[1]} values of the corpus, found {queries.shape[1]}"
        )
    judged: dict[int, dict[int, float]] = {}
    for query, document, score in _judgements(folder):
        for kind, name in (("queries", query), ("corpus", document)):
            if name not in names[kind]:
                raise SourceError(f"judgements of {folder} must name ids of {kind}, found {name!r}")
        if score > 0:
            judged.setdefault(names["queries"][query], {})[names["corpus"][document]] = score
    if not judged:
        raise SourceError(f"{folder} must have judgements above 0, found none")
    asked = sorted(judged)
    ordered = [sorted(judged[q].items(), key=lambda pair: (-pair[1], pair[0])) for q in asked]
    return Questions(
        folder.resolve().name, rows, queries[asked], metric, [np.array([d for d, _ in own]) for own in ordered],
        [np.array([score for _, score in own]) for own in ordered], vectors,
    )  # fmt: skip


def _lines(folder: Path, name: str) -> Iterator[tuple[int, str]]:
    """Numbered lines of `name`, or of `name`.gz; SourceNotFoundError where neither is there."""
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.exists()), None)
    if path is None:
        raise SourceNotFoundError(f"{folder} must have {name} or {name}.gz, found neither")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.rstrip("\n")


def _object(folder: Path, name: str, number: int, line: str, keys: Sequence[str]) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict) or any(key not in found for key in keys):
        raise SourceError(
            f"{folder / name}, line {number} must be an object with {', '.join(keys)}, found {line[:60]!r}"
        )
    return found


def _texts(folder: Path, kind: str) -> list[tuple[str, str]]:
    """Ids and texts, in the order of the lines."""
    name = f"{kind}.jsonl"
    found = [_object(folder, name, number, line, ("_id",)) for number, line in _lines(folder, name)]
    ids = [str(each["_id"]) for each in found]
    if len(set(ids)) < len(ids) or not ids:
        twice = next((i for i, n in Counter(ids).items() if n > 1), None)
        raise SourceError(f"{folder / name} must have ids that differ, found {f'{twice!r} twice' if ids else 'none'}")
    return [(i, f"{each.get('title', '')} {each.get('text', '')}".strip()) for i, each in zip(ids, found, strict=True)]


def _judgements(folder: Path) -> Iterator[tuple[str, str, float]]:
    """Query, document and score: of qrels/test.tsv, or of qrels.jsonl."""
    if (folder / "qrels" / "test.tsv").exists():
        for number, line in _lines(folder / "qrels", "test.tsv"):
            cells = line.split("\t")
            if number == 1 and cells[-1] == "score":
                continue
            try:
                query, document, score = cells[0], cells[1], float(cells[2])
            except (IndexError, ValueError):
                raise SourceError(
                    f"{folder / 'qrels' / 'test.tsv'}, line {number} must be query, document and score, found {line!r}"
                ) from None
            yield query, document, score
        return
    keys = ("query-id", "corpus-id", "score")
    for number, line in _lines(folder, "qrels.jsonl"):
        found = _object(folder, "qrels.jsonl", number, line, keys)
        yield str(found[keys[0]]), str(found[keys[1]]), float(found[keys[2]])


def _vectors(folder: Path, kind: str, ids: list[str]) -> F32 | None:
    """Vectors in the order of `ids`; None where there are no files of them."""
    path = next((folder / f"{kind}{end}" for end in (".npy", ".parquet") if (folder / f"{kind}{end}").exists()), None)
    if path is None:
        return None
    found = np.load(path, allow_pickle=False) if path.suffix == ".npy" else _parquet(path, ids)
    if found.ndim != 2 or len(found) != len(ids):
        raise SourceError(f"{path} must have a row for each of {len(ids)} lines, found an array of {found.shape}")
    rows: F32 = np.ascontiguousarray(found, np.float32)
    if not np.isfinite(rows).all():
        raise SourceError(f"{path} must hold finite numbers, found NaN or infinity")
    return rows


def _parquet(path: Path, ids: list[str]) -> npt.NDArray[Any]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    table = parquet.read_table(path)
    lists = [
        f.name for f in table.schema
        if pa.types.is_list(f.type) or pa.types.is_large_list(f.type) or pa.types.is_fixed_size_list(f.type)
    ]  # fmt: skip
    if len(lists) != 1:
        raise SourceError(f"{path} must have one column of lists, found {', '.join(lists) or 'none'}")
    values = table[lists[0]].to_pylist()
    if any(each is None or len(each) != len(values[0]) or None in each for each in values):
        raise SourceError(f"{path}, column {lists[0]} must have lists of one length without nulls, found others")
    named = next((n for n in ("_id", "id", "key") if n in table.column_names), None)
    if named is None:
        return np.array(values, np.float32)
    place = {str(name): i for i, name in enumerate(table[named].to_pylist())}
    if missing := [name for name in ids if name not in place]:
        raise SourceError(f"{path} must have a vector for each id, found none for {missing[0]!r}")
    return np.array([values[place[name]] for name in ids], np.float32)


def _ann(path: Path, metric: str | None) -> Questions:
    try:
        import h5py
    except ImportError as missing:
        raise MissingDependencyError(f"reading {path} needs h5py, found none; pip install embstore[hdf5]") from missing
    try:
        with h5py.File(path) as file:
            distance = file.attrs.get("distance", None)
            needed = ("train", "test", "neighbors")
            if any(name not in file for name in needed):
                raise SourceError(f"{path} must have {', '.join(needed)}, found {', '.join(file) or 'nothing'}")
            rows, queries, nearest = (np.asarray(file[name]) for name in needed)
    except OSError as fault:
        raise SourceError(f"{path} must be an HDF5 file of ann-benchmarks, found {fault}") from None
    distance = distance.decode() if isinstance(distance, bytes) else distance
    if metric is None and distance not in DISTANCES:
        raise SourceError(
            f"distance of {path} must be one of {', '.join(DISTANCES)}, found {distance!r}; give --metric"
        )
    if nearest.shape[0] != len(queries) or nearest.min(initial=0) < 0 or nearest.max(initial=0) >= len(rows):
        raise SourceError(f"neighbors of {path} must be rows of train for each of {len(queries)} queries")
    return Questions(
        path.stem, np.ascontiguousarray(rows, np.float32), np.ascontiguousarray(queries, np.float32),
        metric or DISTANCES[distance], list(nearest.astype(np.int64)), None, "given",
    )  # fmt: skip


def hashed(texts: Sequence[str], corpus: Sequence[str], dim: int) -> F32:
    """Texts as unit rows of `dim` values: signed hashing of words (Weinberger et al., ICML 2009) by inverse frequency.

    A word of all documents of `corpus` has no weight; one of none has the most. BLAKE2b, so that all machines agree.
    """
    seen = Counter(word for text in corpus for word in set(_words(text)))
    found = np.zeros((len(texts), dim), np.float32)
    for row, text in zip(found, texts, strict=True):
        for word, count in sorted(Counter(_words(text)).items()):
            digest = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
            weight = count * np.log((1 + len(corpus)) / (1 + seen[word]))
            row[digest // 2 % dim] += weight if digest % 2 else -weight
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-30)
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
