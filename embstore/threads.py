"""How many threads a call may use."""

from __future__ import annotations

import os

from .errors import ConfigError

_threads: int | None = None


def set_num_threads(n: int | None) -> None:
    """Threads each call may use; None for every core this process may run on."""
    global _threads
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= 1024):
        raise ConfigError(f"the number of threads must be between 1 and 1024, found {n!r}; None stands for all cores")
    _threads = n


def get_num_threads() -> int:
    """Threads each call may use."""
    if _threads is not None:
        return _threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
