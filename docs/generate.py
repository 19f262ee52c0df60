"""Writes what the registry says into the documents: `make docs`. With `--check` it only says whether they are current.

docs/methods.md is written whole, of README.md the table of methods between its two markers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from embstore import registry
from embstore.report import describe_method

PAGE = Path(__file__).with_name("methods.md")
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- methods: written by `make docs` -->\n", "<!-- end of methods -->\n"
DIMS = (64, 128, 300)
README_DIM = 128

HEAD = """# Methods

Generated from the registry by `make docs`; do not edit. `embstore methods --dim N` prints the same for any row length.
The byte-exact layout of each method is in [format.md](format.md). Bytes count everything stored per row.

"""


def _row(described: list[dict[str, Any]]) -> str:
    first = described[0]
    sizes = " | ".join(f"{d['bytes_per_row']:g}" for d in described)
    return f"| [`{first['id']}`](#{first['id']}) | {sizes} | {described[1]['ratio']:.2f} | {first['summary']} |\n"


def _section(described: dict[str, Any]) -> str:
    text = f"\n## {described['id']}\n\n{described['summary']}\n\n"
    text += "| array | dtype | one row | partition |\n|---|---|---|---|\n"
    for array in described["arrays"]:
        text += f"| `{array['name']}` | {array['dtype']} | {array['row_shape']} | {array['partition']} |\n"
    if not described["fields"]:
        return text + "\nNo config fields.\n"
    text += "\n| field | type | default |\n|---|---|---|\n"
    for field in described["fields"]:
        kind = field["type"].replace("|", "\\|")
        text += f"| `{field['name']}` | `{kind}` | `{field['default']!r}` |\n"
    return text


def page() -> str:
    """The page as it should be."""
    methods = [[describe_method(name, dim) for dim in DIMS] for name in registry.names()]
    text = HEAD + "| method | " + " | ".join(f"bytes at {d}" for d in DIMS) + " | smaller at 128 | what it is |\n"
    text += "|---" * (len(DIMS) + 3) + "|\n" + "".join(_row(m) for m in methods)
    return (
        text
        + f"\nBelow, the arrays are those of rows of {DIMS[1]} values.\n"
        + "".join(_section(m[1]) for m in methods)
    )


def readme(text: str) -> str:
    """README.md as it should be, from what it is."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        sys.exit(f"README.md must have the lines {BEGIN.strip()!r} and {END.strip()!r}, in this order; put them back")
    table = "| method | bytes | smaller | what it is |\n|---|---:|---:|---|\n"
    for name in registry.names():
        each = describe_method(name, README_DIM)
        link = f"[`{name}`](docs/methods.md#{name})"
        table += f"| {link} | {each['bytes_per_row']:g} | {each['ratio']:.2f} × | {each['summary']} |\n"
    return text[: text.index(BEGIN) + len(BEGIN)] + table + text[text.index(END) :]


if __name__ == "__main__":
    wanted = {PAGE: page(), README: readme(README.read_text(encoding="utf-8"))}
    for file, text in wanted.items():
        if "--check" not in sys.argv:
            file.write_text(text, encoding="utf-8")
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            sys.exit(f"{file.name} is not what the registry says; run `make docs`")
