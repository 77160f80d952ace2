"""Making a latency table from the command line: what `secateur profile` does.

In: a model, an example, kinds of groups, a runtime. Out: the table's file, and a rich table of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from secateur.costs import LatencyTable
from secateur.costs.timing import Watch, profile
from secateur.measurement import format_seconds
from secateur.report.tables import plain_table
from secateur.train.spec import make_groups


def make_table(
    model: nn.Module,
    example: Any,
    path: Path,
    *,
    kinds: str = "filters",
    ignore: Sequence[str] = (),
    runtime: str = "torch",
    threads: int | None = None,
    multiple_of: int = 1,
    watch: Watch = lambda what, done, total, words: None,
) -> LatencyTable:
    """Measure a model's latency by its widths on this machine, and write the table down.

    Args:
        model: at full size; its weights don't matter.
        example: inputs of the batch size that counts.
        path: of the JSON file.
        kinds: comma-separated kinds of groups, those that will be trained with.
        ignore: modules that stay.
        runtime: "torch", "torch.compile" or "onnxruntime".
        threads: how many the runtime uses.
        multiple_of: as in the budget.
        watch: told how far things are.

    Raises:
        ValueError: the groups can't be found, or the runtime isn't known.
        RuntimeError: the device is too busy.
    """
    if not path.parent.is_dir():
        raise ValueError(f"--out {path}: there is no folder {path.parent}")
    watch("tracing the model", 0, 0, "")
    groups = make_groups(model, example, kinds, ignore)
    table = profile(groups, runtime=runtime, threads=threads, multiple_of=multiple_of, watch=watch)
    table.save(path)
    return table


def layer_table(table: LatencyTable) -> Any:
    """A rich table: one row an operator, slowest first.

    Raises:
        ImportError: rich is missing.
    """
    total = sum(sum(layer.seconds) for layer in table.layers)
    rows = [
        (
            layer.name,
            layer.operator,
            " x ".join(map(str, layer.widths)) or "-",
            format_seconds(sum(layer.seconds)),
            f"{sum(layer.seconds) / total:.1%}",
            f"{1 - layer.seconds[0] / (sum(layer.seconds) or 1.0):.0%}",
        )
        for layer in sorted(table.layers, key=lambda layer: -sum(layer.seconds))
    ]
    title = f"{table.model} in {table.runtime}: {format_seconds(table.full)}"
    return plain_table(
        title, ["layer", "operator", "widths", "time", "share", "falls with widths"], rows
    )
