"""Every error embstore raises on purpose.

One tree under `EmbstoreError`; each class is also the builtin a caller would expect, so that
`except IndexError` keeps working. A message is one sentence: the thing, what was expected, what
was found, the cure.
"""

from __future__ import annotations


class EmbstoreError(Exception):
    """Base of every error embstore raises on purpose."""


class ConfigError(EmbstoreError, ValueError):
    """A method, a config field or an argument has a value that cannot be used."""


class BudgetError(ConfigError):
    """A byte budget that the method cannot reach; the message names the floor, in bytes `floor` where it is known."""

    def __init__(self, message: str, floor: int | None = None) -> None:
        super().__init__(message)
        self.floor = floor


class EmbstoreWarning(UserWarning):
    """What a call did otherwise than it was asked to, because the data left no choice."""


class ShapeError(EmbstoreError, ValueError):
    """An array has the wrong shape, dtype or memory order."""


class IdRangeError(EmbstoreError, IndexError):
    """A row id is negative or not below `num_embeddings`."""


class IdTypeError(EmbstoreError, TypeError):
    """Row ids are not integers."""


class UnknownKeyError(EmbstoreError, KeyError):
    """A key is not in the table."""

    def __str__(self) -> str:
        # KeyError shows repr(message); a sentence should read as one.
        return str(self.args[0]) if self.args else ""


class DuplicateKeyError(EmbstoreError, ValueError):
    """The same key names more than one row."""


class NoKeysError(EmbstoreError, LookupError):
    """Keys were asked of a table that has none."""


class SourceError(EmbstoreError, ValueError):
    """The content of a source cannot be used: truncated, ragged, NaN, not the format it claims."""


class SourceTypeError(EmbstoreError, TypeError):
    """The source is of a kind embstore cannot read."""


class SourceNotFoundError(EmbstoreError, FileNotFoundError):
    """The source, or the tensor or column named in it, does not exist."""


class FormatError(EmbstoreError, ValueError):
    """The metadata of a table is not what the format allows."""


class FormatVersionError(FormatError):
    """The table needs a newer embstore: a newer format version or a feature it does not serve."""


class TableNotFoundError(EmbstoreError, FileNotFoundError):
    """There is no embstore table at the path."""


class IndexNotFoundError(EmbstoreError, FileNotFoundError):
    """The table has no search index of that name."""


class CorruptionError(EmbstoreError, OSError):
    """Stored bytes are missing, truncated or changed."""


class DestinationExistsError(EmbstoreError, FileExistsError):
    """The destination exists and was not to be replaced."""


class StorageError(EmbstoreError, OSError):
    """Writing failed, a full disk for example; the destination is as it was. `errno` is the system's."""

    def __str__(self) -> str:
        # OSError puts "[Errno 28]" before the sentence, which says it in words.
        return str(self.args[-1]) if self.args else ""


class BusyError(EmbstoreError, BlockingIOError):
    """Another process is writing the same destination."""


class MissingDependencyError(EmbstoreError, ImportError):
    """An optional package, or embstore's native extension, is not installed."""


class DeviceError(EmbstoreError, RuntimeError):
    """There is no such CUDA device, or CUDA refused what was asked of it."""


class DeviceMemoryError(DeviceError, MemoryError):
    """The memory of a CUDA device is exhausted, or the host cannot pin what one reads; the table stays usable there."""
