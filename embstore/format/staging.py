"""The directory a table is built in: locked, resumable, published by one rename."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

from ..errors import BusyError, DestinationExistsError, EmbstoreError, StorageError
from . import layout

_RENAME_NOREPLACE, _RENAME_EXCHANGE, _AT_FDCWD = 1, 2, -100
_JOB = "job.embstore"
_CURES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "choose a destination that can be written",
}


@contextlib.contextmanager
def storing(path: str) -> Iterator[None]:
    """Turn an `OSError` while writing the table at `path` into a `StorageError`."""
    try:
        yield
    except EmbstoreError:
        raise
    except OSError as error:
        code = error.errno or errno.EIO
        cure = _CURES.get(code, "check the path and permissions")
        raise StorageError(
            code,
            f"table {path!r} could not be written ({os.strerror(code)}), so nothing was changed there; {cure} and run "
            "it again",
        ) from error


def is_table(path: str) -> bool:
    """Whether `path` is an embstore table, whole or not."""
    return "embstore" in _attributes(path)


def is_set(path: str) -> bool:
    """Whether `path` is a set of tables, whole or not."""
    return layout.SET_ATTRIBUTE in _attributes(path)


def _attributes(path: str) -> set[str]:
    """Names of the objects among the group's attributes; none where there is no group."""
    try:
        with open(os.path.join(path, layout.GROUP_FILE), "rb") as file:
            found = json.loads(file.read(layout.MAX_METADATA_BYTES))
        return {name for name, value in found["attributes"].items() if isinstance(value, dict)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def check_destination(path: str | os.PathLike[str], overwrite: bool) -> str:
    """The absolute destination; `DestinationExistsError` unless it is free or a table that may be replaced."""
    path = os.path.abspath(path)
    name = os.path.basename(path)
    if os.path.lexists(path):
        if not overwrite:
            raise DestinationExistsError(
                f"{name or path!r} exists already; choose another destination or pass overwrite=True to replace a table"
            )
        if os.path.islink(path) or not (is_table(path) or is_set(path)):
            raise DestinationExistsError(
                f"{name!r} exists and is not an embstore table, so it is not overwritten; remove it or choose another"
            )
    elif not os.path.isdir(os.path.dirname(path)):
        raise StorageError(f"the directory {os.path.dirname(path)!r} of the destination does not exist; make it first")
    return path


def fsync_path(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def start_writeback(fd: int, offset: int, nbytes: int) -> None:
    """Ask the kernel to start writing a range, without waiting; so the final fsync has little left to do."""
    call = getattr(_libc(), "sync_file_range", None)
    if call is not None:
        call(fd, ctypes.c_int64(offset), ctypes.c_int64(nbytes), ctypes.c_uint(2))


def _rename(old: str, new: str, flags: int) -> bool:
    """renameat2; False where the system or file system does not have it."""
    call = getattr(_libc(), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), ctypes.c_uint(flags)) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(code, os.strerror(code), new)


class Staging:
    """A locked directory beside the destination. `resumed` tells whether it holds an earlier run of the same job."""

    def __init__(self, destination: str, job: str) -> None:
        self.destination = destination
        parent, name = os.path.split(destination)
        self.path = os.path.join(parent, f".{name}.embstore-partial")
        self._fd = self._lock()
        try:
            self.resumed = self._job() == job
            if not self.resumed:
                self.clear()
                self.write(_JOB, job.encode())
        except BaseException:
            self.discard()
            raise

    def _lock(self) -> int:
        while True:
            os.makedirs(self.path, exist_ok=True)
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found = os.stat(self.path)
                if (found.st_dev, found.st_ino) == (os.fstat(fd).st_dev, os.fstat(fd).st_ino):
                    return fd
            except BlockingIOError as error:
                os.close(fd)
                name = os.path.basename(self.destination)
                raise BusyError(f"another process is writing table {name!r}; wait for it or stop it") from error
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(fd)
                raise
            # It was published or removed between open and lock.
            os.close(fd)

    def _job(self) -> str | None:
        try:
            with open(os.path.join(self.path, _JOB), "rb") as file:
                return file.read(1 << 20).decode(errors="replace")
        except FileNotFoundError:
            return None

    def clear(self) -> None:
        """Empty the directory; the lock stays."""
        for entry in list(os.scandir(self.path)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def write(self, name: str, data: Any) -> None:
        """Write a small file and fsync it."""
        file = self.file(name)
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(file, "wb", buffering=0) as stream:
            write_all(stream, data)
            os.fsync(stream.fileno())

    def publish(self, overwrite: bool) -> None:
        """Make the directory the destination, after every file of it is on disk."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.file(_JOB))
        for folder, _, _ in os.walk(self.path):
            fsync_path(folder)
        if os.path.lexists(self.destination):
            check_destination(self.destination, overwrite)
            if not _rename(self.path, self.destination, _RENAME_EXCHANGE):
                aside = f"{self.path}-aside-{os.getpid()}"
                os.rename(self.destination, aside)
                try:
                    os.rename(self.path, self.destination)
                except BaseException:
                    os.rename(aside, self.destination)
                    raise
                os.rename(aside, self.path)
            fsync_path(os.path.dirname(self.destination))
            # Out of the way of the next writer first.
            old = f"{self.path}-old-{os.getpid()}"
            os.rename(self.path, old)
            shutil.rmtree(old, ignore_errors=True)
        else:
            try:
                if not _rename(self.path, self.destination, _RENAME_NOREPLACE):
                    os.rename(self.path, self.destination)
            except FileExistsError as error:
                name = os.path.basename(self.destination)
                raise DestinationExistsError(f"{name!r} was made by someone else meanwhile; choose another") from error
            fsync_path(os.path.dirname(self.destination))
        self.release()

    def discard(self) -> None:
        """Remove the directory; nothing once it was published or released, for it may be another's by then."""
        if self._fd < 0:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        self.release()

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def write_all(stream: Any, data: Any) -> None:
    """Raw writes may be short."""
    view = memoryview(data).cast("B") if memoryview(data).nbytes else memoryview(b"")
    while view.nbytes:
        view = view[stream.write(view) :]
