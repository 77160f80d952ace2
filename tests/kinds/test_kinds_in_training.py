"""Every kind of this room, trained on real digits: exact budgets, exact zeros, equal networks."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur.surgery.equivalence import difference

STEPS = 150


def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    pictures = torch.from_numpy(found.images.astype(np.float32) / 16)[:, None]
    return pictures, torch.from_numpy(found.target)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


def trained(model: nn.Module, groups: sc.Groups, budget: sc.Budget) -> tuple[sc.Proximal, float]:
    """Train for a moment; the last loss tells whether training works at all."""
    pictures, labels = digits()
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    # Fan-in makes plain magnitudes of single weights incomparable between layers.
    optimizer = sc.Proximal(adam, groups, budget, steps=STEPS, importance="curvature")
    draw = torch.Generator().manual_seed(0)
    loss = torch.tensor(0.0)
    for _ in range(STEPS):
        batch = torch.randint(len(pictures), (128,), generator=draw)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(pictures[batch]), labels[batch])
        loss.backward()
        optimizer.step()
    return optimizer, loss.item()


Kind = Callable[[nn.Module, Tensor], sc.Groups]
EXAMPLE = digits()[0][:2]
KINDS: dict[str, tuple[Kind, sc.Budget]] = {
    "channels": (sc.channels, sc.Budget(groups=0.4)),
    "channels by FLOPs": (sc.channels, sc.Budget(flops=0.4)),
    "shapes": (sc.shapes, sc.Budget(groups=0.4)),
    "blocks": (lambda m, x: sc.blocks(m), sc.Budget(groups=0.4)),
    "blocks that do not divide": (lambda m, x: sc.blocks(m, (5, 3)), sc.Budget(groups=0.5)),
    "2 of 4": (lambda m, x: sc.n_of_m(m), sc.Budget(groups=0.5)),
    "1 of 8": (lambda m, x: sc.n_of_m(m, 1, 8), sc.Budget(groups=1 / 8)),
    "weights": (lambda m, x: sc.weights(m), sc.Budget(groups=0.1)),
    "filters and weights": (
        lambda m, x: sc.filters(m, x) + sc.weights(m, ignore=nn.Conv2d),
        sc.Budget(groups=0.3, flops=0.5),
    ),
    "filters by FLOPs and 2 of 4": (
        lambda m, x: sc.filters(m, x) + sc.n_of_m(m, ignore=nn.Conv2d),
        sc.Budget(flops=0.5),
    ),
    "channels and blocks": (
        lambda m, x: sc.channels(m, x, ignore=nn.Linear) + sc.blocks(m, ignore=nn.Conv2d),
        sc.Budget(groups=0.5, params=0.9),
    ),
}

REMOVED = ("channels", "filters")


@pytest.mark.parametrize("name", list(KINDS))
def test_training_ends_on_the_budget_and_shrinks_to_an_equal_network(name):
    make, budget = KINDS[name]
    model = network()
    groups = make(model, EXAMPLE)
    optimizer, loss = trained(model, groups, budget)
    assert optimizer.frozen and loss < 0.7  # of ln 10 = 2.3 for guessing
    alive = groups.alive()
    assert int(alive.sum()) == optimizer.kept
    assert all(spent <= optimizer.allowance.limits[m] for m, spent in optimizer.spent.items())
    if list(optimizer.spent) == ["groups"]:
        assert optimizer.kept == optimizer.allowance.limits["groups"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        small = sc.shrink(model, groups)
    assert difference(model, small, EXAMPLE) <= 1e-5
    assert budget.reached(small, EXAMPLE).holds
    left = sum(p.numel() for p in small.parameters())
    full = sum(p.numel() for p in model.parameters())
    assert left <= full if name == "shapes" else (left < full) == name.startswith(REMOVED)
    stays = sum(int(str(w.message).partition(" dead groups")[0]) for w in caught)
    in_place = [la for la in groups.layers if la.kind not in REMOVED]
    dead_in_place = sum(int((~alive[la.span]).sum()) for la in in_place)
    assert 0 < stays <= dead_in_place if in_place else stays == 0


def test_two_of_four_holds_in_every_block_of_every_weight():
    model = network()
    trained(model, sc.n_of_m(model, ignore="0"), sc.Budget(groups=0.5))
    for layer, inputs in ((model[4], 8), (model[9], 48), (model[11], 32)):
        weight = layer.weight.detach().movedim(1, -1).reshape(-1, inputs // 4, 4)
        assert ((weight != 0).sum(-1) == 2).all()


def test_dead_entries_are_exactly_zero_and_the_rest_is_not():
    model = network()
    groups = sc.weights(model)
    optimizer, _ = trained(model, groups, sc.Budget(groups=0.05))
    weights = torch.cat([p.detach().reshape(-1) for p in model.parameters() if p.ndim > 1])
    assert int((weights != 0).sum()) == optimizer.kept == len(weights) * 5 // 100
    assert all((p != 0).any() for p in model.parameters() if p.ndim > 1)  # at_least=1


def test_shapes_that_training_left_unread_leave_the_network():
    """One wide layer whose shapes die in whole channels: the network gets narrower."""
    model = network()
    groups = sc.shapes(model, EXAMPLE)
    pairs = torch.ones(len(groups)).double()
    second = groups.layers[1]
    pairs[second.start + 9 * 2 : second.start + 9 * 5] = 0  # channels 2, 3 and 4
    groups.scale_(pairs)
    small = sc.shrink(model, groups)
    assert small[0].out_channels == 5 == small[1].num_features
    assert difference(model, small, EXAMPLE) <= 1e-5


@pytest.mark.parametrize("name", ["channels", "2 of 4", "weights"])
def test_a_resumed_run_is_equal_bit_for_bit(name):
    make, budget = KINDS[name]
    pictures, labels = digits()

    def run(model: nn.Module, optimizer: sc.Proximal, steps: range) -> None:
        for step in steps:
            batch = slice(64 * step, 64 * step + 64)
            optimizer.zero_grad()
            F.cross_entropy(model(pictures[batch]), labels[batch]).backward()
            optimizer.step()

    def start() -> tuple[nn.Module, sc.Proximal]:
        model = network()
        sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        return model, sc.Proximal(sgd, make(model, EXAMPLE), budget, steps=16)

    model, optimizer = start()
    run(model, optimizer, range(8))
    state, memory = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    run(model, optimizer, range(8, 16))
    other, resumed = start()
    other.load_state_dict(state)
    resumed.load_state_dict(memory)
    run(other, resumed, range(8, 16))
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
