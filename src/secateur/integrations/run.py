"""A whole run from words: what `secateur train` does.

In: `Settings`, all plain values. Out: a folder with the small network, its ONNX file, the history,
the report and the facts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from secateur.integrations import options
from secateur.integrations.data import Data
from secateur.integrations.finish import finish
from secateur.integrations.loop import Loop
from secateur.integrations.rng import seed_all
from secateur.optim import Homotopy, Proximal
from secateur.report import Run, html

CHECKPOINT, FACTS, REPORT = "checkpoint", "run.json", "report.html"

Watch = Callable[[str, int, int, str], None]  # what is being done, done, of how much, how it goes


@dataclass(frozen=True)
class Settings:
    """Everything that determines a run's result; a checkpoint remembers it."""

    model: str
    data: str
    budget: tuple[str, ...]
    epochs: int
    kind: str = "filters"
    optimizer: str = "sgd"
    lr: float | None = None
    weight_decay: float | None = None
    momentum: float = 0.9
    batch_size: int | None = None
    seed: int = 0
    every: int = 1
    weights: str = "auto"
    freeze: float = 0.7
    at_least: int = 1
    ignore: tuple[str, ...] = ()

    def words(self) -> dict[str, str]:
        """Option -> value, without those left open."""
        return {
            name.replace("_", " "): ", ".join(value) if isinstance(value, tuple) else str(value)
            for name, value in asdict(self).items()
            if value not in (None, ())
        }


def train(
    settings: Settings,
    folder: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    checkpoint_every: str = "5m",
    watch: Watch = lambda what, done, total, words: None,
) -> Run:
    """Train a model to a budget and write what comes out of it.

    Args:
        settings: the run.
        folder: gets the checkpoint, metrics.jsonl, small.safetensors, small.onnx, run.json and
            report.html.
        resume: go on from the folder's checkpoint.
        device: such as "cpu" or "cuda".
        checkpoint_every: "30s", "5m", or a number of steps.
        watch: told how far things are.

    Returns:
        The facts.

    Raises:
        Interrupted: a signal asked to stop; the checkpoint has been written.
        ValueError: settings that don't fit, or a folder that already holds a run.
    """
    budget = options.parse_budget(settings.budget, at_least=settings.at_least)
    interval = options.parse_interval(checkpoint_every)
    path = folder / CHECKPOINT
    if resume and not path.exists():
        raise FileNotFoundError(f"{path}: nothing to resume; start the run without --resume")
    if not resume and path.exists():
        raise FileExistsError(
            f"{folder} already holds a run: continue it with --resume, or choose another --out"
        )
    seed_all(settings.seed, -1)
    model = options.make_model(settings.model).to(device)
    data = Data.of(options.make_data(settings.data, settings.batch_size))
    watch("tracing the model", 0, 0, "")
    groups = options.make_groups(model, data.example(device), settings.kind, settings.ignore)
    steps = settings.epochs * len(data.train_loader)
    inner = options.make_optimizer(
        model, settings.optimizer, settings.lr, settings.weight_decay, settings.momentum
    )
    optimizer = Proximal(
        inner,
        groups,
        budget,
        schedule=Homotopy(steps, freeze=settings.freeze),
        weights=options.parse_weights(settings.weights),
        every=settings.every,
    )
    loop = Loop(
        model,
        optimizer,
        data,
        epochs=settings.epochs,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        seed=settings.seed,
        path=path,
        settings=asdict(settings),
        watch=lambda done, total, words: watch("training", done, total, words),
        **interval,  # pyright: ignore[reportArgumentType]
    )
    if resume:
        loop.resume()
    loop.run()
    _, run = finish(
        model,
        groups,
        budget,
        data,
        folder,
        title=f"{type(model).__name__}, trained to {', '.join(settings.budget)}",
        history=tuple(loop.history),
        settings=settings.words(),
        watch=lambda words: watch(words, 0, 0, ""),
    )
    run.write(folder / FACTS)
    html(run, folder / REPORT)
    return run
