"""A sweep: one training for every budget and seed, on one machine or a Ray cluster.

In: the settings that all runs share, budgets and seeds. Out: a folder with a run each, their facts
as JSON lines, a page with means and a figure; and a `Sweep`. Run again, it goes on.
"""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from secateur.budget import Budget
from secateur.budget.words import parse_budgets
from secateur.report.progress import WARNING
from secateur.report.run import FACTS, Run
from secateur.report.sweep import Sweep, SweepTrial
from secateur.report.sweep_page import sweep_html
from secateur.train import checkpoint, spec
from secateur.train.loop import Interrupted
from secateur.train.run import CHECKPOINT, REPORT, Watch, train
from secateur.train.settings import Resources, Settings
from secateur.utils.extras import require
from secateur.utils.files import write_atomically
from secateur.utils.json import read_json
from secateur.utils.lock import Lock
from secateur.utils.signals import Signals

SWEEP, RESULTS, ERROR = "sweep.json", "results.jsonl", "error.txt"
REACHABLE = 5.0  # seconds a cluster has to answer
SAVING = 120.0  # seconds that interrupted runs have to write their checkpoints


class SweepInterrupted(Exception):
    """A signal asked the sweep to stop; the runs under way have saved what they trained."""

    def __init__(self, number: int, missing: int) -> None:
        self.number, self.missing = number, missing
        super().__init__(
            f"stopped with {missing} runs missing; what they have trained is in their checkpoints"
        )


def sweep(
    settings: Settings,
    folder: str | os.PathLike[str],
    *,
    budgets: Sequence[str],
    seeds: Sequence[int],
    address: str | None = None,
    resources: Resources | None = None,
    checkpoint_every: str = "5m",
    to_onnx: bool = True,
    watch: Watch = lambda what, done, total, words: None,
    ended: Callable[[SweepTrial], None] = lambda trial: None,
) -> Sweep:
    """Train once for every budget and seed, in parallel, and compare.

    A run that the folder holds already is not repeated; one that was interrupted goes on from its
    checkpoint. A run that fails doesn't stop the others.

    Args:
        settings: what all runs share; their budget and seed are replaced.
        folder: gets runs/BUDGET_seed-N (what `train` writes), results.jsonl and report.html. On a
            cluster, all machines must see it under the same path.
        budgets: such as ["flops=50%", "flops=25%,params=1M"]; commas join what must hold at once.
        seeds: of every budget.
        address: of a Ray cluster, such as "auto" or "10.0.0.1:6379"; by default this machine.
        resources: of each run.
        checkpoint_every: "30s", "5m", or a number of steps.
        to_onnx: as in `train`.
        watch: told how far things are.
        ended: given each run as it ends.

    Returns:
        The facts of all runs of these budgets and seeds.

    Raises:
        ImportError: Ray is missing.
        ValueError: budgets, seeds or settings that can't be, or a folder of something else.
        FolderInUse: another sweep works in the folder.
        ConnectionError: no cluster at that address.
        SweepInterrupted: a signal asked to stop.

    Example:
        >>> import tempfile
        >>> settings = Settings("my_models:net", "my_data:loaders", budget=(), epochs=10)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sweep(settings, folder, budgets=["flops=50%", "flops=0.5"], seeds=[0, 1])
        Traceback (most recent call last):
        ValueError: --budgets: flops=50% and flops=0.5 are the same budget
    """
    folder, resources = Path(folder).resolve(), resources or Resources()
    plan = _plan(settings, budgets, seeds)
    spec.parse_interval(checkpoint_every)
    how = {"checkpoint_every": checkpoint_every, "to_onnx": to_onnx}
    with Lock(folder):
        return _sweep(settings, folder, plan, address, resources, how, watch, ended)


def _sweep(
    settings: Settings,
    folder: Path,
    plan: Mapping[str, Settings],
    address: str | None,
    resources: Resources,
    how: Mapping[str, Any],
    watch: Watch,
    ended: Callable[[SweepTrial], None],
) -> Sweep:
    """The sweep itself, in a folder that is its own."""
    _claim(folder, settings)
    trials = {name: _trial(folder, name, own) for name, own in plan.items()}
    jobs = {name: plan[name] for name, trial in trials.items() if trial.run is None}

    def facts() -> Sweep:
        title = f"{settings.model.partition(':')[2]}, a sweep over budgets and seeds"
        shared = replace(settings, budget=()).words()
        shared.pop("seed", None)
        return Sweep(title, tuple(trials.values()), shared)

    def told(words: str) -> None:
        watch("training", len(facts().runs), len(trials), words)

    if jobs:
        spec.resolve(settings.model, "--model")
        spec.resolve(settings.data, "--data")
        told("starting Ray")
        for name, outcome in _outcomes(jobs, folder, address, resources, how):
            if isinstance(outcome, Run):
                trials[name] = replace(trials[name], run=outcome)
            else:
                trials[name] = replace(trials[name], failure=outcome)
            write_atomically(folder / RESULTS, facts().lines())
            told(name)
            ended(trials[name])
    write_atomically(folder / RESULTS, facts().lines())
    try:
        sweep_html(facts(), folder / REPORT)
    except Exception as error:  # the runs and their facts are written
        words = f"{type(error).__name__}: {error}"
        watch(WARNING, 0, 0, f"{folder / REPORT} could not be written: {words}")
    return facts()


# -- what is to be done ---------------------------------------------------------------------------


def _plan(settings: Settings, budgets: Sequence[str], seeds: Sequence[int]) -> dict[str, Settings]:
    """Folder name -> settings of every run, once all budgets and seeds are found good."""
    if not budgets or not seeds:
        raise ValueError("a sweep needs one budget and one seed or more: --budgets, --seeds")
    _check_budgets(settings, budgets)
    for seed in seeds:
        if seed < 0 or list(seeds).count(seed) > 1:
            raise ValueError(f"--seeds {seed}: integers of 0 or more, each once")
    return {
        f"{_slug(text)}_seed-{seed}": replace(settings, budget=(text,), seed=seed)
        for text in budgets
        for seed in seeds
    }


def _check_budgets(settings: Settings, budgets: Sequence[str]) -> None:
    """Refuse what is no budget, a frontier of them, or one that was given before."""
    parsed: dict[str, Budget] = {}
    for text in budgets:
        budget, *more = parse_budgets([text], **settings.budgeted(), option="--budgets")
        if more:
            raise ValueError(
                f"--budgets {text}: several networks of one run, which is train's; for a run each, "
                "write --budgets flops=50% flops=25%"
            )
        for other, earlier in parsed.items():
            if budget == earlier:
                raise ValueError(f"--budgets: {other} and {text} are the same budget")
        parsed[text] = budget


def _slug(budget: str) -> str:
    """A budget as part of a folder's name."""
    return re.sub(r"[^\w.]+", "-", budget.replace("%", "pct")).strip("-")


def _shared(settings: Settings) -> dict[str, Any]:
    """What makes this sweep this sweep, as JSON gives it back."""
    facts = asdict(settings)
    del facts["budget"], facts["seed"]
    return json.loads(json.dumps(facts))


def _claim(folder: Path, settings: Settings) -> None:
    """Refuse a folder of another sweep, or of a single run."""
    for name in (CHECKPOINT, FACTS):
        if (folder / name).exists():
            raise ValueError(f"{folder} holds a run of secateur train: choose another --out")
    path = folder / SWEEP
    if not path.exists():
        return
    try:
        found = read_json(path.read_text(encoding="utf-8"), dict[str, Any])
    except ValueError as error:
        raise ValueError(f"{path} is not what a sweep writes: {error}") from error
    lines = checkpoint.differences(_shared(settings), found)
    if lines:
        raise ValueError(
            f"{folder} holds another sweep; go on with its settings, or choose another --out\n"
            + "\n".join(lines)
        )


def _trial(folder: Path, name: str, settings: Settings) -> SweepTrial:
    """A run as the folder has it: with its facts where it has ended."""
    (budget,) = settings.budget
    path = folder / "runs" / name / FACTS
    run = Run.read(path) if path.exists() else None
    if run is not None and run.settings != settings.words():
        lines = checkpoint.differences(settings.words(), run.settings)
        raise ValueError(
            f"{path} is of a run with other settings; choose another --out\n" + "\n".join(lines)
        )
    return SweepTrial(budget, settings.seed, f"runs/{name}", run)


# -- on Ray ---------------------------------------------------------------------------------------


def _outcomes(
    jobs: dict[str, Settings],
    folder: Path,
    address: str | None,
    resources: Resources,
    how: Mapping[str, Any],
) -> Iterator[tuple[str, Run | str]]:
    """Train all; gives (name, the facts or why it failed) of each run as it ends."""
    # Ray's processes are started while signals are noted, not ignored, as they are under a shell's
    # `&`: what a process ignores, those it starts ignore, and a cancelled run would train on.
    with Signals() as signals, _connected(address, resources) as ray:
        shared = _shared(next(iter(jobs.values())))
        write_atomically(folder / SWEEP, json.dumps(shared, indent=1))
        # A process a run: nothing that one leaves behind, such as GPU memory, reaches the next.
        remote = ray.remote(
            num_cpus=resources.cpus, num_gpus=resources.gpus, max_calls=1, max_retries=0
        )(_train)
        here = (os.getcwd(), tuple(sys.path))
        tasks = {
            remote.remote(own, folder / "runs" / name, here, resources, how): name
            for name, own in jobs.items()
        }
        while tasks:
            ready, _ = ray.wait(list(tasks), timeout=0.2)
            if signals.received is not None:
                for task in reversed(tasks):  # those that wait first, so that none begins
                    ray.cancel(task)
                ray.wait(list(tasks), num_returns=len(tasks), timeout=SAVING)
                missing = sum(not (folder / "runs" / name / FACTS).exists() for name in jobs)
                raise SweepInterrupted(signals.received, missing)
            for task in ready:
                yield tasks.pop(task), _outcome(ray, task)


def _outcome(ray: Any, task: Any) -> Run | str:
    """What a task that has ended came to."""
    try:
        return ray.get(task)
    except ray.exceptions.RayError as error:  # the process or its machine is gone
        words = str(error).strip().splitlines()
        return f"{type(error).__name__}: {words[0]}" if words else type(error).__name__


def _train(
    settings: Settings,
    folder: Path,
    here: tuple[str, tuple[str, ...]],
    resources: Resources,
    how: Mapping[str, Any],
) -> Run | str:
    """One run, on whichever machine Ray chose: its facts, or why it failed."""
    if not (folder.parents[1] / SWEEP).exists():
        return (
            f"{platform.node()} does not see {folder.parents[1]}: on a cluster, --out must be a "
            "folder that all machines share under the same path"
        )
    directory, path = here
    if os.path.isdir(directory):
        os.chdir(directory)
    sys.path += [entry for entry in path if entry not in sys.path]
    torch.set_num_threads(resources.cpus)
    try:
        run = train(
            settings,
            folder,
            resume=(folder / CHECKPOINT).exists(),
            device=resources.device,
            **how,
        )
    except Interrupted as stop:
        return str(stop)
    except Exception as error:
        write_atomically(folder / ERROR, traceback.format_exc())
        return f"{type(error).__name__}: {error}"
    (folder / ERROR).unlink(missing_ok=True)
    assert run is not None  # one process, so it is the first
    return run


@contextmanager
def _connected(address: str | None, resources: Resources) -> Iterator[Any]:
    """Ray, connected to a cluster, or started on this machine and stopped afterwards."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use otherwise
    ray = require("ray", extra="sweep")
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        memory = 80 * 2**20  # runs exchange files, not objects: about the least that Ray takes
        ray.init("local", include_dashboard=False, object_store_memory=memory, **quiet)
    else:
        _check_reachable(address)
        try:
            ray.init(address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConnectionError(_no_cluster(address, error)) from error
    try:
        if address is None:
            _check_fits(ray.cluster_resources(), resources)
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Refuse an address where nothing answers: Ray itself would try for minutes, and then exit."""
    found = re.fullmatch(r"(?:ray://)?(.+):(\d+)", address)
    if found is None:
        if address != "auto":
            raise ValueError(f"--address {address}: write auto, HOST:PORT or ray://HOST:PORT")
        return
    try:
        socket.create_connection((found[1], int(found[2])), REACHABLE).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(_no_cluster(address, error)) from error


def _no_cluster(address: str, error: Exception) -> str:
    return (
        f"--address {address}: no Ray cluster there ({error}); start one with `ray start --head` "
        "(where it asks for a token: RAY_AUTH_MODE=token), or leave --address out to run here"
    )


def _check_fits(machine: dict[str, float], resources: Resources) -> None:
    """Refuse what this machine never has: Ray would wait for it forever."""
    for option, key, asked in (("cpus", "CPU", resources.cpus), ("gpus", "GPU", resources.gpus)):
        if asked > machine.get(key, 0):
            raise ValueError(
                f"--{option} {asked:g} for each run: this machine has {machine.get(key, 0):g}"
            )
