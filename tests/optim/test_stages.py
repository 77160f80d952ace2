"""Several budgets in one run: each is met exactly, each network is inside the one before."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import networks
import secateur as sc
from networks import images

STEPS = 40
SHARES = (0.6, 0.4, 0.2)


def setup(kind: type[torch.optim.Optimizer] = torch.optim.SGD, **options: float):
    torch.manual_seed(0)
    model = networks.ResNet()
    example = images(2, 3, 12, 12)
    groups = sc.filters(model, example)
    inner = kind(model.parameters(), **(options or {"lr": 0.05, "momentum": 0.9}))  # pyright: ignore
    budgets = [sc.Budget(flops=share) for share in SHARES]
    return model, example, groups, sc.Proximal(inner, groups, budgets, steps=STEPS)


def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    for _ in range(count):
        target = torch.randint(0, 10, (8,), generator=draw)
        yield torch.randn(8, 3, 12, 12, generator=draw) + target[:, None, None, None] / 5, target


def step(model: nn.Module, optimizer: sc.Proximal, batch: tuple[Tensor, Tensor]) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_each_stage_ends_on_its_budget_inside_the_one_before(kind) -> None:
    model, example, groups, optimizer = setup(kind, lr=0.01)
    found, alive = [], []
    for number, batch in enumerate(batches(STEPS), 1):
        step(model, optimizer, batch)
        if optimizer.settled:
            assert optimizer.budget == sc.Budget(flops=SHARES[len(found)])
            small = sc.shrink(model, groups)
            reached = optimizer.budget.reached(small, example)
            assert reached.holds
            assert reached["flops"].reached > 0.9 * reached["flops"].asked
            found.append(number)
            alive.append(groups.alive())
    assert found == list(optimizer.schedule.ends)
    for larger, smaller in itertools.pairwise(alive):
        assert bool((larger | ~smaller).all())
        assert int(larger.sum()) > int(smaller.sum())


def test_between_stages_the_dead_stay_dead_and_the_others_compete() -> None:
    model, _, groups, optimizer = setup()
    kinds = set()
    for batch in batches(STEPS):
        dead = ~groups.alive() if optimizer.stage or optimizer.frozen else None
        step(model, optimizer, batch)
        if dead is not None:
            assert not bool(groups.alive()[dead].any())
        kinds.add((optimizer.stage, optimizer.frozen))
    assert kinds == set(itertools.product(range(3), (False, True)))


@pytest.mark.parametrize("at", [7, 14, 18, 21, 27, 33, 39])
def test_a_resumed_run_is_the_uninterrupted_one_in_any_stage(at: int) -> None:
    model, _, groups, optimizer = setup()
    for batch in itertools.islice(batches(STEPS), at):
        step(model, optimizer, batch)
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    for batch in itertools.islice(batches(STEPS), at, None):
        step(model, optimizer, batch)
    again, _, same, resumed = setup()
    again.load_state_dict(state[0])
    resumed.load_state_dict(state[1])
    assert (resumed.stage, resumed.frozen, resumed.settled) == _where(at, resumed)
    for batch in itertools.islice(batches(STEPS), at, None):
        step(again, resumed, batch)
    for one, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(groups.alive(), same.alive())


def _where(at: int, optimizer: sc.Proximal) -> tuple[int, bool, bool]:
    stage = optimizer.schedule.stage(at)
    return stage, at >= optimizer.schedule.freeze_steps[stage], at in optimizer.schedule.ends


def test_bad_gradients_between_stages_change_nothing() -> None:
    model, _, _, optimizer = setup()
    for batch in itertools.islice(batches(STEPS), optimizer.schedule.ends[0]):
        step(model, optimizer, batch)
    before = copy.deepcopy(optimizer.state_dict())
    optimizer.zero_grad()
    model(images(2, 3, 12, 12)).sum().backward()
    next(model.parameters()).grad.fill_(float("nan"))  # pyright: ignore
    with pytest.raises(FloatingPointError):
        optimizer.step()
    assert optimizer.settled
    assert optimizer.state_dict()["proximal"]["frozen"] == before["proximal"]["frozen"]


def test_budgets_that_do_not_descend_are_refused() -> None:
    model, _, groups, _ = setup()
    inner = torch.optim.SGD(model.parameters(), 0.1)
    for wrong in (
        [sc.Budget(flops=0.2), sc.Budget(flops=0.4)],
        [sc.Budget(flops=0.4), sc.Budget(flops=0.4)],
        [sc.Budget(flops=0.4), sc.Budget(params=0.2)],
        [sc.Budget(flops=0.4, params=0.4), sc.Budget(flops=0.2, params=0.5)],
    ):
        with pytest.raises(ValueError, match=r"several budgets of one run descend"):
            sc.Proximal(inner, groups, wrong, steps=10)
    with pytest.raises(TypeError, match=r"or a list of them\), got Groups and str"):
        sc.Proximal(inner, groups, [sc.Budget(flops=0.4), "25%"], steps=10)  # pyright: ignore
    with pytest.raises(TypeError, match=r"got Groups and nothing"):
        sc.Proximal(inner, groups, [], steps=10)
    with pytest.raises(ValueError, match=r"several in one run need 'firm'"):
        sc.Proximal(
            inner, groups, [sc.Budget(flops=0.4), sc.Budget(flops=0.2)], penalty="envelope", lam=1.0
        )
    with pytest.raises(ValueError, match=r"has 3 stages for 2 budgets"):
        sc.Proximal(
            inner,
            groups,
            [sc.Budget(flops=0.4), sc.Budget(flops=0.2)],
            schedule=sc.Homotopy(50, stages=3),
        )


def test_a_schedule_given_for_one_stage_serves_several() -> None:
    model, _, groups, _ = setup()
    optimizer = sc.Proximal(
        torch.optim.SGD(model.parameters(), 0.1),
        groups,
        [sc.Budget(flops=0.4), sc.Budget(flops=0.2)],
        schedule=sc.Homotopy(60, freeze=0.5),
    )
    assert optimizer.schedule.ends == (40, 60)
    assert optimizer.schedule.freeze_steps == (20, 47)
