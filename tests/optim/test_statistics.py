"""Running averages of BatchNorm: what they are after each step, against averages made by hand."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import secateur as sc
from secateur.optim.statistics import MEMORY

STEPS, CHOICE = 40, 20
SCHEDULE = sc.Homotopy(STEPS, freeze=CHOICE / STEPS)


class Sync(nn.SyncBatchNorm):
    """On a CPU, where there is nothing to synchronise with."""

    forward = nn.BatchNorm2d.forward


def network(momentum: float | None = 0.01, norm: Callable[..., nn.Module] = nn.BatchNorm2d) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), norm(8, momentum=momentum), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3), norm(8, momentum=momentum), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    )


def batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    rows = torch.randn(16, 3, 7, 7, generator=generator)
    return rows + 0.5 * rows[:, :, :1], torch.randint(4, (16,), generator=generator)


def proximal(model: nn.Module, budget: Any = None, **options: Any) -> sc.Proximal:
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    groups = sc.filters(model, batch(0)[0][:1])
    options = {"schedule": SCHEDULE, **options}
    return sc.Proximal(sgd, groups, budget or sc.Budget(groups=6), **options)


def train(
    model: nn.Module, optimizer: Any, first: int = 0, last: int = STEPS, passes: int = 1
) -> None:
    for step in range(first, last):
        optimizer.zero_grad()
        for number in range(passes):
            rows, labels = batch(step * passes + number)
            (nn.functional.cross_entropy(model(rows), labels) / passes).backward()
        optimizer.step()


class Seen:
    """The means and variances that a layer was given, by step, and the averages as they should be.

    `expected` takes the definition at its word: k passes weigh max(1 - (1 - p)^k, k / (n + k)).
    """

    def __init__(self, layer: Any, passes: int = 1) -> None:
        self.layer, self.passes, self.momentum = layer, passes, layer.momentum
        self.start = torch.stack([layer.running_mean, layer.running_var]).double()
        self.found: list[Tensor] = []
        self.handle = layer.register_forward_pre_hook(self.note)

    def note(self, _: Any, inputs: tuple[Tensor]) -> None:
        rows = inputs[0].detach().double().transpose(0, 1).flatten(1)
        self.found.append(torch.stack([rows.mean(1), rows.var(1)]))

    def expected(self) -> Tensor:
        average, spans, p, k = self.start, MEMORY - 1.0, self.momentum, self.passes
        for step in range(len(self.found) // k):
            if step == CHOICE:
                spans = 0.0
            mine = self.found[step * k : (step + 1) * k]
            weights = [p * (1 - p) ** (k - 1 - number) for number in range(k)]
            own = sum(weights)
            mean = sum(w * x for w, x in zip(weights, mine, strict=True)) / own
            weight = own if step == 0 else max(own, k / (spans + k))  # watched from step 1 on
            average = average + weight * (mean - average)
            spans = spans + k if step >= CHOICE else min(spans + k, MEMORY - 1)
        return average

    def plain(self) -> Tensor:
        return torch.stack(self.found[CHOICE * self.passes :]).mean(0)

    def averages(self) -> Tensor:
        return torch.stack([self.layer.running_mean, self.layer.running_var]).double()


@pytest.mark.parametrize("last", [12, CHOICE, CHOICE + 1, CHOICE + 7, STEPS])
@pytest.mark.parametrize("momentum", [0.001, 0.01, 0.1, 0.4])
def test_the_averages_are_as_defined(momentum: float, last: int) -> None:
    model = network(momentum)
    optimizer = proximal(model)
    seen = [Seen(model[1]), Seen(model[4])]
    train(model, optimizer, last=last)
    for one in seen:
        torch.testing.assert_close(one.averages(), one.expected(), rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, Sync])
def test_from_the_choice_on_they_are_plain_means(norm: Any) -> None:
    model = network(0.01, norm)
    optimizer = proximal(model)
    seen = Seen(model[4])
    train(model, optimizer)
    torch.testing.assert_close(seen.averages(), seen.plain(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("passes", [2, 5])
def test_several_passes_a_step_are_counted(passes: int) -> None:
    model = network(0.01)
    optimizer = proximal(model)
    seen = Seen(model[4], passes)
    train(model, optimizer, passes=passes)
    torch.testing.assert_close(seen.averages(), seen.expected(), rtol=2e-4, atol=1e-4)
    torch.testing.assert_close(seen.averages(), seen.plain(), rtol=0.01, atol=0.01)


def test_a_closure_that_is_called_several_times_is_counted() -> None:
    model = network(0.01)
    optimizer = proximal(model)
    train(model, optimizer, last=CHOICE)
    seen = Seen(model[4])

    def closure() -> Tensor:
        loss = torch.tensor(0.0)
        for number in range(3):
            optimizer.zero_grad()
            rows, labels = batch(number)
            loss = nn.functional.cross_entropy(model(rows), labels)
            loss.backward()
        return loss

    optimizer.step(closure)
    mean = torch.stack(seen.found).mean(0)
    torch.testing.assert_close(seen.averages(), mean, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("momentum", [0.01, None])
def test_momentum_none_and_the_switch_leave_them_alone(momentum: float | None) -> None:
    """And the weights don't depend on it."""
    found = []
    for statistics in ("model", "recent"):
        model = network(momentum)
        train(model, proximal(model, statistics=statistics))
        found.append(model.state_dict())
    for name, value in found[0].items():
        same = momentum is None or "running" not in name
        assert torch.equal(value, found[1][name]) == same, name
    with pytest.raises(ValueError, match="statistics='new'"):
        proximal(network(), statistics="new")


def test_the_choice_alone_matters_with_a_lambda() -> None:
    """Nothing says when such a penalty is over; the choice is made by hand."""
    model, other = network(), network()
    optimizer = proximal(model, penalty="envelope", lam=0.0, schedule=None)
    sgd = torch.optim.SGD(other.parameters(), lr=0.1)
    train(model, optimizer, last=CHOICE)
    train(other, sgd, last=CHOICE)
    assert torch.equal(model[4].running_var, other[4].running_var)
    optimizer.freeze_()
    seen = Seen(model[4])
    train(model, optimizer, CHOICE, STEPS)
    mean = torch.stack(seen.found).mean(0)
    torch.testing.assert_close(seen.averages(), mean, rtol=1e-4, atol=1e-5)


def test_each_stage_begins_anew() -> None:
    model = network(0.01)
    budgets = [sc.Budget(groups=10), sc.Budget(groups=5)]
    schedule = sc.Homotopy(STEPS, freeze=0.5, stages=2)
    optimizer = proximal(model, budgets, schedule=schedule)
    train(model, optimizer, last=schedule.freeze_steps[1])
    seen = Seen(model[4])
    train(model, optimizer, schedule.freeze_steps[1])
    mean = torch.stack(seen.found).mean(0)
    torch.testing.assert_close(seen.averages(), mean, rtol=1e-4, atol=1e-5)


def test_groups_that_were_not_traced_are_groups_of_a_model_too() -> None:
    for make in (sc.weights, lambda m: sc.custom(m, {"3.weight": torch.arange(8)[:, None, None]})):
        model = network(0.01)
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        groups = make(model)
        optimizer = sc.Proximal(sgd, groups, sc.Budget(groups=len(groups) // 2), schedule=SCHEDULE)
        seen = Seen(model[4])
        train(model, optimizer)
        torch.testing.assert_close(seen.averages(), seen.plain(), rtol=1e-4, atol=1e-5)


# -- what is not followed --------------------------------------------------------------------------


def test_a_frozen_layer_stays_frozen_and_is_told_of() -> None:
    model = network(0.01)
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), last=3)
    model[1].eval()
    before = model[1].running_mean.clone()
    optimizer = proximal(model)
    seen = Seen(model[4])
    with pytest.warns(UserWarning, match=r"^1: in eval mode .* secateur.recalibrate") as caught:
        train(model, optimizer)
    assert len(caught) == 1
    assert torch.equal(model[1].running_mean, before)
    torch.testing.assert_close(seen.averages(), seen.plain(), rtol=1e-4, atol=1e-5)


def test_layers_without_averages_and_in_half_precision_run_as_they_did() -> None:
    without = network(norm=lambda n, momentum: nn.BatchNorm2d(n, track_running_stats=False))
    half = network(0.1)
    half[4].to(torch.bfloat16)
    other = copy.deepcopy(half)
    half[3].register_forward_hook(lambda _, __, x: x.bfloat16())
    half[4].register_forward_hook(lambda _, __, x: x.float())
    other[3].register_forward_hook(lambda _, __, x: x.bfloat16())
    other[4].register_forward_hook(lambda _, __, x: x.float())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(without, proximal(without))
        train(half, proximal(half))
        train(other, proximal(other, statistics="model"))
    assert torch.equal(half[4].running_var, other[4].running_var)


def test_averages_that_were_loaded_are_taken_as_they_are() -> None:
    model = network(0.01)
    optimizer = proximal(model)
    train(model, optimizer, last=5)
    earlier = copy.deepcopy(model.state_dict())
    train(model, optimizer, 5, CHOICE + 5)
    model.load_state_dict(earlier)
    own = torch.optim.SGD(model.parameters(), lr=0.0)
    other = copy.deepcopy(model)
    train(model, optimizer, CHOICE + 5, CHOICE + 6)
    train(other, own, CHOICE + 5, CHOICE + 6)
    assert torch.equal(model[4].running_mean, other[4].running_mean)
    assert (model[4].running_var >= 0).all()


# -- resumed, copied, compiled ---------------------------------------------------------------------


@pytest.mark.parametrize("at", [8, CHOICE, CHOICE + 4])
@pytest.mark.parametrize("model_first", [True, False])
def test_a_resumed_run_is_bit_for_bit_the_same(at: int, model_first: bool) -> None:
    model = network(0.05)
    optimizer = proximal(model)
    train(model, optimizer, last=at)
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    train(model, optimizer, at)
    file.seek(0)
    first, second = torch.load(file, weights_only=True)
    again = network(0.05)
    resumed = proximal(again)
    if model_first:
        again.load_state_dict(first)
    resumed.load_state_dict(second)
    again.load_state_dict(first)
    train(again, resumed, at)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_state_of_before_there_were_statistics_is_read() -> None:
    model = network()
    optimizer = proximal(model)
    train(model, optimizer, last=5)
    state = optimizer.state_dict()
    del state["proximal"]["statistics"]
    optimizer.load_state_dict(state)
    train(model, optimizer, 5)
    assert optimizer.frozen


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_go_on_alike(way: str) -> None:
    model = network()
    optimizer = proximal(model)
    train(model, optimizer, last=CHOICE + 3)
    both = (model, optimizer)
    copied = copy.deepcopy(both) if way == "deepcopy" else pickle.loads(pickle.dumps(both))
    for one in (both, copied):
        train(*one, CHOICE + 3, STEPS)
    assert torch.equal(model[4].running_var, copied[0][4].running_var)


def test_nothing_is_left_on_the_model() -> None:
    model = network()
    before = [(type(m), set(vars(m)), getattr(m, "momentum", None)) for m in model.modules()]
    names = list(model.state_dict())
    optimizer = proximal(model)
    for first, last in ((0, CHOICE + 3), (CHOICE + 3, STEPS)):
        train(model, optimizer, first, last)
        after = [(type(m), set(vars(m)), getattr(m, "momentum", None)) for m in model.modules()]
        assert after == before and list(model.state_dict()) == names
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        torch.jit.script(copy.deepcopy(model))
    assert int(model[4].num_batches_tracked) == STEPS


def test_nothing_is_remembered_once_their_own_momentum_rules() -> None:
    model = network(0.1)
    optimizer = proximal(model)
    train(model, optimizer, last=CHOICE + 9)
    assert optimizer.state_dict()["proximal"]["statistics"]
    train(model, optimizer, CHOICE + 9, CHOICE + 11)
    assert optimizer.state_dict()["proximal"]["statistics"] == {}


def test_a_compiled_model_has_the_same_averages() -> None:
    model, other = network(), network()
    compiled = torch.compile(other, backend="aot_eager")
    train(model, proximal(model))
    train(compiled, proximal(compiled))
    torch.testing.assert_close(model[4].running_var, other[4].running_var, rtol=1e-4, atol=1e-6)


# -- what it is for --------------------------------------------------------------------------------


def _distance(small: nn.Module) -> float:
    """How far outputs are from those with averages made anew, in terms of their scale."""
    rows = torch.cat([batch(number)[0] for number in range(100, 130)])
    found = small.eval()(rows)
    anew = sc.recalibrate(copy.deepcopy(small), rows.split(16))(rows)
    return float(((found - anew).abs().max() / anew.std()).detach())


@pytest.mark.parametrize("averaged", [False, True], ids=["", "averaged weights"])
@pytest.mark.parametrize("momentum", [0.01, 0.1])
def test_the_small_network_is_handed_over_with_averages_of_its_own(
    momentum: float, averaged: bool
) -> None:
    distances = {}
    for statistics in ("model", "recent"):
        model = network(momentum)
        optimizer = proximal(model, statistics=statistics)
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
        for step in range(STEPS):
            train(model, optimizer, step, step + 1)
            average.update_parameters(model)
        groups, trained = optimizer.groups, model
        if averaged:
            trained = average.module
            groups = groups.on(trained).scale_(optimizer.multipliers)
        small = sc.shrink(trained, groups)
        distances[statistics] = _distance(small)
    assert distances["recent"] < 0.5 and distances["recent"] < distances["model"]
    assert momentum > 0.01 or distances["model"] > 3 * distances["recent"]
