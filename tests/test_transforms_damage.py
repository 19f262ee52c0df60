"""Metadata of a table with transforms, one field changed at a time and signed again: refused by name, never a crash."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import embstore
from embstore.errors import EmbstoreError
from embstore.format import metadata
from embstore.testing import make_rows


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("damage") / "t"
    embstore.compress(make_rows(60, 20, hostile=False), path, "pca12,rotate,int4")
    return path


def places(value, path=()):
    """Paths to every field below `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70), st.sampled_from([2**31, 2**63, "pca", "rotate", "center", "", 1.5]),
    st.just([]), st.just({}),
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=VALUES, drop=st.booleans())
def test_one_changed_field(table: Path, data, value, drop):
    file = table / "zarr.json"
    good = file.read_bytes()
    group = json.loads(good)
    meta = group["attributes"]["embstore"]
    of_interest = [p for p in places(meta) if p[0] in ("transforms", "requires", "shape", "generations")]
    *way, last = data.draw(st.sampled_from(of_interest))
    inner = meta
    for key in way:
        inner = inner[key]
    if drop:
        del inner[last]
    else:
        inner[last] = value
    meta["digest"] = metadata.digest(meta)
    try:
        file.write_text(json.dumps(group))
        opened = embstore.open(table)
        rows = opened.lookup(np.arange(min(5, len(opened))))
        assert rows.shape == (5, opened.embedding_dim)
    except EmbstoreError as error:
        assert len(str(error)) > 20
    finally:
        file.write_bytes(good)
