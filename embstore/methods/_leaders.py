"""Leader clustering: each vector joins an earlier one it is near to, or becomes one that later ones can join."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

_BANDS = 16
_HASHES = 6
_CELL = 4.0
_STEP = 1 << 14


def leaders(
    vectors: F32, tolerance: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    """(places of the leaders, for each vector which leader it has).

    A vector x joins a leader r only if |x - r| <= tolerance * |x|. Candidates come from locality-sensitive hashing of
    directions (Datar et al., 2004): _BANDS tables of _HASHES projections each, cut into cells _CELL tolerances wide, so
    that a pair at the tolerance meets in a table with probability 0.26 and is missed by all of them in 1 case of 130. A
    cell remembers its first leader only: memory and time are proportional to the vectors. One that is not finite, or
    zero, joins none.
    """
    n, dim = vectors.shape
    planes = rng.standard_normal((dim, _BANDS * _HASHES)).astype(np.float32)
    shifts = rng.random(_BANDS * _HASHES)
    multipliers = rng.integers(1, 2**63, _HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    tables: list[dict[int, int]] = [{} for _ in range(_BANDS)]
    found = np.empty(n, np.uint32)
    kept: list[int] = []
    for first in range(0, n, _STEP):
        part = vectors[first : first + _STEP].astype(np.float64)
        lengths = np.sqrt(np.square(part).sum(axis=1))
        usable = np.isfinite(lengths) & (lengths > 0)
        direction = np.where(usable[:, None], part, 0) / np.where(usable, lengths, 1)[:, None]
        cells = np.floor(direction @ planes / (_CELL * tolerance) + shifts).astype(np.int64).view(np.uint64)
        keys = (cells.reshape(-1, _BANDS, _HASHES) * multipliers).sum(axis=2, dtype=np.uint64).tolist()
        limits = np.square(tolerance * lengths)
        for i in range(len(part)):
            own = [t.get(k) for t, k in zip(tables, keys[i], strict=True)] if usable[i] else []
            candidates = sorted({c for c in own if c is not None})
            if candidates:
                squares = np.square(vectors[[kept[c] for c in candidates]] - part[i]).sum(axis=1)
                best = int(np.argmin(squares))
                if squares[best] <= limits[i]:
                    found[first + i] = candidates[best]
                    continue
            found[first + i] = len(kept)
            for table, key, owner in zip(tables, keys[i], own, strict=False):
                if owner is None:
                    table[key] = len(kept)
            kept.append(first + i)
    return np.array(kept, np.int64), found
