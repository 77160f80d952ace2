"""Training ends on the budget with any optimizer; what happens before, at and after the freeze."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import secateur as sc
from optim.training import (
    STEPS,
    digits,
    groups_of,
    loss_of,
    network,
    proximal,
    same,
    several,
    snapshot,
    train,
)
from secateur.measurement import count_bytes, count_flops, count_params


class Lamb(Optimizer):
    """As a third party would write it: Adam's direction at the scale of each tensor's norm."""

    def __init__(self, params: Any, lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["mean"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
                state["mean"].lerp_(p.grad, 0.1)
                state["square"].lerp_(p.grad**2, 0.01)
                update = state["mean"] / (state["square"].sqrt() + 1e-6) + 0.01 * p
                ratio = p.norm() / update.norm().clamp(min=1e-12)
                p.sub_(update, alpha=float(group["lr"] * ratio.clamp(0.01, 10)))
        return loss


class Lion(Optimizer):
    """As a third party would write it: the sign of an interpolated momentum."""

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99), "weight_decay": 0.1})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                momentum = state.setdefault("momentum", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(momentum.lerp(p.grad, 1 - group["betas"][0]).sign(), alpha=group["lr"])
                momentum.lerp_(p.grad, 1 - group["betas"][1])
        return loss


o = torch.optim
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda p: o.SGD(p, lr=0.1),
    "momentum": lambda p: o.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda p: o.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "SGD for-loop": lambda p: o.SGD(p, lr=0.05, momentum=0.9, foreach=False),
    "SGD foreach": lambda p: o.SGD(p, lr=0.05, momentum=0.9, foreach=True),
    "SGD fused": lambda p: o.SGD(p, lr=0.05, momentum=0.9, fused=True),
    "Adam": lambda p: o.Adam(p, lr=0.01, weight_decay=1e-3),
    "Adam foreach": lambda p: o.Adam(p, lr=0.01, foreach=True, amsgrad=True),
    "Adam fused": lambda p: o.Adam(p, lr=0.01, fused=True),
    "Adam, lr a tensor": lambda p: o.Adam(p, lr=torch.tensor(0.01)),
    "AdamW": lambda p: o.AdamW(p, lr=0.01, weight_decay=0.1),
    "RMSprop": lambda p: o.RMSprop(p, lr=0.005, momentum=0.9, centered=True),
    "Adagrad": lambda p: o.Adagrad(p, lr=0.02, initial_accumulator_value=0.1),
    "Adadelta": lambda p: o.Adadelta(p, lr=1.0),
    "Adamax": lambda p: o.Adamax(p, lr=0.01),
    "NAdam": lambda p: o.NAdam(p, lr=0.01),
    "RAdam": lambda p: o.RAdam(p, lr=0.01),
    "ASGD": lambda p: o.ASGD(p, lr=0.05),
    "Rprop": lambda p: o.Rprop(p, lr=0.001),
    "Adafactor": lambda p: o.Adafactor(p, lr=0.05),
    "several": several,
    "LAMB of a third party": Lamb,
    "Lion of a third party": Lion,
}


def dead_entries(optimizer: sc.Proximal, pick: Callable[[Tensor], Any]) -> list[Tensor]:
    """The entries of `pick(parameter)` that lie in dead groups."""
    found = []
    dead = optimizer._relaxation.multipliers == 0
    for member in optimizer.groups.members:
        mask = torch.from_numpy(np.append(dead, False))[member.ids].expand(member.parameter.shape)
        found += [value[mask] for value in pick(member.parameter) if value.shape == mask.shape]
    return found


def test_no_optimizer_of_torch_is_forgotten() -> None:
    """LBFGS, Muon and SparseAdam have tests of their own."""
    parameters = [torch.ones(2, 2, requires_grad=True), torch.ones(2, requires_grad=True)]
    tested = {type(make(parameters)) for make in OPTIMIZERS.values()}
    of_torch = {kind for kind in vars(o).values() if isinstance(kind, type)} - {Optimizer}
    names = {kind.__name__ for kind in of_torch - tested}
    assert names <= {"LBFGS", "Muon", "SparseAdam"}


# -- the budget is met -----------------------------------------------------------------------------


@pytest.mark.parametrize("closure", [False, True], ids=["", "closure"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_ends_on_the_count(name: str, closure: bool) -> None:
    model = network()
    optimizer = proximal(model, OPTIMIZERS[name])
    train(model, optimizer, closure=closure)
    assert isinstance(optimizer, Optimizer)
    assert int(optimizer.groups.alive().sum()) == optimizer.kept == 9
    assert optimizer.frozen
    assert optimizer.spent == {"groups": 9}


def test_lbfgs_ends_on_the_count() -> None:
    """With its line search: without, the proximal steps between its own may let it diverge."""
    model = network()
    searching = {"max_iter": 3, "line_search_fn": "strong_wolfe"}
    optimizer = proximal(model, lambda p: o.LBFGS(p, lr=0.1, **searching))
    before = float(loss_of(model, 0, 512).detach())
    train(model, optimizer, closure=True)
    assert int(optimizer.groups.alive().sum()) == 9
    assert float(loss_of(model, 0, 512).detach()) < before


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_ends_on_the_count() -> None:
    """It takes matrices only, so the network has no biases."""
    torch.manual_seed(0)
    layers = [nn.Linear(64, 24, bias=False), nn.ReLU(), nn.Linear(24, 10, bias=False)]
    model = nn.Sequential(nn.Flatten(), *layers)
    groups = sc.neurons(model, digits()[0][:2])
    optimizer = sc.Proximal(
        torch.optim.Muon(model.parameters(), lr=0.02), groups, sc.Budget(groups=9), steps=STEPS
    )
    train(model, optimizer)
    assert int(groups.alive().sum()) == 9


@pytest.mark.parametrize("name", ["momentum", "AdamW"])
@pytest.mark.parametrize("measure", ["flops", "params", "bytes", "all"])
def test_the_shrunk_network_meets_the_budget(name: str, measure: str) -> None:
    amounts: dict[str, Any] = {"flops": 0.3, "params": 0.2, "bytes": 0.25}
    budget = sc.Budget(**(amounts if measure == "all" else {measure: amounts[measure]}))
    model, example = network(), digits()[0][:2]
    full = {"flops": count_flops(model, example), "params": count_params(model)}
    full["bytes"] = count_bytes(model)
    optimizer = proximal(model, OPTIMIZERS[name], budget)
    train(model, optimizer)
    small = sc.shrink(model, optimizer.groups)
    counts = {"flops": count_flops(small, example), "params": count_params(small)}
    counts["bytes"] = count_bytes(small)
    for asked, _ in budget.amounts():
        assert counts[asked] <= amounts[asked] * full[asked]
        assert optimizer.spent[asked] == counts[asked]
    assert budget.reached(small, example).holds


def test_two_runs_can_share_a_budget_on_memory() -> None:
    budget, x = sc.Budget(memory=0.6), torch.randn(8, 6)
    runs = []
    for width in (20, 40):
        layers = torch.nn.Linear(6, width), torch.nn.ReLU(), torch.nn.Linear(width, 3)
        model = torch.nn.Sequential(*layers)
        sgd = torch.optim.SGD(model.parameters(), lr=0.01)
        runs.append((model, sc.Proximal(sgd, sc.neurons(model, x), budget, steps=3)))
    for _ in range(3):
        for model, optimizer in runs:
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    for model, optimizer in runs:
        reached = budget.reached(sc.shrink(model, optimizer.groups), x)
        assert reached["memory"].full == sc.measure(model, x, latency=False).peak_memory
        assert reached.holds


def test_it_learns() -> None:
    """On 20 of 30 groups, after 100 steps, far better than chance, which has a loss of 2.3."""
    model = network()
    train(model, proximal(model, budget=sc.Budget(groups=20), steps=100), steps=100)
    with torch.no_grad():
        assert sum(float(loss_of(model, number)) for number in range(8)) / 8 < 1.2


# -- over time -------------------------------------------------------------------------------------


def test_what_can_be_watched_over_time() -> None:
    model = network()
    optimizer = proximal(model, schedule=sc.Homotopy(10, freeze=0.5, power=1))
    assert (optimizer.hardness, optimizer.kept, optimizer.frozen) == (0, 30, False)
    assert optimizer.spent == {"groups": 30}
    hardness, kept = [], []
    for number in range(8):
        train(model, optimizer, 1, number)
        hardness.append(optimizer.hardness)
        kept.append(optimizer.kept)
        alive = int(optimizer.groups.alive().sum())
        assert alive == (9 if optimizer.frozen else 30)  # until then they fade, they don't die
        assert optimizer.spent["groups"] == pytest.approx(9, abs=1e-9)
    assert hardness == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])
    assert min(kept) >= 9
    assert kept[4:] == [9] * 4


@pytest.mark.parametrize(("every", "freeze"), [(1, 14), (5, 14), (5, 12), (100, 14)])
def test_the_freeze_is_never_late(every: int, freeze: int) -> None:
    model = network()
    optimizer = proximal(model, schedule=sc.Homotopy(20, freeze=freeze / 20), every=every)
    alive = []
    for number in range(25):  # beyond the steps that were announced
        train(model, optimizer, 1, number)
        alive.append(int(optimizer.groups.alive().sum()))
        assert optimizer.frozen == (number + 1 >= freeze)
    assert alive[freeze - 1 :] == [9] * (26 - freeze)
    if every == 100:
        assert alive[: freeze - 1] == [30] * (freeze - 1)


def test_the_proximal_step_is_taken_every_so_often() -> None:
    """And only then are gradients looked at for the importance."""
    model, plain = network(), network()
    optimizer = proximal(model, every=3)
    ordinary = o.SGD(plain.parameters(), lr=0.05, momentum=0.9)
    for number in range(3):
        assert same(model.state_dict(), plain.state_dict())
        assert not optimizer.importance.state_dict()["mean"].any()
        train(model, optimizer, 1, number)
        train(plain, ordinary, 1, number)
    assert not same(model.state_dict(), plain.state_dict())
    assert optimizer.importance.state_dict()["mean"].any()


@pytest.mark.parametrize("every", [2, 4])
def test_a_step_for_several_presses_as_hard_as_all_of_them(every: int) -> None:
    left = {}
    for often in (1, every):
        model = network()
        schedule = sc.Homotopy(4_000, freeze=1, power=1)  # after 40 steps still at 0.01
        optimizer = proximal(
            model, lambda p: o.SGD(p, lr=1e-9), schedule=schedule, every=often, importance=1.0
        )
        before = optimizer.groups.norms()
        train(model, optimizer, 40)
        left[often] = optimizer.groups.norms() / before
    assert left[1].min() < 0.8
    torch.testing.assert_close(left[every], left[1], rtol=0, atol=0.03)


def test_freezing_by_hand() -> None:
    model = network()
    optimizer = proximal(model, importance=1.0)
    train(model, optimizer, 3)
    norms = optimizer.groups.norms().numpy()
    optimizer.freeze_()
    assert optimizer.frozen
    assert optimizer.hardness == 1
    alive = optimizer.groups.alive().numpy()
    assert alive.sum() == 9
    floor = [int(norms[la.span].argmax()) + la.start for la in optimizer.groups.layers]
    rest = [int(j) for j in np.argsort(-norms) if j not in floor][:6]
    assert set(np.flatnonzero(alive)) == {*floor, *rest}
    train(model, optimizer, 3)
    np.testing.assert_array_equal(optimizer.groups.alive().numpy(), alive)


def test_weak_groups_fade_and_may_return_before_the_freeze() -> None:
    """A group that is kept to no part comes back once its gradient has made it strong."""
    model = nn.Linear(4, 4, bias=False)
    groups = sc.custom(model, {"weight": torch.arange(4).reshape(4, 1)})
    nn.init.constant_(model.weight, 1.0)
    model.weight.data[0] = 0.01
    schedule = sc.Homotopy(100, freeze=1, power=0.1)  # hard from the first step
    sgd = o.SGD(model.parameters(), lr=1.0)
    optimizer = sc.Proximal(sgd, groups, sc.Budget(groups=2), schedule=schedule)
    model.weight.grad = torch.zeros(4, 4)
    for step in range(1, 4):
        optimizer.step()
        assert optimizer._relaxation.multipliers[0] == 0
        torch.testing.assert_close(model.weight[0], torch.full((4,), 0.01 * 0.1**step))
    model.weight.grad[0] = -0.5
    for _ in range(10):
        optimizer.step()
    assert optimizer._relaxation.multipliers[0] == 1
    assert not optimizer.frozen


# -- after the freeze ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_dead_entries_and_their_state_stay_zero(name: str) -> None:
    model = network()
    optimizer = proximal(model, OPTIMIZERS[name])
    train(model, optimizer, 15)
    assert optimizer.frozen
    support = optimizer.groups.alive()
    for number in range(15, 22):
        train(model, optimizer, 1, number)
        assert torch.equal(optimizer.groups.alive(), support)
        for value in dead_entries(optimizer, lambda p: [p, p.grad]):
            assert not value.any()
    moments = dead_entries(
        optimizer,
        lambda p: [v for v in optimizer.state[p].values() if isinstance(v, Tensor)],
    )
    bound = {"Rprop": 1e-6, "Adamax": 1e-8}.get(name, 0.0)  # what their states don't fall below
    assert all(value.abs().max() <= 1.001 * bound for value in moments if value.numel())
    assert moments or name == "SGD"


@pytest.mark.parametrize("name", ["momentum", "nesterov", "Adam", "AdamW", "RMSprop"])
def test_survivors_train_as_with_masked_gradients(name: str) -> None:
    """After the freeze, one goes on with Proximal, the other with the plain optimizer by hand."""
    model = network()
    optimizer = proximal(model, OPTIMIZERS[name])
    train(model, optimizer, 14)
    assert optimizer.frozen
    plain = copy.deepcopy(model)
    theirs = OPTIMIZERS[name](plain.parameters())
    state = copy.deepcopy(optimizer.state_dict())  # torch loads tensors without copying them
    theirs.load_state_dict({k: v for k, v in state.items() if k != "proximal"})
    alive = optimizer.groups.alive()
    for number in range(14, 20):
        train(model, optimizer, 1, number)
        theirs.zero_grad()
        loss_of(plain, number).backward()
        for member in optimizer.groups.on(plain).members:
            assert member.parameter.grad is not None
            member.parameter.grad.mul_(alive[member.ids].expand(member.parameter.shape))
        theirs.step()
        assert same(model.state_dict(), plain.state_dict())


def test_before_any_pressure_it_is_the_plain_optimizer() -> None:
    """A budget of everything changes nothing, bit for bit."""
    model, plain = network(), network()
    optimizer = proximal(model, budget=sc.Budget(groups=1.0))
    train(model, optimizer)
    train(plain, o.SGD(plain.parameters(), lr=0.05, momentum=0.9))
    assert same(model.state_dict(), plain.state_dict())


def test_no_learning_rate_and_no_gradient() -> None:
    model = network()
    before = copy.deepcopy(model)
    optimizer = proximal(model, lambda p: o.SGD(p, lr=0.0))
    train(model, optimizer)
    assert optimizer.kept == 9
    for old, new in zip(before.parameters(), model.parameters(), strict=True):
        assert ((new == 0) | (new.abs() <= old.abs())).all()  # the budget alone has acted
    model = network()
    optimizer = proximal(model)
    with pytest.raises(RuntimeError, match="no gradient of theirs has been seen") as caught:
        for _ in range(STEPS):
            optimizer.step()  # no backward at all
    assert "backward() run before each optimizer.step()" in str(caught.value)
    assert not optimizer.frozen and bool(optimizer.groups.alive().all())
    assert all(
        torch.equal(old, new)
        for old, new in zip(before.parameters(), model.parameters(), strict=True)
    )
    optimizer.freeze_()  # by hand it is by norms
    assert int(optimizer.groups.alive().sum()) == 9


# -- stationarity ----------------------------------------------------------------------------------


def least_squares() -> tuple[nn.Linear, Callable[[], Tensor]]:
    torch.manual_seed(0)
    inputs, model = torch.randn(64, 8), nn.Linear(8, 6, bias=False)
    targets = inputs @ torch.randn(8, 6)
    return model, lambda: 0.5 * (model(inputs) - targets).square().sum() / 64


@pytest.mark.parametrize("penalty", ["firm", "envelope"])
def test_stationarity_falls_to_zero_on_least_squares(penalty: str) -> None:
    model, loss = least_squares()
    groups = sc.custom(model, {"weight": torch.arange(8).reshape(1, 8)})
    options: dict[str, Any] = {"steps": 300} if penalty == "firm" else {"lam": 0.2}
    optimizer = sc.Proximal(
        o.SGD(model.parameters(), lr=0.1), groups, sc.Budget(groups=4), penalty=penalty, **options
    )
    found = []
    for _ in range(600):
        optimizer.zero_grad()
        loss().backward()
        found.append(optimizer.stationarity())
        optimizer.step()
    assert found[0] > 0.5
    assert found[-1] < 1e-5 < 1e-4 * found[0] * 1e3
    if penalty == "firm":
        assert int(groups.alive().sum()) == 4


@pytest.mark.parametrize("steps", [0, 5, 18])
def test_stationarity_changes_nothing(steps: int) -> None:
    model = network()
    optimizer = proximal(model, importance="curvature")
    train(model, optimizer, steps)
    with pytest.raises(RuntimeError, match=r"call backward\(\) first"):
        optimizer.zero_grad()
        optimizer.stationarity()
    loss_of(model, 0).backward()
    before = snapshot(model, optimizer)
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    assert 0 < optimizer.stationarity() == optimizer.stationarity()
    assert same(before, snapshot(model, optimizer))
    assert same(gradients, [p.grad for p in model.parameters()])
    if steps == 0:  # nothing presses yet: the norm of the gradient
        expected = torch.stack([g.double().norm() for g in gradients]).norm()
        assert optimizer.stationarity() == pytest.approx(float(expected), rel=1e-12)


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [0, 3], ids=["in a group", "in none"])
def test_a_bad_gradient_is_seen_wherever_it_is_in_a_parameter(row: int) -> None:
    model = nn.Linear(4, 4, bias=False)
    groups = sc.custom(model, {"weight": torch.tensor([[0], [1], [2], [-1]])})
    sgd = o.SGD(model.parameters(), lr=0.1)
    optimizer = sc.Proximal(sgd, groups, sc.Budget(groups=2), steps=10)
    before = snapshot(model, optimizer)
    model(torch.ones(1, 4)).sum().backward()
    model.weight.grad[row, 2] = float("inf")  # pyright: ignore
    with pytest.raises(FloatingPointError, match="step 1: NaN or inf in the gradient of weight"):
        optimizer.step()
    assert same(before, snapshot(model, optimizer))


def test_a_bad_gradient_is_seen_in_what_is_left_over_of_n_of_m() -> None:
    model = nn.Linear(10, 4, bias=False)
    groups = sc.n_of_m(model, 2, 4)  # eight of the ten inputs
    sgd = o.SGD(model.parameters(), lr=0.1)
    optimizer = sc.Proximal(sgd, groups, sc.Budget(groups=0.5), steps=10)
    model(torch.ones(1, 10)).sum().backward()
    model.weight.grad[0, 9] = float("nan")  # pyright: ignore
    with pytest.raises(FloatingPointError, match="step 1: NaN or inf in the gradient of weight"):
        optimizer.step()


def test_curvature_is_seen_where_the_step_begins() -> None:
    """Steps take single weights across zero: their squares after it say nothing of the gradient."""
    model = nn.Linear(20, 5, bias=False)
    sgd = o.SGD(model.parameters(), lr=0.5)
    optimizer = sc.Proximal(sgd, sc.weights(model), sc.Budget(groups=50), steps=1000)
    mean = torch.zeros(100, dtype=torch.float64)
    for number in range(20):
        optimizer.zero_grad()
        (model(torch.randn(8, 20)) - number).square().mean().backward()
        assert model.weight.grad is not None
        mean = 0.98 * mean + 0.02 * model.weight.grad.double().square().view(-1)
        optimizer.step()
    torch.testing.assert_close(optimizer.importance.state_dict()["mean"], mean, rtol=1e-12, atol=0)


def test_nothing_is_learned_of_a_step_that_failed() -> None:
    model = network()
    optimizer = proximal(model, importance="curvature")
    train(model, optimizer, 2)
    before = optimizer.importance.state_dict()
    calls = 0

    def evaluate() -> Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = loss_of(model, 0)
        (loss if calls == 1 else loss * float("nan")).backward()
        return loss

    optimizer.optimizer.step = lambda closure: (closure(), closure())  # pyright: ignore
    with pytest.raises(FloatingPointError, match="step 3, evaluation 2 of the closure"):
        optimizer.step(evaluate)
    optimizer.skip()
    assert same(optimizer.importance.state_dict(), before)


@pytest.mark.parametrize("closure", [False, True], ids=["", "closure"])
@pytest.mark.parametrize("steps", [2, 16], ids=["before the freeze", "after it"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_gradients_change_nothing(bad: float, steps: int, closure: bool) -> None:
    model = network()
    optimizer = proximal(model, OPTIMIZERS["Adam"], importance="curvature")
    train(model, optimizer, steps)
    before = snapshot(model, optimizer)

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        model[2].weight.grad[0, 0, 0, 0] = bad  # pyright: ignore
        model[8].bias.grad[1] = bad  # pyright: ignore
        return loss

    where = (
        rf"step {steps + 1}: NaN or inf in the gradient of 2\.weight, a parameter of shape \(10,"
    )
    with pytest.raises(FloatingPointError, match=where):
        if closure:
            optimizer.step(evaluate)
        else:
            evaluate()
            optimizer.step()
    assert same(before, snapshot(model, optimizer))
    train(model, optimizer)
    assert int(optimizer.groups.alive().sum()) == 9


def test_divergence_is_named() -> None:
    model = network()
    optimizer = proximal(model)
    train(model, optimizer, 2)
    model[0].weight.data[3] = float("nan")
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    with pytest.raises(FloatingPointError, match=r"norm of group 0\[3\] is NaN or inf.*lower the"):
        optimizer.step()


def test_options_that_do_not_go_together_are_refused() -> None:
    model = network()
    groups, budget = groups_of(model), sc.Budget(groups=9)
    sgd = o.SGD(model.parameters(), lr=0.1)
    homotopy, constant = sc.Homotopy(5), sc.Constant(0.1)
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, r"say how long training is, steps=epochs \* len\(loader\), or pass schedule="),
        ({"steps": 5, "penalty": "ridge"}, r"penalty='ridge': expected 'firm' or 'envelope', or"),
        ({"steps": 5, "schedule": homotopy}, r"give schedule=, or steps= / lam=, not both"),
        ({"lam": 1.0, "schedule": constant, "penalty": "envelope"}, r"not both"),
        ({"steps": 5, "lam": 0.1}, r"lam= belongs to penalty='envelope'"),
        ({"schedule": constant}, r"penalty='firm' needs a Homotopy schedule, got Constant"),
        ({"penalty": "envelope"}, r"penalty='envelope' needs lam=, or schedule=Constant"),
        ({"penalty": "envelope", "schedule": homotopy}, r"penalty='envelope' needs lam="),
        ({"penalty": "envelope", "lam": -1.0}, r"Constant\(lam=-1.0\): a finite number, 0 or more"),
        ({"steps": 0}, r"Homotopy\(steps=0\): an integer of 1 or more"),
        ({"steps": 5, "every": 0}, r"every=0: expected a number of steps, an integer of 1 or more"),
        ({"steps": 5, "every": 2.5}, r"every=2.5: expected a number of steps"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            sc.Proximal(sgd, groups, budget, **options)
    with pytest.raises(ValueError, match=r"can't be reached"):
        sc.Proximal(sgd, groups, sc.Budget(groups=2), steps=5)


def test_the_wrong_parts_are_refused() -> None:
    model = network()
    groups, budget = groups_of(model), sc.Budget(groups=9)
    sgd = o.SGD(model.parameters(), lr=0.1)
    inner = sc.Proximal(sgd, groups, budget, steps=5)
    with pytest.raises(TypeError, match=r"wraps an optimizer such as .*, got Proximal"):
        sc.Proximal(inner, groups, budget, steps=5)
    with pytest.raises(TypeError, match=r"wraps an optimizer such as .*, got Sequential"):
        sc.Proximal(model, groups, budget, steps=5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"expected Groups and a Budget .*, got Budget and Groups"):
        sc.Proximal(sgd, budget, groups, steps=5)  # pyright: ignore[reportArgumentType]
    some = o.SGD([*model[0].parameters(), *model[2].parameters()], lr=0.1)
    with pytest.raises(ValueError, match=r"6.weight, 6.bias are grouped but not in the optimizer;"):
        sc.Proximal(some, groups, budget, steps=5)


# -- the paper's penalty ---------------------------------------------------------------------------


@pytest.mark.parametrize("importance", [1.0, "layer"])
def test_one_convex_step_is_the_prox_after_the_plain_step(importance: Any) -> None:
    model, by_hand = network(), network()
    lr, lam = 0.1, 0.4
    optimizer = proximal(
        model, lambda p: o.SGD(p, lr=lr), penalty="envelope", lam=lam, importance=importance
    )
    train(model, optimizer, 1)
    train(by_hand, o.SGD(by_hand.parameters(), lr=lr), 1)
    groups = groups_of(by_hand)
    norms = groups.norms()
    d: Any = 1.0
    if importance == "layer":
        parts = [layer.span for layer in groups.layers]
        d = torch.cat([(1 / norms[p].square().mean()).expand(len(norms[p])) for p in parts])
    groups.scale_(sc.envelope.prox(norms, 9.0, step=lr * lam, weights=d))
    for name, value in by_hand.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-6, atol=1e-7)
    assert int(groups.alive().sum()) == optimizer.kept


def test_no_lambda_is_the_plain_optimizer() -> None:
    model, plain = network(), network()
    train(model, proximal(model, penalty="envelope", lam=0.0))
    train(plain, o.SGD(plain.parameters(), lr=0.05, momentum=0.9))
    assert same(model.state_dict(), plain.state_dict())


def test_more_lambda_leaves_fewer_groups() -> None:
    kept = []
    for lam in (0.0, 0.1, 1.0, 10.0):
        model = network()
        optimizer = proximal(model, penalty="envelope", lam=lam, budget=sc.Budget(params=0.2))
        train(model, optimizer)
        kept.append(int(optimizer.groups.alive().sum()))
        assert not optimizer.frozen
        assert optimizer.hardness == 0
    assert kept == sorted(kept, reverse=True)
    assert kept[0] == 30 > kept[-1]


def test_the_convex_penalty_wants_one_learning_rate() -> None:
    model = network()
    rates = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2:].parameters()}]
    sgd = o.SGD(rates, lr=0.2)
    optimizer = sc.Proximal(sgd, groups_of(model), sc.Budget(groups=9), penalty="envelope", lam=0.1)
    with pytest.raises(ValueError, match=r"one learning rate .* got \[0.1, 0.2\]; the firm"):
        train(model, optimizer, 1)


def test_the_threshold_is_the_one_that_gives_the_multipliers() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.ReLU(), torch.nn.Linear(9, 2))
    groups = sc.neurons(model, torch.ones(1, 4))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = sc.Proximal(sgd, groups, sc.Budget(groups=3), steps=10, importance=1.0)
    assert optimizer.threshold is None
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-30)  # the step itself moves nothing
    norms = groups.norms().double()
    optimizer.step()
    hardness, threshold = optimizer.hardness, optimizer.threshold
    assert threshold is not None
    worth = norms * 3**0.5  # a group costs a third of the budget
    expected = ((worth / threshold - hardness) / (1 - hardness)).clamp(0, 1)
    expected[norms.argmax()] = 1  # at least one stays
    assert torch.allclose(optimizer.multipliers, expected, atol=1e-6)
    assert float(optimizer.multipliers.sum()) == pytest.approx(3)
    optimizer.freeze_()
    assert optimizer.threshold is None
