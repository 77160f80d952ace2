"""`LatencyTable`: how long each layer of a network takes at which widths, in one readable file.

In: what `profile` measured, or a JSON file (docs/latency-tables.md). Out: the latency of a network
as a `Cost` of its groups.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from secateur.costs.terms import Cost, Term, present
from secateur.groups import Groups
from secateur.groups.coupling import Operation
from secateur.measurement import format_seconds
from secateur.measurement.host import machine, machine_differences
from secateur.utils.files import write_atomically
from secateur.utils.json import read_json, typed

FORMAT, VERSION = "secateur latency table", 1


@dataclass(frozen=True)
class LayerTimes:
    """One operator that costs FLOPs, with all that follows up to the next one.

    Attributes:
        name: the module that calls it.
        operator: torch's name of it, such as "convolution".
        widths: the full size of each of its axes that groups cut.
        seconds: of one call, as a sum of products of kept fractions: one number for each subset of
            the axes, in the order (), (0,), (1,), ..., (0, 1), ...; none is below 0.
        points: what was measured: the kept fraction of each axis, then seconds.
    """

    name: str
    operator: str
    widths: tuple[int, ...]
    seconds: tuple[float, ...]
    points: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class NetworkTime:
    """A whole network, really shrunk and measured in the runtime: its median and its spread."""

    seconds: float
    spread: float


@dataclass(frozen=True)
class LatencyTable:
    """How long a network takes, by the widths of its layers, on one machine in one runtime.

        latency = offset + sum over layers of scale(operator) * sum_S seconds_S prod_(k in S) f_k

    with f_k the kept fraction of axis k of a layer; the part that no width changes (S empty) has a
    scale of its own. Scales and the offset make the sum of the layers equal to the whole networks.

    Attributes:
        model: the class of the network.
        example: the inputs' number types and shapes.
        runtime: what ran it.
        threads: how many it ran on.
        multiple_of: widths that were measured are multiples of this.
        machine: where, as `secateur.measurement.host()` describes it.
        layers: one entry an operator that costs FLOPs.
        offset: seconds that belong to no layer.
        scales: operator -> factor; "" is that of the parts that no width changes.
        networks: the full network first, then thinner ones.
        error: mean of |table / measured - 1| over networks that scales and offset don't know.

    Source: own.
    """

    model: str
    example: tuple[str, ...]
    runtime: str
    threads: int
    multiple_of: int
    machine: Mapping[str, str]
    layers: tuple[LayerTimes, ...]
    offset: float
    scales: Mapping[str, float]
    networks: tuple[NetworkTime, ...]
    error: float
    path: Path | None = field(default=None, compare=False)

    @property
    def full(self) -> float:
        """Seconds that the full network takes."""
        return self.networks[0].seconds

    def cost(self, groups: Groups) -> Cost:
        """The latency in seconds, as a function of the groups' multipliers.

        Raises:
            ValueError: the table is of another model, or of other groups; it says what differs.
        """
        check_fits(self, groups)
        assert groups.coupling is not None
        terms: list[Term] = [(self.offset, ())]
        for layer, operation in zip(self.layers, groups.coupling.operations, strict=True):
            axes = cut_axes(operation)
            scale = self.scales[layer.operator]
            for subset, seconds in zip(subsets(len(axes)), layer.seconds, strict=True):
                rate = seconds * (scale if subset else self.scales[""])
                chosen = [axes[k] for k in subset]
                size = math.prod(len(axis) for axis in chosen)
                if rate:
                    terms += present(rate / size, chosen, operation.within)
        return Cost.of(terms, len(groups))

    @property
    def is_from_here(self) -> bool:
        """Whether it was made on a machine like this one."""
        return not machine_differences(self.machine, machine())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the table as JSON; an old file is replaced in one step, and folders are made."""
        facts = asdict(self)
        del facts["path"]
        text = json.dumps({"format": FORMAT, "version": VERSION, **facts}, indent=1)
        return write_atomically(path, _compact(text) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatencyTable:
        """Read a table.

        Raises:
            ValueError: the file is no table, damaged, or of a version that isn't known.
            FileNotFoundError: there is no such file.
        """
        path = Path(path)
        try:
            facts = read_json(path.read_text(), dict[str, Any])
            if (found := facts.pop("format", None)) != FORMAT:
                raise ValueError(f"its format is {found!r}")
        except ValueError as error:
            raise ValueError(f"{path} is not a latency table, or it is damaged: {error}") from error
        if (version := facts.pop("version", None)) != VERSION:
            raise ValueError(f"{path} has version {version!r}; this secateur reads {VERSION}")
        try:
            networks = typed(facts.get("networks"), list[dict[str, Any]], "networks")
            for network in networks:
                network.pop("by_table", None)  # which files had before
            return _checked(replace(typed({**facts, "networks": networks}, cls), path=path))
        except ValueError as error:
            raise ValueError(f"{path} is a damaged latency table: {error}") from error

    def __str__(self) -> str:
        slow = sorted(self.layers, key=lambda layer: -sum(layer.seconds))[:5]
        total = sum(sum(layer.seconds) for layer in self.layers) or 1.0
        lines = [
            f"{self.model} in {self.runtime} on {self.threads} threads of {_where(self.machine)}",
            f"full {format_seconds(self.full)}, smallest measured "
            f"{format_seconds(min(network.seconds for network in self.networks))}, "
            f"table off by {self.error:.1%} on average",
        ]
        lines += [f"  {layer.name:<32} {sum(layer.seconds) / total:>6.1%}" for layer in slow]
        return "\n".join(lines)


def subsets(count: int) -> list[tuple[int, ...]]:
    """All subsets of `count` axes, the smaller ones first."""
    return [part for size in range(count + 1) for part in combinations(range(count), size)]


def cut_axes(operation: Operation) -> list[np.ndarray]:
    """The axes of an operator that groups cut."""
    return [entries for entries in operation.entries if (entries >= 0).any()]


def example_words(groups: Groups) -> tuple[str, ...]:
    """The inputs that groups were traced on, such as ("float32 1x3x32x32",)."""
    from secateur.utils.forward import inputs_of

    return tuple(
        f"{str(tensor.dtype).removeprefix('torch.')} {'x'.join(map(str, tensor.shape))}"
        for tensor in inputs_of(groups.example)
    )


def check_fits(table: LatencyTable, groups: Groups) -> None:
    """Refuse a table of another model.

    Raises:
        ValueError: it says what differs.
    """
    if groups.coupling is None or groups.model is None:
        raise ValueError(
            "a budget on latency needs groups that were traced through the model, such as filters; "
            "these leave zeros in place and make nothing faster"
        )
    different = list(_misfits(table, groups))
    if different:
        more = [f"and {len(different) - 4} more"] if len(different) > 4 else []
        where = f" {table.path}" if table.path else ""
        raise ValueError(
            f"the latency table{where} was made for another network (table / here):\n  "
            + "\n  ".join([*different[:4], *more])
            + "\nmake one for this network: secateur profile, or LatencyTarget(...) without table="
        )


def _misfits(table: LatencyTable, groups: Groups) -> Sequence[str]:
    assert groups.coupling is not None
    operations = groups.coupling.operations
    found = []
    if table.model != type(groups.model).__name__:
        found.append(f"model: {table.model} / {type(groups.model).__name__}")
    if table.example != example_words(groups):
        found.append(f"inputs: {', '.join(table.example)} / {', '.join(example_words(groups))}")
    if len(table.layers) != len(operations):
        found.append(f"operators: {len(table.layers)} / {len(operations)}")
        return found
    for layer, operation in zip(table.layers, operations, strict=True):
        widths = tuple(len(axis) for axis in cut_axes(operation))
        if (layer.operator, layer.widths) != (operation.name, widths):
            found.append(
                f"{layer.name}: {layer.operator} {layer.widths} / {operation.name} {widths}"
            )
    return found


def _checked(table: LatencyTable) -> LatencyTable:
    numbers = [table.offset, table.error, *table.scales.values()]
    for layer in table.layers:
        numbers += layer.seconds
        if len(layer.seconds) != 2 ** len(layer.widths):
            raise ValueError(
                f"{layer.name} has {len(layer.widths)} widths and {len(layer.seconds)} numbers of "
                f"seconds, not {2 ** len(layer.widths)}"
            )
        if layer.operator not in table.scales:
            raise ValueError(f"there is no scale for {layer.operator}")
    numbers += [network.seconds for network in table.networks]
    if min(numbers) < 0:
        raise ValueError("a number is negative")
    if not table.networks or table.full <= 0 or "" not in table.scales:
        raise ValueError("it says nothing about the full network")
    return table


def _where(facts: Mapping[str, str]) -> str:
    return facts.get("accelerator") or facts.get("processor", "an unknown machine")


def _compact(text: str) -> str:
    """Put lists of numbers on one line each."""
    import re

    return re.sub(r"\[\s*([-\d.eE+,\s]+?)\s*\]", lambda m: "[" + " ".join(m[1].split()) + "]", text)
