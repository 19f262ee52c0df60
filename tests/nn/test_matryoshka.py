"""The nested loss: what it adds up, and that prefixes trained with it are good and are what `truncate` serves."""

import numpy as np
import pytest

import embstore
from embstore import errors

torch = pytest.importorskip("torch")
enn = pytest.importorskip("embstore.nn")

CLASSES, EACH, DIM = 40, 10, 32


def test_sum_of_losses_of_prefixes():
    a, b = torch.randn(5, 16, requires_grad=True), torch.randn(5, 16)
    mse = torch.nn.functional.mse_loss
    found = enn.matryoshka_loss(mse, [4, 16], [0.5, 2])(a, b, reduction="sum")
    torch.testing.assert_close(found, 0.5 * mse(a[:, :4], b[:, :4], reduction="sum") + 2 * mse(a, b, reduction="sum"))
    torch.testing.assert_close(enn.matryoshka_loss(mse, [3])(a, b), mse(a[:, :3], b[:, :3]))
    enn.matryoshka_loss(mse, [4, 8])(a, b).backward()
    assert (a.grad[:, :8] != 0).all() and (a.grad[:, 8:] == 0).all()


def contrast(rows, *, labels):
    """Supervised contrastive loss (Khosla et al. 2020) of unit vectors."""
    unit = torch.nn.functional.normalize(rows, dim=1)
    logits = (unit @ unit.T / 0.1).masked_fill(torch.eye(len(rows), dtype=torch.bool), -1e9)
    same = (labels[:, None] == labels).float().fill_diagonal_(0)
    return -(same * logits.log_softmax(dim=1)).sum() / same.sum()


def trained(objective):
    torch.manual_seed(0)
    labels = torch.arange(CLASSES).repeat_interleave(EACH)
    # Rows of ids that share little: noise of their own, and one map to the embedding that is learned.
    centers = torch.randn(CLASSES, 64)
    points = centers[labels] + torch.randn(CLASSES * EACH, 64)
    to_rows = torch.nn.Linear(64, DIM, bias=False)
    optimizer = torch.optim.Adam(to_rows.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        objective(to_rows(points), labels=labels).backward()
        optimizer.step()
    with torch.no_grad():
        return to_rows(points).numpy(), labels.numpy()


def neighbour_shares_class(table, rows, labels):
    _, ids = table.search(rows[:, : table.embedding_dim], k=2, metric="cosine")
    return float(np.mean(labels[ids[:, 1]] == labels))


def test_truncated_tables_serve_what_was_trained(tmp_path):
    torch.set_num_threads(1)
    found = {}
    for name, objective in (("plain", contrast), ("nested", enn.matryoshka_loss(contrast, [4, 8, 16, DIM]))):
        rows, labels = trained(objective)
        for dim in (4, 8, DIM):
            pipeline = f"truncate{dim},int8" if dim < DIM else "int8"
            table = embstore.compress(rows, tmp_path / f"{name}{dim}", pipeline)
            assert table.embedding_dim == dim
            found[name, dim] = neighbour_shares_class(table, rows, labels)
    assert found["nested", 4] > found["plain", 4] + 0.1
    assert found["nested", 8] > found["plain", 8]
    assert found["nested", 8] > 0.9 * found["nested", DIM]
    assert found["nested", DIM] > found["plain", DIM] - 0.05


@pytest.mark.parametrize("dims", [[], [8, 4], [4, 4], [0, 4], [2.0]])
def test_refused_dims(dims):
    with pytest.raises(errors.ConfigError, match="dims must be ascending"):
        enn.matryoshka_loss(contrast, dims)


@pytest.mark.parametrize("weights", [[1], [1, -1], [1, float("nan")], [0, 0]])
def test_refused_weights(weights):
    with pytest.raises(errors.ConfigError, match="weights must be 2 finite"):
        enn.matryoshka_loss(contrast, [2, 4], weights)


def test_refused_embeddings():
    with pytest.raises(errors.ShapeError, match="at least 8 values"):
        enn.matryoshka_loss(contrast, [4, 8])(torch.zeros(3, 7), labels=torch.zeros(3))
    with pytest.raises(errors.ShapeError, match="found \\[\\]"):
        enn.matryoshka_loss(contrast, [4, 8])(labels=torch.zeros(3))
