"""A restricted unpickler: it can build numbers, strings, containers, numpy arrays and inert stand-ins, nothing else.

No global of a file is ever imported. Each name the file may use is answered by a stand-in made for that one
load, so nothing a pickle does to "classes" or "functions" reaches the interpreter or a later load.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

import numpy as np
import numpy.typing as npt

from ..errors import SourceError
from ._io import bad

GENSIM = re.compile(
    r"gensim\.(models\.(keyedvectors|word2vec|fasttext|doc2vec|poincare|deprecated\.[a-z0-9_]+|fasttext_inner)|utils|"
    r"models\.callbacks)$"
)
GENSIM_NAMES = frozenset(
    (
        "KeyedVectors",
        "Word2VecKeyedVectors",
        "EuclideanKeyedVectors",
        "WordEmbeddingsKeyedVectors",
        "BaseKeyedVectors",
        "FastTextKeyedVectors",
        "Doc2VecKeyedVectors",
        "PoincareKeyedVectors",
        "Vocab",
        "CompatVocab",
        "SimpleVocab",
        "Word2Vec",
        "Word2VecVocab",
        "Word2VecTrainables",
        "FastText",
        "FastTextVocab",
        "FastTextTrainables",
        "Doc2Vec",
        "Doc2VecVocab",
        "Doc2VecTrainables",
        "Doctag",
        "DocvecsArray",
        "call_on_class_only",
        "Heapitem",
        "CallbackAny2Vec",
    )
)
PLAIN = frozenset(
    {
        ("collections", "defaultdict"),
        ("collections", "OrderedDict"),
        ("collections", "Counter"),
        ("builtins", "set"),
        ("builtins", "frozenset"),
        ("builtins", "hash"),
        ("builtins", "int"),
        ("builtins", "float"),
        ("builtins", "list"),
        ("builtins", "dict"),
        ("builtins", "long"),
        ("builtins", "object"),
        ("copyreg", "_reconstructor"),
        ("numpy.random", "__RandomState_ctor"),
        ("numpy.random._pickle", "__randomstate_ctor"),
        ("numpy.random._pickle", "__bit_generator_ctor"),
        ("numpy.random._pickle", "__generator_ctor"),
        ("numpy.random._mt19937", "MT19937"),
        ("numpy", "float32"),
        ("numpy", "float64"),
        ("numpy", "int64"),
        ("numpy", "uint32"),
    }
)
RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg", "UserDict": "collections"}
DTYPE = re.compile(r"([<>=|])?([fiub])([1248])$")


class Inert:
    """Stands for an object of a class that is not loaded: keeps its state, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.state: dict[str, Any] = {}

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        self = super().__new__(cls)
        self.args = args
        self.state = {}
        return self

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.state.update({k: v for k, v in part.items() if isinstance(k, str)})

    def append(self, item: Any) -> None:
        """Items of a list subclass are dropped."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Items of a dict subclass are dropped."""


class DType(Inert):
    """A numpy dtype of numbers; `value` is None for any other."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "=", "|"):
            self.state["order"] = state[1]

    @property
    def value(self) -> np.dtype[Any] | None:
        text = self.args[0] if self.args else None
        match = DTYPE.match(text) if isinstance(text, str) else None
        if match is None:
            return None
        order = self.state.get("order", match[1] or "=")
        return np.dtype(f"{order if order != '|' else '='}{match[2]}{match[3]}")


class Array(Inert):
    """A numpy array; `value` is the array, or the list of an object array, once the state has come."""

    value: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.value = build_array(shape, dtype, "F" if fortran else "C", data)


def build_array(shape: Any, dtype: Any, order: Any, data: Any) -> npt.NDArray[Any] | list[Any] | None:
    """A view of `data`, whose size must be what shape and dtype say."""
    if isinstance(data, list):
        return data
    raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
    value = dtype.value if isinstance(dtype, DType) else None
    if value is None:
        return None
    count = 1
    for size in shape:
        if type(size) is not int or size < 0:
            raise ValueError(f"array shape {shape}")
        count *= size
    if count * value.itemsize != len(raw):
        raise ValueError(f"{len(raw)} bytes for an array of shape {tuple(shape)} and dtype {value}")
    return np.frombuffer(raw, value).reshape(shape, order="F" if order == "F" else "C")


class _Bounded:
    """File reads that never ask for more than is left, whatever length the pickle claims."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def read(self, n: int) -> bytes:
        if n > self._size - self._file.tell():
            raise EOFError("it ends too early")
        return self._file.read(n)

    def readinto(self, buffer: Any) -> int:
        raise pickle.UnpicklingError("byte arrays are not expected")

    def readline(self) -> bytes:
        return self._file.readline(1 << 20)


# The C unpickler sizes its memo by an index from the file; the one in Python uses a dict and cannot be made to
# allocate by a number alone.
class _Restricted(pickle._Unpickler):
    def __init__(self, name: str, file: _Bounded) -> None:
        super().__init__(file, encoding="latin1")
        self._name = name
        self._made: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        module = RENAMED.get(module, module)
        if (module, name) not in self._made:
            self._made[module, name] = self._stand_in(module, name)
        return self._made[module, name]

    def get_extension(self, code: int) -> None:
        raise pickle.UnpicklingError(f"extension code {code}")

    def load_bytearray8(self) -> None:
        raise pickle.UnpicklingError("byte arrays are not expected")

    # The base class finds opcodes in a table, so an override must be entered there.
    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }

    def _stand_in(self, module: str, name: str) -> Any:
        numpy = module.startswith(("numpy.core", "numpy._core"))
        if (module, name) == ("numpy", "dtype"):
            return type("dtype", (DType,), {})
        if (module, name) == ("numpy", "ndarray"):
            return type("ndarray", (Array,), {})
        if numpy and name == "_reconstruct":
            return _function(lambda cls, shape, code: Array())
        if numpy and name == "scalar":
            return _function(_scalar)
        if numpy and name == "_frombuffer":
            return _function(_from_buffer)
        if (module, name) == ("_codecs", "encode"):
            return _function(_encode)
        if (GENSIM.match(module) and name in GENSIM_NAMES) or (module, name) in PLAIN:
            return type(name, (Inert,), {"__module__": f"inert.{module}"})
        shown = f"{module}.{name}"[:80]
        raise bad(
            self._name, "a gensim pickle of plain data", f"the global {shown!r}", "it is refused and nothing was run"
        )


def _function(call: Callable[..., Any]) -> Any:
    class Function:
        __slots__ = ()

        def __call__(self, *args: Any) -> Any:
            return call(*args)

    return Function()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes in an unexpected encoding")
    return text.encode("latin1")


def _scalar(dtype: Any, data: Any = None) -> Any:
    value = build_array((1,), dtype, "C", data) if data is not None else None
    return value[0].item() if isinstance(value, np.ndarray) else None


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> Any:
    made = Array()
    made.value = build_array(shape, dtype, order, data)
    return made


def load(name: str, file: BinaryIO, size: int) -> Any:
    """The object in `file`; anything out of the ordinary is a `SourceError`."""
    try:
        return _Restricted(name, _Bounded(file, size)).load()
    except SourceError:
        raise
    except Exception as error:
        # A damaged pickle can fail in any opcode with any error.
        found = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise bad(name, "a whole gensim pickle", found, "get the file again") from None
