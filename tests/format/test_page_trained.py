"""docs/format.md is enough for trained methods too: its formulas, in Python's integers, give what `lookup` gives."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from embstore import registry
from embstore.arrays import TableShape
from embstore.compression import store

F32 = np.float32
N = 83


def h(x: int, seed: int) -> int:
    v = (x + (seed + 1) * 0x9E3779B97F4A7C15) % 2**64
    v = (v ^ v >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    v = (v ^ v >> 27) * 0x94D049BB133111EB % 2**64
    return v ^ v >> 31


def below(hashed: int, n: int) -> int:
    return (hashed >> 33) * n >> 31


def compo(x: int, a: dict[str, Any], c: dict[str, Any], dim: int) -> Any:
    k = c["partitions"]
    digits = [x // c["collisions"] ** i for i in range(k)]
    parts = [a[f"table{i}"][d % c["collisions"] if i < k - 1 else d] for i, d in enumerate(digits)]
    if c["op"] == "concat":
        return np.concatenate(parts)
    row = parts[0]
    for part in parts[1:]:
        row = row * part if c["op"] == "multiply" else row + part
    return row


def robe(x: int, a: dict[str, Any], c: dict[str, Any], dim: int) -> Any:
    prime, size = 2038074743, c["size"]
    f = [1 + h(i, c["seed"]) % (prime - 1) for i in range(6)]
    row = []
    for j in range(dim):
        chunk, i = divmod(j, c["chunk"])
        o = (f[0] * x + f[1] * chunk + f[2]) % prime
        at = (o % size + i) % size if c["wrap"] else o % (size - c["chunk"] + 1) + i
        negative = c["sign"] and (f[3] * x + f[4] * j + f[5]) % prime % 2 == 0
        row.append(-a["pool"][at] if negative else a["pool"][at])
    return np.array(row)


def signed(row: Any, q: int, c: dict[str, Any]) -> Any:
    return np.array([-v if c.get("sign") and (q & j).bit_count() % 2 else v for j, v in enumerate(row)])


def hashed(x: int, a: dict[str, Any], c: dict[str, Any], dim: int) -> Any:
    if c["hash"] == "mod":
        return signed(a["table"][x % c["rows"]], x // c["rows"], c)
    return signed(a["table"][below(h(x, c["seed"]), c["rows"])], h(x, c["seed"]) % 2**32, c)


def memcom(x: int, a: dict[str, Any], c: dict[str, Any], dim: int) -> Any:
    row = signed(a["table"][x % c["rows"]], x // c["rows"], c)
    return row * a["weight"][x] + (a["bias"][x] if c["bias"] else 0)


def adapt(x: int, a: dict[str, Any], c: dict[str, Any], dim: int) -> Any:
    if c["map"] == "table":
        at = int(a["map"][x])
    else:
        hot = a["hot_ids"].tolist()
        cold = x % c["cold"] if c.get("sign") else below(h(x, c["seed"]), c["cold"])
        at = hot.index(x) if x in hot else c["hot"] + cold
    return signed(a["table"][at], x // c["cold"] if at >= c["hot"] else 0, c)


def dhe(x: int, a: dict[str, Any], c: dict[str, Any], dim: int) -> Any:
    g = [((h(2 * j, c["seed"]) | 1) * x + h(2 * j + 1, c["seed"])) % 2**64 >> 40 for j in range(c["hashes"])]
    if c["encoding"] == "uniform":
        z = np.array([(2 * each + 1) / 2**24 - 1 for each in g])
    else:
        p = [(2 * each + 1) / 2**25 for each in g]
        pairs = [(math.sqrt(-2 * math.log(u)), 2 * math.pi * v) for u, v in zip(p[::2], p[1::2], strict=True)]
        z = np.array([value for r, t in pairs for value in (r * math.cos(t), r * math.sin(t))])
    for i in range(c["layers"] + 1):
        z = z @ a[f"weight{i}"].astype(float) + a[f"bias{i}"]
        if i < c["layers"]:
            z = z * np.tanh(np.log1p(np.exp(z)))
    return z


def fourier(x: int, a: dict[str, Any], c: dict[str, Any], dim: int) -> Any:
    turns = [(int(step) * (2 * x + 1) % 2**64 >> 32) / 2**32 for step in a["steps"]]
    t = np.array([f(2 * math.pi * turn) for f in (math.sin, math.cos) for turn in turns])
    z = t @ a["weight0"].astype(float) + a["bias0"]
    u, v = z[: c["width"]], z[c["width"] :]
    gelu = v / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))
    row = (u * gelu) @ a["weight1"].astype(float) + a["bias1"]
    kept = min(dim, c["features"]) if c["residual"] else 0
    row[:kept] += t[:kept]
    return row


def ngram_hash(x: int, a: dict[str, Any], c: dict[str, Any], dim: int) -> Any:
    first, last = a["offsets"][x : x + 2].tolist()
    text = "<" + a["text"][first:last].tobytes().decode() + ">"
    grams = [text[i : i + n] for i in range(len(text)) for n in range(c["least"], c["most"] + 1) if i + n <= len(text)]
    sums = [0] * c["features"]
    for gram in grams or [text]:
        hashed = 0xCBF29CE484222325 ^ c["seed"]
        for byte in gram.encode():
            hashed = (hashed ^ byte) * 0x100000001B3 % 2**64
        for j in range(c["features"]):
            sums[j] += (h(hashed, j) >> 40) - 2**23
    f = np.array(sums) * math.sqrt(3 / len(grams or [text])) / 2**23
    return f @ a["weight0"].astype(float) + a["bias0"] if c["projection"] else f


FORMULAS = {
    "hash": hashed,
    "compo": compo,
    "robe": robe,
    "memcom": memcom,
    "adapt": adapt,
    "dhe": dhe,
    "fourier": fourier,
    "ngram_hash": ngram_hash,
}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("hash", {}), ("hash", {"hash": "mix", "seed": 5}),
    ("hash", {"sign": True}), ("hash", {"sign": True, "hash": "mix", "seed": 5}),
    ("compo", {}), ("compo", {"op": "add", "partitions": 3}), ("compo", {"op": "concat", "partitions": 3}),
    ("robe", {"seed": 5}), ("robe", {"wrap": True, "sign": True, "size": 40, "chunk": 5}),
    ("memcom", {}), ("memcom", {"bias": True}),
    ("memcom", {"sign": True}), ("memcom", {"sign": True, "bias": True}),
    ("adapt", {"sign": True}), ("adapt", {"sign": True, "map": "hot_ids", "hot": 20, "cold": 9, "seed": 5}),
    ("adapt", {}), ("adapt", {"map": "hot_ids", "hot": 20, "cold": 9, "seed": 5}),
    ("dhe", {"width": 7}), ("dhe", {"hashes": 32, "width": 9, "layers": 2, "encoding": "gaussian", "seed": 5}),
    ("fourier", {}), ("fourier", {"features": 6, "width": 9, "frequencies": "linear", "residual": False}),
    ("ngram_hash", {}), ("ngram_hash", {"least": 1, "most": 2, "seed": 5}), ("ngram_hash", {"projection": False}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "config"), CASES)
@pytest.mark.parametrize("dim", [1, 16, 37])
def test_trained_methods_decode_by_the_page(tmp_path: Path, name: str, config: dict[str, Any], dim: int) -> None:
    shape = TableShape(N, dim)
    method = registry.get(name)(**config).resolve(shape)
    table = store(tmp_path / "t", method, shape, method.example(shape, np.random.default_rng(dim)))
    group = zarr.open_group(tmp_path / "t", mode="r")
    meta = group.attrs["embstore"]["generations"][0]
    arrays = {each["name"]: group[each["name"]][...] for each in meta["arrays"]}
    rows = np.stack([FORMULAS[name](x, arrays, meta["method"]["config"], dim) for x in range(N)])
    if name in ("dhe", "fourier", "ngram_hash"):
        np.testing.assert_allclose(table.lookup(np.arange(N)), rows, rtol=0, atol=1e-6 * np.abs(rows).max())
    else:
        np.testing.assert_array_equal(table.lookup(np.arange(N)), rows.astype(F32))
