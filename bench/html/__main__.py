"""Write a page from files of results: `python -m bench report RESULTS…`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import pdf, published
from .page import build
from .runs import InputError, read, timed_by


def main(arguments: list[str] | None = None) -> int:
    """0 when the page was written, 2 where a file cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m bench report", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="lines of ctr, JSON of vectors, retrieval, words")
    parser.add_argument("--times", nargs="+", type=Path, default=[], help="lines of runs that all times are taken from")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page; its PDF lies beside it")
    parser.add_argument("--csv", type=Path, default=None, help="a directory for the tables as files too")
    parser.add_argument("--picture", type=Path, default=None, help="a PNG of quality against bytes too")
    parser.add_argument("--no-pdf", action="store_true", help="the page only")
    given = parser.parse_args(arguments)
    try:
        material = read(given.results)
        if given.times:
            material = timed_by(material, given.times)
        page, tables = build(material)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    for note in material.notes:
        print(note, file=sys.stderr)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(page, encoding="utf-8")
    print(given.out)
    if given.csv is not None:
        given.csv.mkdir(parents=True, exist_ok=True)
        for table in tables:
            (given.csv / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
        print(given.csv)
    if not material.runs or (given.no_pdf and given.picture is None):
        return 0
    if not pdf.available():
        print("no PDF and no picture: they need matplotlib; or print the page from a browser", file=sys.stderr)
        return 0
    if given.picture is not None:
        published.picture(material, given.picture)
        print(given.picture)
    if given.no_pdf:
        return 0
    path = given.out.with_suffix(".pdf")
    pdf.write(material, path)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
