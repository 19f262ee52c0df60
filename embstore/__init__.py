"""embstore: compressed embedding tables in one open format.

>>> import numpy as np, tempfile, embstore
>>> rows = np.random.default_rng(0).standard_normal((1000, 64), dtype=np.float32)
>>> table = embstore.compress(rows, tempfile.mkdtemp() + "/items", method="int8")
>>> table.lookup([3, 1, 4]).shape
(3, 64)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .advice import advise as advise
    from .compression import compress as compress
    from .exchange import from_faiss as from_faiss
    from .exchange import to_faiss as to_faiss
    from .kernels import get_num_threads as get_num_threads
    from .kernels import set_num_threads as set_num_threads
    from .table import Table as Table
    from .table import open as open
    from .table_set import TableSet as TableSet
    from .table_set import make_set as make_set
    from .table_set import open_set as open_set

_PUBLIC = {
    "compress": "compression",
    "advise": "advice",
    "open": "table",
    "Table": "table",
    "open_set": "table_set",
    "make_set": "table_set",
    "TableSet": "table_set",
    "set_num_threads": "kernels",
    "get_num_threads": "kernels",
    "from_faiss": "exchange",
    "to_faiss": "exchange",
}

__all__ = [
    "Table",
    "TableSet",
    "__version__",
    "advise",
    "compress",
    "from_faiss",
    "get_num_threads",
    "make_set",
    "open",
    "open_set",
    "set_num_threads",
    "to_faiss",
]


def __getattr__(name: str) -> Any:
    # Imported when first asked for, so that `import embstore` stays cheap.
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'embstore' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
