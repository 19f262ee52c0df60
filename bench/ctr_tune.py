"""Learning rates by seeded random search, with the same few trials for every method.

Random search, and no library for it: with a handful of trials of two dimensions a model of the objective has nothing to
learn from, while draws that are the same for all methods compare them on equal terms, run side by side, and resume.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LEAST, MOST = 3e-4, 3e-2


def candidates(settings: dict[str, Any], count: int) -> list[dict[str, float]]:
    """`count` pairs of learning rates: of `settings` first, then log-uniform from 3e-4 to 3e-2, each on its own."""
    rng = np.random.default_rng(0)
    found = [{"lr": settings["lr"], "embedding_lr": settings["embedding_lr"]}]
    for _ in range(count - 1):
        lr, own = np.exp(rng.uniform(np.log(LEAST), np.log(MOST), 2))
        found.append({"lr": float(f"{lr:.3g}"), "embedding_lr": float(f"{own:.3g}")})
    return found


def best(trials: list[dict[str, Any]]) -> dict[str, float]:
    """The learning rates of the trial with the largest validation AUC."""
    chosen = max(trials, key=lambda run: run["valid_auc"] if run["valid_auc"] is not None else -1.0)
    return {name: chosen["settings"][name] for name in ("lr", "embedding_lr")}
