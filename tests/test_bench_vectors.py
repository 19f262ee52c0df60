"""The benchmark of error and recall for the bytes: its measures, and the sizes it runs."""

import json
import os
import time

import numpy as np
import pytest

from bench import peers, vectors


def test_neighbours_are_the_best_of_all_rows_the_smaller_id_of_equals():
    rng = np.random.default_rng(0)
    rows, queries = rng.integers(-1, 2, (300, 3)).astype(np.float32), rng.standard_normal((7, 3)).astype(np.float32)
    rows[:20] = np.arange(60, dtype=np.float32).reshape(20, 3)
    found = vectors.neighbours(rows, queries, "l2")
    distances = np.square(queries[:, None] - rows).sum(axis=2)
    assert np.allclose(
        np.take_along_axis(distances, found, 1), np.sort(distances, axis=1)[:, :11], rtol=1e-4, atol=1e-4
    )


def test_recall_leaves_out_the_query_itself():
    rows = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    exact = vectors.neighbours(rows, rows[:9], "cosine")
    assert exact[:, 0].tolist() == list(range(9))
    assert vectors.recall(rows, exact, rows[:9], "cosine") == 1.0
    assert vectors.recall(rows[::-1].copy(), exact, rows[:9], "cosine") < 0.5


def test_sizes_fit_the_budget_and_no_more_codes_would():
    rows = np.zeros((3000, 20), np.float32)
    found = peers.sizes(rows, (2.0, 1.0), (4, 6), list(range(1, 21)), lambda m, b: 4 * 20 * m * 2**b, 2)
    assert found
    for m, bits, nbytes in found:
        assert nbytes == 3000 * -(-m * bits // 8) + 80 * m * 2**bits
        more = 3000 * -(-(m + 1) * bits // 8) + 80 * (m + 1) * 2**bits
        assert any(8 * nbytes <= b * peers.SLACK * rows.size < 8 * more for b in (2.0, 1.0))


def test_a_peer_counts_what_it_stores():
    faiss = pytest.importorskip("faiss")
    rows = np.random.default_rng(0).standard_normal((600, 8)).astype(np.float32)
    for peer in peers.peers(rows, (2.0,)):
        if peer.kind == "RQ":
            coder = faiss.ResidualQuantizer(8, *map(int, peer.name[len("FAISS RQ") :].split("x")))
            assert peer.nbytes == 600 * coder.code_size + 4 * 8 * coder.total_codebook_size
            break
    else:
        pytest.fail("no residual quantizer fits 2 bits a value")


def test_blockwise_rounds_each_block_to_its_code_and_counts_the_scales():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, 50)).astype(np.float32) * rng.lognormal(size=(40, 1)).astype(np.float32)
    for peer in peers.peers(rows, ()):
        if peer.kind != "bitsandbytes" or "double" in peer.name:
            continue
        code = (peers.NF4 if "NF4" in peer.name else peers.Dynamic8).table()
        block = int(peer.name.split()[-1])
        decoded = peer.decoded().ravel()
        for start in range(0, rows.size, block):
            part = rows.ravel()[start : start + block]
            scale = np.abs(part).max()
            best = np.abs(part[:, None] - scale * code).min(axis=1)
            assert np.allclose(np.abs(decoded[start : start + block] - part), best, atol=1e-6 * scale)
        bits = 4 if "NF4" in peer.name else 8
        assert peer.nbytes == rows.size * bits // 8 + 4 * -(-rows.size // block) + 4 * 2**bits


def test_double_quantization_costs_little_error_and_fewer_bytes():
    rows = np.random.default_rng(0).standard_normal((500, 64)).astype(np.float32)
    found = {peer.name: peer for peer in peers.peers(rows, ())}
    plain, double = found["bitsandbytes NF4, blocks of 64"], found["bitsandbytes NF4, blocks of 64, double"]
    error, more = (float(np.square(p.decoded() - rows).sum()) for p in (plain, double))
    assert double.nbytes < plain.nbytes and error != more and more < 1.02 * error


def test_a_measure_that_takes_too_long_is_left_out_with_a_reason():
    assert vectors._finished(lambda: {"error": 1.0}, 60) == {"error": 1.0}
    assert vectors._finished(lambda: time.sleep(60) or {}, 0.1) == {"reason": "not done after 0 s", "limit": 0.1}
    with pytest.raises(RuntimeError, match="ended with code 3 and no result"):
        vectors._finished(lambda: os._exit(3), 60)


def measure(kind, bpd, error, recall, **more):
    return {"table": "t", "metric": "l2", "kind": kind, "method": f"{kind}{bpd}", "bpd": bpd, "error": error,
            "recall": recall, "settings": {}, **more}  # fmt: skip


def test_tables_take_the_best_that_fits():
    measures = [
        measure("embstore", 1.9, 0.2, 0.7, budget=2.0), measure("embstore", 1.8, 0.1, 0.6, budget=2.0),
        measure("PQ", 2.019, 0.15, 0.5), measure("RQ", 1.2, 0.3, 0.8), measure("PQ", 2.03, 0.01, 0.9),
    ]  # fmt: skip
    short = {"table": "t", "method": "rq", "kind": "embstore", "settings": {}, "reason": "too small", "budget": 0.5}
    late = [{"table": "t", "method": m, "kind": "LSQ", "settings": {}, "reason": "slow", "limit": 9} for m in "ab"]
    measures += [short, *late, measure("LSQ", 3.0, 0.2, 0.2, method="b")]
    (table,) = vectors.tables(json.loads(json.dumps(measures)), {"t": ["c"]})
    assert table["left out"] == {"a": "slow", "c": "not run"}
    at = {row["budget"]: row for row in table["budgets"]}
    assert (at[2.0]["ours"]["error"], at[2.0]["peer"]["error"], at[2.0]["recall"]["recall"]) == (0.1, 0.15, 0.8)
    assert at[0.5] == {"budget": 0.5, "ours": None, "peer": None, "recall": None}
    assert at[3.0]["peer"]["error"] == 0.01
