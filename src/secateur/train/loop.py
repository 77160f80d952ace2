"""A plain training loop that can stop after any step and go on as if it had not.

In: a model, an optimizer (Proximal or any other), data. Out: the trained model and the history of
the run; a checkpoint from which the same run continues, bit for bit on one CPU.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.optim import Proximal
from secateur.train import checkpoint
from secateur.train.data import Data
from secateur.train.engine import Engine
from secateur.train.loggers import JsonLines, Logger
from secateur.train.monitor import Watching, warn
from secateur.train.records import baseline_loss, due, record
from secateur.utils.batches import call, split, to_device
from secateur.utils.forward import device_of
from secateur.utils.rng import rng_state, seed_all, set_rng_state
from secateur.utils.signals import Signals


class Interrupted(Exception):
    """A signal asked the run to stop; what was done is in the checkpoint."""

    def __init__(self, number: int, step: int, steps: int, path: Path | None) -> None:
        self.number, self.step, self.steps, self.path = number, step, steps, path
        where = f"; saved in {path}" if path else "; nothing was saved (no checkpoint path)"
        super().__init__(f"stopped at step {step:,} of {steps:,}{where}")


class Loop:
    """Train a model, epoch by epoch, with checkpoints.

    Every epoch starts from generators seeded by (seed, epoch); a run that is resumed inside an
    epoch draws the batches it has seen once more, drops them, and puts the generators back to where
    they were. Shuffling and augmentation are therefore the same as without the interruption.

    Args:
        model: on its device, trained in place.
        optimizer: of its parameters.
        data: see `Data`.
        epochs: in the whole run.
        scheduler: a learning rate scheduler, stepped after every optimizer step.
        seed: of the order of the data and everything random in training.
        path: the checkpoint file, beside which metrics.jsonl grows; None keeps nothing.
        seconds: write a checkpoint when the last one is so old.
        steps_between: write a checkpoint every so many steps; instead of seconds.
        settings: what makes this run this run; a checkpoint with others is refused.
        watch: called after every step with (step, steps, words about how it goes).
        settled: called when training has settled on a budget that others follow.
        accumulate: batches of one optimizer step; the last one of an epoch may have fewer.
        distill: mixes the teacher's word into the training loss: a `Distill`, or called alike with
            (loss, output, inputs...). Not part of the checkpoint: give it again to resume.
        loggers: told what is recorded, such as `Tracker("tensorboard", folder)`; see `Logger`.
        warn: told where the loss jumps as the budget presses; by default a warning of Python's.
        engine: takes the steps; by default in one process and in the model's precision. Under one
            of several processes, all call `run`, and the first one writes.

    Raises:
        ValueError: epochs or accumulate < 1.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> batches = [(torch.randn(8, 2), torch.randint(2, (8,))) for _ in range(4)]
        >>> sgd = torch.optim.SGD(model.parameters(), 0.1)
        >>> loop = Loop(model, sgd, Data(batches, batches), epochs=2)
        >>> loop.run()
        >>> loop.step, loop.history[-1]["epoch"]
        (8, 2)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        data: Data,
        *,
        epochs: int,
        scheduler: Any = None,
        seed: int = 0,
        path: str | os.PathLike[str] | None = None,
        seconds: float = 300.0,
        steps_between: int | None = None,
        settings: Mapping[str, Any] | None = None,
        watch: Callable[[int, int, str], None] = lambda step, steps, words: None,
        settled: Callable[[], None] = lambda: None,
        accumulate: int = 1,
        distill: Callable[..., Tensor] | None = None,
        loggers: Sequence[Logger] = (),
        warn: Callable[[str], None] = warn,
        engine: Engine | None = None,
    ) -> None:
        if epochs < 1:
            raise ValueError(f"epochs={epochs}: an integer of 1 or more")
        self.model, self.optimizer, self.data, self.scheduler = model, optimizer, data, scheduler
        self.epochs, self.seed, self.settings, self.watch = (
            epochs,
            seed,
            dict(settings or {}),
            watch,
        )
        self.settled, self.distill = settled, distill
        self.steps = epochs * steps_in_epoch(data, accumulate)  # of the optimizer, in the run
        self.accumulate, self.engine = accumulate, engine or Engine()
        self.engine.prepare(model, optimizer)
        self.loader = self.engine.share(data.train_loader)
        self.path = Path(path) if path is not None else None
        self.seconds, self.steps_between = seconds, steps_between
        if self.engine.rank:
            self._watching = Watching(warn=lambda words: None)  # the first process says it
        else:
            metrics = [JsonLines(self.path.with_name("metrics.jsonl"))] if self.path else []
            self._watching = Watching([*metrics, *loggers], warn)
        self.epoch = self.batch = self.step = 0
        self._summed, self._steps_summed = 0.0, 0  # losses since the last record
        self._rng: dict[str, Any] | None = None  # of the checkpoint, until its epoch has begun
        self._saved_at = time.monotonic()

    @property
    def history(self) -> list[dict[str, Any]]:
        """What was recorded, see `records.record`: of steps, of epochs, and early warnings."""
        return self._watching.history

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return device_of(self.model)

    def run(self) -> None:
        """Train to the end, from where the loop is.

        Raises:
            Interrupted: SIGINT or SIGTERM came; the checkpoint has been written.
            RuntimeError: the training loader's length and its batches disagree.
        """
        with Signals() as signals, self._watching.telling(self.settings):
            self._tell_settled()  # which a run that was stopped there has not been through
            while self.epoch < self.epochs:
                batches = self._remaining_batches()
                while window := list(islice(batches, self.accumulate)):
                    self._train_on(window)
                    if self._has_settled():
                        self.save()  # what is written down of a network may fail
                        self._tell_settled()
                    self._pause(signals)
                self._check_length()
                self._watching.add(self._test(signals))
                self.epoch, self.batch = self.epoch + 1, 0
                self._pause(signals)
        self.save()

    def _has_settled(self) -> bool:
        return isinstance(self.optimizer, Proximal) and self.optimizer.settled

    def _tell_settled(self) -> None:
        if self._has_settled():
            self.settled()

    # -- one epoch -------------------------------------------------------------------------------

    def _remaining_batches(self) -> Iterator[Any]:
        """The epoch's batches that were not trained on yet."""
        loader = self.loader
        seed_all(self.seed, self.epoch, loader)
        batches = iter(loader)
        for _ in range(self.batch):
            next(batches, None)
        if self._rng is not None:
            set_rng_state(self._rng, loader)
            self._rng = None
        return batches

    def _check_length(self) -> None:
        if self.batch != len(self.loader):
            raise RuntimeError(
                f"the training loader says that it has {len(self.loader)} batches and gave "
                f"{self.batch}; the budget's schedule counts steps: make the two agree"
            )

    def _loss(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, target = to_device(split(batch), self.device)
        output = call(model, inputs)

        def loss_of(output: Any) -> Tensor:
            loss = self.data.loss(output, target)
            if self.distill is None:
                return loss
            return call(partial(self.distill, loss, output), inputs)

        if self.step == 0 and isinstance(self.optimizer, Proximal):
            self._note_baseline_loss(loss_of, output)
        return loss_of(output)

    def _note_baseline_loss(self, loss_of: Callable[[Any], Tensor], output: Any) -> None:
        """Begin the history with the scale of the loss, which the alarm needs."""
        blank = None if self.history else baseline_loss(loss_of, output)
        if blank is not None:
            self._watching.add({"step": 0, "baseline_loss": blank})

    def _train_on(self, window: list[Any]) -> None:
        """One optimizer step, on some batches."""
        loss = self.engine.step(window, self._loss)
        self.step += 1
        self.batch += len(window)
        self._summed, self._steps_summed = self._summed + loss, self._steps_summed + 1
        if due(self.step, self.steps):
            self._record()
        if self.scheduler is not None:
            self.scheduler.step()

    def _record(self) -> None:
        total, steps = self.engine.total(self._summed, self._steps_summed)
        found = record(self.optimizer, self.step, self.steps, total / steps)
        self._watching.add(found)
        self._summed, self._steps_summed = 0.0, 0
        spent = found.get("spent", {}).items()
        words = [f"loss {found['loss']:.3f}", *(f"{name} {share:.0%}" for name, share in spent)]
        self.watch(self.step, self.steps, ", ".join(words))

    def _test(self, signals: Signals) -> dict[str, Any]:
        def stop() -> None:
            if self.engine.world == 1:  # several processes stop together, after the test
                self._stop_if_asked(signals.received)

        self.engine.align()
        if self.engine.world > 1:  # all processes save together, so not where one has failed
            self.save()
        try:
            scores = test(self.model, self.data, stop=stop, engine=self.engine)
        except Exception as error:
            if self.engine.world == 1 and not isinstance(error, Interrupted):
                self.save()
            raise
        return {"step": self.step, "epoch": self.epoch + 1, **scores}

    # -- stopping and going on -------------------------------------------------------------------

    def _pause(self, signals: Signals) -> None:
        """Between two steps: stop if any process is asked to, write a checkpoint if one is due."""
        received, due = self.engine.largest(signals.received or 0, self._due())
        self._stop_if_asked(int(received))
        if due:
            self.save()

    def _due(self) -> bool:
        if self.path is None:
            return False
        if self.steps_between is not None:
            return self.batch > 0 and self.step % self.steps_between == 0
        return time.monotonic() - self._saved_at >= self.seconds

    def _stop_if_asked(self, number: int | None) -> None:
        if number:
            self.save()
            raise Interrupted(number, self.step, self.steps, self.path)

    def save(self) -> None:
        """Write the checkpoint; to be called on every process."""
        if self.path is None:
            return
        own = {"rng": rng_state(self.loader), "summed": (self._summed, self._steps_summed)}
        processes = self.engine.gather(own)
        self._saved_at = time.monotonic()
        if self.engine.rank:
            return
        checkpoint.write(
            self.path,
            {
                "settings": self.settings,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
                "engine": self.engine.state_dict(),
                "place": (self.epoch, self.batch, self.step),
                "processes": processes,
                "history": self.history,
            },
        )

    def resume(self) -> None:
        """Go to where the checkpoint was written; `run` continues from there.

        With another number of processes the steps that follow are on the same batches, and what
        else is random in them is drawn anew.

        Raises:
            FileNotFoundError: there is no checkpoint.
            CheckpointError: it is damaged, foreign, or of a run with other settings.
        """
        if self.path is None:
            raise ValueError("resume: this loop has no checkpoint path")
        state = checkpoint.read(self.path)
        checkpoint.check_same(self.path, self.settings, state.get("settings"))
        checkpoint.check_fields(
            self.path,
            state,
            epochs=self.epochs,
            batches=len(self.loader),
            each=self.accumulate,
        )
        for name in ("model", "optimizer", "scheduler", "engine"):
            if (part := getattr(self, name)) is not None:
                self._load(part.load_state_dict, state, name)
        self.epoch, self.batch, self.step = state["place"]
        self._watching.go_on(state["history"])
        if not self.engine.rank:
            checkpoint.clear_up(self.path)
        if len(state["processes"]) == self.engine.world:
            own = state["processes"][self.engine.rank]
            self._summed, self._steps_summed = own["summed"]
            if self.batch:
                self._load(partial(set_rng_state, loader=self.loader), own, "rng")
                self._rng = own["rng"]

    def _load(self, load: Callable[[Any], object], state: Mapping[str, Any], name: str) -> None:
        try:
            load(state[name])
        except Exception as error:  # each part has its own words for what it does not know
            raise checkpoint.CheckpointError(
                f"{self.path}: its {name} does not fit this {type(self.model).__name__}: "
                f"{type(error).__name__}: {error}"
            ) from error


def steps_in_epoch(data: Data, accumulate: int = 1) -> int:
    """Optimizer steps in an epoch, of `accumulate` batches each; the last one may have fewer.

    Raises:
        ValueError: accumulate < 1.
    """
    if accumulate < 1:
        raise ValueError(f"accumulate={accumulate}: an integer of 1 or more")
    return -(-len(data.train_loader) // accumulate)


@torch.no_grad()
def test(
    model: nn.Module,
    data: Data,
    *,
    stop: Callable[[], None] = lambda: None,
    engine: Engine | None = None,
) -> dict[str, float]:
    """The mean loss and metric of a model on the test data, in eval mode.

    Args:
        model: any module; left in the mode it was in.
        data: whose test loader, loss and metric are used.
        stop: called before every batch; what it raises ends the test.
        engine: whose processes share the batches, and in whose precision the model is run.

    Returns:
        {"held_out_loss": ..., the metric's name: ...}, means over rows.

    Raises:
        ValueError: the test loader is empty.
    """
    device = device_of(model)
    engine = engine or Engine()
    training, rows, loss, score = model.training, 0.0, 0.0, 0.0
    model.eval()
    try:
        for batch in islice(data.test_loader, engine.rank, None, engine.world):
            stop()
            inputs, target = to_device(split(batch), device)
            with engine.autocast():
                output = call(model, inputs)
                count = len(target) if hasattr(target, "__len__") else 1
                loss += float(data.loss(output, target)) * count
                score += float(data.metric(output, target)) * count
            rows += count
    finally:
        model.train(training)
    loss, score, rows = engine.total(loss, score, rows)
    if not rows:
        raise ValueError("the test loader is empty: nothing to test on")
    return {"held_out_loss": loss / rows, data.metric_name: score / rows}
