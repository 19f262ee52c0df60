"""Criteo Kaggle, Criteo Terabyte and Avazu in their official separated-value formats, and Parquet."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from embstore.errors import SourceError, SourceNotFoundError

from . import coding
from .source import Chunk, Source, described, find, of_files, text

CRITEO = "https://ailab.criteo.com/ressources (dac.tar.gz, train.txt)"
TERABYTE = "https://ailab.criteo.com/download-criteo-1tb-click-logs-dataset (day_0.gz to day_23.gz)"
AVAZU = "https://www.kaggle.com/c/avazu-ctr-prediction/data (train.gz)"
NUMBERS = tuple(f"I{i}" for i in range(1, 14))
CATEGORIES = tuple(f"C{i}" for i in range(1, 27))
AVAZU_COLUMNS = (
    "id", "click", "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain",
    "app_category", "device_id", "device_ip", "device_model", "device_type", "device_conn_type",
    *(f"C{i}" for i in range(14, 22)),
)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Columns of a separated file: all of them, the label, and those that are numbers to be put into buckets."""

    columns: tuple[str, ...]
    label: str
    numbers: tuple[str, ...]
    separator: str
    header: bool


LOGS = Layout(("label", *NUMBERS, *CATEGORIES), "label", NUMBERS, "\t", False)
AVAZU_LAYOUT = Layout(AVAZU_COLUMNS, "click", (), ",", True)


def criteo(paths: Sequence[str], rows: int | None) -> Source:
    """Criteo Kaggle: seven days in order, the last halved; three files are train, validation and test."""
    files = find(paths, ("train.txt", "train.txt.gz", "dac/train.txt"), "Criteo Kaggle", CRITEO)
    split = "last seventh" if len(files) == 1 else of_files(files, "Criteo Kaggle")
    return Source("criteo", (*NUMBERS, *CATEGORIES), _logs(files, rows), split, _about(files, rows))


def terabyte(paths: Sequence[str], rows: int | None) -> Source:
    """Criteo Terabyte: a file a day, the last day halved."""
    files = [Path(p) for p in paths]
    if len(files) == 1 and files[0].is_dir():
        days = [f for f in files[0].iterdir() if re.fullmatch(r"day_\d+(\.gz)?", f.name)]
        files = sorted(days, key=lambda f: int(re.sub(r"\D", "", f.name)))
    if len(files) < 2:
        raise SourceNotFoundError(
            f"Criteo Terabyte needs --path, the folder of two or more files day_0.gz, day_1.gz …, found {len(files)}; "
            f"get them from {TERABYTE}"
        )
    files = find([str(f) for f in files], (), "Criteo Terabyte", TERABYTE)
    return Source("criteo-tb", (*NUMBERS, *CATEGORIES), _logs(files, rows), "last group", _about(files, rows))


def avazu(paths: Sequence[str], rows: int | None) -> Source:
    """Avazu: ten days, the last halved; of the hour, which names the day too, only the hour of the day is a field."""
    files = find(paths, ("train.csv", "train.gz", "train", "train.csv.gz"), "Avazu", AVAZU)
    names = AVAZU_COLUMNS[2:]

    def chunks() -> Iterator[Chunk]:
        for table, labels, _ in _tables(files, AVAZU_LAYOUT, rows):
            hour = table["hour"].combine_chunks()
            columns = [coding.of_text(pc.utf8_slice_codeunits(hour, 6, 8) if n == "hour" else table[n]) for n in names]
            days = pc.cast(pc.utf8_slice_codeunits(hour, 0, 6), pa.int32()).to_numpy(zero_copy_only=False)
            yield np.stack(columns, axis=1), labels, days

    return Source("avazu", names, chunks, "last group", _about(files, rows))


def _about(files: Sequence[Path], rows: int | None) -> dict[str, Any]:
    return {"files": described(files), "first_rows": rows}


def _logs(files: Sequence[Path], rows: int | None) -> Callable[[], Iterator[Chunk]]:
    def chunks() -> Iterator[Chunk]:
        for table, labels, group in _tables(files, LOGS, rows):
            columns = [coding.of_numbers(table[n]) for n in NUMBERS] + [coding.of_text(table[n]) for n in CATEGORIES]
            yield np.stack(columns, axis=1), labels, np.full(len(labels), group, np.int32)

    return chunks


def _tables(files: Sequence[Path], layout: Layout, rows: int | None) -> Iterator[tuple[pa.Table, Any, int]]:
    """Blocks of files, their labels, and the number of the file; at most `rows` of each file."""
    types = {name: pa.float64() if name in layout.numbers else pa.string() for name in layout.columns}
    for group, path in enumerate(files):
        left = rows
        try:
            # As threads finish blocks out of order, a fault would not be the first one.
            reader = csv.open_csv(
                pa.input_stream(str(path), compression="gzip" if path.suffix == ".gz" else None),
                csv.ReadOptions(
                    use_threads=False, block_size=16 << 20, column_names=list(layout.columns),
                    skip_rows=int(layout.header),
                ),
                csv.ParseOptions(delimiter=layout.separator, quote_char=False),
                csv.ConvertOptions(column_types=types, strings_can_be_null=False, null_values=[""]),
            )  # fmt: skip
            if layout.header:
                _check_header(path, layout)
            for batch in reader:
                table = pa.Table.from_batches([batch if left is None else batch[:left]])
                labels = table[layout.label].to_numpy()
                if not np.isin(labels, ["0", "1"]).all() or ("hour" in types and not _hours(table["hour"])):
                    raise pa.ArrowInvalid("values")
                yield table, (labels == "1").astype(np.uint8), group
                left = None if left is None else left - len(table)
                if left == 0:
                    break
        except (pa.ArrowInvalid, OSError, EOFError) as fault:
            raise _fault(path, layout, fault) from fault


def _hours(column: pa.ChunkedArray) -> bool:
    return bool(pc.all(pc.match_substring_regex(column, r"^\d{8}$")).as_py())


def _check_header(path: Path, layout: Layout) -> None:
    with text(path) as lines:
        found = next(lines, "").rstrip("\r\n").split(layout.separator)
    for i, (name, own) in enumerate(zip(layout.columns, found, strict=False)):
        if name != own:
            raise SourceError(f"{path.name}, line 1, column {i + 1} must be {name!r}, found {own!r}; check the file")


def _fault(path: Path, layout: Layout, fault: Exception) -> SourceError:
    """The first wrong line, found by reading the file again, slowly."""
    expected = len(layout.columns)
    with contextlib.suppress(OSError, SourceError), text(path) as lines:
        for number, line in enumerate(lines, 1):
            if (layout.header and number == 1) or line in ("\n", "\r\n"):
                continue
            cells = line.rstrip("\r\n").split(layout.separator)
            at = f"{path.name}, line {number}"
            if len(cells) != expected:
                return SourceError(f"{at} must have {expected} columns, found {len(cells)}; check the file's format")
            for column, (name, cell) in enumerate(zip(layout.columns, cells, strict=True), 1):
                wanted = None
                if name == layout.label and cell not in ("0", "1"):
                    wanted = "0 or 1"
                elif name in layout.numbers and cell and not _number(cell):
                    wanted = "a number or empty"
                elif name == "hour" and not re.fullmatch(r"\d{8}", cell):
                    wanted = "YYMMDDHH"
                if wanted:
                    return SourceError(
                        f"{at}, column {column} ({name}) must be {wanted}, found {cell!r}; mend the file"
                    )
    return SourceError(
        f"{path.name} must be {'gzipped ' * (path.suffix == '.gz')}text that is whole, found: {fault}; fetch it again"
    )


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def of_parquet(paths: Sequence[str], rows: int | None, label: str, name: str | None) -> Source:
    """Any Parquet file with a column of labels: integers and strings are ids, floats go into buckets."""
    files = find(paths, (), "Parquet", "your own data")
    try:
        schema = parquet.read_schema(files[0])
    except (pa.ArrowInvalid, OSError) as fault:
        raise SourceError(f"{files[0].name} must be a Parquet file, found another: {fault}") from fault
    if label not in schema.names:
        raise SourceNotFoundError(
            f"{files[0].name} must have the label column {label!r}, found {', '.join(schema.names)}; name it by --label"
        )
    names = tuple(n for n in schema.names if n != label)
    coders = {n: _coder(files[0], schema.field(n)) for n in names}

    def chunks() -> Iterator[Chunk]:
        for group, path in enumerate(files):
            left, first = rows, 0
            with parquet.ParquetFile(path) as file:
                own = file.schema_arrow.names
                if own != schema.names:
                    raise SourceError(
                        f"{path.name} must have the columns of {files[0].name}, found {', '.join(own)}; mend the file"
                    )
                for batch in file.iter_batches(batch_size=coding.CHUNK // 16):
                    batch = batch if left is None else batch[:left]
                    labels = batch[label].cast(pa.float64()).to_numpy(zero_copy_only=False)
                    wrong = np.flatnonzero(~np.isin(labels, [0, 1]))
                    if len(wrong):
                        raise SourceError(
                            f"{path.name}, row {first + wrong[0]}, column {label!r} must be 0 or 1, "
                            f"found {batch[label][int(wrong[0])].as_py()!r}; mend the file"
                        )
                    keys = np.stack([coders[n](batch[n]) for n in names], axis=1)
                    yield keys, labels.astype(np.uint8), np.full(len(labels), group, np.int32)
                    first += len(labels)
                    left = None if left is None else left - len(labels)
                    if left == 0:
                        break

    about = {**_about(files, rows), "label": label}
    return Source(name or files[0].stem, names, chunks, of_files(files, "Parquet"), about)


def _coder(path: Path, column: pa.Field) -> Callable[[pa.Array], coding.Keys]:
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return coding.of_integers
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return coding.of_numbers
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_dictionary(kind):
        return coding.of_text
    raise SourceError(
        f"{path.name}, column {column.name!r} must be integers, floats or strings, found {kind}; drop or convert it"
    )
