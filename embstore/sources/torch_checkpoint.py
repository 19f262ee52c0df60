"""PyTorch checkpoints (weights only) and tensors. Torch is asked to load tensors and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import EmbstoreError
from ._io import FileReader, bad, missing, pick
from ._source import ArraySource, BaseSource, SliceSource, first_line

MAX_DEPTH = 16


def open_checkpoint(reader: FileReader, name: str | None) -> BaseSource:
    """One 2-D tensor of a checkpoint; nested dicts give dotted names. Zip checkpoints are mapped, old ones loaded."""
    try:
        import torch
    except ImportError:
        raise missing("torch", "torch") from None
    try:
        zipped = reader.head(4) == b"PK\x03\x04"
        loaded = torch.load(reader.path, map_location="cpu", weights_only=True, mmap=zipped)
        tensors = dict(_tensors(loaded, "", 0))
    except EmbstoreError:
        raise
    except Exception as error:
        # torch has no error class of its own for damaged or refused checkpoints.
        cure = "save the tensors alone, in safetensors for example, or get the file again"
        raise bad(reader.name, "a whole checkpoint of plain tensors", first_line(error), cure) from None
    chosen = pick(reader.name, "tensor", {n: tuple(t.shape) for n, t in tensors.items()}, name)
    return open_tensor(tensors[chosen], name=reader.name, fingerprint=f"{reader.fingerprint}-{chosen}")


def open_tensor(tensor: Any, *, name: str = "tensor", fingerprint: str = "") -> BaseSource:
    """A dense torch tensor on any device."""
    import torch

    tensor = tensor.detach()
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.dtype == torch.bool:
        raise bad(name, "a dense tensor of floats or integers", f"{tensor.layout} {dtype}", "convert it to float32")
    if tensor.ndim != 2:
        raise bad(name, "a 2-D tensor", f"{tensor.ndim}-D", "reshape it to rows x dims")
    if not fingerprint and tensor.device.type == "cpu" and tensor.dtype != torch.bfloat16:
        return ArraySource(tensor.numpy(), name=name, format="torch")

    def rows(start: int, stop: int) -> npt.NDArray[Any]:
        return np.asarray(tensor[start:stop].to("cpu", torch.float32).numpy())

    mark = fingerprint or f"{dtype}-{float(tensor.double().sum())}-{float(tensor.double().square().sum())}"
    return SliceSource(tensor, rows, dtype, name=name, format="torch", fingerprint=mark)


def _tensors(item: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    import torch

    if isinstance(item, torch.Tensor):
        yield prefix or "tensor", item
    elif depth < MAX_DEPTH and isinstance(item, dict):
        for key, value in item.items():
            yield from _tensors(value, f"{prefix}.{key}" if prefix else str(key), depth + 1)
    elif depth < MAX_DEPTH and isinstance(item, list | tuple):
        for i, value in enumerate(item):
            yield from _tensors(value, f"{prefix}.{i}" if prefix else str(i), depth + 1)
