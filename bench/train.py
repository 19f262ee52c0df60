"""The training loop of the benchmarks and tests: what a loop owes a module of `embstore.nn`, and no more.

for stage in module.stages():
    module.begin_stage(stage.name, steps)     # if stage.fresh the model has its initial weights again
    for candidate in module.candidates():     # of a stage that needs scores, which has nothing else
        module.score(candidate, validation AUC)
    optimizer = new one                       # parameters may have changed
    for each batch:
        module.before_step(step)
        loss = criterion(model(module(ids)), labels) + module.regularizer()
        loss.backward(); optimizer.step()     # of the module alone after a batch of validation data
        module.second_pass(lambda: criterion(model(module(ids)), labels))
        module.after_step(step)
    module.end_of_stage(stage.name)
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as criterion

from .ctr_data import Clicks, Ids
from .metrics import auc, log_loss

# Stages that end when validation does, at their best epoch. The others follow a schedule and run whole.
STOPPED_EARLY = ("train", "retrain")


@dataclass(frozen=True)
class Outcome:
    """Where a training ended: AUC and log-loss by part, epochs of each stage, seconds."""

    valid_auc: float
    test_auc: float
    valid_loss: float
    test_loss: float
    epochs: dict[str, int]
    seconds: float


class Loop:
    """Trains `module` and `model` together on `data`.

    Parameters
    ----------
    module : (batch, fields) ids to (batch, fields, dim), with the hooks of `embstore.nn`.
    model : (batch, fields, dim) to logits.
    optimizer : parameters to an optimizer; called at the start of each stage.
    batch, epochs, patience : samples a step; most epochs a stage; epochs without a better validation AUC before an
        early stop.
    seed : of the order of samples.
    """

    def __init__(
        self,
        module: Any,
        model: nn.Module,
        data: Clicks,
        optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        *,
        batch: int,
        epochs: int,
        patience: int = 1,
        seed: int = 0,
    ) -> None:
        self.module, self.model, self.data, self.make_optimizer = module, model, data, optimizer
        self.batch, self.epochs, self.patience = batch, epochs, patience
        self._rng = np.random.default_rng(seed)
        self._ids, self._labels = torch.from_numpy(data.fields), torch.from_numpy(data.labels)
        self._step = 0
        self._first = copy.deepcopy(model.state_dict())

    def run(self) -> Outcome:
        """Every stage of the module, then the measures."""
        start = time.perf_counter()
        epochs = {stage.name: self._stage(stage) for stage in self.module.stages()}
        seconds = time.perf_counter() - start
        data = self.data
        valid, test = self.logits(data.valid), self.logits(data.test)
        return Outcome(
            auc(data.labels[data.valid], valid),
            auc(data.labels[data.test], test),
            log_loss(data.labels[data.valid], valid),
            log_loss(data.labels[data.test], test),
            epochs,
            seconds,
        )

    def logits(self, rows: Ids) -> np.ndarray:
        """Predictions in evaluation mode."""
        self._mode(False)
        with torch.no_grad():
            parts = [self.model(self.module(self._ids[at])) for at in torch.from_numpy(rows).split(1 << 16)]
        return torch.cat(parts).numpy()

    def _stage(self, stage: Any) -> int:
        """One stage; its number of epochs."""
        if stage.fresh:
            self.model.load_state_dict(self._first)
        self.module.begin_stage(stage.name, self._steps(stage))
        if stage.needs == "scores":
            for candidate in self.module.candidates():
                self.module.score(candidate, self._validation_auc())
            self.module.end_of_stage(stage.name)
            return 0
        optimizer = self.make_optimizer([p for part in (self.module, self.model) for p in part.parameters()])
        early = stage.name in STOPPED_EARLY
        best, kept, waited, epoch = -1.0, None, 0, 0
        while epoch < self.epochs and waited <= self.patience:
            self._mode(True)
            others = self._batches(self.data.valid, forever=True) if stage.needs == "validation" else None
            for at in self._batches(self.data.train):
                if others is not None:
                    self._train_on(next(others), optimizer, validation=True)
                self._train_on(at, optimizer, validation=False)
            epoch += 1
            if early:
                found = self._validation_auc()
                waited = 0 if found > best else waited + 1
                if found > best:
                    best, kept = found, copy.deepcopy((self.module.state_dict(), self.model.state_dict()))
        if kept is not None:
            self.module.load_state_dict(kept[0])
            self.model.load_state_dict(kept[1])
        self.module.end_of_stage(stage.name)
        return epoch

    def _steps(self, stage: Any) -> int:
        """Steps of a stage that is not stopped early."""
        passes = 2 if stage.needs == "validation" else 1
        return self.epochs * passes * math.ceil(len(self.data.train) / self.batch)

    def _validation_auc(self) -> float:
        return auc(self.data.labels[self.data.valid], self.logits(self.data.valid))

    def _train_on(self, at: Tensor, optimizer: torch.optim.Optimizer, validation: bool) -> None:
        ids, labels = self._ids[at], self._labels[at]
        self.module.before_step(self._step, validation)

        def loss() -> Tensor:
            return criterion(self.model(self.module(ids)), labels)

        total, term = loss(), self.module.regularizer()
        optimizer.zero_grad()
        (total if term is None else total + term).backward()
        if validation:
            for parameter in self.model.parameters():
                parameter.grad = None  # optimizers pass over it
        optimizer.step()
        self.module.second_pass(loss)
        self.module.after_step(self._step)
        self._step += 1

    def _batches(self, rows: Ids, forever: bool = False) -> Iterator[Tensor]:
        """Rows in a new random order, cut into batches; the last, shorter one too."""
        while True:
            yield from torch.from_numpy(self._rng.permutation(rows)).split(self.batch)
            if not forever:
                return

    def _mode(self, training: bool) -> None:
        self.module.train(training)
        self.model.train(training)
