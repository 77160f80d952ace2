"""Several optimizers step as one, with Muon for matrices as the case in point."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from optim.training import STEPS, digits, groups_of, network, same, several, snapshot, train
from secateur.optim import Chained
from secateur.shrinking import refit

BUDGET = sc.Budget(groups=9)
muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")


def sgd(parameters: Any, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, **options)


def halves(model: nn.Module) -> list[list[Tensor]]:
    everything = list(model.parameters())
    return [everything[:3], everything[3:]]


# -- as one optimizer would ------------------------------------------------------------------------


def test_two_take_the_steps_of_one() -> None:
    ends = []
    for make in (
        lambda model: sgd([{"params": half} for half in halves(model)]),
        lambda model: Chained(*map(sgd, halves(model))),
        lambda model: [sgd(half) for half in halves(model)],
    ):
        model = network()
        optimizer = sc.Proximal(make(model), groups_of(model), BUDGET, steps=STEPS)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        for number in range(STEPS):
            train(model, optimizer, 1, number)
            scheduler.step()
        theirs, ours = snapshot(model, optimizer)
        del ours["proximal"], ours["param_groups"][0]["proximal"]  # these name the optimizers
        ends.append((theirs, ours))
    assert same(ends[0], ends[1]) and same(ends[0], ends[2])


def test_a_state_moves_between_one_and_several() -> None:
    model, other = network(), network()
    one = sgd([{"params": half} for half in halves(model)])
    train(model, one, 3)
    both = Chained(*map(sgd, halves(other)))
    other.load_state_dict(model.state_dict())
    both.load_state_dict(copy.deepcopy(one.state_dict()))
    train(model, one, 3, 3)
    train(other, both, 3, 3)
    assert same(snapshot(model, one), snapshot(other, both))


def test_a_closure_is_called_once() -> None:
    model, calls = network(), []
    both = several(model.parameters())

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        both.zero_grad()
        loss = model(digits()[0][:8]).square().mean()
        loss.backward()
        return loss

    with torch.no_grad():
        assert both.step(closure).item() > 0
    assert calls == [True]


@pytest.mark.parametrize("way", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_go_on_alike(way: Any) -> None:
    model = network()
    optimizer = sc.Proximal(several(model.parameters()), groups_of(model), BUDGET, steps=STEPS)
    train(model, optimizer, 5)
    other, again = way((model, optimizer))
    for network_, one in ((model, optimizer), (other, again)):
        train(network_, one, STEPS - 5, 5)
    assert same(snapshot(model, optimizer), snapshot(other, again))
    assert int(again.groups.alive().sum()) == 9


def test_what_else_an_optimizer_keeps_is_kept() -> None:
    class Counting(torch.optim.SGD):
        """Keeps a number of its own beside what torch's optimizers keep."""

        count = 0

        def state_dict(self) -> dict[str, Any]:
            return {**super().state_dict(), "count": self.count}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.count = state_dict["count"]
            super().load_state_dict(state_dict)

    model = network()
    first, second = halves(model)
    both = Chained(sgd(first), counting := Counting(second, lr=0.1))
    counting.count = 7
    state = both.state_dict()
    counting.count = 0
    both.load_state_dict(state)
    assert counting.count == 7


# -- matrices by Muon ------------------------------------------------------------------------------


def with_muon(model: nn.Module) -> list[torch.optim.Optimizer]:
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    return [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(others, lr=0.01)]


@muon
def test_muon_and_adamw_end_on_the_count() -> None:
    model, example = network(), digits()[0][:2]
    groups = groups_of(model)
    optimizer = sc.Proximal(with_muon(model), groups, BUDGET, steps=STEPS)
    train(model, optimizer)
    assert int(groups.alive().sum()) == optimizer.kept == 9
    for member in groups.members:
        dead = ~member.spread(torch.cat([groups.alive(), torch.ones(1)]).bool())
        for name, value in optimizer.state[member.parameter].items():
            if value.shape == member.parameter.shape:
                assert not value[dead.expand_as(value)].any(), name
    small = sc.shrink(model, groups)
    onward = refit(optimizer, model, small)
    assert onward is optimizer.optimizer
    train(small, onward, 3)
    assert small(example).isfinite().all()


@muon
def test_a_bias_that_shrinking_adds_is_not_given_to_muon() -> None:
    """Sigmoids of zeros are one half, which the next layer takes in as a bias."""
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    model = nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 3, bias=False))
    groups = sc.neurons(model, x)
    both = Chained(*with_muon(model))
    groups.scale_((torch.arange(8) % 2).double())
    small = sc.shrink(model, groups)
    assert small[2].bias is not None
    refit(both, model, small)
    assert [p.ndim for p in both.optimizers[0].param_groups[0]["params"]] == [2, 2]
    assert any(p is small[2].bias for p in both.optimizers[1].param_groups[0]["params"])
    small(x).square().sum().backward()
    both.step()


# -- refused at the door ---------------------------------------------------------------------------


def test_what_does_not_go_together_is_refused() -> None:
    model = network()
    groups = groups_of(model)
    first, second = halves(model)

    def wrap(*optimizers: Any) -> None:
        sc.Proximal(optimizers, groups, BUDGET, steps=STEPS)

    with pytest.raises(TypeError, match="got Parameter"):
        wrap(*model.parameters())
    with pytest.raises(TypeError, match="there are none"):
        wrap()
    with pytest.raises(ValueError, match="moved twice"):
        wrap(sgd(model.parameters()), sgd(second))
    with pytest.raises(ValueError, match="not in the optimizer"):
        wrap(sgd(first))
    with pytest.raises(TypeError, match="SparseAdam"):
        wrap(sgd(first), torch.optim.SparseAdam(second))
    with pytest.raises(TypeError, match="wraps an optimizer"):
        whole = sc.Proximal(sgd(model.parameters()), groups, BUDGET, steps=STEPS)
        wrap(whole)
    with pytest.raises(ValueError, match="Chained has no preconditioner"):
        sc.Proximal([sgd(first), sgd(second)], groups, BUDGET, steps=STEPS, geometry="optimizer")
    with pytest.raises(ValueError, match=r"optimizers\[i\].add_param_group"):
        Chained(sgd(first), sgd(second)).add_param_group({"params": []})


def test_a_foreign_state_is_refused_and_nothing_changes() -> None:
    model = network()
    both = several(model.parameters())
    train(model, both, 3)
    before = snapshot(both)
    state = copy.deepcopy(both.state_dict())
    state["param_groups"][1]["params"].pop()
    other = sgd(model.parameters()).state_dict()
    for foreign in (state, other, both.state_dict() | {"others": [{}]}):
        with pytest.raises(ValueError, match="other parameter groups"):
            both.load_state_dict(foreign)
        assert same(snapshot(both), before)
