"""`python -m bench kernels|tables [--quick]`: measure, print, and keep the results as JSON in bench/results."""

from __future__ import annotations

import argparse

from . import kernels, tables


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("what", choices=["kernels", "tables", "all"], nargs="?", default="all")
    parser.add_argument("--quick", action="store_true", help="small tables: to see that it runs, not to quote")
    parser.add_argument("--dir", default=None, help="where tables are written (needs about 30 GB without --quick)")
    given = parser.parse_args()
    if given.what in ("kernels", "all"):
        kernels.main(quick=given.quick)
    if given.what in ("tables", "all"):
        tables.main(quick=given.quick, directory=given.dir)


if __name__ == "__main__":
    main()
