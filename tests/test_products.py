"""Products that methods and transforms share."""

import os
import subprocess
import sys

import numpy as np
import pytest

from embstore.products import gram


@pytest.mark.parametrize("dim", [1, 31, 32, 33, 128, 300, 512, 513])
@pytest.mark.parametrize("rows", [0, 1, 255, 256, 1000])
def test_gram(rows: int, dim: int) -> None:
    x = np.random.default_rng(dim).standard_normal((rows, dim))
    found = gram(x)
    assert np.array_equal(found, found.T)
    np.testing.assert_allclose(found, x.T @ x, rtol=0, atol=1e-13 * (rows + 1))


def test_gram_is_the_same_on_any_number_of_threads() -> None:
    code = (
        "import hashlib, numpy as np\nfrom embstore.products import gram\n"
        "x = np.random.default_rng(0).standard_normal((5000, 128))\n"
        "print(hashlib.sha256(gram(x).tobytes()).hexdigest())\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "OPENBLAS_NUM_THREADS": str(n), "OMP_NUM_THREADS": str(n)},
            check=True, capture_output=True, text=True, timeout=120,
        ).stdout
        for n in (1, 3)
    }  # fmt: skip
    assert len(found) == 1
