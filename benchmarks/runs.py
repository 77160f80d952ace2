"""What every benchmark shares: one JSON line a run, and what it ran on.

A run is a dictionary; its key fields say which run it is, so that finished ones are skipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from secateur.measurement import machine

RESULTS = Path(__file__).parent / "results"
Line = dict[str, Any]


def read(path: Path) -> list[Line]:
    """The runs written so far."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def those(lines: Iterable[Line], **wanted: Any) -> list[Line]:
    """The runs whose fields have these values."""
    return [line for line in lines if all(line.get(k) == v for k, v in wanted.items())]


def grouped(lines: Iterable[Line], *keys: str) -> dict[Any, list[Line]]:
    """The runs by the value of a key, or by the values of several; in the order of the first."""
    found: dict[Any, list[Line]] = {}
    values = itemgetter(*keys)
    for line in lines:
        found.setdefault(values(line), []).append(line)
    return found


def append(path: Path, run: Line) -> None:
    """Add one run to a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(run) + "\n")


def finished(path: Path, keys: Iterable[str]) -> set[tuple[Any, ...]]:
    """The values of `keys` of every run written so far."""
    keys = tuple(keys)
    return {tuple(run.get(key) for key in keys) for run in read(path)}


def missing(
    path: Path, keys: Sequence[str], wanted: Iterable[tuple[Any, ...]], make: Callable[..., Line]
) -> Iterator[Line]:
    """Make the wanted runs that are not there yet; each is written before it is yielded.

    Args:
        path: where they are written.
        keys: the names of the key fields.
        wanted: the values of these, one tuple a run.
        make: those values -> the other fields; what it ran on is added.
    """
    done = finished(path, keys)
    for key in wanted:
        if key not in done:
            line = dict(zip(keys, key, strict=True)) | make(*key) | machine()
            append(path, line)
            yield line


def replace(path: Path, run: Line, keys: Iterable[str]) -> None:
    """Put one run in the place of an earlier one with the same values of `keys`, or at the end."""
    keys = tuple(keys)
    key = tuple(run.get(k) for k in keys)
    lines = read(path)
    same = [n for n, line in enumerate(lines) if tuple(line.get(k) for k in keys) == key]
    if same:
        lines[same[0]] = run
    else:
        lines.append(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
