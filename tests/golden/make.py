"""Write the golden tables of this format version: `python tests/golden/make.py`. Released ones are never rewritten."""

import sys
from pathlib import Path

import numpy as np

import embstore
from embstore import registry
from embstore.arrays import TableShape
from embstore.compression import store

HERE = Path(__file__).parent


def rows() -> np.ndarray:
    """11 rows of 37 values by integer arithmetic: the same on every machine."""
    k = np.arange(11 * 37, dtype=np.int64)
    return (((k * 2654435761 + 12345) % 10007 - 5003) / 2048).astype(np.float32).reshape(11, 37)


def counts() -> np.ndarray:
    """How often each row is used, in no order."""
    return np.arange(11) * 7 % 11


def main() -> None:
    variants = [(name, {}) for name in registry.fitted()]
    variants += [
        ("int8", {"block_size": 16, "symmetric": True, "scale_dtype": "float32"}),
        ("int8", {"symmetric": True, "step": 0.02}),
        ("nf4", {"scale_dtype": "uint8"}),
        ("rabitq1", {}),
        ("rabitq7", {"search": "exact"}),
        ("turboquant3", {"scale_dtype": "float32"}),
        ("binary", {"scale_dtype": None}),
        ("svd", {"factor": "float16", "basis": "float16"}),
        ("svd", {"groups": 3}),
        ("tt", {"cores": 4, "rank": 5}),
        ("tt", {"cores": 3, "rank": 7, "core_dtype": "int8"}),
        ("subspace", {"kind": "cluster"}),
        ("dedup", {"block_rows": 2, "block_dims": 8, "tolerance": 0.5, "values": "float16"}),
        ("dedup", {"place_dtype": "uint8"}),
        ("dedup", {"block_dims": 3, "place_dtype": "uint16"}),
        ("mixed_dim", {"blocks": 2, "alpha": 0.5, "values": "float32"}),
        ("mixed_dim", {"blocks": 2, "alpha": 0.5, "values": "int8"}),
        ("mixed_dim", {"blocks": 2, "alpha": 0.5, "values": "int4"}),
        ("mgqe", {"m": 5, "bits": 5, "cold_bits": 3, "hot": 0.3, "by": "norm"}),
        ("pruned", {"density": 0.1, "values": "int8", "index": "columns"}),
        ("pruned", {"density": 0.3, "rows_per_start": 4}),
        ("pruned", {"density": 0.1, "index": "cells", "rows_per_start": 8}),
    ]
    variants += [(f"{t}{'9' if t == 'truncate' else ''},int8", {}) for t in registry.transform_names()]
    variants += [("pca6,rotate,int4", {})]
    for name, config in variants:
        path = HERE / "v1" / "-".join([*name.split(","), *map(str, config.values())])
        if path.exists():
            continue
        path.mkdir(parents=True)
        keys = [f"key {i}" for i in range(11)]
        table = embstore.compress(rows(), path / "table", method=name, keys=keys, counts=counts(), **config)
        np.save(path / "decoded.npy", table.lookup(np.arange(11)))
        print(path, file=sys.stderr)
    shape = TableShape(*rows().shape)
    coded = [(name, {"table_dtype": dtype}) for name in ("hash", "compo") for dtype in ("int8", "int4")]
    signed = [(name, {"sign": True}) for name in ("hash", "memcom", "adapt")]
    signed += [
        ("hash", {"sign": True, "hash": "mix"}),
        ("adapt", {"sign": True, "map": "hot_ids", "table_dtype": "int8"}),
    ]
    plain = [(name, {}) for name in registry.trained()]
    for name, config in [*plain, *coded, *signed, ("robe", {"pool_dtype": "int8"})]:
        path = HERE / "v1" / "-".join([name, *map(str, config.values())])
        if path.exists():
            continue
        path.mkdir(parents=True)
        method = registry.get(name)(**config).resolve(shape)
        arrays = method.example(shape, np.random.default_rng(0))
        table = store(path / "table", method, shape, arrays, keys=[f"key {i}" for i in range(11)])
        np.save(path / "decoded.npy", table.lookup(np.arange(11)))
        print(path, file=sys.stderr)


if __name__ == "__main__":
    main()
