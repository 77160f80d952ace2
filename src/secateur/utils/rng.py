"""The random number generators a training run draws from: seeded by epoch, saved, restored.

A seed or a state flows in; the generators of torch, numpy, python and the loader are set.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def seed_all(seed: int, epoch: int, loader: Any = None) -> None:
    """Seed every generator for one epoch, so that its order doesn't depend on earlier epochs.

    Args:
        seed: the run's seed.
        epoch: the epoch, from 0; -1 for what comes before training.
        loader: the training loader, whose own generators are seeded too.
    """
    number = int(np.random.SeedSequence([seed, epoch + 1]).generate_state(1)[0])
    torch.manual_seed(number)
    # Users' augmentations draw from the global generator, so that is what must be seeded.
    np.random.seed(number)  # noqa: NPY002
    random.seed(number)
    for generator in _generators(loader):
        generator.manual_seed(number)
    for sampler in _samplers(loader):
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)


def part_ways(rank: int) -> None:
    """Give a process random numbers of its own, where all had the same until now.

    Args:
        rank: which process; 0 goes on as it was.
    """
    if rank:
        number = int(np.random.SeedSequence([torch.initial_seed(), rank]).generate_state(1)[0])
        torch.manual_seed(number)
        np.random.seed(number)  # noqa: NPY002
        random.seed(number)


def rng_state(loader: Any = None) -> dict[str, Any]:
    """The state of every generator, in types that `torch.load(weights_only=True)` reads."""
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, gauss),
        "python": random.getstate(),
        "loader": [generator.get_state() for generator in _generators(loader)],
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: dict[str, Any], loader: Any = None) -> None:
    """Put every generator back to a state that `rng_state` took."""
    torch.set_rng_state(state["torch"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    for generator, saved in zip(_generators(loader), state["loader"], strict=True):
        generator.set_state(saved)
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _samplers(loader: Any) -> list[Any]:
    batches = getattr(loader, "batch_sampler", None)
    found = [getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)]
    return [sampler for sampler in found if sampler is not None]


def _generators(loader: Any) -> list[torch.Generator]:
    """The generators of a loader and its samplers, each once."""
    owners = [loader, *_samplers(loader)]
    found = [getattr(owner, "generator", None) for owner in owners]
    unique = {id(generator): generator for generator in found}
    return [g for g in unique.values() if isinstance(g, torch.Generator)]
