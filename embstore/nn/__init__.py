"""Compressed embeddings to train in place of `torch.nn.Embedding`, and to export as tables. The only room with torch.

>>> import embstore.nn
>>> emb = embstore.nn.embedding("hash", 100_000, 16, budget=0.1)     # a torch.nn.Module
>>> table = emb.export("items.embstore")                             # served without torch
"""

from __future__ import annotations

from ._create import embedding, names
from ._ops import use_fused
from .base import CompressedEmbedding, Stage
from .fields import FieldEmbedding
from .matryoshka import matryoshka_loss
from .output import OutputProjection
from .product_keys import ProductKeyMemory

__all__ = [
    "CompressedEmbedding",
    "FieldEmbedding",
    "OutputProjection",
    "ProductKeyMemory",
    "Stage",
    "embedding",
    "matryoshka_loss",
    "names",
    "use_fused",
]
