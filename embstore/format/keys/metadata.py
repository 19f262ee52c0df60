"""What a table's metadata says of its keys: every field held against the format before anything trusts it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from ...errors import FormatError
from .files import shown
from .layout import DIRECTORY, HEADER, INDEX_FILE, KEYS_FILE, MAX_COUNT, KeyType, OnDuplicate, capacity_for

_CURE = "restore the metadata from a copy or compress the table again"


@dataclass(frozen=True, slots=True)
class KeysMetadata:
    """Numbers that agree with each other; sizes and offsets are in bytes, offsets into keys.arrow."""

    type: KeyType
    duplicates: OnDuplicate
    count: int
    shadowed: int
    file_bytes: int
    index_bytes: int
    capacity: int
    seed: int
    offsets: int
    values: int
    values_size: int


def validate(meta: object) -> KeysMetadata:
    """`FormatError` naming the first field that is not what the format allows."""
    if not isinstance(meta, dict):
        raise FormatError(
            f"keys in the metadata must be an object, found {type(meta).__name__}; restore the metadata from a copy"
        )
    key_type = cast(KeyType, _choice(meta, "type", "string", "int64"))
    duplicates = cast(OnDuplicate, _choice(meta, "duplicates", "raise", "last"))
    _choice(meta, "file", f"{DIRECTORY}/{KEYS_FILE}")
    _choice(meta, "index", f"{DIRECTORY}/{INDEX_FILE}")
    count = _number(meta, "count", most=MAX_COUNT)
    file_bytes, index_bytes = _number(meta, "file_bytes"), _number(meta, "index_bytes")
    capacity, seed = _number(meta, "capacity", most=2**41), _number(meta, "seed")
    shadowed = _number(meta, "shadowed")
    offsets, offsets_size = _number(meta, "offsets", "offset"), _number(meta, "offsets", "length")
    values, values_size = _number(meta, "values", "offset"), _number(meta, "values", "length")

    _held(capacity == capacity_for(count), "capacity", f"{capacity_for(count)} for {count} keys", capacity)
    _held(index_bytes == HEADER.size + 8 * capacity, "index_bytes", str(HEADER.size + 8 * capacity), index_bytes)
    limit = 0 if duplicates == "raise" else max(count - 1, 0)
    _held(shadowed <= limit, "shadowed", f"at most {limit}", shadowed)
    if count:
        if key_type == "string":
            _held(offsets_size == 8 * (count + 1), "offsets.length", str(8 * (count + 1)), offsets_size)
            _held(offsets % 8 == 0, "offsets.offset", "a multiple of 8", offsets)
            _held(offsets + offsets_size <= file_bytes, "offsets", f"inside {file_bytes} bytes", offsets)
        else:
            _held(values_size == 8 * count, "values.length", str(8 * count), values_size)
            _held(values % 8 == 0, "values.offset", "a multiple of 8", values)
        _held(values + values_size <= file_bytes, "values", f"inside {file_bytes} bytes", values)
    return KeysMetadata(
        key_type, duplicates, count, shadowed, file_bytes, index_bytes, capacity, seed, offsets, values, values_size
    )


def _number(meta: dict[str, Any], *names: str, most: int = 2**63 - 1) -> int:
    value: Any = meta
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    if type(value) is not int or not 0 <= value <= most:
        raise FormatError(
            f"keys.{'.'.join(names)} in the metadata must be an integer from 0 to {most}, found {shown(value)}; {_CURE}"
        )
    return value


def _choice(meta: dict[str, Any], name: str, *choices: str) -> str:
    value = meta.get(name)
    if not isinstance(value, str) or value not in choices:
        raise FormatError(
            f"keys.{name} in the metadata must be {' or '.join(map(repr, choices))}, found {shown(value)}; {_CURE}"
        )
    return value


def _held(good: bool, field: str, expected: str, found: object) -> None:
    if not good:
        raise FormatError(f"keys.{field} in the metadata must be {expected}, found {found}; {_CURE}")
