"""The `embstore` command: argument parsing and printing, nothing else.

Results go to stdout (with ``--json`` one JSON document and nothing else), progress and errors to stderr. Exit codes:
0 when the job was done, 1 when it was not (one sentence says why), 2 for arguments that make no sense.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(
    name="embstore",
    help="Compressed embedding tables in one open format.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class NonFinite(StrEnum):
    """What to do with NaN and inf in a source."""

    refuse = "raise"
    keep = "keep"


class OnDuplicate(StrEnum):
    """What to do with a key at two rows."""

    refuse = "raise"
    last = "last"


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]
TablePath = Annotated[str, typer.Argument(metavar="TABLE", help="Directory of an embstore table.", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a table or file at the destination.")]


# -- parsing ---------------------------------------------------------------------------------------


def _assignments(values: list[str]) -> dict[str, Any]:
    """``field=value`` pairs; a value is JSON where it can be read as such, else text."""
    config: dict[str, Any] = {}
    for item in values:
        field, equals, text = item.partition("=")
        if not equals or not field.isidentifier():
            raise typer.BadParameter(f"--set must be field=value, found {item!r}")
        if field in config:
            raise typer.BadParameter(f"--set names the field {field!r} twice")
        try:
            config[field] = json.loads(text)
        except ValueError:
            config[field] = text
    return config


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        rows, dims = (int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise typer.BadParameter(f"--shape must be ROWSxDIMS, 1000x64 for example, found {text!r}") from None
    return rows, dims


def _integer(text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{what} must be an integer, found {text!r}") from None


# -- printing --------------------------------------------------------------------------------------


def _jsonable(value: Any) -> Any:
    """JSON has no NaN and no inf: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(v) for v in value]
    return value


def _emit(document: dict[str, Any]) -> None:
    print(json.dumps(_jsonable(document), ensure_ascii=False))


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.2f} {unit}"
        n /= 1000
    return f"{n:.2f} TB"


def _print_fields(fields: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        print(f"{name:<{width}}  {value}")


def _config_text(config: dict[str, Any]) -> str:
    return ", ".join(f"{k}={json.dumps(v)}" for k, v in config.items()) or "no fields"


@contextmanager
def _progress(label: str, quiet: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """A bar with rate and time left on stderr; None where stderr is not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(TextColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or 0:,.0f} rows/s")

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), Rate(""), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# -- commands --------------------------------------------------------------------------------------


def _version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        print(f"embstore {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Compressed embedding tables in one open format."""


@app.command()
def compress(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="File to read the rows from.", show_default=False)],
    dest: Annotated[str, typer.Argument(metavar="DEST", help="Directory the table becomes.", show_default=False)],
    method: Annotated[str, typer.Option("--method", "-m", help="How to compress; see `embstore methods`.")] = "int8",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="A field of the method, see `embstore methods`; repeatable."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Size not to exceed: 0.1 or 10% of float32, 4bpd, 64MB, or bytes.", show_default=False),
    ] = None,
    keys: Annotated[
        str | None, typer.Option(metavar="FILE", help="Text file of the keys, one a line, in row order.")
    ] = None,
    key_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the keys, in parquet or Arrow.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="TENSOR", help="Tensor, array or column of the rows.")] = None,
    format: Annotated[
        str | None, typer.Option("--format", help="Read the source as npy, glove, …; by default its content tells.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="dtype of a raw source, float32 for example.")] = None,
    shape: Annotated[str | None, typer.Option(metavar="ROWSxDIMS", help="Shape of a raw source.")] = None,
    overwrite: Overwrite = False,
    nonfinite: Annotated[
        NonFinite, typer.Option(help="Refuse NaN and inf in the source, or keep them.")
    ] = NonFinite.refuse,
    on_duplicate: Annotated[
        OnDuplicate, typer.Option(help="Refuse a key at two rows, or let the last row win.")
    ] = OnDuplicate.refuse,
    seed: Annotated[int, typer.Option(help="Seed of the methods that draw samples.")] = 0,
    rerank: Annotated[
        str | None, typer.Option(metavar="METHOD", help="A second, finer method, kept for `search --rerank`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compress a file of embeddings into a table."""
    config = _assignments(set_ or [])
    reading: dict[str, Any] = {
        "format": format,
        "name": name,
        "key_column": key_column,
        "dtype": dtype,
        "shape": _shape(shape),
    }
    import inspect as signatures

    from . import compress as run
    from .report import sampled_error
    from .sources import open_source

    for field in sorted(set(config) & set(signatures.signature(run).parameters)):
        raise typer.BadParameter(f"--set gives config fields of the method, found {field!r}; see --{field}")
    with _progress("compressing", as_json) as progress:
        table = run(
            source,
            dest,
            method,
            budget=budget,
            keys=keys,
            overwrite=overwrite,
            nonfinite=nonfinite.value,
            on_duplicate=on_duplicate.value,
            seed=seed,
            rerank=rerank,
            progress=progress,
            **reading,
            **config,
        )
    with open_source(source, **reading) as rows:
        error, compared = sampled_error(rows, table)
    before = 4 * table.num_embeddings * table.embedding_dim
    done = {
        "path": dest,
        "method": table.method.id,
        "config": table.method.config(),
        "num_embeddings": table.num_embeddings,
        "embedding_dim": table.embedding_dim,
        "nbytes_float32": before,
        "nbytes": table.nbytes,
        "rerank_nbytes": table.rerank_nbytes,
        "bytes_per_row": table.nbytes / max(1, table.num_embeddings),
        "ratio": before / max(1, table.nbytes),
        "relative_squared_error": error,
        "rows_compared": compared,
    }
    if as_json:
        return _emit(done)
    shown = "not measured" if error is None else f"{error:.2e} over {compared:,} sampled rows"
    _print_fields(
        [
            ("table", dest),
            ("method", f"{done['method']} ({_config_text(table.method.config())})"),
            ("rows x dims", f"{table.num_embeddings:,} x {table.embedding_dim}"),
            ("float32", _bytes(before)),
            ("compressed", f"{_bytes(table.nbytes)} ({done['bytes_per_row']:.1f} bytes per row)"),
            *([] if table.reranker is None else [("rerank", f"{_bytes(table.rerank_nbytes)} more by {rerank}")]),
            ("ratio", f"{done['ratio']:.2f} x smaller"),
            ("relative squared error", shown),
        ]
    )


@app.command()
def inspect(table: TablePath, as_json: AsJson = False) -> None:
    """Show what a table is made of; reads its metadata only."""
    from .arrays import TableShape
    from .table import open as open_table

    opened = open_table(table)
    rows, dims = opened.num_embeddings, opened.embedding_dim
    arrays = [
        {"name": s.name, "dtype": s.dtype, "shape": list(s.shape), "partition": s.partition}
        for s in opened.method.layout(TableShape(rows, dims))
    ]
    finer = opened.reranker
    stored, subwords = opened.metadata["keys"], opened.subwords
    keys = None if stored is None else {"type": stored["type"], "count": stored["count"]}
    done = {
        "path": table,
        "method": opened.method.id,
        "config": opened.method.config(),
        "num_embeddings": rows,
        "embedding_dim": dims,
        "nbytes": opened.nbytes,
        "nbytes_float32": 4 * rows * dims,
        "rerank": None if finer is None else {"method": finer.method.id, "nbytes": finer.nbytes},
        "keys": keys,
        "subword_rows": 0 if subwords is None else subwords.rows,
        "arrays": arrays,
        "kernels": opened.explain(),
        "metadata": opened.metadata,
    }
    if as_json:
        return _emit(done)
    _print_fields(
        [
            ("table", table),
            ("method", f"{done['method']} ({_config_text(opened.method.config())})"),
            ("rows x dims", f"{rows:,} x {dims}"),
            ("size", f"{_bytes(opened.nbytes)} (float32: {_bytes(4 * rows * dims)})"),
            *([] if finer is None else [("rerank", f"{finer.method.id}, {_bytes(finer.nbytes)} more")]),
            ("keys", "none" if keys is None else f"{keys['count']:,} of type {keys['type']}"),
            *([] if subwords is None else [("subwords", f"the last {subwords.rows:,} rows, for unknown words")]),
            *((f"array {a['name']}", f"{a['dtype']} {a['shape']}, {a['partition']}") for a in arrays),
        ]
    )
    print(opened.explain())


@app.command()
def lookup(
    table: TablePath,
    items: Annotated[list[str], typer.Argument(metavar="KEY...", help="Keys, or row ids of a table without keys.")],
    ids: Annotated[
        bool, typer.Option("--ids", help="Take the arguments as row ids, though the table has keys.")
    ] = False,
    oov: Annotated[
        str, typer.Option(metavar="POLICY", help="Unknown keys give: raise, zeros, ngrams, subwords, or a row id.")
    ] = "raise",
    as_json: AsJson = False,
) -> None:
    """Print the vectors of keys or ids, one a line."""
    from .table import open as open_table

    opened = open_table(table)
    found = [True] * len(items)
    if ids or opened.keys is None:
        rows = [_integer(item, "a row id") if ids else _row_of_keyless(item) for item in items]
        vectors = opened.lookup(rows, by="id")
    else:
        wanted: list[Any] = list(items) if opened.keys.type == "string" else [_integer(i, "a key") for i in items]
        policy: str | int = int(oov) if oov.isdecimal() else oov
        vectors, mask = opened.lookup(wanted, by="key", oov=policy, return_mask=True)
        found = mask.tolist()
    if as_json:
        pairs = zip(items, found, vectors.tolist(), strict=True)
        return _emit({"path": table, "rows": [{"key": k, "found": f, "vector": v} for k, f, v in pairs]})
    for item, row in zip(items, vectors.tolist(), strict=True):
        print(item, *(f"{value:.6g}" for value in row))


def _row_of_keyless(item: str) -> int:
    try:
        return int(item)
    except ValueError:
        from .errors import NoKeysError

        raise NoKeysError(f"the table has no keys, found the key {item!r}; look rows up by their ids") from None


@app.command()
def verify(table: TablePath, as_json: AsJson = False) -> None:
    """Read a whole table back and hold it against its checksums."""
    from .table import open as open_table

    faults = [str(fault) for fault in open_table(table).verify()]
    if as_json:
        _emit({"path": table, "ok": not faults, "faults": faults})
    elif not faults:
        print(f"{table}: every checksum agrees")
    for fault in faults:
        print(f"embstore: {fault}", file=sys.stderr)
    if faults:
        raise typer.Exit(1)


@app.command()
def methods(
    dim: Annotated[int, typer.Option(min=1, help="Row length the bytes are given for.")] = 128, as_json: AsJson = False
) -> None:
    """List the methods, their bytes per row and their fields."""
    from . import registry
    from .report import describe_method

    described = [describe_method(name, dim) for name in registry.names()]
    if as_json:
        return _emit({"embedding_dim": dim, "methods": described})
    for each in described:
        stores = ", ".join(f"{a['name']} {a['dtype']}" for a in each["arrays"])
        fields = ", ".join(f"{f['name']}={json.dumps(f['default'])}" for f in each["fields"])
        print(f"{each['id']:<10} {each['bytes_per_row']:>7g} bytes per row  {each['ratio']:>6.2f} x  {stores}")
        print(f"{'':<11}{each['summary']}")
        if fields:
            print(f"{'':<11}--set {fields}")
    print(f"\nBytes are for rows of {dim} values; the ratio is to float32.")


@app.command()
def export(
    table: TablePath,
    dest: Annotated[
        str, typer.Argument(metavar="DEST", help="A file ending in .npy, .safetensors, .txt, .vec, .bin or .parquet.")
    ],
    format: Annotated[
        str | None, typer.Option("--format", help="npy, safetensors, word2vec, word2vec-binary, parquet.")
    ] = None,
    keys: Annotated[str | None, typer.Option(metavar="FILE", help="Also write the keys here, one a line.")] = None,
    name: Annotated[str, typer.Option(help="Name of the tensor or column.")] = "embeddings",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Decode a table into a file other programs read."""
    from .export import export as run
    from .table import open as open_table

    opened = open_table(table)
    with _progress("exporting", as_json) as progress:
        done = run(opened, dest, format=format, name=name, keys_path=keys, overwrite=overwrite, progress=progress)
    if as_json:
        document = {"path": done.path, "format": done.format, "num_embeddings": done.rows, "embedding_dim": done.dims}
        return _emit({**document, "keys": done.keys, "nbytes": done.nbytes, "keys_path": keys})
    print(f"{done.path}: {done.rows:,} x {done.dims} as {done.format}, {_bytes(done.nbytes)}")
    if opened.keys is not None and done.keys == 0 and keys is None:
        print(f"embstore: {done.format} holds no keys; write them beside with --keys FILE", file=sys.stderr)


# -- errors ----------------------------------------------------------------------------------------


# What a cure calls an argument of the Python functions is an option here.
_ARGUMENT = re.compile(r"""\b(name|nonfinite|on_duplicate|oov|overwrite)=(True|"[^"]*")""")


def _option(argument: re.Match[str]) -> str:
    option = "--" + argument[1].replace("_", "-")
    return option if argument[2] == "True" else f"{option} {shlex.quote(argument[2][1:-1])}"


def _fail(error: BaseException) -> NoReturn:
    """One sentence on stderr, exit code 1; the traceback too with EMBSTORE_DEBUG=1."""
    from .errors import EmbstoreError

    if os.environ.get("EMBSTORE_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, EmbstoreError):
        text = _ARGUMENT.sub(_option, text)
    elif isinstance(error, OSError) and error.filename is not None:
        text = f"{os.fsdecode(error.filename)!r} could not be used ({error.strerror}); check the path and permissions"
    elif not isinstance(error, OSError):
        text = f"unexpected {type(error).__name__}: {text}; set EMBSTORE_DEBUG=1 to see where"
    print(f"embstore: {text}", file=sys.stderr)
    sys.exit(1)


def main() -> None:
    """Entry point of the `embstore` command."""
    try:
        app()
    except SystemExit as end:
        if end.code == 130:  # how typer ends on Ctrl-C, in silence
            print("embstore: interrupted; what was at the destination is untouched", file=sys.stderr)
        raise
    except Exception as error:
        _fail(error)


if __name__ == "__main__":
    main()
