"""A whole run from words: what `secateur train` does.

In: `Settings`, all plain values. Out: a folder with the small network, its ONNX file, the history,
the report and the facts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from secateur.budget import Budget
from secateur.budget.words import parse_budgets
from secateur.optim import Homotopy, Proximal
from secateur.report import Check, Point, Run, html
from secateur.report.progress import WARNING
from secateur.report.run import FACTS
from secateur.report.tables import format_score
from secateur.train import spec
from secateur.train.accelerated import Accelerated
from secateur.train.data import Data
from secateur.train.distill import Distill, examine, fingerprint, make_teacher
from secateur.train.engine import Engine
from secateur.train.finishing import finish
from secateur.train.loggers import make_loggers
from secateur.train.loop import Loop, steps_in_epoch
from secateur.train.settings import Settings
from secateur.utils.lock import Lock
from secateur.utils.rng import seed_all

CHECKPOINT, REPORT = "checkpoint", "report.html"
STAGE = "network-{}"  # the folder of a network on the way to the last one
AGAIN = 0.5  # of the learning rate: where each stage after the first begins

Watch = Callable[[str, int, int, str], None]  # what is being done, done, of how much, how it goes


def train(
    settings: Settings,
    folder: Path,
    *,
    resume: bool = False,
    device: str | None = None,
    checkpoint_every: str = "5m",
    log: Sequence[str] = (),
    to_onnx: bool = True,
    watch: Watch = lambda what, done, total, words: None,
) -> Run | None:
    """Train a model to a budget and write what comes out of it.

    Under a launcher of several processes all call this; the first one writes and watches.

    Args:
        settings: the run.
        folder: gets the checkpoint, metrics.jsonl, small.safetensors, small.onnx, run.json and
            report.html; with several budgets these are the last one's, and the folders network-1,
            network-2, ... inside get those of the networks before.
        resume: go on from the folder's checkpoint.
        device: such as "cpu" or "cuda"; by default what Accelerate finds.
        checkpoint_every: "30s", "5m", or a number of steps.
        log: trackers such as "tensorboard" (into the folder's folder of this name), or
            MODULE:FACTORY of a `Logger`.
        to_onnx: whether small.onnx is written, and both networks timed in ONNX Runtime.
        watch: told how far things are, and warned of a loss that jumps.

    Returns:
        The facts; None on other processes than the first.

    Raises:
        Interrupted: a signal asked to stop; the checkpoint has been written.
        ValueError: settings that don't fit.
        FileExistsError: the folder already holds a run.
        FolderInUse: another run works in the folder.
    """
    budgets = parse_budgets(settings.budget, **settings.budgeted(), option="--budget")
    interval = spec.parse_interval(checkpoint_every)
    with ExitStack() as held:
        with Accelerated(device, precision=settings.precision, clip=settings.clip) as engine:
            lock = None if engine.rank else held.enter_context(Lock(folder))
            _check_resumable(folder, resume)
            write = _train(
                settings, folder, budgets, interval, engine, lock, resume, log, to_onnx, watch
            )
        return None if engine.rank else write()


def _check_resumable(folder: Path, resume: bool) -> None:
    """Refuse to go on with nothing, and to train over a run."""
    path = folder / CHECKPOINT
    if resume and not path.exists():
        raise FileNotFoundError(f"{path}: nothing to resume; start the run without --resume")
    if not resume and path.exists():
        raise FileExistsError(
            f"{folder} already holds a run: continue it with --resume, or choose another --out"
        )


def _train(
    settings: Settings,
    folder: Path,
    budgets: tuple[Budget, ...],
    interval: Mapping[str, Any],
    engine: Accelerated,
    lock: Lock | None,
    resume: bool,
    log: Sequence[str],
    to_onnx: bool,
    watch: Watch,
) -> Callable[[], Run]:
    """Train, in a folder that is this run's own; returns what writes down the last network.

    Only the first process has a lock.
    """
    if engine.rank:
        watch = _unwatched
    loggers = () if engine.rank else make_loggers(log, folder)
    model, data, optimizer, scheduler = _make(settings, budgets, engine.device, watch)
    distill, own, checks = _teach(settings, model, data, engine)
    words = settings.words()
    if engine.world > 1:
        words["processes"] = str(engine.world)

    def write(place: Path, *, points: tuple[Point, ...] = ()) -> Run:
        """Write down the network as it is now, trained to the budget of its stage."""
        _, run = finish(
            model,
            optimizer.groups,
            optimizer.budget,
            data,
            place,
            title=f"{type(model).__name__}, trained to {_words(optimizer.budget)}",
            history=tuple(loop.history),
            settings=words,
            to_onnx=to_onnx,
            watch=lambda words: watch(words, 0, 0, ""),
        )
        frontier = (*points, Point.of(run)) if points else ()
        run = replace(run, frontier=frontier, checks=(*checks, *run.checks))
        run.write(place / FACTS)
        try:
            html(run, place / REPORT)
        except Exception as error:  # the network and its facts are written, and the run goes on
            why = f"{type(error).__name__}: {error}"
            watch(WARNING, 0, 0, f"{place / REPORT} could not be written: {why}")
        return run

    def seen(done: int, total: int, words: str) -> None:
        if lock is not None:
            lock.check()
        watch("training", done, total, words)

    def write_stage() -> None:
        if optimizer.stage < len(budgets) - 1 and not engine.rank:
            write(folder / STAGE.format(optimizer.stage + 1))

    loop = Loop(
        model,
        optimizer,
        data,
        epochs=settings.epochs,
        scheduler=scheduler,
        seed=settings.seed,
        path=folder / CHECKPOINT,
        settings={**asdict(settings), **own},
        watch=seen,
        settled=write_stage,
        accumulate=settings.accumulate,
        distill=distill,
        loggers=loggers,
        warn=lambda words: watch(WARNING, 0, 0, words),
        engine=engine,
        **interval,
    )
    if resume:
        loop.resume()
    loop.run()

    def write_last() -> Run:
        earlier = (folder / STAGE.format(number) for number in range(1, len(budgets)))
        return write(folder, points=tuple(Point.of(Run.read(place / FACTS)) for place in earlier))

    return write_last


def _make(
    settings: Settings, budgets: tuple[Budget, ...], device: torch.device, watch: Watch
) -> tuple[nn.Module, Data, Proximal, LambdaLR]:
    """The model on its device, its data, optimizer and scheduler, alike for equal settings."""
    seed_all(settings.seed, -1)
    model = spec.make_model(settings.model).to(device)
    data = Data.of(spec.make_data(settings.data, settings.batch_size))
    watch("tracing the model", 0, 0, "")
    groups = spec.make_groups(model, data.example(device), settings.kind, settings.ignore)
    steps = settings.epochs * steps_in_epoch(data, settings.accumulate)
    schedule = Homotopy(steps, freeze=settings.freeze, power=settings.power, stages=len(budgets))
    inner = spec.make_optimizer(
        model, settings.optimizer, settings.lr, settings.weight_decay, settings.momentum
    )
    optimizer = Proximal(
        inner,
        groups,
        budgets,
        schedule=schedule,
        importance=spec.parse_importance(settings.importance),
        geometry=settings.geometry,
        every=settings.every,
    )
    return model, data, optimizer, LambdaLR(optimizer, cosine(schedule))


def _teach(
    settings: Settings, model: nn.Module, data: Data, engine: Engine
) -> tuple[Distill | None, dict[str, str], tuple[Check, ...]]:
    """The distillation asked for, what a checkpoint must say of the teacher, and its score."""
    given = {
        "temperature": settings.distill_temperature,
        "weight": settings.distill_weight,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if settings.distill is None:
        if chosen:
            raise ValueError(f"--distill-{next(iter(chosen))} goes with --distill TEACHER")
        return None, {}, ()
    teacher = make_teacher(settings.distill, model, settings.model)
    distill = Distill(teacher, **chosen)
    score = format_score(examine(teacher, data, engine)[data.metric_name], data.metric_name)
    check = Check("the teacher does better on held-out data than outputs of zero", True, score)
    return distill, {"teacher": fingerprint(teacher)}, (check,)


def _unwatched(what: str, done: int, total: int, words: str) -> None:
    """The watch of other processes than the first: they say nothing."""


def _words(budget: Budget) -> str:
    return repr(budget).removeprefix("Budget(").removesuffix(")")


def cosine(schedule: Homotopy) -> Callable[[int], float]:
    """The learning rate's factor after a number of steps: from 1 to 0 along a cosine.

    In each of several stages anew, so that every network is one of a finished training; from
    `AGAIN` in those after the first, which start from a trained and smaller network.
    """
    spans = tuple(itertools.pairwise((0, *schedule.ends)))

    def factor(steps: int) -> float:
        stage = schedule.stage(steps + 1)
        start, end = spans[stage]
        passed = min(1.0, (steps - start) / (end - start))
        return (AGAIN if stage else 1.0) * 0.5 * (1 + math.cos(math.pi * passed))

    return factor
