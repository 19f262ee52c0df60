"""Click data in each format it is published in, to memory-mapped ids; and what is said of files that are wrong."""

from __future__ import annotations

import gzip
from argparse import Namespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import ctr_data, ctr_sources
from bench.ctr_sources import coding
from bench.ctr_sources.separated import AVAZU_COLUMNS
from embstore.errors import SourceError, SourceNotFoundError

DEFAULTS = {
    "path": None, "name": None, "label": "label", "split": "own", "rows": None, "fields": 4, "features": 4000,
    "skew": 1.05, "data_seed": 0,
}  # fmt: skip


def load(tmp_path, data, *paths, **options):
    given = Namespace(**{**DEFAULTS, "data": data, "path": [str(p) for p in paths] or None, **options})
    return ctr_sources.load(ctr_sources.source(given), tmp_path / "cache", given.data_seed)


def logs(n, seed=0):
    """Criteo lines: label, 13 integers, 26 hexadecimal strings, some of them missing."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(n):
        numbers = ["" if rng.random() < 0.2 else str(rng.integers(-2, 5000)) for _ in range(13)]
        words = ["" if rng.random() < 0.1 else f"{rng.integers(0, 30):08x}" for _ in range(26)]
        lines.append("\t".join([str(i % 3 // 2), *numbers, *words]))
    return lines


def write(path, lines):
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def same_partition(ids, values):
    """Ids are equal where values are, and nowhere else."""
    return len(set(zip(ids.tolist(), values, strict=True))) == len(set(values)) == len(set(ids.tolist()))


@pytest.mark.parametrize("name", ["train.txt", "train.txt.gz"])
def test_criteo_kaggle(tmp_path, name):
    lines = logs(700)
    write(tmp_path / name, lines)
    data = load(tmp_path, "criteo", tmp_path)
    assert data.fields.shape == (700, 39) and data.fields.dtype == np.int32 and isinstance(data.fields, np.memmap)
    assert (data.train, data.valid, data.test) == (range(600), range(600, 650), range(650, 700))
    cells = [line.split("\t") for line in lines]
    assert data.labels.tolist() == [int(row[0]) for row in cells]
    for f in range(39):
        values = [row[f + 1] for row in cells]
        if f < 13:
            values = [int(np.log(1 + max(int(v or 0), 0)) ** 2) for v in values]
        assert same_partition(data.fields[:, f], values)
        assert data.field_sizes[f] == len(set(values)) == data.fields[:, f].max() + 1
    first = np.cumsum([0, *data.field_sizes])
    for f in (0, 20):
        own = data.counts[first[f] : first[f + 1]]
        assert (own == np.bincount(data.fields[:600, f], minlength=data.field_sizes[f])).all()


def test_criteo_of_three_files_keeps_their_parts(tmp_path):
    files = [write(tmp_path / f"{i}.tsv", logs(n, i)) for i, n in enumerate((50, 20, 30))]
    data = load(tmp_path, "criteo", *files)
    assert (data.train, data.valid, data.test) == (range(50), range(50, 70), range(70, 100))


def test_criteo_terabyte_halves_the_last_day(tmp_path):
    for day in (0, 2, 10):  # in the order of numbers
        write(tmp_path / f"day_{day}.gz", logs(10 + 2 * day, day))
    data = load(tmp_path, "criteo-tb", tmp_path)
    assert (data.train, data.valid, data.test) == (range(24), range(24, 39), range(39, 54))


def test_avazu_halves_the_last_day(tmp_path):
    rows = [
        f"{i},{i % 2},1410{21 + i // 100}{i % 24:02},{','.join(str((i * k) % 7) for k in range(21))}"
        for i in range(300)
    ]
    write(tmp_path / "train.gz", [",".join(AVAZU_COLUMNS), *rows])
    data = load(tmp_path, "avazu", tmp_path)
    assert data.fields.shape == (300, 22) and data.field_sizes[0] == 24
    assert (data.train, data.valid, data.test) == (range(200), range(200, 250), range(250, 300))
    assert data.labels.tolist() == [i % 2 for i in range(300)]
    assert same_partition(data.fields[:, 0], [i % 24 for i in range(300)])


def test_movielens_ratings(tmp_path):
    write(tmp_path / "ratings.dat", [f"{u + 1}::{(u * 7 + k) % 97 + 1}::5::9" for u in range(30) for k in range(10)])
    data = load(tmp_path, "ml-1m", tmp_path)
    assert data.name == "ml-1m" and data.field_sizes[0] == 30 and len(data.labels) == 900
    assert data.labels.sum() == 300 and len(data.train) == 720
    key = data.fields[:, 0] * 1000 + data.fields[:, 1]
    assert not np.isin(key[data.labels == 0], key[data.labels == 1]).any()


def test_interactions_of_one_file_and_of_two(tmp_path):
    pairs = [f"u{u} i{(u + k) % 40}" for u in range(20) for k in range(10)]
    one = load(tmp_path, "interactions", write(tmp_path / "pairs.txt.gz", pairs))
    assert one.name == "pairs" and one.field_sizes == (20, 29) and (len(one.train), len(one.valid)) == (480, 60)
    # The last fifth of each user's items is not trained on.
    training = one.fields[: len(one.train)][one.labels[: len(one.train)] == 1]
    assert (np.bincount(training[:, 0]) == 8).all()
    (tmp_path / "lists").mkdir()
    write(tmp_path / "lists" / "train.txt", [f"{u} {u} {u + 1} {u + 2}" for u in range(30)])
    write(tmp_path / "lists" / "test.txt", [f"{u} {u + 3}" for u in range(30)])
    two = load(tmp_path, "interactions", tmp_path / "lists")
    assert two.name == "lists" and two.field_sizes == (30, 33) and len(two.train) == 270 and len(two.test) == 45


def test_frappe(tmp_path):
    rows = [
        f"{u}\t{(u + k) % 40}\t{k}\tmorning\tmonday\tworkday\thome\tfree\tsunny\tX\t{u % 3}"
        for u in range(20)
        for k in range(5)
    ]
    data = load(tmp_path, "frappe", write(tmp_path / "frappe.csv", [FRAPPE, *rows]))
    assert data.field_sizes[:2] == (20, 24) and data.fields.shape == (300, 10) and len(data.train) == 210


@pytest.mark.parametrize("line", ["1 {a}:1 {b}:1", "-1 {a}:1.0 {b}:1 # a comment"])
def test_libfm_and_libsvm(tmp_path, line):
    lines = [("0 {a}:1 {b}:1" if i % 2 else line).format(a=i % 5, b=10 + 10 * (i % 3)) for i in range(200)]
    data = load(tmp_path, "libfm", write(tmp_path / "x.libfm", lines))
    assert data.name == "x" and data.field_sizes == (5, 3) and data.labels.sum() == (100 if line[0] == "1" else 0)
    assert len(data.train) + len(data.valid) + len(data.test) == 200 and 140 < len(data.train) < 180
    assert set(map(tuple, data.fields.tolist())) == {(a, b) for a in range(5) for b in range(3)}


def test_parquet(tmp_path):
    n = 400
    columns = {
        "clicked": pa.array([i % 2 == 0 for i in range(n)]),
        "id": pa.array([None if i % 9 == 0 else -i % 11 for i in range(n)], pa.int32()),
        "word": pa.array([None if i % 7 == 0 else f"w{i % 5}" for i in range(n)]),
        "coded": pa.array([f"c{i % 3}" for i in range(n)]).dictionary_encode(),
        "price": pa.array([None if i % 2 else float(i) for i in range(n)]),
    }
    parquet.write_table(pa.table(columns), tmp_path / "mine.parquet", row_group_size=64)
    parts = [tmp_path / "mine.parquet"] * 3
    data = load(tmp_path, "parquet", *parts, label="clicked")
    own = data.fields[:n]
    assert data.name == "mine" and len(data.train) == len(data.test) == n
    assert data.labels[:n].tolist() == [1 - i % 2 for i in range(n)]
    for f, name in enumerate(("id", "word", "coded")):
        assert same_partition(own[:, f], [str(v) for v in columns[name].to_pylist()])
    assert same_partition(own[:, 3], [int(np.log1p(v or 0) ** 2) for v in columns["price"].to_pylist()])
    with pytest.raises(SourceNotFoundError, match="label column 'label', found clicked, id"):
        load(tmp_path, "parquet", *parts)


def test_generated_data(tmp_path):
    data = load(tmp_path, "generated", rows=5000, fields=3, features=40_000_000)
    assert sum(data.field_sizes) == 40_000_000 and data.fields.shape == (5000, 3)
    again = load(tmp_path / "again", "generated", rows=5000, fields=3, features=40_000_000)
    assert np.array_equal(data.fields, again.fields) and np.array_equal(data.labels, again.labels)
    other = load(tmp_path / "other", "generated", rows=5000, fields=3, features=40_000_000, data_seed=1)
    assert not np.array_equal(data.fields, other.fields)
    for f, size in enumerate(data.field_sizes):
        assert data.fields[:, f].min() >= 0 and data.fields[:, f].max() < size
    seen = np.sort(np.bincount(data.fields[:, 2]))[::-1]
    assert seen[0] > 5 * seen[20] > 0  # few ids are most of the samples
    assert 0.1 < data.labels.mean() < 0.5


def test_generated_labels_follow_the_popularity_of_ids(tmp_path):
    from bench import metrics

    data = load(tmp_path, "generated", rows=40_000, fields=3, features=300)
    found = metrics.auc(data.labels[data.valid.start : data.valid.stop], data.popularity(data.valid))
    assert 0.55 < found < 0.8


def test_the_cache_is_made_once_and_refuses_other_data(tmp_path, monkeypatch):
    path = write(tmp_path / "train.txt", logs(70))
    first = load(tmp_path, "criteo", path)
    monkeypatch.setattr(ctr_sources.cache, "_make", lambda *_: pytest.fail("a cache that is there is not made again"))
    assert np.array_equal(load(tmp_path, "criteo", path).fields, first.fields)
    write(path, logs(80))
    with pytest.raises(SourceError, match=r"cache .* is of other data: its files must be .*; delete that folder"):
        load(tmp_path, "criteo", path)


def test_an_interrupted_cache_is_not_taken_for_whole(tmp_path, monkeypatch):
    path = write(tmp_path / "train.txt", logs(70))
    with monkeypatch.context() as patch:
        patch.setattr(ctr_sources.cache, "_rows", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            load(tmp_path, "criteo", path)
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(load(tmp_path, "criteo", path).labels) == 70


LINES = logs(70)
CELLS = LINES[4].split("\t")
HEAD = ",".join(AVAZU_COLUMNS)
HIT = f"1,0,14102100{',x' * 21}"
FRAPPE = "user\titem\tcnt\tdaytime\tweekday\tisweekend\thomework\tcost\tweather\tcountry\tcity"
BROKEN = {
    "columns": ("criteo", [*LINES[:4], "1\t2\t3", *LINES[4:]], "x.txt, line 5 must have 40 columns, found 3"),
    "number": (
        "criteo",
        [*LINES[:4], "\t".join([CELLS[0], "1", "x", *CELLS[3:]])],
        "x.txt, line 5, column 3 (I2) must be a number or empty, found 'x'",
    ),
    "label": (
        "criteo",
        [*LINES, "2" + LINES[0][1:]],
        "x.txt, line 71, column 1 (label) must be 0 or 1, found '2'",
    ),
    "header": ("avazu", [HEAD.replace("hour", "time"), HIT], "x.txt, line 1, column 3 must be 'hour', found 'time'"),
    "hour": (
        "avazu",
        [HEAD, HIT, HIT.replace("14102100", "noon")],
        "x.txt, line 3, column 3 (hour) must be YYMMDDHH, found 'noon'",
    ),
    "one day": ("avazu", [HEAD, HIT, HIT], "must have rows to train, validate and test on, found 2, 0 and 0"),
    "libfm label": ("libfm", ["1 2:1", "7 2:1"], "x.txt, line 2, column 1 must be the label 1, 0 or -1, found '7'"),
    "libfm columns": ("libfm", ["1 2:1", "1 2:1 3:1"], "x.txt, line 2 must have 2 columns as line 1 has, found 3"),
    "libfm value": (
        "libfm",
        ["1 2:1 3:1", "1 2:1 3:0.5"],
        "x.txt, line 2, column 3 must be a feature id:1, found '3:0.5'",
    ),
    "user alone": (
        "interactions",
        ["1 2", "3"],
        "x.txt, line 2 must have a user and items, 2 columns or more, found 1",
    ),
    "all items": ("interactions", ["a x y", "b x"], "user 'a' must have items left to draw negatives from"),
    "ratings": ("ml-1m", ["1::2::3::4", "1 2 3 4"], "x.txt, line 2 must have a user and items"),
    "empty": ("libfm", [""], "x.txt, line 1 must be a label and features id:1, found none"),
    "frappe header": ("frappe", [FRAPPE.replace("cnt", "n"), "1"], "x.txt, line 1, column 3 must be 'cnt', found 'n'"),
    "frappe columns": ("frappe", [FRAPPE, "1\t2"], "x.txt, line 2 must have 11 columns, found 2"),
}


@pytest.mark.parametrize("kind", list(BROKEN))
def test_a_wrong_line_is_named(tmp_path, kind):
    data, lines, sentence = BROKEN[kind]
    with pytest.raises(SourceError) as found:
        load(tmp_path, data, write(tmp_path / "x.txt", lines))
    assert sentence in str(found.value)
    assert not (tmp_path / "cache").exists() or list((tmp_path / "cache").iterdir()) == []


def test_movielens_lists_hold_integers(tmp_path):
    for part, line in (("train", "0 1 2"), ("test", "0 x")):
        write(tmp_path / f"{part}.txt.gz", [line])
    with pytest.raises(SourceError, match=r"test\.txt\.gz, line 1, column 2 must be an integer, found 'x'"):
        load(tmp_path, "ml-1m", tmp_path)


@pytest.mark.parametrize("data", ["criteo", "interactions", "libfm"])
@pytest.mark.parametrize("cut", [5000, 0])
def test_a_broken_gzip_is_named(tmp_path, data, cut):
    lines = {"criteo": logs(2000), "libfm": [f"1 {i * i}:1" for i in range(9000)]}
    path = write(tmp_path / "train.txt.gz", lines.get(data, [f"{i} {i * i}" for i in range(9000)]))
    path.write_bytes(path.read_bytes()[:cut] or b"this is no gzip")
    with pytest.raises(SourceError, match=r"train\.txt\.gz must be gzipped text that is whole"):
        load(tmp_path, data, path)


@pytest.mark.parametrize("data", ["criteo", "avazu", "frappe", "libfm", "interactions", "ml-1m", "parquet"])
def test_an_empty_file_is_named(tmp_path, data):
    (tmp_path / "x.txt").write_bytes(b"")
    with pytest.raises(SourceError, match=r"x\.txt"):
        load(tmp_path, data, tmp_path / "x.txt")


def test_a_binary_file_is_named(tmp_path):
    (tmp_path / "x.bin").write_bytes(bytes(range(256)) * 40)
    for data in ("criteo", "avazu", "libfm"):
        with pytest.raises(SourceError, match=r"x\.bin"):
            load(tmp_path, data, tmp_path / "x.bin")
    with pytest.raises(SourceError, match=r"x\.bin must be a Parquet file"):
        load(tmp_path, "parquet", tmp_path / "x.bin")


@pytest.mark.parametrize("split", ["own", "random"])
@pytest.mark.parametrize("data", ["criteo", "criteo-tb"])
def test_chunks_do_not_show(tmp_path, monkeypatch, data, split):
    for name in ("train.txt", "day_0", "day_1"):
        write(tmp_path / name, logs(333, len(name)))
    whole = load(tmp_path, data, tmp_path, split=split)
    monkeypatch.setattr(coding, "CHUNK", 64)
    parts = load(tmp_path / "again", data, tmp_path, split=split)
    assert np.array_equal(whole.fields, parts.fields) and np.array_equal(whole.labels, parts.labels)
    assert (whole.valid, whole.test) == (parts.valid, parts.test) and np.array_equal(whole.counts, parts.counts)


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ("criteo", "ailab.criteo.com"), ("criteo-tb", "ailab.criteo.com"), ("avazu", "kaggle.com"),
        ("ml-1m", "grouplens.org"), ("frappe", "baltrunas.info"), ("libfm", "your own data"),
        ("interactions", "ucsd.edu"),
    ],
)  # fmt: skip
def test_a_missing_file_says_where_to_get_it(tmp_path, data, where):
    with pytest.raises(SourceNotFoundError, match=where):
        load(tmp_path, data, tmp_path / "nowhere")


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=200), st.integers(1, 17))
def test_keys_become_their_places_whatever_the_chunk(tmp_path_factory, keys, chunk):
    path = tmp_path_factory.mktemp("keys") / "column"
    np.array(keys, np.uint64).tofile(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coding, "CHUNK", chunk)
        assert coding.recode(path) == len(set(keys))
    order = sorted(set(keys))
    assert np.fromfile(path, np.uint64).tolist() == [order.index(k) for k in keys]


REAL = {
    "criteo": ["ctr/criteo_small/train.tsv.gz", "ctr/criteo_small/dev.tsv.gz", "ctr/criteo_small/test.tsv.gz"],
    "libfm": ["ctr/frappe/frappe.validation.libfm.gz", "ctr/frappe/frappe.test.libfm.gz"],
    "interactions": ["rec/amazon_video_games/Video.txt.gz"],
    "frappe": ["ctr/frappe/frappe.csv.gz"],
    "ml-1m": ["rec/ml-1m"],
}
ROWS = {
    "criteo": (7200, 409, 391), "libfm": (57722, 14430, 14430), "interactions": None, "frappe": (202026, 57722, 28861),
    "ml-1m": (2403654, 295981, 295982),
}  # fmt: skip


@pytest.mark.parametrize("data", list(REAL))
def test_real_files(tmp_path, data):
    paths = [ctr_data.folder() / path for path in REAL[data]]
    if not all(path.exists() for path in paths):
        pytest.skip(f"no {paths[0].name} here")
    found = load(tmp_path, data, *paths)
    held = (len(found.train), len(found.valid), len(found.test))
    assert held == ROWS[data] if ROWS[data] else sum(held) == 3 * 287_107
    assert (found.fields[:].max(axis=0) < found.field_sizes).all() and found.fields[:].min() == 0
    assert found.counts.sum() == held[0] * len(found.field_sizes)
    assert len(np.unique(found.labels)) == 2
