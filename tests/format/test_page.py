"""docs/format.md is enough: zarr-python alone, and the formulas of its section Methods, give what `lookup` gives."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import zarr

import embstore
import embstore.format
from embstore import table

F32 = np.float32


def dynamic() -> np.ndarray:
    values = [0.0, 1.0]
    for i in range(7):
        points = np.linspace(0.1, 1.0, 2**i + 1)
        for mean in (points[1:] + points[:-1]) / 2:
            values += [mean * 10.0 ** (i - 6), -mean * 10.0 ** (i - 6)]
    return np.sort(np.array(values)).astype(F32)


def nf4() -> np.ndarray:
    ppf = NormalDist().inv_cdf
    upper = [ppf(p) for p in np.linspace(0.9677083, 0.5, 9)[:-1]]
    lower = [-ppf(p) for p in np.linspace(0.9677083, 0.5, 8)[:-1]]
    values = np.sort(np.array([*upper, 0.0, *lower]))
    return (values / values.max()).astype(F32)


def times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a (…, K) times b (…, K, J), added from k = 0 up in float32."""
    total = a[..., :1] * b[..., 0, :]
    for k in range(1, a.shape[-1]):
        total = total + a[..., k : k + 1] * b[..., k, :]
    return total


def svd(stored: dict[str, np.ndarray], config: dict[str, Any]) -> np.ndarray:
    values = stored["codes" if config["factor"] == "int8" else "values"].astype(F32)
    if config["groups"] > 1:
        ranks, flat = stored["ranks"].astype(int), values
        values = np.zeros((len(stored["group"]), ranks.sum()), F32)
        for i, (g, start) in enumerate(zip(stored["group"].tolist(), stored["start"].tolist(), strict=True)):
            values[i, ranks[:g].sum() : ranks[: g + 1].sum()] = flat[start : start + ranks[g]]
    if config["factor"] == "int8":
        values = values * stored["scale"].astype(F32)
    return times(values, stored["basis"].astype(F32))


def tt(stored: dict[str, np.ndarray], ids: np.ndarray, dim: int) -> np.ndarray:
    cores, digits = [core.astype(F32) for name, core in stored.items() if name.startswith("core")], []
    for core in reversed(cores):
        ids, digit = ids // len(core), ids % len(core)
        digits.insert(0, digit)
    a = np.ones((len(ids), 1, 1), F32)
    for i, (core, digit) in enumerate(zip(cores, digits, strict=True)):
        b = core[digit].reshape(len(ids), 1, core.shape[1], -1)
        a = times(a, b).reshape(len(ids), -1, core.shape[3])
        if f"scale{i}" in stored:
            a = a * stored[f"scale{i}"][digit, None, None]
    return a.reshape(len(ids), -1)[:, :dim]


def subspace(stored: dict[str, np.ndarray], ids: np.ndarray, dim: int, count: int) -> np.ndarray:
    bounds = [p * dim // count for p in range(count + 1)]
    rows = np.empty((len(ids), dim), F32)
    for p in range(count - 1, -1, -1):
        begin, end = bounds[p], bounds[p + 1]
        if "parts" in stored:
            base = len(stored["parts"])
            rows[:, begin:end] = stored["parts"][ids % base, begin:end]
            ids = ids // base
        elif p < count - 1:
            rows[:, begin:end] = stored["centroids"][stored["codes"][:, p], begin:end]
        else:
            rows[:, begin:] = stored["members"][stored["member"]]
    return rows


def decode(group: Any) -> np.ndarray:
    """The whole table by the page, value by value where it says value j."""
    meta = group.attrs["embstore"]
    dim = meta["shape"]["embedding_dim"]
    method = meta["generations"][0]["method"]
    kind, config = method["id"], method["config"]
    stored = {name: group[name][...] for name in (a["name"] for a in meta["generations"][0]["arrays"])}
    ids = np.arange(meta["shape"]["num_embeddings"])
    if kind == "svd":
        return svd(stored, config)
    if kind == "tt":
        return tt(stored, ids, dim)
    if kind == "subspace":
        return subspace(stored, ids, dim, config["parts"])
    if "values" in stored:
        values = stored["values"]
        return (values.astype(np.uint32) << 16).view(F32) if kind == "bfloat16" else values.astype(F32)
    codes = stored["codes"]
    bits = {"int4": 4, "int2": 2, "nf4": 4}.get(kind)
    if bits:
        j = np.arange(dim)
        codes = (codes[:, j * bits // 8] >> (j * bits % 8).astype(np.uint8)) & (2**bits - 1)
    block = np.arange(dim) // config["block_size"]
    if kind in ("dynamic8", "nf4"):
        codes = (dynamic() if kind == "dynamic8" else nf4())[codes]
    elif bits and config["symmetric"]:
        codes = codes.astype(F32) - F32(2 ** (bits - 1))
    if "step" in config:
        return codes.astype(F32) * F32(config["step"])
    if "affine" in stored:
        affine = stored["affine"].astype(F32)
        return codes.astype(F32) * affine[:, block, 0] + affine[:, block, 1]
    scale = stored["scale"]
    scale = stored["scale_values"][scale] if scale.dtype == np.uint8 else scale.astype(F32)
    return codes.astype(F32) * scale[:, block]


INTS = [(m, {"symmetric": s, **b}) for m in ("int16", "int8", "int4", "int2") for s in (False, True)
        for b in ({}, {"block_size": 8}, {"scale_dtype": "float32"})]  # fmt: skip
STEPS = [(m, {"symmetric": True, "step": 6.0}) for m in ("int16", "int8")]
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("float32", {}),
    ("float16", {}),
    ("bfloat16", {}),
    ("dynamic8", {}),
    ("dynamic8", {"block_size": 8}),
    ("nf4", {}),
    ("nf4", {"block_size": 8, "scale_dtype": "float32"}),
    ("nf4", {"block_size": 8, "scale_dtype": "uint8"}),
    *(("svd", {"factor": f, "groups": g}) for f in ("float32", "float16", "int8") for g in (1, 3)),
    ("svd", {"basis": "float16"}),
    *(("tt", {"cores": c, **d}) for c in (2, 3, 4) for d in ({}, {"core_dtype": "int8"})),
    ("subspace", {}),
    ("subspace", {"kind": "cluster"}),
]


@pytest.mark.parametrize(("method", "config"), INTS + STEPS + OTHERS)
@pytest.mark.parametrize("dim", [1, 16, 37])
def test_decodes_by_the_page(tmp_path: Path, small_blocks: None, method: str, config: dict[str, Any], dim: int) -> None:
    if config.get("kind") == "cluster":
        pytest.importorskip("faiss")
    values = np.random.default_rng(dim).standard_normal((700, dim)).astype(F32)
    embstore.compress(values, tmp_path / "t", method, **config)
    by_the_page = decode(zarr.open_group(tmp_path / "t", mode="r"))
    np.testing.assert_array_equal(by_the_page, table.open(str(tmp_path / "t")).lookup(np.arange(700)))


@pytest.mark.parametrize("keys", [[f"w{i}" for i in range(700)], np.arange(700, dtype=np.int64) * 7])
def test_keys_are_published_and_checked(tmp_path: Path, keys: Any) -> None:
    values = np.random.default_rng(0).standard_normal((700, 8)).astype(F32)
    made = embstore.compress(values, tmp_path / "t", "int8", keys=keys)
    np.testing.assert_array_equal(made.lookup(keys[5:9]) if isinstance(keys, list) else made.lookup([5, 6, 7, 8]),
                                  made.lookup([5, 6, 7, 8]))  # fmt: skip
    stored = embstore.format.open_table(tmp_path / "t")
    assert stored.keys is not None and stored.keys["count"] == 700
    file = tmp_path / "t" / stored.keys["index"]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (fault,) = embstore.format.verify(tmp_path / "t")
    assert fault.array == stored.keys["index"]
