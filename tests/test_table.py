"""Table: keys, policies, errors, threads."""

import concurrent.futures
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import embstore
from embstore import errors

WORDS = [f"word{i}" for i in range(300)]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rows = np.random.default_rng(0).standard_normal((300, 20), dtype=np.float32)
    return embstore.compress(rows, tmp_path_factory.mktemp("t") / "t", keys=WORDS)


def test_ids_of_every_integer_dtype_and_shape(table):
    want = table.lookup(np.array([[3, 4], [5, 3]]))
    assert want.shape == (2, 2, 20)
    for dtype in "bBhHiIlLqQ":
        assert np.array_equal(table.lookup(np.array([[3, 4], [5, 3]], dtype)), want)
    assert np.array_equal(table.lookup(np.array([[3, 4], [5, 3]], ">i4")), want)
    assert np.array_equal(table.lookup(np.asfortranarray([[3, 4], [5, 3]])), want)
    assert np.array_equal(table.lookup(np.array([[3, 0, 4, 0], [5, 0, 3, 0]])[:, ::2]), want)
    assert table.lookup([]).shape == (0, 20)
    assert table.lookup(np.zeros((0, 3), int)).shape == (0, 3, 20)
    assert np.array_equal(table[3], want[0, 0])
    assert np.array_equal(table[3:5], want[0])


def test_out(table):
    out = np.full((2, 20), 7, np.float32)
    assert table.lookup([1, 2], out) is out
    half = np.empty((2, 20), np.float16)
    assert np.array_equal(table.lookup([1, 2], half), out.astype(np.float16))
    for bad in (np.empty((3, 20), np.float32), np.empty((2, 20)), np.empty((2, 40), np.float32)[:, ::2], [0]):
        with pytest.raises(errors.ShapeError):
            table.lookup([1, 2], bad)
    frozen = np.empty((2, 20), np.float32)
    frozen.flags.writeable = False
    with pytest.raises(errors.ShapeError):
        table.lookup([1, 2], frozen)


@pytest.mark.parametrize("ids", [[-1], [300], [0, 1, 2**62], 300, -1, [2**70], 2**70, np.array([2**64 - 1], np.uint64)])
def test_ids_out_of_range(table, ids):
    with pytest.raises(errors.IdRangeError):
        table.lookup(ids)
    with pytest.raises(IndexError):
        table[ids]


@pytest.mark.parametrize("ids", [[1.0], 1.5, np.array([True]), None])
def test_ids_that_are_not_integers(table, ids):
    with pytest.raises(TypeError):
        table.lookup(ids)


def test_keys(table):
    assert np.array_equal(table["word7"], table[7])
    assert np.array_equal(table.lookup(["word7", "word9"]), table[[7, 9]])
    assert np.array_equal(table.lookup(np.array([["word7"], ["word9"]])), table[[[7], [9]]])
    assert "word7" in table
    assert "nothing" not in table
    assert list(table.keys) == WORDS


def test_unknown_keys_are_never_row_zero(table):
    with pytest.raises(errors.UnknownKeyError, match="nothing"):
        table["nothing"]
    with pytest.raises(KeyError, match="nothing"):
        table.lookup(["word1", "nothing"])
    batch = ["word1", "nothing", "word2"]
    rows, known = table.lookup(batch, oov="zeros", return_mask=True)
    assert known.tolist() == [True, False, True]
    assert not rows[1].any()
    assert np.array_equal(rows[[0, 2]], table[[1, 2]])
    assert np.array_equal(table.lookup(batch, oov=5)[1], table[5])
    grams = table.lookup(batch, oov="ngrams")
    assert np.array_equal(grams[1], table.lookup("nothing", oov="ngrams"))
    assert np.linalg.norm(grams[1]) == pytest.approx(np.linalg.norm(table[:], axis=1).mean(), rel=1e-3)
    for bad in ("subwords", "guess", 300):
        with pytest.raises((errors.ConfigError, errors.IdRangeError)):
            table.lookup(batch, oov=bad)


def test_integer_keys(tmp_path):
    rows = np.eye(4, dtype=np.float32)
    table = embstore.compress(rows, tmp_path / "t", method="float32", keys=np.array([10, -7, 2**40, 0]))
    assert table.lookup(-7, by="key").tolist() == [0, 1, 0, 0]
    assert np.array_equal(table.lookup([2**40, 10], by="key"), rows[[2, 0]])
    assert np.array_equal(table.lookup([3, 0]), rows[[3, 0]])
    with pytest.raises(errors.UnknownKeyError):
        table.lookup([11], by="key")


def test_no_keys(tmp_path):
    table = embstore.compress(np.eye(4, dtype=np.float32), tmp_path / "t")
    with pytest.raises(errors.NoKeysError):
        table["word"]


def test_bag_arguments(table):
    for args, kind in (
        (([1, 2],), errors.ShapeError),
        (([1, 2], [1]), errors.ShapeError),
        (([1, 2], [0, 5]), errors.ShapeError),
        (([1, 2], [0, 2, 1]), errors.ShapeError),
        (([[1, 2]], [0]), errors.ShapeError),
        (([[1, 2]], None, "median"), errors.ConfigError),
        (([[1, 2]], None, "mean", [[1.0, 1.0]]), errors.ConfigError),
        (([[1, 2]], None, "sum", [1.0]), errors.ShapeError),
        (([[1, 300]],), errors.IdRangeError),
        (([[1, 0.5]],), errors.IdTypeError),
    ):
        with pytest.raises(kind):
            table.bag(*args)
    assert table.bag(np.zeros((3, 0), int)).tolist() == np.zeros((3, 20)).tolist()


def test_many_threads_at_once(table):
    ids = np.random.default_rng(1).integers(0, 300, (32, 20_000))
    want = [table.lookup(i) for i in ids]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        got = list(pool.map(table.lookup, ids))
    assert all(np.array_equal(a, b) for a, b in zip(want, got, strict=True))


def test_after_fork_and_pickle(table):
    again = pickle.loads(pickle.dumps(table))
    assert np.array_equal(again[5], table[5])
    ids = np.arange(100_000) % 300
    want = table.lookup(ids)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(table.lookup(ids), want) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_import_is_light():
    code = (
        "import sys, embstore; heavy = {'zarr', 'pyarrow', 'torch', 'rich', 'typer', 'numba'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_threads_argument():
    with pytest.raises(errors.ConfigError):
        embstore.set_num_threads(0)
    embstore.set_num_threads(1)
    assert embstore.get_num_threads() == 1
    embstore.set_num_threads(None)
