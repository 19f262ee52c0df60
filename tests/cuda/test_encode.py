"""Rows encoded on a device, with the host in its place: the bytes of the native encoders, and what is refused."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embstore
from embstore import encoding, errors, native, registry
from embstore.arrays import TableShape
from embstore.cuda import driver
from embstore.cuda import encode as encode_on_device
from embstore.cuda.placed import Placed, fault_bytes
from embstore.method import RowMethod
from embstore.testing import make_rows
from embstore.testing.laws import same

if not driver.built():
    pytest.skip("embstore._cuda was not built: nvcc was not found, or EMBSTORE_CUDA=off", allow_module_level=True)

from host import HostDriver
from test_gpu_table import OnDevice
from test_laws import ALL

ENCODED = driver.extension().encoders()


def fitted(method: RowMethod) -> bool:
    return any(spec.partition != "rows" for spec in method.layout(TableShape(2, 50)))


CONFIGURED = [m for m in ALL if m.id in ENCODED and not fitted(m)]


def encoded(method: RowMethod, rows: Any) -> dict[str, Any]:
    """The arrays that the kernel makes, whatever it tells of values that cannot be held."""
    host, shape = HostDriver(), TableShape(*rows.shape)
    placed = Placed(host, 0, method, shape, [], {})
    given, fault = OnDevice(host, rows), OnDevice(host, fault_bytes())
    addresses = [a.__cuda_array_interface__["data"][0] for a in (given, fault)]
    host.encode(
        method.id, method.config(), addresses[0], rows.shape, True, placed.rows, placed.shared, addresses[1], 0, 0
    )
    found = {}
    for spec in method.layout(shape):
        out = np.empty(spec.nbytes(), np.uint8)
        host.copy_out(0, out, placed.rows[spec.name][1], 0)
        found[spec.name] = out.view(spec.dtype).reshape(spec.sizes())
    return found


def check(method: RowMethod, rows: Any) -> None:
    resolved = method.resolve(TableShape(*rows.shape))
    ids = np.arange(len(rows), dtype=np.int64)
    with np.errstate(all="ignore"):
        want = encoding.encode(resolved, {}, ids, rows)
        reference = resolved.encode({}, ids, rows)
    found = encoded(resolved, rows)
    assert set(found) == set(want)
    for name, array in want.items():
        assert np.array_equal(found[name].view(np.uint8), array.view(np.uint8)), name
        assert same(found[name], reference[name]), name


@pytest.mark.parametrize("method", CONFIGURED, ids=repr)
def test_every_config(method: RowMethod) -> None:
    check(method, make_rows(67, 50))


@pytest.mark.parametrize("dim", [1, 2, 3, 15, 16, 17, 31, 64, 97, 128, 300, 1030])
@pytest.mark.parametrize("name", ENCODED)
def test_every_dim(name: str, dim: int) -> None:
    check(registry.get(name)(), make_rows(33, dim, seed=dim))


@pytest.mark.parametrize("name", ENCODED)
def test_zeros_of_both_signs_and_the_ends_of_the_range(name: str) -> None:
    rng = np.random.default_rng(0)
    rows = rng.choice(np.array([0.0, -0.0, 1e-45, -1e-40, 65504.0, -65520.0, 3e38, -3e38], np.float32), (60, 37))
    rows[:20] = rng.choice(np.array([0.0, -0.0], np.float32), (20, 37))
    check(registry.get(name)(), rows)


@pytest.mark.parametrize("name", ENCODED)
def test_more_rows_than_a_block_of_threads(name: str) -> None:
    check(registry.get(name)(), make_rows(1500, 9, hostile=False))


def test_every_scalar_method_with_a_native_encoder_has_one() -> None:
    scalar = {"float32", "float16", "bfloat16", "int16", "int8", "int4", "int2", "nf4", "dynamic8"}
    assert scalar == set(ENCODED) == {m.id for m in CONFIGURED}
    assert all(native.require("the test").has_kernel(name) for name in scalar)


def test_the_page_names_them() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cuda.md").read_text()
    told = page.partition("## Encoding there")[2].partition("##")[0]
    assert set(ENCODED) <= set(re.findall(r"`(\w+)`", told))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> HostDriver:
    monkeypatch.setitem(sys.modules, "cupy", None)
    return HostDriver(devices=2)


ROWS = make_rows(300, 24, hostile=False)
KEYS = [f"w{i}" for i in range(300)]


@pytest.mark.parametrize("spec", [("int8", {}), ("int4", {"block_size": 16}), ("nf4", {}), ("float16", {})])
def test_a_table_from_rows_of_the_device(spec: Any, host: HostDriver, tmp_path: Path) -> None:
    method, config = spec
    want = embstore.compress(ROWS, tmp_path / "t", method, **config)
    ids = np.array([[3, 299], [0, 3]])
    rows = OnDevice(host, ROWS, device=1)
    with encode_on_device(rows, method, stream=7, driver=host, **config) as gpu:
        assert gpu.device == "cuda:1" and 7 in host.streams
        assert repr(gpu.method) == repr(want.method)
        assert same(gpu.lookup(ids).numpy(), want.lookup(ids))
        assert same(gpu.bag(ids, mode="mean").numpy(), want.bag(ids, mode="mean"))
        found = gpu.table
        assert found.nbytes == want.nbytes
        assert same(found.lookup(ids), want.lookup(ids))
    assert same(found[:], want[:])
    assert list(host.held) == [rows._address]


def test_a_table_stored_too(host: HostDriver, tmp_path: Path) -> None:
    want = embstore.compress(ROWS, tmp_path / "t", "int8", keys=KEYS)
    rows = OnDevice(host, ROWS)
    with encode_on_device(rows, path=tmp_path / "u", keys=KEYS, driver=host) as gpu:
        assert same(gpu["w7"].numpy(), want["w7"])
        assert gpu.table.verify() == []
    found = embstore.open(tmp_path / "u")
    assert same(found[:], want[:]) and found.nbytes == want.nbytes and "w7" in found
    for name in ("codes", "affine"):
        assert np.array_equal(found._stored.shards[0][name], want._stored.shards[0][name])
    with pytest.raises(errors.DestinationExistsError):
        encode_on_device(rows, path=tmp_path / "u", driver=host)
    encode_on_device(rows, "float16", path=tmp_path / "u", overwrite=True, driver=host).close()
    assert embstore.open(tmp_path / "u").method.id == "float16"


def test_a_budget_chooses(host: HostDriver) -> None:
    with encode_on_device(OnDevice(host, ROWS), "int4", budget="6bpd", driver=host) as gpu:
        assert gpu.table.nbytes <= 300 * 24 * 6 / 8
    with pytest.raises(errors.BudgetError, match="needs at least"):
        encode_on_device(OnDevice(host, ROWS), "int4", budget=100, driver=host)


def test_no_rows(host: HostDriver) -> None:
    for name in ENCODED:
        with encode_on_device(OnDevice(host, np.zeros((0, 5), np.float32)), name, driver=host) as gpu:
            assert gpu.lookup(np.array([], np.int64)).shape == (0, 5)
            assert gpu.table.num_embeddings == 0


@pytest.mark.parametrize("name", ENCODED)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_as_on_the_host(name: str, value: float, host: HostDriver, tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[17, 5] = rows[17, 21] = rows[200, 0] = value
    with pytest.raises(errors.SourceError) as want:
        embstore.compress(rows, tmp_path / "t", name)
    with pytest.raises(errors.SourceError) as found:
        encode_on_device(OnDevice(host, rows), name, driver=host)
    assert str(found.value) == str(want.value).replace("'array'", "'rows'")
    assert "row 17, column 5" in str(found.value)


def test_what_is_no_number_is_kept_when_asked(host: HostDriver, tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[17, 5] = np.nan
    want = embstore.compress(rows, tmp_path / "t", "int8", nonfinite="keep")
    with encode_on_device(OnDevice(host, rows), nonfinite="keep", driver=host) as gpu:
        assert same(gpu.lookup([16, 17]).numpy(), want.lookup([16, 17]))


@pytest.mark.parametrize(
    ("name", "config", "value"),
    [
        ("float16", {}, 7e4), ("int8", {}, 1e9), ("int4", {"block_size": 16}, -1e9), ("nf4", {}, 1e6),
        ("int16", {"scale_dtype": "float16"}, 1e10), ("dynamic8", {}, -1e6), ("int8", {"symmetric": True}, 1e9),
        ("int8", {"symmetric": True, "step": 1.0}, 128.0), ("int8", {"step": 1.0, "offset": -128.0}, 128.0),
        ("int8", {"step": 1.0, "offset": -128.0}, -129.0),
    ],
)  # fmt: skip
def test_what_cannot_be_held_is_refused_as_on_the_host(
    name: str, config: Any, value: float, host: HostDriver, tmp_path: Path
) -> None:
    rows = np.clip(ROWS, -100, 100)
    encode_on_device(OnDevice(host, rows), name, driver=host, **config).close()
    rows[123, 23] = rows[200, 0] = value
    with pytest.raises(errors.ConfigError) as want:
        embstore.compress(rows, tmp_path / "t", name, **config)
    with pytest.raises(errors.ConfigError) as found:
        encode_on_device(OnDevice(host, rows), name, driver=host, **config)
    assert str(found.value) == str(want.value)
    assert "row 123" in str(found.value)


def test_refused(host: HostDriver, tmp_path: Path) -> None:
    rows = OnDevice(host, ROWS)
    before = set(host.held)
    for arguments, config, kind, text in (
        ((rows, "pq"), {}, errors.ConfigError, "are encoded by .*int8.*, found 'pq'"),
        ((rows, "center,int8"), {}, errors.ConfigError, "copy them to the host"),
        ((rows, "nf4"), {"scale_dtype": "uint8"}, errors.ConfigError, "which learns scale_values"),
        ((rows, "int8"), {"nothing": 1}, errors.ConfigError, "unknown field 'nothing'"),
        ((rows,), {"keys": KEYS}, errors.ConfigError, "found keys without a path"),
        ((rows,), {"nonfinite": "drop"}, errors.ConfigError, "found 'drop'"),
        ((ROWS,), {}, errors.DeviceError, "found ndarray of the host"),
        ((OnDevice(host, ROWS.astype(np.float64)),), {}, errors.ShapeError, "found f8 of"),
        ((OnDevice(host, ROWS[0]),), {}, errors.ShapeError, r"found f4 of \(24,\)"),
        ((OnDevice(host, ROWS, strides=(4, 96)),), {}, errors.ShapeError, "must be C-contiguous"),
    ):
        with pytest.raises(kind, match=text):
            encode_on_device(*arguments, driver=host, **config)
    assert len(set(host.held) - before) == 3  # the arrays made here


def test_memory_that_is_exhausted(tmp_path: Path) -> None:
    host = HostDriver(memory=ROWS.nbytes + 3000)
    rows = OnDevice(host, ROWS)
    with pytest.raises(errors.DeviceMemoryError):
        encode_on_device(rows, driver=host)
    assert list(host.held) == [rows._address]


def test_a_table_that_was_closed_is_not_read(host: HostDriver) -> None:
    gpu = encode_on_device(OnDevice(host, ROWS), driver=host)
    gpu.close()
    with pytest.raises(errors.DeviceError, match="found it closed"):
        gpu.table.lookup([3])
