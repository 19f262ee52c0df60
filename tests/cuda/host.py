"""The kernels of embstore._cuda in loops on the host, behind the interface of the CUDA driver."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from embstore.cuda.driver import Bytes, Driver
from embstore.errors import DeviceError, DeviceMemoryError


class HostDriver(Driver):
    """Devices whose memory is the host's: `devices` of them with `memory` bytes each. Streams are only noted."""

    def __init__(self, devices: int = 1, memory: int = 1 << 40) -> None:
        self.devices, self.memory = devices, memory
        self.held: dict[int, tuple[int, int, Any]] = {}  # address -> (device, bytes, array)
        self.streams: list[int] = []
        self.waits = 0
        self.pinned: dict[int, tuple[int, Any]] = {}  # address -> (bytes, array)
        self.pinnable = 1 << 40
        self.made: list[int] = []  # streams
        self.copied = 0  # bytes from one device to another
        self.followed: list[tuple[int, int, int, int]] = []

    def check(self, device: int) -> None:
        if not 0 <= device < self.devices:
            raise DeviceError(f"no device {device}")

    def target(self, device: int) -> int:
        return -1

    def encode(self, method: str, *arguments: Any) -> None:
        *given, device, stream = arguments
        self.check(device)
        self.streams.append(stream)
        super().encode(method, *given, -1, stream)

    def device_of(self, address: int) -> int:
        for start, (device, nbytes, _) in self.held.items():
            if start <= address < start + nbytes:
                return device
        return -1

    def allocate(self, device: int, nbytes: int) -> int:
        if sum(n for d, n, _ in self.held.values() if d == device) + nbytes > self.memory:
            raise DeviceMemoryError("no memory")
        array = np.random.default_rng(0).integers(0, 256, nbytes + 256, np.uint8)  # what is not written is noise
        address = (array.ctypes.data + 255) // 256 * 256
        self.held[address] = (device, nbytes, array)
        return address

    def release(self, device: int, address: int) -> None:
        assert self.held.pop(address)[0] == device

    def allocate_on(self, device: int, nbytes: int, stream: int) -> int:
        self.streams.append(stream)
        return self.allocate(device, nbytes)

    def release_on(self, device: int, address: int, stream: int) -> None:
        self.streams.append(stream)
        self.release(device, address)

    def allocate_host(self, device: int, nbytes: int) -> tuple[int, int]:
        if self.pinnable < nbytes:
            raise DeviceMemoryError("no pinned memory")
        self.pinnable -= nbytes
        array = np.random.default_rng(1).integers(0, 256, nbytes + 256, np.uint8)
        address = (array.ctypes.data + 255) // 256 * 256
        self.pinned[address] = (nbytes, array)
        return address, address

    def release_host(self, host: int) -> None:
        assert self.waits > 0  # nobody reads it any more
        self.pinnable += self.pinned.pop(host)[0]

    def make_stream(self, device: int) -> int:
        self.made.append(1000 + len(self.made))
        return self.made[-1]

    def drop_stream(self, device: int, stream: int) -> None:
        self.made.remove(stream)

    def follow(self, device: int, stream: int, other_device: int, other_stream: int) -> None:
        self.followed.append((device, stream, other_device, other_stream))

    def copy_between(self, to: tuple[int, int], source: tuple[int, int], nbytes: int, on: int, stream: int) -> None:
        assert self.device_of(to[1]) == to[0] and self.device_of(source[1]) == source[0]
        ctypes.memmove(to[1], source[1], nbytes)
        self.copied += nbytes if to[0] != source[0] else 0

    def clear(self, device: int, address: int, nbytes: int, stream: int) -> None:
        assert self.device_of(address) == device
        ctypes.memset(address, 0, nbytes)

    def upload(self, device: int, parts: list[tuple[int, Bytes]]) -> None:
        for address, array in parts:
            self.copy_in(device, address, array, 0)

    def copy_in(self, device: int, address: int, array: Bytes, stream: int) -> None:
        assert self.device_of(address) == device
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def copy_out(self, device: int, array: Bytes, address: int, stream: int) -> None:
        assert self.device_of(address) == device
        self.waits += 1
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def synchronize(self, device: int) -> None:
        self.waits += 1
