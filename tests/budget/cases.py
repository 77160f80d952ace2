"""The networks and random costs that the tests of budgets share."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import torch
from torch import nn

import networks
import secateur as sc
from secateur.budget import Allowance
from secateur.costs import Cost
from secateur.groups import Groups, Layer

IMAGE = (2, 3, 12, 12)
NETWORKS: dict[str, tuple[type[nn.Module], tuple[int, ...], tuple[Any, ...]]] = {
    "LeNet": (networks.LeNet, (1, 1, 28, 28), (sc.filters, sc.neurons)),
    "ResNet": (networks.ResNet, IMAGE, (sc.filters,)),
    "DenseNet": (networks.DenseNet, IMAGE, (sc.filters,)),
    "MobileNet": (networks.MobileNet, IMAGE, (sc.filters,)),
    "Sigmoids": (networks.Sigmoids, IMAGE, (sc.filters, sc.neurons)),
    "Transformer": (networks.Transformer, (2, 5, 8), (sc.neurons,)),
}


@functools.cache
def network(name: str) -> tuple[nn.Module, torch.Tensor, Groups]:
    """A trained network, its example and its groups; the tests leave all three as they are."""
    torch.manual_seed(0)
    kind, shape, kinds = NETWORKS[name]
    example = torch.randn(shape)
    model = networks.warm(kind(), example)
    return model, example, sum((k(model, example) for k in kinds[1:]), kinds[0](model, example))


def random_allowance(
    seed: int, layers: int = 3, measures: int = 1, share: float = 0.4, at_least: int = 1
) -> Allowance:
    """A chain of layers of random width, whose costs are random multilinear functions."""
    rng = np.random.default_rng(seed)
    stops = np.cumsum(rng.integers(1, 7, layers))
    starts = np.concatenate([[0], stops[:-1]])
    ranges = [np.arange(a, b) for a, b in zip(starts, stops, strict=True)]
    named = tuple(
        Layer(f"layer{i}", "neurons", int(a), int(b))
        for i, (a, b) in enumerate(zip(starts, stops, strict=True))
    )
    costs = {}
    for number in range(measures):
        terms = [(float(rng.integers(1, 9)), (part,)) for part in ranges]
        for one, other in itertools.pairwise(ranges):
            free = np.full(rng.integers(0, 3), -1)  # indices in no group
            axes = (rng.permutation(np.concatenate([one, free])), np.repeat(other, 2))
            terms.append((float(rng.integers(1, 9)), axes))
        some = rng.integers(0, stops[-1], 3)  # groups that cost more than the others of their layer
        terms.append((float(rng.integers(1, 9)), (some,)))
        costs[f"measure{number}"] = Cost.of(terms, int(stops[-1]))
    full = Allowance(costs, dict.fromkeys(costs, 1.0), named, at_least)
    least, most = full.cheapest().astype(float), np.ones(stops[-1])
    limits = {m: float(np.floor(c(least) + share * (c(most) - c(least)))) for m, c in costs.items()}
    while True:  # what is cheapest depends on the limits; these must be reachable
        found = Allowance(costs, limits, named, at_least)
        least = found.cheapest().astype(float)
        if found.fits(least):
            return found
        limits = {m: max(limits[m], c(least)) for m, c in costs.items()}
