"""What searches should find, from float64."""

import numpy as np

METRICS = ("cosine", "ip", "l2")


def brute_force(rows, queries, metric):
    """Scores (n, rows), larger is better, in float64."""
    rows, queries = rows.astype(np.float64), queries.astype(np.float64)
    if metric == "ip":
        return queries @ rows.T
    if metric == "l2":
        return -np.square(queries[:, None] - rows[None]).sum(axis=2)
    sizes = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(rows, axis=1)
    return np.divide(queries @ rows.T, sizes, out=np.zeros_like(sizes), where=sizes > 0)
