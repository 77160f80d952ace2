"""What counts as a step, and what steps live with: scaling, compiling, averages, checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import secateur as sc
from optim.training import (
    SCHEDULE,
    STEPS,
    digits,
    groups_of,
    loss_of,
    network,
    proximal,
    same,
    train,
)

PLAIN: Callable[[Any], Optimizer] = lambda p: torch.optim.SGD(p, lr=0.05)  # noqa: E731
ADAMW: Callable[[Any], Optimizer] = lambda p: torch.optim.AdamW(p, lr=0.01)  # noqa: E731
FREEZE = SCHEDULE.freeze_steps[0]

# -- steps that are none ---------------------------------------------------------------------------


@pytest.mark.parametrize("make", [PLAIN, ADAMW], ids=["SGD", "AdamW"])
@pytest.mark.parametrize("steps", [0, FREEZE - 1, FREEZE + 1])
def test_the_step_of_distributed_checkpointing_is_none(make: Any, steps: int) -> None:
    """It allocates the optimizer's state by a step without gradients at learning rate 0."""
    model = network()
    optimizer = proximal(model, make)
    train(model, optimizer, steps)
    if make is PLAIN:
        assert not optimizer.state  # SGD without momentum never has one: each look is a step
    else:
        optimizer.state.clear()
    optimizer.zero_grad()
    before = copy.deepcopy(model.state_dict())
    ours = copy.deepcopy(optimizer.state_dict()["proximal"])
    get_optimizer_state_dict(model, optimizer)
    assert (make is PLAIN) == (not optimizer.state)  # the step was taken
    assert same(model.state_dict(), before)
    assert same(optimizer.state_dict()["proximal"], ours)
    assert optimizer.param_groups[0]["lr"] > 0


@pytest.mark.parametrize("rate", [0.0, torch.tensor(0.0)], ids=["number", "tensor"])
def test_at_learning_rate_0_nothing_moves_until_the_freeze(rate: Any) -> None:
    model = network()
    optimizer = proximal(model, lambda p: torch.optim.Adam(p, lr=rate))
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer, FREEZE - 1)
    assert same(model.state_dict(), before)
    assert optimizer.steps_taken == FREEZE - 1
    train(model, optimizer, 1, FREEZE - 1)
    assert int(optimizer.groups.alive().sum()) == 9


def test_one_group_of_parameters_may_rest_while_others_move() -> None:
    """A learning rate of 0 for some parameters is no reason to stop pressing."""
    model = network()
    groups = groups_of(model)
    parts = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2:].parameters()}]
    optimizer = sc.Proximal(
        torch.optim.SGD(parts, lr=0.05), groups, sc.Budget(groups=9), schedule=SCHEDULE
    )
    norms = groups.norms()[:6]
    train(model, optimizer, 10)
    assert (groups.norms()[:6] < norms).any()


def test_skipped_steps_count_if_they_are_counted() -> None:
    """The groups are chosen at the step that was announced, though two were skipped before it."""
    for counted in (True, False):
        model = network()
        optimizer = proximal(model)
        scaler = torch.amp.GradScaler("cpu")
        frozen_at = 0
        for number in range(STEPS):
            optimizer.zero_grad()
            scaler.scale(loss_of(model, number)).backward()
            if number in (2, FREEZE - 1):
                model[0].weight.grad.fill_(float("inf"))  # pyright: ignore
            scale, before = scaler.get_scale(), copy.deepcopy(model.state_dict())
            scaler.step(optimizer)
            scaler.update()
            if scaler.get_scale() < scale:
                assert same(model.state_dict(), before)
                if counted:
                    optimizer.skip()
            if optimizer.frozen and not frozen_at:
                frozen_at = number + 1
        assert frozen_at == (FREEZE if counted else FREEZE + 2)
        assert optimizer.settled == counted
        assert int(optimizer.groups.alive().sum()) == 9


def test_a_skipped_step_does_not_press() -> None:
    model = network()
    optimizer = proximal(model)
    train(model, optimizer, 5)
    before = copy.deepcopy(model.state_dict())
    optimizer.skip()
    assert same(model.state_dict(), before)
    assert optimizer.steps_taken == 6


@pytest.mark.parametrize("scaled", [False, True])
def test_half_precision_with_clipping(scaled: bool) -> None:
    """fp16 autocast, gradients unscaled and clipped: the survivors' norms are bounded."""
    model = network()
    optimizer = proximal(model)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=256.0)
    for number in range(STEPS):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = loss_of(model, number)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
        gradients = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        assert torch.stack(gradients).norm() <= 0.1 * (1 + 1e-5)
    assert optimizer.steps_taken == STEPS
    assert int(optimizer.groups.alive().sum()) == 9


# -- gradients of every sort -----------------------------------------------------------------------


def test_maximizing_the_negative_is_minimizing() -> None:
    found = []
    for sign in (1, -1):
        model = network()
        optimizer = proximal(
            model, lambda p, s=sign: torch.optim.SGD(p, lr=0.05, momentum=0.9, maximize=s < 0)
        )
        distances = []
        for number in range(STEPS):
            optimizer.zero_grad()
            (sign * loss_of(model, number)).backward()
            distances.append(optimizer.stationarity())
            optimizer.step()
        found.append((model.state_dict(), distances))
    assert same(found[0], found[1])


def test_a_layer_without_gradients_still_competes() -> None:
    model = network()
    optimizer = proximal(model, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9))
    model[2].requires_grad_(False)
    train(model, optimizer)
    assert model[2].weight.grad is None
    assert int(optimizer.groups.alive().sum()) == 9
    assert 1 <= int(optimizer.groups.alive()[6:14].sum()) < 8


def test_sparse_gradients_of_groups_are_refused() -> None:
    model = nn.Sequential(nn.Embedding(10, 8, sparse=True), nn.Linear(8, 4))
    words = torch.tensor([1, 2])
    for place, grouped in (("0.weight", True), ("1.weight", False)):
        groups = sc.custom(model, {place: torch.arange(8).reshape(1, 8)})
        optimizer = sc.Proximal(PLAIN(model.parameters()), groups, sc.Budget(groups=3), steps=2)
        optimizer.zero_grad()
        model(words).sum().backward()
        before = copy.deepcopy(model.state_dict())
        if grouped:
            with pytest.raises(TypeError, match=r"0\.weight is sparse, and .* use sparse=False"):
                optimizer.step()
            assert same(model.state_dict(), before)
            assert optimizer.steps_taken == 0
        else:  # an embedding in no group may have them
            optimizer.step()
            assert not torch.equal(model[0].weight[1], before["0.weight"][1])


def test_flags_that_no_proximal_step_can_follow_are_refused() -> None:
    with pytest.raises(ValueError, match=r"SGD\(differentiable=True\): gradients can't flow"):
        proximal(network(), lambda p: torch.optim.SGD(p, lr=0.1, differentiable=True))
    with pytest.raises(TypeError, match=r"SparseAdam takes sparse gradients only, .* use Adam"):
        proximal(network(), torch.optim.SparseAdam)


def test_an_optimizer_without_a_learning_rate_trains_to_the_budget() -> None:
    class SignSGD(Optimizer):
        """It has a step size of its own and no "lr" at all."""

        def __init__(self, params: Any) -> None:
            super().__init__(params, {})

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # pyright: ignore
            for p in self.param_groups[0]["params"]:
                p.sub_(p.grad.sign(), alpha=1e-3)

    model = network()
    optimizer = proximal(model, SignSGD)
    train(model, optimizer)
    assert int(optimizer.groups.alive().sum()) == 9
    with pytest.raises(ValueError, match=r"SignSGD has no learning rate, lr, which stationarity"):
        optimizer.stationarity()


# -- other dtypes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("steps", [5, FREEZE + 1])
def test_a_state_goes_on_in_another_dtype(steps: int, dtype: torch.dtype) -> None:
    """Loaded into a converted model; and the same model converted where it stands."""
    model = network()
    optimizer = proximal(model)
    train(model, optimizer, steps)
    other = network(seed=1).to(dtype)
    other.load_state_dict(model.state_dict())
    sgd = torch.optim.SGD(other.parameters(), lr=0.05, momentum=0.9)
    groups = optimizer.groups.on(other)
    loaded = sc.Proximal(sgd, groups, sc.Budget(groups=9), schedule=SCHEDULE)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    alive = optimizer.groups.alive()
    model.to(dtype)
    optimizer.load_state_dict(optimizer.state_dict())  # casts what the optimizer remembers
    images, labels = digits()
    for number in range(steps, STEPS):
        part = slice(64 * number % 512, 64 * number % 512 + 64)
        for net, its in ((model, optimizer), (other, loaded)):
            its.zero_grad()
            nn.functional.cross_entropy(net(images[part].to(dtype)), labels[part]).backward()
            its.step()
    assert same(model.state_dict(), other.state_dict())
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert int(groups.alive().sum()) == 9
    if steps > FREEZE:
        assert torch.equal(groups.alive(), alive)


# -- averages of weights ---------------------------------------------------------------------------


def test_averages_of_the_frozen_support_stay_frozen() -> None:
    model = network()
    optimizer = proximal(model)
    train(model, optimizer, FREEZE)
    averaged = AveragedModel(model)
    for number in range(FREEZE, STEPS):
        train(model, optimizer, 1, number)
        averaged.update_parameters(model)
    groups = optimizer.groups.on(averaged.module)
    assert torch.equal(groups.alive(), optimizer.groups.alive())
    sc.shrink(averaged.module, groups)


def test_averages_from_before_the_freeze_are_cut_by_the_multipliers() -> None:
    model = network()
    optimizer = proximal(model)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for number in range(STEPS):
        train(model, optimizer, 1, number)
        averaged.update_parameters(model)
    groups = optimizer.groups.on(averaged.module)
    assert int(groups.alive().sum()) == 30  # what has died is still in the mean
    groups.scale_(optimizer.multipliers)
    assert torch.equal(groups.alive(), optimizer.groups.alive())


def test_the_multipliers_are_public_and_a_copy() -> None:
    model = network()
    optimizer = proximal(model)
    assert torch.equal(optimizer.multipliers, torch.ones(30, dtype=torch.float64))
    train(model, optimizer, 8)
    found = optimizer.multipliers
    assert float(found.sum()) == pytest.approx(9)
    assert optimizer.kept == int((found > 0).sum())
    found.zero_()
    assert float(optimizer.multipliers.sum()) == pytest.approx(9)
    train(model, optimizer, STEPS - 8, 8)
    assert torch.equal(optimizer.multipliers > 0, optimizer.groups.alive())


# -- compiled and captured -------------------------------------------------------------------------


class Counted:
    """A backend that compiles nothing, and counts how often it was asked to run."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, graph: Any, inputs: list[Tensor]) -> Any:
        def run(*values: Any) -> Any:
            self.runs += 1
            return graph.forward(*values)

        return run


@pytest.mark.parametrize("what", ["model", "step", "wrapped step"])
def test_compiled_training_is_the_same(what: str) -> None:
    expected = network()
    train(expected, proximal(expected))
    torch._dynamo.reset()
    model, backend = network(), Counted()
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    if what == "wrapped step":
        sgd.step = torch.compile(sgd.step, backend=backend)
    optimizer = sc.Proximal(sgd, groups_of(model), sc.Budget(groups=9), schedule=SCHEDULE)
    step: Any = torch.compile(optimizer.step, backend=backend) if what == "step" else optimizer.step
    compiled: Any = torch.compile(model, backend=backend) if what == "model" else model
    for number in range(STEPS):
        optimizer.zero_grad()
        loss_of(compiled, number).backward()
        step()
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=1e-4, atol=1e-5)
    assert (optimizer.frozen, optimizer.steps_taken, optimizer.kept) == (True, STEPS, 9)
    assert (backend.runs >= STEPS) == (what != "step")  # ours runs as it stands
    torch._dynamo.reset()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("capturable", [False, True])
def test_capture_of_the_step_is_refused_and_replayed_gradients_are_fine(capturable: bool) -> None:
    model = network().cuda()
    groups = groups_of(network()).on(model)
    adam = torch.optim.Adam(model.parameters(), lr=0.01, capturable=capturable)
    optimizer = sc.Proximal(adam, groups, sc.Budget(groups=9), steps=STEPS)
    images, labels = (values[:64].cuda() for values in digits())
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # as torch asks for: warm up before a capture
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
    torch.cuda.current_stream().wait_stream(side)
    optimizer.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        nn.functional.cross_entropy(model(images), labels).backward()
    for _ in range(STEPS):
        graph.replay()
        optimizer.step()
    assert int(groups.alive().sum()) == 9
    with (
        pytest.raises(RuntimeError, match=r"can't be captured in a CUDA graph"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        optimizer.step()


# -- every so many steps ---------------------------------------------------------------------------


def test_a_rarer_proximal_step_is_nearer_to_all_of_them_than_to_none() -> None:
    """On 12 of 30 groups: the mean loss of three seeds, every 1 or 10 steps, or only at the end."""
    found = []
    for every in (1, 10, 200):
        losses = []
        for seed in range(3):
            model = network(seed)
            optimizer = proximal(model, ADAMW, sc.Budget(groups=12), steps=200, every=every)
            train(model, optimizer, 200)
            assert int(optimizer.groups.alive().sum()) == 12
            with torch.no_grad():
                losses.append(sum(float(loss_of(model, number)) for number in range(8)) / 8)
        found.append(sum(losses) / 3)
    often, rarely, never = found
    assert often < rarely < (often + never) / 2


def test_a_rarer_convex_step_is_as_long_as_all_of_them() -> None:
    """With gradients of 0: ten steps' worth in one is ten steps, to first order in the rate."""
    norms = []
    for every in (1, 10):
        model = network()
        optimizer = proximal(
            model, lambda p: torch.optim.SGD(p, lr=1e-4), penalty="envelope", lam=0.1, every=every
        )
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        start = optimizer.groups.norms()
        for _ in range(10):
            optimizer.step()
        norms.append(start - optimizer.groups.norms())
    torch.testing.assert_close(norms[0], norms[1], rtol=1e-2, atol=1e-9)
