"""A size asked for, and the method that keeps to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import method as _method
from . import pipeline as _pipeline
from .arrays import TableShape
from .errors import BudgetError, ConfigError
from .method import Method, Sized
from .pipeline import Pipeline

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_NO_BUDGET = 'budget must be like 0.1, "10%", "4bpd", 64000000 or "64MB", found {!r}; write one of these forms'
_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z%]*)\s*")

Budget = int | float | str


def parse_budget(budget: Budget, shape: TableShape) -> int:
    """Bytes of a budget: a ratio of float32 (0.1, "10%"), bits per dimension ("4bpd") or bytes (int, "64MB")."""
    value, unit = budget, ""
    if isinstance(budget, str):
        match = _NUMBER.fullmatch(budget)
        if match is None:
            raise ConfigError(_NO_BUDGET.format(budget))
        text, unit = match[1], match[2].upper()
        value = int(text) if text.isdigit() else float(text)
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ConfigError(_NO_BUDGET.format(budget))
    if not 0 < value < 2**63:
        raise ConfigError(f"budget must be more than zero, found {budget!r}; leave it out for none")
    if unit == "%":
        return int(shape.nbytes_float32 * value / 100)
    if unit == "BPD":
        return int(shape.num_embeddings * shape.embedding_dim * value / 8)
    if unit in _UNITS:
        return int(value * _UNITS[unit])
    if unit:
        raise ConfigError(f"budget must have the unit %, bpd, {', '.join(_UNITS)}, found {budget!r}; use one of these")
    if isinstance(value, (int, np.integer)):
        return int(value)
    if value > 1:
        raise ConfigError(f"a budget ratio must be at most 1, found {budget!r}; bytes are an int or have a unit")
    return int(shape.nbytes_float32 * value)


def choose(method: str | Method, shape: TableShape, budget: Budget | None, config: Mapping[str, Any]) -> Method:
    """The resolved method for a shape, within the budget if there is one."""
    chosen = _pipeline.create(method, config)
    if budget is None:
        return chosen.resolve(shape)
    limit = parse_budget(budget, shape)
    if isinstance(chosen.method if isinstance(chosen, Pipeline) else chosen, Sized):
        sized: Method = chosen.for_budget(shape, limit).resolve(shape)  # type: ignore[attr-defined]
        asked, taken = chosen.resolve(shape).config(), sized.config()
        for name, value in config.items():
            if name in taken and taken[name] != asked[name]:
                raise ConfigError(
                    f"{name} of method {chosen.id!r} is chosen by the budget, which wants {taken[name]!r}, found "
                    f"{value!r} asked for too; drop one of the two"
                )
        return sized
    chosen = chosen.resolve(shape)
    if (floor := _method.nbytes(chosen, shape)) > limit:
        raise BudgetError(
            f"method {chosen.id!r} needs {floor:,} bytes for {shape.num_embeddings:,} x {shape.embedding_dim}, "
            f"found a budget of {limit:,}; raise it or choose a smaller method",
            floor=floor,
        )
    return chosen
