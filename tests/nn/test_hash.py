"""Signs of the hashing trick: their definition, orthogonal rows of ids that share one."""

import numpy as np
import pytest

from embstore.methods._signs import hadamard, signs
from embstore.methods.hash import Hash

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")


@pytest.mark.parametrize("dim", [1, 2, 5, 16, 64, 100, 128])
def test_a_sign_is_a_parity(dim):
    patterns = np.array([0, 1, 7, 255, 2**40 + 3])
    want = [[(-1) ** (int(q) & j).bit_count() for j in range(dim)] for q in patterns]
    assert np.array_equal(signs(patterns, dim), want)


@pytest.mark.parametrize("dim", [2, 16, 64])
def test_patterns_are_orthogonal(dim):
    assert np.array_equal(hadamard(dim) @ hadamard(dim).T, dim * np.eye(dim))


def test_rows_of_one_bucket_are_orthogonal_in_signs():
    module = enn.embedding("hash", 60, 8, rows=10)
    rows = module(torch.arange(60)).detach().reshape(6, 10, 8)
    assert torch.equal(rows[0], module.table)
    products = (rows[:, None] * rows[None]).sign().sum(-1)
    assert torch.equal(products, 8 * torch.eye(6)[:, :, None].expand(6, 6, 10))


def test_signs_can_be_left_out():
    plain = enn.embedding("hash", 60, 8, rows=10, sign=False)
    rows = plain(torch.arange(60))
    assert torch.equal(rows[3], rows[53]) and "sign" not in plain.method.config()
    assert enn.embedding("hash", 60, 8, rows=10).method.config()["sign"] is True
    assert Hash().config() == Hash(sign=False).config()
