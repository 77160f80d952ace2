"""A small network on the digits of scikit-learn, and loops that the tests of training share."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import Optimizer

import secateur as sc
from secateur.groups import Groups
from secateur.optim import Chained
from secateur.optim.penalties import Penalty

STEPS = 20
SCHEDULE = sc.Homotopy(STEPS, freeze=0.6)


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """512 images (512, 1, 8, 8) in [0, 1] and their labels."""
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images[:512], dtype=torch.float32) / 16
    return images.reshape(-1, 1, 8, 8), torch.tensor(labels[:512])


def network(seed: int = 0) -> nn.Sequential:
    """Two convolutions and a hidden layer: 6 + 8 + 16 = 30 groups."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 10)),
    )


def several(parameters: Iterable[Tensor]) -> Chained:
    """One optimizer for the kernels and matrices, another for the rest, at the same rate."""
    everything = list(parameters)
    kernels = [p for p in everything if p.ndim > 1]
    others = [p for p in everything if p.ndim < 2]
    sgd = torch.optim.SGD(kernels, lr=0.05, momentum=0.9)
    return Chained(sgd, torch.optim.AdamW(others, lr=0.05))


def groups_of(model: nn.Module) -> Groups:
    return sc.filters(model, digits()[0][:2]) + sc.neurons(model, digits()[0][:2])


def proximal(
    model: nn.Module,
    make: Callable[[Iterable[Tensor]], Optimizer] | None = None,
    budget: sc.Budget | None = None,
    **options: Any,
) -> sc.Proximal:
    """Proximal around `make` (SGD with momentum) on 9 of 30 groups in STEPS steps."""
    make = make or (lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9))
    if not {"steps", "schedule", "lam"} & set(options):
        options["schedule"] = SCHEDULE
    return sc.Proximal(
        make(model.parameters()), groups_of(model), budget or sc.Budget(groups=9), **options
    )


def loss_of(model: nn.Module, number: int, batch: int = 64) -> Tensor:
    """The loss on batch `number`."""
    images, labels = digits()
    part = slice(number * batch % 512, number * batch % 512 + batch)
    return nn.functional.cross_entropy(model(images[part]), labels[part])


def train(
    model: nn.Module,
    optimizer: Optimizer,
    steps: int = STEPS,
    first: int = 0,
    closure: bool = False,
) -> None:
    """Steps `first` to `first + steps` of training, with a closure or without."""
    for number in range(first, first + steps):

        def evaluate(number: int = number) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, number)
            loss.backward()
            return loss

        if closure:
            optimizer.step(evaluate)  # pyright: ignore[reportArgumentType]
        else:
            evaluate()
            optimizer.step()


def adam_step(penalty: str | Penalty, **options: Any) -> tuple[list[Tensor], sc.Proximal]:
    """v (each group's values after Adam's step) and the Proximal that made x of it."""
    model, plain = network(), network()
    make: Callable[[Any], Optimizer] = lambda p: torch.optim.Adam(p, lr=0.1)  # noqa: E731
    optimizer = proximal(model, make, penalty=penalty, geometry="optimizer", **options)
    train(model, optimizer, 1)
    train(plain, make(plain.parameters()), 1)
    return gathered(groups_of(plain)), optimizer


def gathered(groups: sc.Groups) -> list[Tensor]:
    """The values of each group, one flat float64 tensor a group."""
    found: list[list[Tensor]] = [[] for _ in range(len(groups))]
    for member in groups.members:
        values = member.parameter.detach().double()
        ids = member.ids.expand(values.shape)
        for group in ids.unique().tolist():
            found[group].append(values[ids == group])
    return [torch.cat(parts) for parts in found]


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal bit for bit."""
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def snapshot(*things: Any) -> list[dict[str, Any]]:
    """The states of models and optimizers, as they are now."""
    return [copy.deepcopy(thing.state_dict()) for thing in things]
