"""The metadata of a table: read, checked against its digest, and validated field by field in one place."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any, NoReturn

from ..arrays import DTYPES, ArraySpec, TableShape
from ..errors import CorruptionError, FormatError, FormatVersionError, TableNotFoundError
from . import layout

FEATURES = ("transforms",)


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a validated `zarr.json` says; everything after it may trust these numbers."""

    raw: dict[str, Any]
    shape: TableShape
    method_id: str
    method_version: int
    config: dict[str, Any]
    transforms: list[dict[str, Any]]
    specs: tuple[ArraySpec, ...]
    rows_per_shard: int
    rows_per_chunk: int
    keys: dict[str, Any] | None
    subwords: dict[str, int] | None
    provenance: dict[str, Any]
    shared_crc: dict[str, int]
    rows_crc: dict[str, int]
    files: dict[str, dict[str, int]]
    rerank: str | None


def digest(meta: dict[str, Any]) -> str:
    body = {k: v for k, v in meta.items() if k != "digest"}
    return "sha256:" + hashlib.sha256(layout.canonical(body)).hexdigest()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("the same field twice")
    return result


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def load_json(path: str, what: str) -> dict[str, Any]:
    """A JSON object from a file of bounded size."""
    try:
        with open(path, "rb") as file:
            data = file.read(layout.MAX_METADATA_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CorruptionError(f"{what} is missing; restore the table from its source or a copy") from error
    except OSError as error:
        raise CorruptionError(f"{what} could not be read ({error.strerror}); check the disk and permissions") from error
    if len(data) > layout.MAX_METADATA_BYTES:
        raise FormatError(f"{what} must have at most {layout.MAX_METADATA_BYTES} bytes, found more; it is not ours")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_constant)
        # A lone surrogate or a huge exponent parses, but has no canonical form.
        layout.canonical(value)
    except (ValueError, RecursionError) as error:
        raise CorruptionError(f"{what} must be JSON, found {error}; restore the table from a copy") from error
    if not isinstance(value, dict):
        raise CorruptionError(f"{what} must be a JSON object, found {type(value).__name__}; restore it from a copy")
    return value


def read(path: str) -> Metadata:
    """Metadata of the table directory `path`."""
    file = os.path.join(path, layout.GROUP_FILE)
    name = os.path.basename(path)
    if not os.path.isfile(file):
        raise TableNotFoundError(
            f"no embstore table at {path!r}: it must be a directory with zarr.json; check the path"
        )
    group = load_json(file, f"zarr.json of table {name!r}")
    attributes = group.get("attributes")
    meta = attributes.get("embstore") if isinstance(attributes, dict) else None
    if not isinstance(meta, dict):
        a_set = isinstance(attributes, dict) and layout.SET_ATTRIBUTE in attributes
        cure = "it is a set of tables: use embstore.open_set" if a_set else "it is not an embstore table"
        raise FormatError(f"zarr.json of {name!r} must have attributes.embstore, found none; {cure}")
    if type(group.get("zarr_format")) is not int or group["zarr_format"] != 3 or group.get("node_type") != "group":
        raise FormatError(f"zarr.json of {name!r} must be a Zarr v3 group, found another node; restore it from a copy")
    if unknown := set(group) - {"attributes", "zarr_format", "node_type", "consolidated_metadata"}:
        raise FormatError(f"zarr.json of {name!r} must be a Zarr v3 group, found the fields {sorted(unknown)}")
    return validate(meta, name)


class _Check:
    """Typed access to untrusted fields; every refusal is a `FormatError` that names the field."""

    def __init__(self, table: str) -> None:
        self.table = table

    def fail(self, field: str, expected: str, found: object) -> NoReturn:
        text = repr(found)
        text = text if len(text) <= 80 else text[:77] + "..."
        raise FormatError(
            f"metadata field {field} of table {self.table!r} must be {expected}, found {text}; restore it"
        )

    def integer(self, value: object, field: str, low: int, high: int) -> int:
        if type(value) is not int or not low <= value <= high:
            self.fail(field, f"an integer between {low} and {high}", value)
        return value

    def text(self, value: object, field: str) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= 1024:
            self.fail(field, "a text of 1 to 1024 characters", value)
        return value

    def mapping(self, value: object, field: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.fail(field, "an object", value)
        return value

    def items(self, value: object, field: str) -> list[Any]:
        if not isinstance(value, list):
            self.fail(field, "a list", value)
        return value

    def pow2(self, value: object, field: str) -> int:
        n = self.integer(value, field, 1, 2**41)
        if n & (n - 1):
            self.fail(field, "a power of two", n)
        return n

    def crcs(self, value: object, field: str, names: list[str]) -> dict[str, int]:
        found = self.mapping(value, field)
        if set(found) != set(names):
            self.fail(field, f"an object with the fields {sorted(names)}", sorted(found))
        return {n: self.integer(found[n], f"{field}.{n}", 0, 2**32 - 1) for n in names}


def _array(check: _Check, value: object, field: str, num_rows: int) -> ArraySpec:
    item = check.mapping(value, field)
    name = check.text(item.get("name"), f"{field}.name")
    if not layout.ARRAY_NAME.fullmatch(name) or name in layout.RESERVED_NAMES:
        check.fail(f"{field}.name", "an ASCII identifier that is not reserved", name)
    dtype = item.get("dtype")
    if dtype not in DTYPES:
        check.fail(f"{field}.dtype", f"one of {', '.join(DTYPES)}", dtype)
    partition = item.get("partition")
    if partition not in ("rows", "shared"):
        check.fail(f"{field}.partition", "rows or shared", partition)
    sizes = check.items(item.get("shape"), f"{field}.shape")
    if len(sizes) > 8 or (partition == "rows" and not sizes):
        check.fail(f"{field}.shape", "1 to 8 sizes", sizes)
    low = 1 if partition == "rows" else 0
    for i, n in enumerate(sizes):
        check.integer(n, f"{field}.shape[{i}]", 0 if i == 0 else low, 2**40)
    if partition == "rows" and sizes[0] != num_rows:
        check.fail(f"{field}.shape[0]", f"num_embeddings {num_rows}", sizes[0])
    spec = ArraySpec(name, dtype, tuple(sizes), partition)
    if spec.nbytes() > 2**60 or (partition == "rows" and spec.row_nbytes > 2**40):
        check.fail(f"{field}.shape", "an array of at most 2**60 bytes", sizes)
    return spec


def _pruned_subwords(check: _Check, value: object, num_rows: int, files: dict[str, dict[str, int]]) -> dict[str, int]:
    item = check.mapping(value, "pruned_subwords")
    found = {
        f: check.integer(item.get(f), f"pruned_subwords.{f}", 0, 2**32 if f == "buckets" else 2**40)
        for f in ("minn", "maxn", "buckets", "first_row", "kept")
    }
    if found["minn"] > found["maxn"] or not found["kept"] <= found["buckets"]:
        check.fail("pruned_subwords", "minn <= maxn and kept <= buckets", found)
    if found["first_row"] + found["kept"] > num_rows:
        check.fail("pruned_subwords", f"rows below num_embeddings {num_rows}", found)
    spec = layout.buckets_spec(found["kept"])
    file = layout.single_file(spec.name, 1)
    if spec.nbytes() and files.get(file, {}).get("nbytes") != spec.nbytes():
        check.fail("checksums.files", f"{file} of {spec.nbytes()} bytes", files.get(file))
    return found


def validate(meta: dict[str, Any], name: str) -> Metadata:
    """Hold every field against the format; the only place that trusts nothing."""
    check = _Check(name)
    version = check.integer(meta.get("format_version"), "format_version", 1, 2**31)
    if version > layout.FORMAT_VERSION:
        raise FormatVersionError(
            f"table {name!r} has format version {version}, this embstore reads up to {layout.FORMAT_VERSION}; "
            "update embstore"
        )
    for i, feature in enumerate(check.items(meta.get("requires"), "requires")):
        feature = check.text(feature, f"requires[{i}]")
        if feature not in FEATURES:
            raise FormatVersionError(
                f"table {name!r} needs the feature {feature!r}, which this embstore lacks; update embstore"
            )
    if meta.get("digest") != digest(meta):
        raise CorruptionError(
            f"metadata of table {name!r} was changed: its digest does not match; restore it from a copy"
        )

    shape = check.mapping(meta.get("shape"), "shape")
    num_rows = check.integer(shape.get("num_embeddings"), "shape.num_embeddings", 0, 2**40)
    dim = check.integer(shape.get("embedding_dim"), "shape.embedding_dim", 1, 2**20)

    transforms = check.items(meta.get("transforms"), "transforms")
    if len(transforms) > 16:
        check.fail("transforms", "at most 16 transforms", len(transforms))
    if bool(transforms) != ("transforms" in meta["requires"]):
        check.fail("requires", "transforms exactly where there are some", meta["requires"])
    for i, t in enumerate(transforms):
        check.mapping(t, f"transforms[{i}]")
        check.text(t.get("id"), f"transforms[{i}].id")
        check.integer(t.get("version"), f"transforms[{i}].version", 1, 2**31)
        check.mapping(t.get("config"), f"transforms[{i}].config")
    generations = check.items(meta.get("generations"), "generations")
    if len(generations) > 1:
        raise FormatVersionError(
            f"table {name!r} has {len(generations)} generations, this embstore reads one; update embstore"
        )
    if not generations:
        check.fail("generations", "a list of one generation", generations)
    at = "generations[0]"
    generation = check.mapping(generations[0], at)
    check.integer(generation.get("id"), f"{at}.id", 0, 0)
    if generation.get("path") != "":
        check.fail(f"{at}.path", "empty", generation.get("path"))
    rows = check.items(generation.get("rows"), f"{at}.rows")
    if layout.canonical(rows) != layout.canonical([0, num_rows]):
        check.fail(f"{at}.rows", f"[0, {num_rows}]", rows)
    method = check.mapping(generation.get("method"), f"{at}.method")
    method_id = check.text(method.get("id"), f"{at}.method.id")
    method_version = check.integer(method.get("version"), f"{at}.method.version", 1, 2**31)
    config = check.mapping(method.get("config"), f"{at}.method.config")

    per_shard = check.pow2(generation.get("rows_per_shard"), f"{at}.rows_per_shard")
    per_chunk = check.pow2(generation.get("rows_per_chunk"), f"{at}.rows_per_chunk")
    if not per_chunk <= per_shard <= per_chunk * layout.MAX_CHUNKS_PER_SHARD:
        check.fail(f"{at}.rows_per_shard", f"1 to {layout.MAX_CHUNKS_PER_SHARD} chunks of {per_chunk} rows", per_shard)
    if -(-num_rows // per_shard) > 2**20:
        check.fail(f"{at}.rows_per_shard", "large enough for at most 2**20 shards", per_shard)
    arrays = check.items(generation.get("arrays"), f"{at}.arrays")
    if len(arrays) > 256:
        check.fail(f"{at}.arrays", "at most 256 arrays", len(arrays))
    specs = tuple(_array(check, a, f"{at}.arrays[{i}]", num_rows) for i, a in enumerate(arrays))
    if len({s.name for s in specs}) != len(specs):
        check.fail(f"{at}.arrays", "arrays with different names", [s.name for s in specs])

    sums = check.mapping(meta.get("checksums"), "checksums")
    if sums.get("algorithm") != "crc32c":
        check.fail("checksums.algorithm", "crc32c", sums.get("algorithm"))
    shared_crc = check.crcs(sums.get("shared"), "checksums.shared", [s.name for s in specs if s.partition == "shared"])
    rows_crc = check.crcs(sums.get("rows"), "checksums.rows", [s.name for s in specs if s.partition == "rows"])
    files: dict[str, dict[str, int]] = {}
    for file, item in check.mapping(sums.get("files"), "checksums.files").items():
        if not layout.FILE_NAME.fullmatch(file) or len(file) > 1024:
            check.fail("checksums.files", "relative file names", file)
        entry = check.mapping(item, f"checksums.files.{file}")
        files[file] = {
            "nbytes": check.integer(entry.get("nbytes"), f"checksums.files.{file}.nbytes", 0, 2**60),
            "crc32c": check.integer(entry.get("crc32c"), f"checksums.files.{file}.crc32c", 0, 2**32 - 1),
        }

    if "keys" not in meta or "subwords" not in meta:
        check.fail("keys" if "keys" not in meta else "subwords", "an object or null", "nothing")
    keys = meta["keys"]
    if keys is not None:
        check.mapping(keys, "keys")
        if keys.get("type") not in ("string", "int64"):
            check.fail("keys.type", "string or int64", keys.get("type"))
        check.integer(keys.get("count"), "keys.count", 0, num_rows)
        for field in ("file", "index"):
            if check.text(keys.get(field), f"keys.{field}") not in files:
                check.fail(f"keys.{field}", "a file named in checksums.files", keys[field])
    subwords = meta["subwords"]
    if subwords is not None:
        check.mapping(subwords, "subwords")
        subwords = {
            f: check.integer(subwords.get(f), f"subwords.{f}", 0, 2**40)
            for f in ("minn", "maxn", "buckets", "first_row")
        }
        if subwords["minn"] > subwords["maxn"] or subwords["buckets"] < 1:
            check.fail("subwords", "minn <= maxn and buckets >= 1", subwords)
        if subwords["first_row"] + subwords["buckets"] > num_rows:
            check.fail("subwords", f"rows below num_embeddings {num_rows}", subwords)
    pruned = meta.get("pruned_subwords")
    if pruned is not None:
        if subwords is not None:
            check.fail("pruned_subwords", "null beside subwords", pruned)
        subwords = _pruned_subwords(check, pruned, num_rows, files)
    rerank = meta.get("rerank")
    if rerank is not None:
        check.mapping(rerank, "rerank")
        if rerank.get("path") != layout.RERANK_DIR:
            check.fail("rerank.path", repr(layout.RERANK_DIR), rerank.get("path"))
        check.text(rerank.get("digest"), "rerank.digest")
    return Metadata(
        raw=meta,
        shape=TableShape(num_rows, dim),
        method_id=method_id,
        method_version=method_version,
        config=config,
        transforms=transforms,
        specs=specs,
        rows_per_shard=per_shard,
        rows_per_chunk=per_chunk,
        keys=keys,
        subwords=subwords,
        provenance=check.mapping(meta.get("provenance"), "provenance"),
        shared_crc=shared_crc,
        rows_crc=rows_crc,
        files=files,
        rerank=None if rerank is None else rerank["digest"],
    )
