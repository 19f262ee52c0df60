"""What the commands share: the application, their common options, parsing and printing."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="embstore",
    help="Compressed embedding tables in one open format.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]
TablePath = Annotated[str, typer.Argument(metavar="TABLE", help="Directory of an embstore table.", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a table or file at the destination.")]


def open_any(path: str) -> Any:
    """A `Table`, or a `TableSet` where the directory holds one."""
    from ..format.staging import is_set
    from ..table import open as open_table
    from ..table_set import open_set

    return open_set(path) if is_set(path) else open_table(path)


def assignments(values: list[str]) -> dict[str, Any]:
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


def parse_shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        rows, dims = (int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise typer.BadParameter(f"--shape must be ROWSxDIMS, 1000x64 for example, found {text!r}") from None
    return rows, dims


def parse_integer(text: str, what: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{what} must be an integer, found {text!r}") from None


def _jsonable(value: Any) -> Any:
    """JSON has no NaN and no inf: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(v) for v in value]
    return value


def emit(document: dict[str, Any]) -> None:
    print(json.dumps(_jsonable(document), ensure_ascii=False))


def size_text(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.2f} {unit}"
        n /= 1000
    return f"{n:.2f} TB"


def print_fields(fields: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        print(f"{name:<{width}}  {value}")


def config_text(config: dict[str, Any]) -> str:
    return ", ".join(f"{k}={json.dumps(v)}" for k, v in config.items()) or "no fields"


@contextmanager
def progress_bar(label: str, quiet: bool = False) -> Iterator[Callable[[int, int], None] | None]:
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


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        print(f"embstore {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Compressed embedding tables in one open format."""
