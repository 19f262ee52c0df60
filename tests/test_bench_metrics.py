"""The benchmarks' measures against their definitions, and their click data."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import ctr_data, metrics


@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40))
def test_auc_is_the_share_of_ordered_pairs(samples):
    labels, scores = (np.array(column, float) for column in zip(*samples, strict=True))
    pairs = list(itertools.product(scores[labels == 1], scores[labels == 0]))
    if not pairs:
        assert np.isnan(metrics.auc(labels, scores))
        return
    wanted = np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs])
    assert metrics.auc(labels, scores) == pytest.approx(wanted, abs=1e-12)


def test_log_loss_is_the_mean_negative_log_likelihood():
    logits, labels = np.array([0.3, -2.0, 5.0, 1000.0, -1000.0]), np.array([1, 0, 0, 1, 1])
    p = 1 / (1 + np.exp(-logits[:3]))
    first = -np.where(labels[:3] == 1, np.log(p), np.log(1 - p))
    assert metrics.log_loss(labels, logits) == pytest.approx((first.sum() + 0 + 1000) / 5)


@pytest.fixture(params=["generated", *ctr_data.available()])
def data(request):
    return ctr_data.generated() if request.param == "generated" else ctr_data.load(request.param)


def test_clicks_are_whole(data):
    n, fields = data.fields.shape
    assert data.fields.dtype == np.int64 and data.labels.dtype == np.float32
    assert len(data.field_sizes) == fields and (data.fields.max(axis=0) < data.field_sizes).all()
    assert data.fields.min() == 0 and set(np.unique(data.labels)) == {0.0, 1.0}
    parts = np.concatenate([data.train, data.valid, data.test])
    assert np.array_equal(np.sort(parts), np.arange(n))
    assert data.counts.sum() == fields * len(data.train) and len(data.counts) == sum(data.field_sizes)
    assert metrics.auc(data.labels[data.valid], data.popularity(data.valid)) > 0.55


@pytest.mark.skipif("frappe" not in ctr_data.available(), reason="no Frappe here")
def test_frappe_is_as_its_readme_says():
    data = ctr_data.frappe()
    assert data.field_sizes == (957, 4082, 7, 7, 2, 3, 2, 9, 80, 233)
    assert len(data.fields) == 288_609 and data.labels.sum() == 96_203
    assert np.array_equal(data.fields, ctr_data.frappe().fields)
    # No negative is an app that the user ran in the same context.
    positive = {row.tobytes() for row in data.fields[data.labels == 1]}
    assert not any(row.tobytes() in positive for row in data.fields[data.labels == 0])


@pytest.mark.skipif("ml-1m" not in ctr_data.available(), reason="no MovieLens-1M here")
def test_movielens_is_as_its_readme_says():
    data = ctr_data.movielens()
    assert data.field_sizes == (6040, 3260)
    assert data.labels.sum() == 801_218 + 197_321
    assert data.labels[data.train].sum() == 801_218
    key = data.fields[:, 0] * 3260 + data.fields[:, 1]
    assert not np.isin(key[data.labels == 0], key[data.labels == 1]).any()
