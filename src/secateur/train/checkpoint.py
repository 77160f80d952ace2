"""Checkpoints: one file with everything a run needs to go on, whole or not there at all.

In: tensors and plain values. Out: a file with a checksum; and back, refused if damaged or foreign.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from secateur.utils.files import write_atomically

MAGIC = b"secateur checkpoint 1\n"


class CheckpointError(ValueError):
    """The file is damaged, foreign, or belongs to another run; nothing was changed."""


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
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} holds something other than tensors and plain values; it was not read"
        ) from error


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
