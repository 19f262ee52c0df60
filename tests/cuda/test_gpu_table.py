"""What `Table.to` gives, with the host in place of a device: arguments, results, streams, faults, errors."""

from __future__ import annotations

import ctypes
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embstore
from embstore import errors
from embstore.cuda import GpuTable, driver, to_device
from embstore.cuda.array import DeviceArray
from embstore.cuda.driver import Driver

if not driver.built():
    pytest.skip("embstore._cuda was not built: nvcc was not found, or EMBSTORE_CUDA=off", allow_module_level=True)

from host import HostDriver

N, DIM = 300, 24


class OnDevice:
    """An array of another library: `__cuda_array_interface__` over memory of a HostDriver's device."""

    def __init__(self, host: HostDriver, array: Any, device: int = 0, strides: Any = None) -> None:
        array = np.asarray(array)
        self.array = array
        self._address = host.allocate(device, max(array.nbytes, 1))
        ctypes.memmove(self._address, np.ascontiguousarray(array).ctypes.data, array.nbytes)
        self.__cuda_array_interface__ = {
            "shape": array.shape, "typestr": array.dtype.str, "data": (self._address, False), "version": 3,
            "strides": strides, "stream": 1,
        }  # fmt: skip

    def read(self) -> Any:
        out = np.empty_like(self.array)
        ctypes.memmove(out.ctypes.data, self._address, out.nbytes)
        return out


@pytest.fixture
def host() -> HostDriver:
    return HostDriver(devices=2)


@pytest.fixture
def table(tmp_path: Path) -> embstore.Table:
    rows = np.random.default_rng(0).standard_normal((N, DIM)).astype(np.float32)
    return embstore.compress(rows, tmp_path / "t", "int8", keys=[f"w{i}" for i in range(N)])


@pytest.fixture
def gpu(table: embstore.Table, host: HostDriver, monkeypatch: pytest.MonkeyPatch) -> GpuTable:
    monkeypatch.setitem(sys.modules, "cupy", None)
    found = to_device(table, "cuda", host)
    assert isinstance(found, GpuTable)
    return found


IDS = np.array([[3, 1, 299], [0, 3, 7]])


def test_ids_of_the_host_give_arrays_of_the_device(table: embstore.Table, gpu: GpuTable) -> None:
    for ids in (IDS, IDS.astype(np.int16), IDS.tolist(), 5, np.array([], np.int64), slice(4, 9)):
        given = np.arange(4, 9) if isinstance(ids, slice) else ids
        rows = gpu[ids] if isinstance(ids, slice) else gpu.lookup(ids)
        assert isinstance(rows, DeviceArray)
        assert rows.shape == (*np.shape(given), DIM)
        assert np.array_equal(rows.numpy(), table.lookup(given))
        assert np.array_equal(np.asarray(rows), table.lookup(given))


@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_ids_of_the_device(table: embstore.Table, gpu: GpuTable, host: HostDriver, dtype: str) -> None:
    ids = OnDevice(host, IDS.astype(dtype))
    assert np.array_equal(gpu.lookup(ids).numpy(), table.lookup(IDS))
    for out_dtype in ("float32", "float16"):
        out = OnDevice(host, np.zeros((2, 3, DIM), out_dtype))
        assert gpu.lookup(ids, out=out) is out
        assert np.array_equal(out.read(), table.lookup(IDS, out=np.empty((2, 3, DIM), out_dtype)))


def test_bags(table: embstore.Table, gpu: GpuTable, host: HostDriver) -> None:
    rng = np.random.default_rng(1)
    ids, offsets = rng.integers(0, N, 50), np.array([0, 0, 20, 50])
    weights = rng.standard_normal(50).astype(np.float32)
    for place in (lambda x: x, lambda x: OnDevice(host, x)):
        for mode, w in (("sum", None), ("mean", None), ("max", None), ("sum", weights)):
            for last in (True, False):
                given = None if w is None else place(w)
                bags = gpu.bag(place(ids), place(offsets), mode, given, last)  # type: ignore[arg-type]
                assert np.array_equal(bags.numpy(), table.bag(ids, offsets, mode, w, last))  # type: ignore[arg-type]
                mixed = gpu.bag(place(ids), offsets, mode, w, last)  # type: ignore[arg-type]
                assert np.array_equal(mixed.numpy(), bags.numpy())
        square = ids.reshape(5, 10)
        assert np.array_equal(gpu.bag(place(square)).numpy(), table.bag(square))
        out = OnDevice(host, np.zeros((5, DIM), np.float16))
        gpu.bag(place(square), out=out)
        assert np.array_equal(out.read(), table.bag(square).astype(np.float16))
    assert gpu.bag(np.array([], np.int64), np.array([], np.int64)).shape == (0, DIM)


def test_keys_are_found_on_the_host(table: embstore.Table, gpu: GpuTable) -> None:
    assert np.array_equal(gpu.lookup(["w3", "w7"]).numpy(), table.lookup([3, 7]))
    assert np.array_equal(gpu["w3"].numpy(), table[3])
    assert np.array_equal(gpu.lookup(["w3", "none"], oov=9).numpy(), table.lookup([3, 9]))
    with pytest.raises(errors.UnknownKeyError):
        gpu.lookup(["w3", "none"])
    with pytest.raises(errors.ConfigError, match="'raise' or a row id, found 'zeros'"):
        gpu.lookup(["w3", "none"], oov="zeros")


SENTENCE = f"ids must be from 0 to {N - 1}, found {N} at position 2; check the ids"


def test_ids_of_the_host_are_checked_before(gpu: GpuTable) -> None:
    for call in (lambda: gpu.lookup([0, 1, N]), lambda: gpu.bag([[0, 1, N]]), lambda: gpu[[0, 1, N]]):
        with pytest.raises(errors.IdRangeError, match=SENTENCE):
            call()


@pytest.mark.parametrize("bag", [False, True])
def test_ids_of_the_device_are_told_by_the_next_call_that_waits(gpu: GpuTable, host: HostDriver, bag: bool) -> None:
    ids = OnDevice(host, np.array([[0, 1, N, -5]]))
    call = gpu.bag if bag else gpu.lookup
    waits = host.waits
    rows = call(ids)
    assert host.waits == waits
    with pytest.raises(errors.IdRangeError, match=SENTENCE):
        rows.numpy()
    gpu.synchronize()  # told once
    call(ids)
    with pytest.raises(errors.IdRangeError, match=SENTENCE):
        gpu.synchronize()
    with pytest.raises(errors.IdRangeError, match=SENTENCE):
        call(ids, check="eager")
    call(ids)
    with pytest.raises(errors.IdRangeError, match=SENTENCE):
        gpu.close()
    assert "closed" in repr(gpu)


def test_offsets_of_the_device_are_told_too(gpu: GpuTable, host: HostDriver) -> None:
    with pytest.raises(errors.ShapeError, match="found 3 at position 1"):
        gpu.bag(OnDevice(host, np.arange(6)), OnDevice(host, np.array([0, 3, 2])), check="eager")


def test_nothing_is_left_in_the_device_memory(table: embstore.Table, host: HostDriver) -> None:
    with to_device(table, "cuda:1", host) as gpu:
        assert {device for device, _, _ in host.held.values()} == {1}
        assert gpu.nbytes == sum(n for _, n, _ in host.held.values()) - 24  # the word for faults
        assert gpu.nbytes >= table.nbytes
        gpu.lookup(IDS).numpy()
        gpu.bag(IDS, per_sample_weights=np.ones((2, 3), np.float32)).numpy()
        assert (gpu.device, len(gpu), gpu.embedding_dim) == ("cuda:1", N, DIM)
        assert "int8.cu on cuda:1" in gpu.explain()
    assert host.held == {}
    with pytest.raises(errors.DeviceError, match="must be open, found it closed"):
        gpu.lookup([1])
    gpu.close()


def test_a_table_that_does_not_fit_leaves_nothing(table: embstore.Table) -> None:
    small = HostDriver(memory=table.nbytes // 2)
    with pytest.raises(errors.DeviceMemoryError):
        to_device(table, "cuda", small)
    assert small.held == {}
    assert table.lookup([1]).shape == (1, DIM)


def test_what_is_not_on_the_device(gpu: GpuTable, host: HostDriver) -> None:
    ids = OnDevice(host, IDS)
    with pytest.raises(errors.DeviceError, match="ids must be on cuda:0, found on cuda:1"):
        gpu.lookup(OnDevice(host, IDS, device=1))
    with pytest.raises(errors.IdTypeError, match="int64 or int32, found f4"):
        gpu.lookup(OnDevice(host, IDS.astype(np.float32)))
    with pytest.raises(errors.IdTypeError, match="int64 or int32, found i2"):
        gpu.lookup(OnDevice(host, IDS.astype(np.int16)))
    with pytest.raises(errors.ShapeError, match="ids must be C-contiguous"):
        gpu.lookup(OnDevice(host, IDS, strides=(8, 16)))
    with pytest.raises(errors.ShapeError, match=r"out must have shape \(2, 3, 24\), found \(6, 24\)"):
        gpu.lookup(ids, out=OnDevice(host, np.zeros((6, DIM), np.float32)))
    with pytest.raises(errors.ShapeError, match="float32 or float16, found f8"):
        gpu.lookup(ids, out=OnDevice(host, np.zeros((2, 3, DIM))))
    with pytest.raises(errors.ShapeError, match="out must be an array on cuda:0, found ndarray of the host"):
        gpu.lookup(ids, out=np.zeros((2, 3, DIM), np.float32))
    with pytest.raises(errors.DeviceError, match="out must be on cuda:0, found on cuda:1"):
        gpu.lookup(ids, out=OnDevice(host, np.zeros((2, 3, DIM), np.float32), device=1))
    with pytest.raises(errors.ShapeError, match="must be float32 of input's shape"):
        gpu.bag(ids, per_sample_weights=OnDevice(host, np.ones((2, 3))))
    with pytest.raises(errors.ConfigError, match="per_sample_weights need mode 'sum'"):
        gpu.bag(ids, mode="max", per_sample_weights=np.ones((2, 3), np.float32))
    with pytest.raises(errors.ShapeError, match="offsets must be given for a 1-D input"):
        gpu.bag(OnDevice(host, np.arange(3)))
    with pytest.raises(errors.ShapeError, match="found both"):
        gpu.bag(ids, OnDevice(host, np.arange(3)))
    with pytest.raises(errors.ConfigError, match="mode must be one of 'sum', 'mean', 'max', found 'min'"):
        gpu.bag(ids, mode="min")  # type: ignore[arg-type]
    with pytest.raises(errors.ConfigError, match="check must be one of 'deferred', 'eager', found 'never'"):
        gpu.lookup(ids, check="never")  # type: ignore[arg-type]
    with pytest.raises(errors.ConfigError, match="stream must be a CUDA stream or its address, found 'x'"):
        gpu.lookup(ids, stream="x")


def test_streams(gpu: GpuTable, host: HostDriver) -> None:
    class Torch:
        cuda_stream = 11

    class Cupy:
        ptr = 12

    class Protocol:
        def __cuda_stream__(self) -> tuple[int, int]:
            return 0, 13

    for stream, address in ((None, 0), (10, 10), (Torch(), 11), (Cupy(), 12), (Protocol(), 13)):
        host.streams.clear()
        rows = gpu.lookup(IDS, stream=stream)
        assert set(host.streams) == {address}
        assert rows.__cuda_array_interface__["stream"] == (address or 1)
        del rows


def test_cupy_in_cupy_out(table: embstore.Table, host: HostDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for CuPy of as much as is used of it."""
    entered: list[Any] = []

    class Context:
        def __init__(self, *what: Any) -> None:
            self.what, self.ptr = what, 7

        def __enter__(self) -> None:
            entered.append(self.what)

        def __exit__(self, *exc: Any) -> None:
            entered.append("left")

    class Array(OnDevice):
        @property
        def data(self) -> Any:
            return types.SimpleNamespace(ptr=self._address)

        flags = types.SimpleNamespace(c_contiguous=True)
        device = types.SimpleNamespace(id=0)

        @property
        def shape(self) -> Any:
            return self.array.shape

        @property
        def dtype(self) -> Any:
            return self.array.dtype

    cuda = types.SimpleNamespace(
        Device=Context, get_current_stream=lambda: Context(), ExternalStream=Context, Stream=types.SimpleNamespace()
    )
    module = types.ModuleType("cupy")
    module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    vars(module).update(ndarray=Array, cuda=cuda, empty=lambda shape, dtype: Array(host, np.zeros(shape, dtype)))
    monkeypatch.setitem(sys.modules, "cupy", module)
    gpu = to_device(table, 0, host)
    assert isinstance(gpu, GpuTable)
    for ids in (Array(host, IDS), IDS):
        entered.clear()
        rows = gpu.lookup(ids)
        assert type(rows) is Array
        assert np.array_equal(rows.read(), table.lookup(IDS))
        assert (7, 0) in entered  # made for the caller's stream
        assert entered.count("left") == sum(isinstance(e, tuple) for e in entered)


def test_tensors_of_the_host_are_host_arrays(table: embstore.Table, gpu: GpuTable) -> None:
    torch = pytest.importorskip("torch")
    ids = torch.from_numpy(IDS)
    assert np.array_equal(gpu.lookup(ids).numpy(), table.lookup(IDS))
    assert np.array_equal(gpu.bag(ids.reshape(-1), torch.tensor([0, 2])).numpy(), table.bag(IDS.ravel(), [0, 2]))


def test_a_device_array_is_read_by_others(gpu: GpuTable) -> None:
    rows = gpu.lookup(IDS)
    assert rows.__dlpack_device__() == (2, 0)
    assert rows.__cuda_array_interface__["data"][0] % 256 == 0
    assert type(rows.__dlpack__()).__name__ == "PyCapsule"
    assert "DeviceArray (2, 3, 24), float32, cuda:0" in repr(rows)
    assert len(rows) == 2


def test_devices_are_named_as_elsewhere(table: embstore.Table, host: HostDriver) -> None:
    assert to_device(table, "cpu", host) is table
    for device, number in (("cuda", 0), ("cuda:1", 1), (1, 1)):
        with to_device(table, device, host) as gpu:
            assert gpu.device == f"cuda:{number}"
    for wrong in ("gpu", "cuda:", "cuda:x", -1, True):
        with pytest.raises(errors.DeviceError, match="must be 'cuda', 'cuda:1' or 'cpu'"):
            to_device(table, wrong, host)


def test_what_has_no_kernel_is_refused(
    table: embstore.Table, host: HostDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embstore.cuda.table.has_kernel", lambda name: False)
    with pytest.raises(errors.ConfigError, match="needs a CUDA kernel, found none for 'int8'"):
        to_device(table, "cuda", host)


FOUND = {"devices": 0, "driver": 0, "runtime": 13000, "code": 35, "what": "no"}


@pytest.mark.parametrize(
    ("found", "device", "sentence"),
    [
        ({}, 0, "needs NVIDIA's driver, found none; look up on the host"),
        ({"driver": 12040}, 0, "driver must serve CUDA 13.0, found one for 12.4; update the driver"),
        ({"driver": 13000, "code": 100, "what": "no CUDA-capable device"}, 0, r"found none \(no CUDA-capable device\)"),
        ({"driver": 13000, "code": 0, "devices": 2}, 2, "one of cuda:0 to cuda:1, found cuda:2"),
    ],
)
def test_why_there_is_no_device(
    found: Any, device: int, sentence: str, monkeypatch: pytest.MonkeyPatch, table: embstore.Table
) -> None:
    module = types.SimpleNamespace(found=lambda: FOUND | found, has_kernel=lambda name: True)
    monkeypatch.setattr(driver, "_load", lambda: module)
    with pytest.raises(errors.DeviceError, match=sentence):
        to_device(table, device)


@pytest.mark.parametrize(
    ("code", "error", "sentence"),
    [
        (2, errors.DeviceMemoryError, "found it exhausted .out of memory.; free some, or look up on the host"),
        (209, errors.DeviceError, r"found no kernel image \(error 209\); build embstore for this device"),
        (700, errors.DeviceError, r"found illegal address \(error 700\); see whether"),
    ],
)
def test_what_cuda_refuses(code: int, error: Any, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(RuntimeError):
        pass

    text = {2: "out of memory", 209: "no kernel image", 700: "illegal address"}[code]

    def allocate(device: int, nbytes: int) -> int:
        raise Refused(code, text)

    monkeypatch.setattr(driver, "_load", lambda: types.SimpleNamespace(Refused=Refused, allocate=allocate))
    with pytest.raises(error, match=sentence):
        Driver().allocate(0, 100)


def test_without_the_extension(monkeypatch: pytest.MonkeyPatch, table: embstore.Table) -> None:
    monkeypatch.setattr(driver, "_load", lambda: ImportError("no module"))
    with pytest.raises(errors.MissingDependencyError, match=r"loaded \(no module\); install CUDA's nvcc and build"):
        table.to("cuda")
    assert table.to("cpu") is table


def test_the_machine_as_it_is(table: embstore.Table) -> None:
    """Without a GPU this is the error that users see; tests/cuda/test_on_gpu.py is for machines with one."""
    if driver.extension().found()["devices"]:
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(errors.DeviceError, match=r"a table on a GPU needs .* found none|driver must serve CUDA"):
        table.to("cuda")
