"""Experts: dead ones leave, and what the router computes stays what it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import networks
import secateur as sc
from cuts import Apply, counted, cut_out, predicted, some_dead, zero
from networks import images
from secateur.measurement import count_flops
from secateur.surgery.equivalence import difference
from secateur.surgery.module_removal import Placeholder

X = images(8, 6)


def expert(width: int = 10) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 14), nn.GELU(), nn.Linear(14, width))


class Mixture(nn.Module):
    """All experts on all tokens, or each on those that the router sends it."""

    def __init__(self, count: int = 4, best: int = 0) -> None:
        super().__init__()
        self.best = best
        self.embed, self.head = nn.Linear(6, 10), nn.Linear(10, 3)
        self.router = nn.Linear(10, count)
        self.experts = nn.ModuleList(expert() for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        shares = self.router(x).softmax(-1)
        if not self.best:
            y = sum(shares[:, i : i + 1] * f(x) for i, f in enumerate(self.experts))
            return self.head(x + y)
        best, chosen = shares.topk(self.best, -1)
        best = best / best.sum(-1, keepdim=True)
        y = torch.zeros_like(x)
        for number, f in enumerate(self.experts):
            row, place = (chosen == number).nonzero(as_tuple=True)
            y.index_add_(0, row, f(x[row]) * best[row, place, None])
        return self.head(x + y)


@pytest.mark.parametrize("best", [0, 2], ids=["dense", "two best"])
def test_dead_experts_leave_exactly_and_are_saved(best, tmp_path: Path):
    torch.manual_seed(0)
    model = networks.warm(Mixture(best=best), X)
    groups = sc.experts(model, X)
    assert list(groups.names) == [f"experts.{i}" for i in range(4)]
    assert groups.layers[0].producers[:2] == ("experts.0.2.bias", "experts.0.2.weight")
    for seed in range(3):
        dead = some_dead(groups, seed)
        removal, gap = cut_out(model, groups, dead)
        assert removal.refused == () and gap <= 1e-5
        assert predicted(groups, dead) == counted(removal.model, X)
        assert removal.model.router.out_features == 4
        gone = [isinstance(f, Placeholder) for f in removal.model.experts]
        assert gone == dead.tolist()
    small = sc.shrink(*zero(model, groups, dead))
    loaded = sc.load(sc.save(small, tmp_path / "small.safetensors"), model=Mixture(best=best))
    assert difference(small, loaded, X) == 0


def test_experts_and_their_neurons_meet_a_budget_together():
    torch.manual_seed(0)
    model = networks.warm(Mixture(), X)
    groups = sc.experts(model, X) + sc.neurons(model, X, ignore="embed")  # the stream stays
    budget = sc.Budget(flops=0.4)
    optimizer = sc.Proximal(torch.optim.SGD(model.parameters(), lr=0.01), groups, budget, steps=4)
    for _ in range(4):
        optimizer.zero_grad()
        (model(torch.randn_like(X)) - 1).square().mean().backward()
        optimizer.step()
    full = count_flops(model, X)
    small = sc.shrink(model, groups)
    assert difference(model, small, X) <= 1e-5
    assert count_flops(small, X) <= 0.4 * full
    assert predicted(groups, ~groups.alive().numpy())[0] == count_flops(small, X)


def test_blocks_that_follow_one_another_are_no_experts():
    model = Apply(
        lambda m, x: m.last(m.blocks[1](m.blocks[0](x))),
        blocks=nn.ModuleList([expert(6), expert(6)]),
        last=nn.Linear(6, 2),
    )
    with pytest.raises(ValueError, match=r"Apply has no removable experts$"):
        sc.experts(model, X)


def test_experts_that_do_not_work_once_are_refused_by_name():
    model = Apply(
        lambda m, x: m.last(m.f[0](x) + m.f[1](x) + m.f[2](x) + m.f[2](-x)),
        f=nn.ModuleList(expert(6) for _ in range(4)),
        last=nn.Linear(6, 2),
    )
    groups = sc.experts(model, X)
    assert list(groups.names) == ["f.0", "f.1"]
    assert {name: why for name, _, why in groups.refused} == {
        "f.2": "it is called repeatedly",
        "f.3": "the example never reaches it",
    }


def test_an_expert_that_shares_its_projection_is_refused():
    experts = nn.ModuleList(expert(6) for _ in range(3))
    experts[1][2].weight = experts[0][2].weight
    model = Apply(lambda m, x: m.last(sum(f(x) for f in m.f)), f=experts, last=nn.Linear(6, 2))
    groups = sc.experts(model, X)
    assert list(groups.names) == ["f.2"]
    assert {name for name, _, _ in groups.refused} == {"f.0", "f.1"}
    assert cut_out(model, groups, np.ones(1, bool))[1] <= 1e-5
