"""The facts of one training run, as one value that can be written down and read back.

In: what a run asked for, reached, measured and checked. Out: `Run`, from which tables and the HTML
report are made; JSON on disk.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from torch import nn

from secateur.budget.budget import Line
from secateur.groups import Groups, Layer
from secateur.measurement import Footprint
from secateur.utils.files import write_atomically
from secateur.utils.json import read_json, to_json, typed, with_numbers

FORMAT = 1
FACTS = "run.json"  # the name of its file in a run's folder


@dataclass(frozen=True)
class Width:
    """One layer's groups: how many it had and how many it kept."""

    name: str
    kept: int
    full: int
    kind: str = "filters"


@dataclass(frozen=True)
class Network:
    """One network of a run: what it costs and how well it does.

    Attributes:
        name: such as "dense" or "small".
        footprint: its costs, by `secateur.measurement`.
        onnx_latency: median seconds of one run in ONNX Runtime, or None.
        score: the metric on the test data, or None where it was not trained.
    """

    name: str
    footprint: Footprint
    onnx_latency: float | None = None
    score: float | None = None

    @property
    def latencies(self) -> dict[str, float]:
        """Runtime -> seconds, of the runtimes in which it was timed."""
        found = {"torch": self.footprint.latency, "ONNX Runtime": self.onnx_latency}
        return {runtime: seconds for runtime, seconds in found.items() if seconds is not None}


@dataclass(frozen=True)
class Check:
    """One thing that was verified: what, whether it holds, and the figure."""

    what: str
    holds: bool
    found: str


@dataclass(frozen=True)
class Point:
    """One of several networks that a run gave: its budget, what it reached, how well it does."""

    lines: tuple[Line, ...]
    score: float

    @classmethod
    def of(cls, run: Run) -> Point:
        """The last network of a run.

        Raises:
            ValueError: it has no score.
        """
        if run.networks[-1].score is None:
            raise ValueError(f"{run.title}: the network was not tested")
        return cls(run.asked, run.networks[-1].score)


@dataclass(frozen=True)
class Run:
    """What there is to tell about a run.

    Attributes:
        title: the report's heading.
        asked: one line a measure of the budget, as `budget.reached` gives them.
        widths: the layers' groups before and after.
        networks: the network at full size first, the small one last.
        history: one record a logged step ("step", "loss", "lr", and with a budget "kept",
            "hardness", "asked" and "spent": measure -> share of the full network if it were cut
            now, at times "widths": layer -> groups kept), one an epoch ("epoch", "held_out_loss"
            and the metric's name), and one an early warning ("step", "warning": words).
        metric: what `score` is, such as "accuracy".
        checks: what was verified.
        settings: option -> value, as text.
        machine: from `secateur.measurement.host`.
        files: what lies beside the report: name -> what it is.
        frontier: the networks that the run gave on the way, largest first, and this one.
    """

    title: str
    asked: tuple[Line, ...]
    widths: tuple[Width, ...]
    networks: tuple[Network, ...]
    history: tuple[Mapping[str, Any], ...] = ()
    metric: str = "accuracy"
    checks: tuple[Check, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    frontier: tuple[Point, ...] = ()

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the run as JSON; an older file is replaced in one step."""
        return write_atomically(path, to_json({"secateur_run": FORMAT, **asdict(self)}, indent=1))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Run:
        """Read a run back.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file was not written by `Run.write`.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"no such file: {path}")
        try:
            facts = read_json(path.read_text(encoding="utf-8"), dict[str, Any])
            if facts.pop("secateur_run", None) != FORMAT:
                raise ValueError("another format")
            for name in ("networks", "history", "frontier"):  # what a metric or a loss may be in
                facts[name] = with_numbers(facts.get(name, []))
            return typed(facts, cls, finite=False)._checked()  # what diverged has no finite score
        except ValueError as error:
            raise ValueError(f"{path} is not a run that secateur wrote: {error}") from error

    def _checked(self) -> Run:
        """Refuse what no report can be made of."""
        if not self.networks or not all(point.lines for point in self.frontier):
            raise ValueError("a network, or what it was asked for, is missing")
        for line in (*self.asked, *(line for point in self.frontier for line in point.lines)):
            if not (0 < line.asked < inf and 0 <= line.reached < inf and 0 < line.full < inf):
                raise ValueError(f"{line} is no measure of a budget")
        return self


def labels(layers: Sequence[Width] | Sequence[Layer]) -> list[str]:
    """The layers' names, each once: with the kind of its groups where a module has several kinds.

    Example:
        >>> labels([Width("fc", 2, 4, "heads"), Width("fc", 3, 8, "neurons"), Width("head", 1, 2)])
        ['fc (heads)', 'fc (neurons)', 'head']
    """
    times = Counter(layer.name for layer in layers)
    return [
        layer.name if times[layer.name] == 1 else f"{layer.name} ({layer.kind})" for layer in layers
    ]


def widths(model: nn.Module, groups: Groups) -> tuple[Width, ...]:
    """Count each layer's groups, all and those alive in `model`.

    Args:
        model: the trained full-size model, with zeros.
        groups: its groups.

    Example:
        >>> import torch
        >>> import secateur as sc
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> groups = sc.neurons(model, torch.ones(1, 4))
        >>> _ = groups.scale_(torch.tensor([1.0, 0, 1, 0, 0, 1]))
        >>> widths(model, groups)
        (Width(name='0', kept=3, full=6, kind='neurons'),)
    """
    alive = groups.on(model).alive().cpu()
    return tuple(
        Width(layer.name, int(alive[layer.span].sum()), len(layer), layer.kind)
        for layer in groups.layers
    )
