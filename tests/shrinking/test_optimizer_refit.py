"""refit: the optimizer goes on with the small network where it stood with the full one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import secateur as sc
from networks import ResNet, Sigmoids, warm
from optim.training import several
from secateur.groups import Groups
from secateur.shrinking import refit, shrink
from secateur.shrinking.narrow_convolutions import trained_wrongly, x86

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "several": several,
}


def batches(count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    kwargs: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    return [(torch.randn(4, 3, 8, 8, **kwargs), torch.randn(4, 10, **kwargs)) for _ in range(count)]


def run(model: nn.Module, optimizer: Any, data: list[tuple[Tensor, Tensor]]) -> None:
    model.train()
    for x, target in data:
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        optimizer.step()


def frozen(make: Callable[[Any], Optimizer]) -> tuple[nn.Module, Groups, sc.Proximal]:
    """A ResNet whose groups have just been chosen."""
    torch.manual_seed(0)
    model = ResNet(width=4).double()
    groups = sc.filters(model, batches(1, 0)[0][0])
    optimizer = sc.Proximal(make(model.parameters()), groups, sc.Budget(groups=0.5), steps=10)
    run(model, optimizer, batches(10, 1))
    return model, groups, optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_small_network_takes_the_steps_of_the_frozen_one(name: str) -> None:
    model, groups, proximal = frozen(OPTIMIZERS[name])
    small = shrink(model, groups)
    full, whole = copy.deepcopy((model, proximal))
    optimizer = refit(proximal, model, small)
    assert optimizer is proximal.optimizer
    later = batches(6, 2)
    run(full, whole, later)
    run(small, optimizer, later)
    x = later[0][0]
    expected, found = full.eval()(x), small.eval()(x)
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()
    assert (found - model.eval()(x)).abs().max() > 1e-3 * expected.abs().max()  # it did move


def test_a_scheduler_and_param_groups_carry_on() -> None:
    model, groups, _ = frozen(OPTIMIZERS["Adam"])
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    adam = torch.optim.AdamW(
        [{"params": vectors, "weight_decay": 0.0}, {"params": matrices, "lr": 0.5}], lr=0.1
    )
    scheduler = torch.optim.lr_scheduler.StepLR(adam, 1, gamma=0.1)
    run(model, adam, batches(1, 3))
    scheduler.step()
    alive = groups.alive()
    for layer in groups.layers:  # every other one of those that are left, from the first
        part = alive[layer.span]
        part &= part.cumsum(0) % 2 == 1
    groups.scale_(alive.double())
    small = shrink(model, groups)
    assert refit(adam, model, small) is adam
    scheduler.step()
    assert [group["lr"] for group in adam.param_groups] == pytest.approx([0.001, 0.005])
    assert [group["weight_decay"] for group in adam.param_groups] == [0.0, 0.01]
    chosen = [p for group in adam.param_groups for p in group["params"]]
    assert {id(p) for p in chosen} == {id(p) for p in small.parameters()}
    assert all(p.ndim == 1 for p in adam.param_groups[0]["params"])
    for parameter in chosen:
        assert adam.state[parameter]["exp_avg"].shape == parameter.shape
        assert float(adam.state[parameter]["step"]) == 1


def test_a_new_bias_joins_its_weight_and_later_cuts_follow_it() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    model = warm(Sigmoids(), x)
    groups = sc.filters(model, x)
    sgd = torch.optim.SGD([model.conv2.weight], lr=0.1, momentum=0.9)
    groups.scale_((torch.arange(len(groups)) % 4 > 0).double())
    small = shrink(model, groups)
    refit(sgd, model, small)
    assert {id(p) for p in sgd.param_groups[0]["params"]} == {
        id(small.conv2.weight),
        id(small.conv2.bias),
    }
    small(x).sum().backward()
    sgd.step()
    moments = sgd.state[small.conv2.bias]["momentum_buffer"]
    again = sc.filters(small, x)
    again.scale_((torch.arange(len(again)) % 3 > 0).double())
    smaller = shrink(small, again)
    refit(sgd, small, smaller)
    alive = again.alive()[again.layers[1].start :]
    assert torch.equal(sgd.state[smaller.conv2.bias]["momentum_buffer"], moments[alive])


def test_what_does_not_fit_is_refused_and_the_optimizer_is_as_it_was() -> None:
    model, groups, proximal = frozen(OPTIMIZERS["Adam"])
    small, sgd = shrink(model, groups), proximal.optimizer
    params, state = list(sgd.param_groups[0]["params"]), dict(sgd.state)
    refused = [
        (copy.deepcopy(model), small, "pass the model that the optimizer trained"),
        (model, model, "this ResNet has no plan; pass what secateur.shrinking returned"),
    ]
    for given, other, message in refused:
        with pytest.raises(ValueError, match=message):
            refit(sgd, given, other)
        assert [id(p) for p in sgd.param_groups[0]["params"]] == [id(p) for p in params]
        assert dict(sgd.state) == state


@pytest.mark.parametrize("make", [torch.optim.LBFGS, torch.optim.Adafactor])
def test_state_that_is_not_kept_by_element_is_refused(make: Callable[..., Optimizer]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    groups = sc.neurons(model, x := torch.randn(3, 4))
    optimizer = make(model.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    small = shrink(model, groups.scale_(torch.tensor([1.0, 0, 1, 0, 0, 1])))
    with pytest.raises(ValueError, match=r"(?s)does not follow the parameter.*a new optimizer"):
        refit(optimizer, model, small)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [
        id(p) for p in model.parameters()
    ]


def residual() -> nn.Sequential:
    """Three pre-norm blocks in a list, on the numbers of small pictures."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(12), nn.Linear(12, 20), nn.Linear(20, 12)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(self.up(self.norm(x)).relu())

    blocks = nn.Sequential(*(Block() for _ in range(4)))
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 12), blocks, nn.Linear(12, 10)).double()


@pytest.mark.parametrize("name", ["momentum", "Adam"])
def test_blocks_that_left_leave_the_optimizer_and_the_others_keep_their_moments(name: str) -> None:
    torch.manual_seed(0)
    model = residual()
    groups = sc.depth(model, batches(1, 0)[0][0])
    proximal = sc.Proximal(
        OPTIMIZERS[name](model.parameters()), groups, sc.Budget(groups=0.5), steps=10
    )
    run(model, proximal, batches(10, 1))
    small = shrink(model, groups)
    assert len(small[2]) == 2 and small.secateur.out
    full, whole = copy.deepcopy((model, proximal))
    optimizer = refit(proximal, model, small)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert (
        {id(p) for p in held}
        == {id(p) for p in small.parameters()}
        == set(map(id, optimizer.state))
    )
    later = batches(6, 2)
    run(full, whole, later)
    run(small, optimizer, later)
    x = later[0][0]
    expected, found = full.eval()(x), small.eval()(x)
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()
    assert (found - model.eval()(x)).abs().max() > 1e-3 * expected.abs().max()


def test_refit_follows_a_second_cut_of_a_shorter_list() -> None:
    torch.manual_seed(0)
    model = residual()
    x = batches(1, 0)[0][0]
    small = shrink(model, sc.depth(model, x).scale_(torch.tensor([1.0, 0.0, 1.0, 1.0])))
    sgd = OPTIMIZERS["momentum"](small.parameters())
    run(small, sgd, batches(3, 1))
    last = small[2][2].down
    moments = sgd.state[last.weight]["momentum_buffer"]
    again = sc.depth(small, x).scale_(torch.tensor([1.0, 0.0, 1.0]))
    smaller = shrink(small, again)
    sgd = refit(sgd, small, smaller)
    assert torch.equal(sgd.state[smaller[2][1].down.weight]["momentum_buffer"], moments)


@pytest.mark.skipif(not x86(), reason="torch trains these wrongly on x86 only")
def test_convolutions_that_torch_trains_wrongly_are_named() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    model = ResNet(width=20)
    groups = sc.filters(model, x)
    stem = torch.zeros(len(groups))
    for layer in groups.layers:
        stem[layer.start : layer.start + (5 if layer.name == "stem" else len(layer))] = 1
    small = shrink(model, groups.scale_(stem))
    with pytest.warns(RuntimeWarning, match=r"layer2.shortcut.0 \(5 inputs\) can be wrong"):
        refit(torch.optim.SGD(model.parameters(), 0.1), model, small)
    assert not trained_wrongly(model)
    assert not trained_wrongly(copy.deepcopy(small).double())
    assert not trained_wrongly(small.requires_grad_(False))
