"""Two runs, or two saved networks, side by side.

Two paths flow in; one table of figures and ratios flows out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from secateur.measurement import format_bytes, format_count
from secateur.report.run import FACTS, Network, Run
from secateur.report.tables import comparison_table, plain_table


def compare(a: Path, b: Path) -> Any:
    """Tabulate two runs or two saved networks, with the ratio of the second to the first.

    Args:
        a, b: two folders of `secateur train` or `secateur demo`, or two .safetensors files.

    Returns:
        A rich table.

    Raises:
        ValueError: one is a folder and the other a file, or they are of no such kind.
        ImportError: rich is missing.
    """
    for path in (a, b):
        if not path.exists():
            raise FileNotFoundError(f"no such file or folder: {path}")
    if a.is_dir() != b.is_dir():
        raise ValueError(f"compare two runs' folders or two .safetensors files, not {a} with {b}")
    if a.is_dir():
        (one, metric), (other, found) = _small(a), _small(b)
        if metric != found:
            raise ValueError(f"{a} was scored by {metric}, {b} by {found}")
        return comparison_table([one, other], metric, "The small networks of two runs")
    return _files(a, b)


def _small(folder: Path) -> tuple[Network, str]:
    run = Run.read(folder / FACTS)
    return replace(run.networks[-1], name=str(folder)), run.metric


def _files(a: Path, b: Path) -> Any:
    numbers, sizes = zip(contents(a), contents(b), strict=True)
    rows = [
        (name, *map(form, pair), f"{pair[1] / pair[0]:.1%}")
        for name, form, pair in (("numbers", format_count, numbers), ("size", format_bytes, sizes))
    ]
    return plain_table("Saved tensors", ["", str(a), str(b), "ratio"], rows)


def contents(path: Path) -> tuple[int, int]:
    """How many numbers (parameters and buffers) a .safetensors file holds, and their bytes.

    Raises:
        ValueError: it is no such file, or an empty one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable .safetensors file: {error}") from error
    if not tensors:
        raise ValueError(f"{path} holds no tensor")
    numbers = sum(tensor.numel() for tensor in tensors)
    return numbers, sum(tensor.numel() * tensor.element_size() for tensor in tensors)
