"""One process of two that train every module together: `python -m tests.nn.replica FOLDER chain|operators RANK`."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import distributed

import embstore.nn as enn

N, DIM = 60, 8


def make(name, **config):
    counts = np.arange(1, N + 1)[::-1]
    return enn.embedding(name, N, DIM, counts=counts, seed=3, **config)


def plain(module):
    """Parameters as tensors of their own; those of rows of codes are a subclass that arithmetic leaves."""
    return [p.detach() + 0 for p in module.parameters()]


def train(rank):
    """Two steps of every module on batches of this process: its weights afterwards, and whether they changed."""
    results = {}
    for name in enn.names():
        module = make(name)
        if not any(p.requires_grad for p in module.parameters()):
            continue
        # Of dpq and mgqe the regularizer alone reaches the codebooks, which DDP would take for unused.
        unused = name not in ("dpq", "mgqe")
        parallel = torch.nn.parallel.DistributedDataParallel(module, find_unused_parameters=unused)
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        first = plain(module)
        for step in range(2):
            module.before_step(step)
            ids = torch.arange(20) + 30 * rank + step
            loss = (parallel(ids) - 1).square().sum()
            term = module.regularizer()
            optimizer.zero_grad()
            (loss if term is None else loss + term).backward()
            optimizer.step()
            module.after_step(step)
        weights = plain(module)
        results[name] = weights, any(not torch.equal(a, b) for a, b in zip(first, weights, strict=True))
    return results


if __name__ == "__main__":
    folder, operators, place = Path(sys.argv[1]), sys.argv[2] == "operators", int(sys.argv[3])
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=place, world_size=2)
    with enn.use_fused(operators):
        found = train(place)
    torch.save(found, folder / f"{place}.pt")
    distributed.destroy_process_group()
