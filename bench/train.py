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
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as criterion

from .ctr_data import Clicks, Ids
from .ctr_sources import Mapped
from .metrics import auc, calibration, log_loss

# Stages that end when validation does, at their best epoch. The others follow a schedule and run whole.
STOPPED_EARLY = ("train", "retrain")
Rows = Ids | range
# Rows of files are read in blocks, in random order, and shuffled within windows that are held in memory.
BLOCK, WINDOW = 1 << 8, 1 << 18


@dataclass(frozen=True)
class Outcome:
    """Where a training ended.

    Attributes
    ----------
    valid_auc, test_auc, valid_loss, test_loss : AUC and log-loss by part.
    test_calibration : mean prediction over mean label.
    epochs : of each stage.
    seconds, seconds_to_best : of all stages, evaluations included; to the evaluation whose weights were kept.
    step_ms, harness_ms : mean milliseconds of a step, and how many of them were spent outside model and module.
    """

    valid_auc: float
    test_auc: float
    valid_loss: float
    test_loss: float
    test_calibration: float
    epochs: dict[str, int]
    seconds: float
    seconds_to_best: float
    step_ms: float
    harness_ms: float


class Loop:
    """Trains `module` and `model` together on `data`.

    Parameters
    ----------
    module : (batch, fields) ids to (batch, fields, dim), with the hooks of `embstore.nn`.
    model : (batch, fields, dim) to logits.
    data : in memory, or mapped from files.
    optimizer : parameters to an optimizer; called at the start of each stage.
    batch, epochs : samples a step; most epochs a stage.
    stage_epochs : of a stage that validation does not end: a search, pruning, a warm-up; None for `epochs`.
    patience : evaluations without a better validation AUC before an early stop.
    evaluations : an epoch.
    seed : of the order of samples.
    device : where module and model lie; batches are moved there.
    """

    def __init__(
        self,
        module: Any,
        model: nn.Module,
        data: Clicks | Mapped,
        optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        *,
        batch: int,
        epochs: int,
        stage_epochs: int | None = None,
        patience: int = 1,
        evaluations: int = 1,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self._device = torch.device(device)
        self.module, self.model, self.data, self.make_optimizer = module, model, data, optimizer
        self.batch, self.epochs, self.patience, self.evaluations = batch, epochs, patience, evaluations
        self._stage_epochs = stage_epochs or epochs
        self._rng = np.random.default_rng(seed)
        self._step = 0
        self._first = copy.deepcopy(model.state_dict())
        self._start = self._best_at = self._working = self._elapsed = 0.0

    def run(self) -> Outcome:
        """Every stage of the module, then the measures."""
        self._start = time.perf_counter()
        epochs = {stage.name: self._stage(stage) for stage in self.module.stages()}
        seconds = time.perf_counter() - self._start
        data, steps = self.data, max(self._step, 1)
        valid, test = self.logits(data.valid), self.logits(data.test)
        return Outcome(
            auc(self._labels(data.valid), valid),
            auc(self._labels(data.test), test),
            log_loss(self._labels(data.valid), valid),
            log_loss(self._labels(data.test), test),
            calibration(self._labels(data.test), test),
            epochs,
            seconds,
            self._best_at or seconds,
            1000 * self._elapsed / steps,
            1000 * (self._elapsed - self._working) / steps,
        )

    def logits(self, rows: Rows) -> np.ndarray:
        """Predictions in evaluation mode."""
        self._mode(False)
        with torch.no_grad():
            parts = [
                self.model(self.module(self._tensor(_at(self.data.fields, rows[i : i + (1 << 16)]), np.int64))).cpu()
                for i in range(0, len(rows), 1 << 16)
            ]
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
        with tempfile.TemporaryFile() as kept:
            epoch = self._epochs(stage, optimizer, kept)
        self.module.end_of_stage(stage.name)
        return epoch

    def _epochs(self, stage: Any, optimizer: torch.optim.Optimizer, kept: IO[bytes]) -> int:
        """Train until the epochs or the patience are over; the best weights wait in file `kept`, not in memory."""
        early = stage.name in STOPPED_EARLY
        steps = math.ceil(len(self.data.train) / self.batch)
        every = math.ceil(steps / self.evaluations)
        most = self.epochs if early else self._stage_epochs
        best, waited, epoch = -1.0, 0, 0
        while epoch < most and waited <= self.patience:
            epoch += 1
            others = self._batches(self.data.valid, forever=True) if stage.needs == "validation" else None
            training = self._batches(self.data.train)
            self._mode(True)
            for step in range(1, steps + 1):
                start = time.perf_counter()
                if others is not None:
                    self._train_on(next(others), optimizer, validation=True)
                self._train_on(next(training), optimizer, validation=False)
                self._elapsed += time.perf_counter() - start
                if not early or (step % every and step < steps):
                    continue
                found = self._validation_auc()
                self._mode(True)
                waited = 0 if found > best else waited + 1
                if found > best:
                    best = found
                    kept.seek(0)
                    torch.save((self.module.state_dict(), self.model.state_dict()), kept)
                    self._best_at = time.perf_counter() - self._start
                if waited > self.patience:
                    break
        if best >= 0:
            kept.seek(0)
            weights = torch.load(kept, map_location=self._device, weights_only=False)
            self.module.load_state_dict(weights[0])
            self.model.load_state_dict(weights[1])
        return epoch

    def _steps(self, stage: Any) -> int:
        """Steps of a stage that is not stopped early."""
        passes = 2 if stage.needs == "validation" else 1
        return self._stage_epochs * passes * math.ceil(len(self.data.train) / self.batch)

    def _labels(self, rows: Rows) -> np.ndarray:
        return _at(self.data.labels, rows)

    def _validation_auc(self) -> float:
        return auc(self._labels(self.data.valid), self.logits(self.data.valid))

    def _train_on(self, batch: tuple[Tensor, Tensor], optimizer: torch.optim.Optimizer, validation: bool) -> None:
        start = time.perf_counter()
        ids, labels = batch
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
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # so that the time is that of the step
        self._working += time.perf_counter() - start

    def _batches(self, rows: Rows, forever: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Ids and labels of rows in a new random order, cut into batches; the last, shorter one too."""
        while True:
            for ids, labels in batches(self.data, rows, self.batch, self._rng):
                yield self._tensor(ids, np.int64), self._tensor(labels, np.float32)
            if not forever:
                return

    def _tensor(self, values: np.ndarray, dtype: type) -> Tensor:
        return torch.from_numpy(values.astype(dtype, copy=False)).to(self._device)

    def _mode(self, training: bool) -> None:
        self.module.train(training)
        self.model.train(training)


def batches(
    data: Clicks | Mapped, rows: Rows, batch: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids and labels of `rows`, each once, in random order and `batch` at a time; the last batch may be shorter."""
    if not isinstance(rows, range):
        order = rng.permutation(rows)
        for i in range(0, len(order), batch):
            yield data.fields[order[i : i + batch]], data.labels[order[i : i + batch]]
        return
    starts = rng.permutation(np.arange(rows.start, rows.stop, BLOCK))
    ids, labels = data.fields[:0], data.labels[:0]
    for window in range(0, len(starts), WINDOW // BLOCK):
        blocks = [slice(a, min(a + BLOCK, rows.stop)) for a in starts[window : window + WINDOW // BLOCK]]
        ids = np.concatenate([ids, *(data.fields[block] for block in blocks)])
        labels = np.concatenate([labels, *(data.labels[block] for block in blocks)])
        order = rng.permutation(len(ids))
        last = window + WINDOW // BLOCK >= len(starts)
        whole = len(ids) if last else len(ids) // batch * batch
        for i in range(0, whole, batch):
            yield ids[order[i : i + batch]], labels[order[i : i + batch]]
        ids, labels = ids[order[whole:]], labels[order[whole:]]  # for the next window


def _at(values: np.ndarray, rows: Rows) -> np.ndarray:
    return np.asarray(values[rows.start : rows.stop] if isinstance(rows, range) else values[rows])
