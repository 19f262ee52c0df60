"""`embstore methods`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ._shared import AsJson, app, emit


@app.command()
def methods(
    dim: Annotated[int, typer.Option(min=1, help="Row length the bytes are given for.")] = 128, as_json: AsJson = False
) -> None:
    """List the methods, their bytes per row and their fields."""
    from .. import registry
    from ..report import describe_method

    described = [describe_method(name, dim) for name in registry.names()]
    if as_json:
        return emit({"embedding_dim": dim, "methods": described})
    for each in described:
        stores = ", ".join(f"{a['name']} {a['dtype']}" for a in each["arrays"])
        fields = ", ".join(f"{f['name']}={json.dumps(f['default'])}" for f in each["fields"])
        print(f"{each['id']:<10} {each['bytes_per_row']:>7g} bytes per row  {each['ratio']:>6.2f} x  {stores}")
        print(f"{'':<11}{each['summary']}")
        if fields:
            print(f"{'':<11}--set {fields}")
    print('\nTransforms, before any of them, as in "pca64,rotate,int4":')
    for name in registry.transform_names():
        cls = registry.get_transform(name)
        print(f"{name:<10} {' '.join((cls.__doc__ or '').partition(chr(10) * 2)[0].split())}")
    print(f"\nBytes are for rows of {dim} values; the ratio is to float32.")
