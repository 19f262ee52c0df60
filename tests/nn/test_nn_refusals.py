"""What modules refuse, in one sentence that names them."""

import re

import numpy as np
import pytest

from embstore import errors

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")

N, DIM = 203, 12


def make(name, config, **more):
    counts = np.random.default_rng(0).zipf(1.5, N).astype(np.float64)
    return enn.embedding(name, N, DIM, counts=counts, **config, **more)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("foo", 3, 4), "must be one of"),
        (("hash", 3, 0), "embedding_dim"),
        (("hash", None, 4), "num_embeddings or field_sizes"),
        (("hash", 3, 4, {"nothing": 1}), "unknown field 'nothing'"),
        (("hash", 1000, 16, {"budget": 10}), "at least 64 bytes"),
        (("hash", 9, 4, {"field_sizes": [5, 5]}), "add up to"),
        (("hash", None, 4, {"field_sizes": [5, 0]}), "positive integers"),
        (("hash", None, 4, {"field_sizes": [500, 9], "nothing": 1}), "unknown field 'nothing'"),
        (("hash", None, 4, {"field_sizes": [500, 9], "budget": 0.5, "nothing": 1}), "unknown field 'nothing'"),
        (("mde", None, 4, {"field_sizes": [500, 9], "nothing": 1}), "unknown field 'nothing'"),
        (("autodim", None, 4, {"field_sizes": [500, 9], "nothing": 1}), "unknown field 'nothing'"),
        (("optembed", None, 4, {"field_sizes": [500, 9], "nothing": 1}), "unknown field 'nothing'"),
        (("hash", 3, 4, {"counts": [1, 2]}), "counts must be 3 numbers"),
        (("hash", 3, 4, {"counts": [1, 2, -1]}), "not negative"),
        (("hash", 3, 4, {"mode": "min"}), "'sum', 'mean' or 'max'"),
        (("hash", None, 16, {"field_sizes": [1000, 1000], "budget": 100}), "at least about"),
    ],
)
def test_refused(arguments, text):
    method, n, dim, *more = arguments
    with pytest.raises(errors.ConfigError, match=text):
        enn.embedding(method, n, dim, **(more[0] if more else {}))


def field_module(name, **more):
    counts = np.random.default_rng(0).zipf(1.5, N).astype(np.float64)
    return enn.embedding(name, embedding_dim=DIM, field_sizes=[100, N - 100], counts=counts, **more)


@pytest.mark.parametrize("make_one", [make, field_module])
@pytest.mark.parametrize("name", enn.names())
def test_refusals_speak_of_the_module(name, make_one, tmp_path):
    """One sentence that names the module asked for, not the method it is stored as."""

    def refusal(kind, call):
        with pytest.raises(kind) as caught:
            call()
        text = str(caught.value)
        assert re.search(rf"\b{name}\b", text), text
        stored = enn._create.module_class(name)[1]
        assert stored == name or name == "define" or not re.search(rf"\b{stored}\b", text), text
        assert len(text) < 300 and "\n" not in text and not text.endswith(".")
        return text

    def made(**more):
        return make_one(name, **more) if make_one is field_module else make_one(name, {}, **more)

    def unknown():
        return field_module(name, nothing=1) if make_one is field_module else make(name, {"nothing": 1})

    assert "'nothing'" in refusal(errors.ConfigError, unknown)
    floor = 3
    for _ in range(1 + (name == "mde" and make_one is make)):  # the counts are looked at last
        found = refusal(errors.BudgetError, lambda: made(budget=floor))  # noqa: B023
        floor = int(re.search(r"needs (?:at least )?(about )?([\d,]+) bytes", found)[2].replace(",", ""))
    if make_one is make:
        made(budget=floor)
    module = made()
    if len(module.stages()) > 1:
        refusal(errors.ConfigError, lambda: module.export(tmp_path / "t"))
        assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("name", enn.names())
def test_what_a_data_set_may_get_wrong(name):
    counts = np.ones(N + 1)
    for more in ({"num_embeddings": N}, {"field_sizes": [100, N - 100]}):
        with pytest.raises(errors.ConfigError, match=f"counts must be {N} numbers"):
            enn.embedding(name, embedding_dim=DIM, counts=counts, **more)
    module = field_module(name)
    for ids, text in (([[0, N - 100], [1, 2]], f"0 to {N - 101}, found {N - 100}"), ([[100, 0], [1, 2]], "0 to 99")):
        for training in (True, False):
            with pytest.raises(errors.IdRangeError, match=text):
                module.train(training)(torch.tensor(ids))
    with pytest.raises(errors.IdTypeError):
        module(torch.rand(3, 2))
    with pytest.raises(errors.ShapeError, match=r"\(batch, 2\)"):
        module(torch.zeros(3, 3, dtype=torch.int64))
