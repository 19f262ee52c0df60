"""`python -m bench PART [--quick]`: measure, print, keep results in bench/results.

`report` writes docs/performance.md; `report RESULTS…` a page of the results named. `retrieval --data …` searches your
own questions. `published` writes docs/benchmarks from its lines.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import codes, errors, kernels, lookups, modules, product, report, retrieval, tables, vectors, words


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parts = [
        "kernels",
        "tables",
        "errors",
        "codes",
        "product",
        "lookups",
        "vectors",
        "retrieval",
        "words",
        "modules",
        "ctr",
        "report",
        "published",
        "all",
    ]
    parser.add_argument("what", choices=parts, nargs="?", default="all")
    parser.add_argument("--quick", action="store_true", help="small tables: to see that it runs, not to quote")
    parser.add_argument("--dir", default=None, help="where tables are written (needs about 30 GB without --quick)")
    if sys.argv[1:2] == ["ctr"]:  # has options of its own, --quick too
        from . import ctr

        sys.exit(ctr.main(sys.argv[2:]))
    if sys.argv[1:2] == ["published"]:
        from .html import published

        sys.exit(published.main(sys.argv[2:]))
    if sys.argv[1:2] == ["retrieval"] and any(a.startswith("--data") for a in sys.argv):
        from . import retrieval_judged

        sys.exit(retrieval_judged.main(sys.argv[2:]))
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
    if given.what in ("lookups", "all"):
        lookups.main(quick=given.quick, directory=given.dir)
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
