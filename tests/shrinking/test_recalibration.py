"""Averages of BatchNorm made anew, and what stays as it was."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import secateur as sc
from secateur.train import Data
from secateur.train.finishing import finish


class Net(nn.Module):
    """Called with x alone, or with x and a scale."""

    def __init__(self, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.first, self.drop = nn.BatchNorm1d(3, momentum=momentum), nn.Dropout()
        self.linear, self.second = nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=momentum)

    def forward(self, x: Tensor, scale: float | Tensor = 1.0) -> Tensor:
        return self.second(self.linear(self.drop(self.first(x * scale))))


ROWS = torch.randn(40, 3, generator=torch.Generator().manual_seed(1)) * 3 + 2
LABELS = torch.zeros(40, dtype=torch.int64)


@pytest.mark.parametrize("momentum", [0.01, None])
def test_they_are_plain_means_of_what_the_layers_see_in_eval_mode(momentum: float | None) -> None:
    model = Net(momentum)
    batches = ROWS.split(10)
    assert sc.recalibrate(model, batches, batches=3) is model
    mean = torch.stack([x.mean(0) for x in batches[:3]]).mean(0)
    torch.testing.assert_close(model.first.running_mean, mean)
    inside = [model.linear(nn.functional.batch_norm(x, None, None, training=True)) for x in batches]
    var = torch.stack([x.var(0) for x in inside[:3]]).mean(0)
    torch.testing.assert_close(model.second.running_var, var, rtol=1e-4, atol=1e-5)
    assert int(model.first.num_batches_tracked) == 3 and model.first.momentum == momentum


@pytest.mark.parametrize(
    "batches",
    [
        list(ROWS.split(20)),
        list(zip(ROWS.split(20), LABELS.split(20), strict=True)),
        [(x,) for x in ROWS.split(20)],
        [{"x": x} for x in ROWS.split(20)],
        [{"x": x / 2, "scale": 2.0, "labels": 0} for x in ROWS.split(20)],
        [(x / 2, torch.tensor(2.0), None) for x in ROWS.split(20)],
        DataLoader(TensorDataset(ROWS, LABELS), 20),
        (x for x in ROWS.split(20)),
    ],
    ids=["tensors", "pairs", "singles", "mappings", "labels", "several", "loader", "generator"],
)
def test_batches_of_any_usual_kind(batches: Any) -> None:
    model = sc.recalibrate(Net(), batches)
    torch.testing.assert_close(model.first.running_mean, ROWS.mean(0))


def test_everything_else_is_as_it_was() -> None:
    model = Net()
    model.second.eval()
    model(ROWS).sum().backward()
    loader = DataLoader(TensorDataset(ROWS, LABELS), 20, shuffle=True)
    parameters = [(p.clone(), p.grad) for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    sc.recalibrate(model, loader)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]  # noqa: NPY002
    assert [module.training for module in model.modules()] == modes
    for parameter, (value, grad) in zip(model.parameters(), parameters, strict=True):
        assert torch.equal(parameter, value) and parameter.grad is grad


@pytest.mark.parametrize(
    ("loader", "error", "words"),
    [
        (ROWS, TypeError, r"got a Tensor; pass a DataLoader, or \[x\]"),
        (5, TypeError, "got a int"),
        ([], ValueError, "no batch"),
        ([ROWS, ROWS[:1]], ValueError, "two rows or more"),
        (["text"], TypeError, "a batch is"),
        ([ROWS[:, :2]], RuntimeError, "size|shape|running_mean"),
    ],
)
def test_a_refusal_changes_nothing(loader: Any, error: type[Exception], words: str) -> None:
    model = Net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=words):
        sc.recalibrate(model, loader)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.first.momentum == 0.1 and model.first.training
    with pytest.raises(ValueError, match="batches=0"):
        sc.recalibrate(model, [ROWS], batches=0)


def test_a_network_without_averages_is_left_alone() -> None:
    model = nn.Linear(3, 3)
    assert sc.recalibrate(model, []) is model


@pytest.mark.parametrize("stale", [True, False])
def test_finish_averages_anew_where_that_helps(stale: bool, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    labels = (ROWS.sum(1) > 6).long()
    batches = list(zip(ROWS.split(10), labels.split(10), strict=True))
    adam = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(30):
        for rows, target in batches:
            adam.zero_grad()
            nn.functional.cross_entropy(model(rows), target).backward()
            adam.step()
    sc.recalibrate(model, [ROWS])
    if stale:
        torch.nn.init.constant_(model[1].running_mean, 5.0)
    groups = sc.neurons(model, ROWS[:1])
    budget = sc.Budget(groups=6)
    sc.Proximal(adam, groups, budget, steps=1)  # which tells the budget of what it is a part
    groups.scale_(torch.tensor([1.0, 1, 1, 1, 0, 1, 1, 0]))
    # the training rows of the other case have nothing to do with the held-out ones
    training = batches if stale else [(-9 * ROWS, labels)]
    before = model[1].running_var.clone()
    data = Data(training, batches)
    small, run = finish(model, groups, budget, data, tmp_path, title="a run")
    (check,) = (check for check in run.checks if "BatchNorm" in check.what)
    assert check.what == f"BatchNorm statistics {'averaged anew' if stale else 'as trained'}"
    assert check.holds and check.found.startswith("held-out loss ")
    kept = torch.tensor([0, 1, 2, 3, 5, 6])
    assert torch.equal(small.get_buffer("1.running_var"), before[kept]) != stale
    assert torch.equal(model[1].running_var, before)
