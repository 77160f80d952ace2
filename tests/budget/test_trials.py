"""Trials: what the network without the others really takes decides, not the model of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from budget.cases import network
from secateur.budget import Allowance, Budget
from secateur.budget.clock import kept_in
from secateur.costs import Cost
from secateur.costs.timing import without
from secateur.groups import Groups
from secateur.measurement import count_params
from secateur.runtimes import EXPORTED, check_runtime


@dataclass
class Counted:
    """A trial with an exact answer: the parameters of the network without the others."""

    groups: Groups
    asked: float
    aim: tuple[float, float] = (0.9, 0.98)
    seen: int = 0

    def begin(self) -> Callable[[nn.Module], float]:
        return self.share

    def share(self, network: nn.Module) -> float:
        self.seen += 1
        return count_params(network) / self.asked


def wrong(groups: Groups, factor: float, asked: float) -> Allowance:
    """A budget on parameters whose model of them is off by a factor."""
    allowance = Budget(params=1.0).on(groups)
    assert isinstance(allowance, Allowance)
    cost = allowance.costs["params"]
    off: Cost = replace(cost, rates=cost.rates * factor)
    return replace(allowance, costs={"params": off}, limits={"params": asked})


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.3, 3.0])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_the_network_meets_what_was_asked_although_the_model_is_wrong(
    factor: float, share: float
) -> None:
    model, _, groups = network("ResNet")
    asked = share * count_params(model)
    trial = Counted(groups, asked)
    allowance = replace(wrong(groups, factor, asked), trials={"params": trial})
    kept = allowance.choose(groups.norms().numpy())
    reached = count_params(without(groups, kept)) / asked
    assert 0.85 <= reached <= 0.98
    assert trial.seen <= 8


def test_where_another_measure_decides_there_is_one_trial() -> None:
    model, _, groups = network("ResNet")
    allowance = replace(
        wrong(groups, 1.0, count_params(model)),
        costs=dict(Budget(groups=10, params=1.0).on(groups).costs),
        limits={"groups": 10.0, "params": float(count_params(model))},
        trials={"params": (trial := Counted(groups, count_params(model)))},
    )
    kept = allowance.choose(groups.norms().numpy())
    assert kept.sum() == 10
    assert trial.seen == 1


def test_what_cannot_be_reached_ends_with_the_smallest_network_and_a_warning() -> None:
    _, _, groups = network("ResNet")
    trials = {"params": Counted(groups, 100.0)}
    allowance = replace(wrong(groups, 0.01, 100.0), trials=trials)
    with pytest.warns(UserWarning, match="params: the smallest network takes .* of what was asked"):
        kept = allowance.choose(groups.norms().numpy())
    assert (kept == allowance.cheapest()).all()


def test_the_plan_of_a_small_network_says_what_it_kept() -> None:
    model, _, groups = network("DenseNet")
    kept = np.random.default_rng(0).random(len(groups)) < 0.5
    for layer in groups.layers:
        kept[layer.start] = True
    copied = without(groups, np.ones(len(groups), bool))
    theirs = groups.on(copied).scale_(torch.from_numpy(kept.astype(float)))
    assert (kept_in(sc.shrink(copied, theirs), groups) == kept).all()
    assert (kept_in(copied, groups) == kept).all()  # not shrunk: by its zeros
    assert model is not copied


@pytest.mark.filterwarnings("ignore:the device is busy")
@pytest.mark.filterwarnings("ignore:the latency table of")
@pytest.mark.parametrize("runtime", ["torch", *EXPORTED])
def test_a_network_trained_to_a_latency_has_it(runtime: str) -> None:
    try:
        check_runtime(runtime)
    except ImportError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    model = nn.Sequential(
        *[nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()],
        *[nn.Conv2d(64, 64, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        nn.Linear(64, 10),
    )
    example = torch.randn(1, 3, 32, 32)
    groups = sc.filters(model, example)
    budget = Budget(latency=0.6, runtime=runtime, multiple_of=16)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    optimizer = sc.Proximal(sgd, groups, budget, steps=6)
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 32, 32)).square().mean().backward()
        optimizer.step()
    small = sc.shrink(model, groups)
    line = budget.reached(small, example, groups=groups)["latency"]
    assert 0.3 < line.reached / line.asked < 1.1  # 10%: the machine that runs the tests is noisy
    assert "s" in str(budget.reached(small, example, groups=groups))
