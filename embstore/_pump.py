"""Work on another thread, in order, a few items ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")


class Pump(Generic[Item]):
    """Calls `work` on another thread with what is `put`, in order; `put` waits when `depth` items are ahead.

    Left normally it finishes what was put; left by an exception it drops it. An error of `work` is raised by the
    next `put`, or on leaving.
    """

    def __init__(self, work: Callable[[Item], None], depth: int = 2) -> None:
        self._work = work
        self._queue: queue.Queue[Item | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="embstore-compress", daemon=True)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            # After a failure the queue is drained, so that `put` never blocks for ever.
            if self._error is None and not self._stop:
                try:
                    self._work(item)
                except BaseException as error:
                    self._error = error

    def put(self, item: Item) -> None:
        if self._error is None:
            self._queue.put(item)
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop = kind is not None
        self._queue.put(None)
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error
