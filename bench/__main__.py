"""`python -m bench PART [--quick]`: measure, print, keep results in bench/results.

`report` writes docs/performance.md; `report RESULTS…` a page of the results named.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import codes, errors, kernels, modules, product, report, retrieval, tables, vectors, words


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parts = [
        "kernels",
        "tables",
        "errors",
        "codes",
        "product",
        "vectors",
        "retrieval",
        "words",
        "modules",
        "ctr",
        "report",
        "all",
    ]
    parser.add_argument("what", choices=parts, nargs="?", default="all")
    parser.add_argument("--quick", action="store_true", help="small tables: to see that it runs, not to quote")
    parser.add_argument("--dir", default=None, help="where tables are written (needs about 30 GB without --quick)")
    if sys.argv[1:2] == ["ctr"]:  # has options of its own, --quick too
        from . import ctr

        sys.exit(ctr.main(sys.argv[2:]))
    given, rest = parser.parse_known_args()
    if given.what == "ctr":
        parser.error("options must come after ctr")
    if given.what == "vectors":
        vectors.main(rest)
        return
    if given.what == "report" and rest:  # a page of the results named, beside docs/performance.md
        from .html import __main__ as html

        sys.exit(html.main(rest))
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if given.dir is not None:
        Path(given.dir).mkdir(parents=True, exist_ok=True)
    if given.what in ("kernels", "all"):
        kernels.main(quick=given.quick, directory=given.dir)
    if given.what in ("tables", "all"):
        tables.main(quick=given.quick, directory=given.dir)
    if given.what in ("errors", "all"):
        errors.main()
    if given.what in ("modules", "all"):
        modules.main(quick=given.quick, directory=given.dir)
    if given.what in ("codes", "all"):
        codes.main(quick=given.quick, directory=given.dir)
    if given.what in ("product", "all"):
        product.main(quick=given.quick, directory=given.dir)
    if given.what in ("retrieval", "all"):
        retrieval.main(quick=given.quick, directory=given.dir)
    if given.what in ("words", "all"):
        words.main(quick=given.quick, directory=given.dir)
    if given.what == "all":
        vectors.main()
    if given.what in ("report", "all") and not given.quick:
        report.main()


if __name__ == "__main__":
    main()
