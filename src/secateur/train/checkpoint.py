"""Checkpoints: one file with everything a run needs to go on, whole or not there at all.

In: tensors and plain values. Out: a file with a checksum; and back, refused if damaged or foreign.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from secateur.utils.files import write_atomically

MAGIC = b"secateur checkpoint 1\n"


class CheckpointError(ValueError):
    """The file is damaged, foreign, or belongs to another run."""


def write(path: str | os.PathLike[str], content: Mapping[str, Any]) -> Path:
    """Write a checkpoint; an older one is replaced in one step.

    Args:
        path: the file.
        content: tensors and plain values, nested.

    Raises:
        OSError: it can't be written; an older file is intact.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     read(write(f"{folder}/checkpoint", {"step": 3}))
        {'step': 3}
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    payload = buffer.getvalue()
    digest = hashlib.sha256(payload).hexdigest().encode()
    return write_atomically(path, MAGIC + digest + b"\n" + payload)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint, tensors on the CPU; no code in it is run.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, or no checkpoint of ours.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such checkpoint: {path}")
    data = path.read_bytes()
    if not data.startswith(MAGIC):
        raise CheckpointError(
            f"{path} is not a checkpoint of secateur train (its first bytes are {data[:12]!r})"
        )
    digest, _, payload = data[len(MAGIC) :].partition(b"\n")
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        raise CheckpointError(
            f"{path} is damaged: its {len(payload):,} bytes don't match their checksum. "
            "Restore a copy of the file, or train from the start into another folder"
        )
    try:
        content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # what torch says to bytes that only look like a checkpoint
        raise CheckpointError(
            f"{path} holds something other than tensors and plain values; it was not read"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint's fields")
    return content


FIELDS = {
    "model": dict,
    "optimizer": dict,
    "scheduler": (dict, type(None)),
    "engine": dict,
    "place": tuple,
    "processes": list,
    "history": list,
}


def check_fields(
    path: str | os.PathLike[str], state: Mapping[str, Any], *, epochs: int, batches: int, each: int
) -> None:
    """Refuse a loop's checkpoint that lacks something, or is of no place in this run.

    Args:
        path: of the file.
        state: what was read.
        epochs: in the run.
        batches: in an epoch.
        each: batches of one optimizer step.

    Raises:
        CheckpointError: naming the field.
    """
    for name, kind in FIELDS.items():
        _check(path, name, isinstance(state.get(name), kind), state.get(name))
    place = state["place"]
    _check(path, "place", len(place) == 3 and all(type(part) is int for part in place), place)
    epoch, batch, step = place
    inside = (0 <= epoch < epochs and 0 <= batch <= batches) or (epoch, batch) == (epochs, 0)
    known = step == epoch * -(-batches // each) + -(-batch // each)
    _check(path, "place", inside and known, f"{place} of {epochs} epochs of {batches} batches")
    for record in state["history"]:
        well = isinstance(record, dict) and type(record.get("step")) is int
        _check(path, "history", well and _has_numbers(record), record)
    _check(path, "processes", bool(state["processes"]), "none")
    for own in state["processes"]:
        summed = own.get("summed") if isinstance(own, dict) else None
        well = isinstance(summed, tuple) and [type(part) for part in summed] == [float, int]
        _check(path, "processes", well and isinstance(own.get("rng"), dict), own)


def _has_numbers(record: Mapping[str, Any]) -> bool:
    """Whether what the loss is watched by has the right types."""
    named = (record[name] for name in ("loss", "hardness", "baseline_loss") if name in record)
    whole = "hardness" not in record or "loss" in record
    return whole and all(type(value) in (float, int) for value in named)


def _check(path: str | os.PathLike[str], name: str, holds: bool, found: Any) -> None:
    if not holds:
        raise CheckpointError(f"{path}: its {name} can't be: {str(found)[:80]}")


def clear_up(path: str | os.PathLike[str]) -> None:
    """Remove what a process left beside a checkpoint that was killed while it wrote one."""
    path = Path(path)
    for half in path.parent.glob(f".{path.name}.*"):
        shutil.rmtree(half, ignore_errors=True)


def check_same(path: str | os.PathLike[str], expected: Mapping[str, Any], found: Any) -> None:
    """Refuse to continue a run with other settings than it was started with.

    Raises:
        CheckpointError: they differ; the message lines up what was found with what was asked.
    """
    lines = differences(expected, found)
    if lines:
        raise CheckpointError(
            f"{path} belongs to a run with other settings; resume with those, "
            "or train into another folder\n" + "\n".join(lines)
        )


def differences(expected: Mapping[str, Any], found: Any) -> list[str]:
    """What differs between settings, a line each, what was found first.

    Example:
        >>> differences({"epochs": 3, "seed": 0}, {"epochs": 5, "seed": 0})
        ['  epochs  then 5, now 3']
    """
    found = found if isinstance(found, Mapping) else {}
    names = [n for n in {**expected, **found} if expected.get(n) != found.get(n)]
    width = max(map(len, names), default=0)
    return [f"  {n:<{width}}  then {found.get(n)!s}, now {expected.get(n)!s}" for n in names]
