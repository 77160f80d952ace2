"""One architecture of the zoo: its name, its family, and how it and its example inputs are made."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

FILES = (
    "classics",
    "residual",
    "mobile",
    "pixels",
    "sequences",
    "mixed",
    "language",
    "vision",
    "signals",
    "attentions",
    "further",
    "unusual",
    "pretrained",
)


class Missing(Exception):
    """What an architecture needs can't be had here; the message says why."""


@dataclass(frozen=True)
class Entry:
    """An architecture.

    Attributes:
        name: as the literature calls it.
        family: the file that defines it.
        build: makes the model, small and randomly initialised.
        example: makes inputs: a tensor, a tuple, or a mapping of keyword inputs.
        trained: its weights are real ones, which are left as they are.
    """

    name: str
    family: str
    build: Callable[[], nn.Module]
    example: Callable[[], Any]
    trained: bool = False


ZOO: dict[str, Entry] = {}


def entry(name: str, example: Callable[[], Any], *, trained: bool = False) -> Callable[[Any], Any]:
    """Register a builder (a class or a function without arguments) under `name`."""

    def register(build: Any) -> Any:
        family = build.__module__.rpartition(".")[2]
        ZOO[name] = Entry(name, family, build, example, trained)
        return build

    return register


def everything() -> dict[str, Entry]:
    """All architectures by name, in the order of the files."""
    for name in FILES:
        importlib.import_module(f"zoo.{name}")
    return ZOO


def random(*shape: int) -> Callable[[], Tensor]:
    """Inputs from a normal distribution."""
    return lambda: torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def tokens(*shape: int, count: int = 40) -> Callable[[], Tensor]:
    """Numbers of words of a vocabulary of `count`; 0 to 3 are left to padding and the like."""
    return lambda: torch.randint(4, count, shape, generator=torch.Generator().manual_seed(1))
