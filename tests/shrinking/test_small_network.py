"""shrink: the small network computes what the zeroed one does, and the model stays as it was."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import secateur as sc
from networks import DenseNet, LeNet, MobileNet, ResNet, Sigmoids, Transformer, warm
from secateur.groups import Groups
from secateur.shrinking import ShrinkError, shrink


def filters_and_neurons(model: nn.Module, x: Tensor) -> Groups:
    return sc.filters(model, x) + sc.neurons(model, x)


Kind = Callable[[nn.Module, Tensor], Groups]
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Kind]] = {
    "LeNet": (LeNet, (1, 28, 28), filters_and_neurons),
    "ResNet": (ResNet, (3, 16, 16), sc.filters),
    "DenseNet": (DenseNet, (3, 8, 8), sc.filters),
    "MobileNet": (MobileNet, (3, 16, 16), sc.filters),
    "Sigmoids": (Sigmoids, (3, 8, 8), filters_and_neurons),
    "Transformer": (Transformer, (5, 8), sc.neurons),
}


def train(model: nn.Module, groups: Groups, x: Tensor, kept: float = 0.4, steps: int = 8) -> None:
    """A short run that ends with `kept` of the groups."""
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    optimizer = sc.Proximal(sgd, groups, sc.Budget(groups=kept, at_least=2), steps=steps)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        (model(torch.randn_like(x)) - 1).square().mean().backward()
        optimizer.step()


def trained(name: str) -> tuple[nn.Module, Groups, Tensor]:
    make, shape, kind = CASES[name]
    torch.manual_seed(0)
    x = torch.randn(2, *shape)
    model = warm(make(), x)
    groups = kind(model, x)
    train(model, groups, x)
    return model, groups, x


def mlp(**options: Any) -> tuple[nn.Sequential, Groups]:
    """Six hidden units, three of them dead."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6, **options), nn.ReLU(), nn.Linear(6, 2, **options))
    groups = sc.neurons(model, torch.ones(2, 4, **options))
    groups.scale_(torch.tensor([1.0, 0, 1, 0, 0, 1]))
    return model, groups


def assert_equal_outputs(model: nn.Module, small: nn.Module, shape: tuple[int, ...]) -> None:
    model.eval()
    small.eval()
    for batch in (1, 2, 7):
        x = torch.randn(batch, *shape)
        with torch.no_grad():
            expected, found = model(x), small(x)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def snapshot(model: nn.Module) -> list[Any]:
    """Everything of a model that shrink must leave alone, tensors by value and by identity."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return [
        {name: (id(tensor), tensor.requires_grad) for name, tensor in named},
        {name: tensor.detach().clone() for name, tensor in named},
        {name: None if t.grad is None else t.grad.clone() for name, t in named},
        {name: module.training for name, module in model.named_modules()},
        {name: sorted(vars(module)) for name, module in model.named_modules()},
        {name: len(module._forward_pre_hooks) for name, module in model.named_modules()},
    ]


def assert_unchanged(model: nn.Module, before: list[Any]) -> None:
    after = snapshot(model)
    assert after[0] == before[0]
    assert after[3:] == before[3:]
    for part in (1, 2):
        for name, tensor in before[part].items():
            assert tensor is None or torch.equal(after[part][name], tensor), name


@pytest.mark.parametrize("name", CASES)
def test_the_small_network_equals_the_zeroed_one(name: str) -> None:
    model, groups, x = trained(name)
    before = snapshot(model)
    random_state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = shrink(model, groups)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert_unchanged(model, before)
    assert type(small) is type(model)
    alive = groups.alive()
    assert 0 < alive.sum() < len(groups)
    for layer in groups.layers:
        width = small.get_submodule(layer.name).weight.shape[0]
        gone = len(layer) - int(alive[layer.span].sum())
        assert width == model.get_submodule(layer.name).weight.shape[0] - gone
    assert_equal_outputs(model, small, tuple(x.shape[1:]))


@pytest.mark.parametrize("name", CASES)
def test_the_small_network_trains_on(name: str) -> None:
    model, groups, x = trained(name)
    small = shrink(model, groups)
    assert small.training
    target = torch.randn(4, 10)
    x = torch.randn(4, *x.shape[1:])
    optimizer = torch.optim.Adam(small.parameters(), lr=0.01)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (small(x) - target).square().mean()
        loss.backward()
        assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", CASES)
def test_a_small_network_shrinks_again_after_more_training(name: str) -> None:
    model, groups, x = trained(name)
    small = shrink(model, groups)
    again = CASES[name][2](small, x)
    train(small, again, x, kept=0.7)
    smaller = shrink(small, again)
    assert_equal_outputs(small, smaller, tuple(x.shape[1:]))
    for kind, (_, total) in small.secateur.groups.items():
        kept = sum(int(again.alive()[la.span].sum()) for la in again.layers if la.kind == kind)
        assert smaller.secateur.groups[kind] == (kept, total)


def test_two_cuts_are_one_plan_for_the_full_size_network() -> None:
    model, groups = mlp()
    small = shrink(model, groups)
    again = sc.neurons(small, torch.ones(2, 4))
    smaller = shrink(small, again.scale_(torch.tensor([1.0, 0, 1])))
    assert smaller.secateur.kept == {
        "0.weight": {0: (0, 5)},
        "0.bias": {0: (0, 5)},
        "2.weight": {1: (0, 5)},
    }
    assert smaller.secateur.groups == {"neurons": (2, 6)}
    assert torch.equal(smaller[0].weight, model[0].weight[[0, 5]])
    assert torch.equal(smaller[2].weight, model[2].weight[:, [0, 5]])


def test_survivors_keep_their_batch_norm_statistics() -> None:
    model, groups, _ = trained("ResNet")
    small = shrink(model, groups)
    checked = 0
    for name, norm in model.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            kept = list(small.secateur.kept.get(f"{name}.weight", {}).get(0, range(len(norm.bias))))
            found = small.get_submodule(name)
            for part in ("weight", "bias", "running_mean", "running_var"):
                assert torch.equal(getattr(found, part), getattr(norm, part)[kept]), (name, part)
            assert found.num_features == len(kept)
            assert found.num_batches_tracked == norm.num_batches_tracked
            checked += len(kept) < norm.num_features
    assert checked >= 4


def test_modes_and_frozen_parameters_are_kept_and_no_memory_is_shared() -> None:
    model, groups, _ = trained("ResNet")
    model.bn.eval()
    model.layer1.bn1.eval()
    for parameter in model.layer1.parameters():
        parameter.requires_grad_(False)
    small = shrink(model, groups)
    assert {n: m.training for n, m in small.named_modules()} == {
        n: m.training for n, m in model.named_modules()
    }
    assert [(n, p.requires_grad, p.device, p.dtype) for n, p in small.named_parameters()] == [
        (n, p.requires_grad, p.device, p.dtype) for n, p in model.named_parameters()
    ]
    memory = {t.untyped_storage().data_ptr() for t in model.state_dict().values()}
    assert not memory & {t.untyped_storage().data_ptr() for t in small.state_dict().values()}


def test_an_average_of_the_weights_shrinks_by_the_same_groups() -> None:
    model, groups, x = trained("ResNet")
    average = AveragedModel(model)
    average.update_parameters(model)  # the first is a copy
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)  # zeros stay zeros
    average.update_parameters(model)
    small = shrink(average.module, groups)
    assert_equal_outputs(average.module, small, tuple(x.shape[1:]))
    assert not torch.allclose(small.head.bias, model.head.bias)


def test_without_dead_groups_it_is_an_equal_copy() -> None:
    model = warm(ResNet(), x := torch.randn(2, 3, 16, 16))
    groups = sc.filters(model, x)
    copied = shrink(model, groups)
    assert copied.secateur.kept == {}
    assert copied.secateur.groups == {"filters": (len(groups), len(groups))}
    for name, tensor in model.state_dict().items():
        assert torch.equal(copied.state_dict()[name], tensor)
        assert copied.state_dict()[name].data_ptr() != tensor.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_number_types(dtype: torch.dtype) -> None:
    model, groups = mlp(dtype=dtype)
    small = shrink(model, groups)
    x = torch.randn(3, 4, dtype=dtype)
    assert small[0].weight.shape == (3, 4)
    assert small[0].weight.dtype is dtype
    difference = (small(x) - model(x)).abs().max() / model(x).abs().max()
    assert difference <= 4 * torch.finfo(dtype).eps


# -- refusals: each leaves the model as it was -----------------------------------------------------


@pytest.mark.parametrize("other", [LeNet, lambda: ResNet(width=12)])
def test_a_model_of_another_architecture_is_refused(other: Callable[[], nn.Module]) -> None:
    _, groups, _ = trained("ResNet")
    stranger = other()
    before = snapshot(stranger)
    with pytest.raises(ValueError, match=r"do not fit this \w+, at stem.weight\n  groups expect"):
        shrink(stranger, groups)
    assert_unchanged(stranger, before)


def test_a_network_cut_in_two_is_refused() -> None:
    model, groups = mlp()
    groups.scale_(torch.zeros(6))
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"every group of 0 is dead: .*at_least=1"):
        shrink(model, groups)
    assert_unchanged(model, before)


def test_groups_that_were_not_traced_leave_an_equal_copy_and_that_is_said() -> None:
    model = nn.Linear(4, 2)
    groups = sc.custom(model, {"weight": torch.arange(4)})
    groups.scale_(torch.tensor([1.0, 0, 1, 1]))
    with pytest.warns(UserWarning, match="1 dead groups of custom stay .* zeros in weights"):
        small = shrink(model, groups)
    assert torch.equal(small.weight, model.weight) and small.weight is not model.weight
    assert (small.weight[:, 1] == 0).all()


class Changing(nn.Module):
    """A hidden layer whose forward can be changed after the groups were made."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 2)
        self.then: Callable[[Tensor, Tensor], Tensor] = lambda hidden, output: output

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x).relu()
        return self.then(hidden, self.down(hidden))


def changed(then: Callable[[Tensor, Tensor], Tensor]) -> tuple[Changing, Groups, list[Any]]:
    torch.manual_seed(0)
    model = Changing()
    groups = sc.neurons(model, torch.randn(2, 4))
    groups.scale_(torch.tensor([1.0, 0, 1, 0, 0, 1]))
    model.then = then
    return model, groups, snapshot(model)


def test_a_small_network_that_computes_something_else_is_refused() -> None:
    model, groups, before = changed(lambda hidden, output: output * hidden.mean(1, keepdim=True))
    with pytest.raises(ShrinkError, match=r"differs by 1.0e\+00 of its scale \(allowed 1e-05\)"):
        shrink(model, groups)
    assert_unchanged(model, before)


def test_a_small_network_that_does_not_run_is_refused() -> None:
    model, groups, before = changed(lambda hidden, output: output + hidden.view(-1, 6)[:, :2])
    with pytest.raises(ShrinkError, match=r"does not run .*\n  the model is unchanged") as caught:
        shrink(model, groups)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert_unchanged(model, before)


def test_a_small_network_that_computes_nan_is_refused() -> None:
    def then(hidden: Tensor, output: Tensor) -> Tensor:
        return output + torch.tensor(hidden.shape[1] - 5.0).log()  # log 1 whole, log -2 cut

    model, groups, before = changed(then)
    with pytest.raises(ShrinkError):
        shrink(model, groups)
    assert_unchanged(model, before)


def test_dead_groups_that_must_stay_are_reported_by_layer_and_reason() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 3, 3, padding=1)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), conv, nn.Flatten())
    groups = sc.filters(model, torch.randn(2, 2, 8, 8))
    groups.scale_(torch.tensor([1.0, 0, 1, 0]))
    model[1] = nn.Sigmoid()  # a dead channel is 0.5 now, and 0 in the padding
    with pytest.warns(
        UserWarning, match="2 dead groups of 0 stay in the network: 2 pads a constant of it"
    ):
        small = shrink(model, groups)
    assert small[0].weight.shape == model[0].weight.shape
    assert_equal_outputs(model, small, (2, 8, 8))
    assert small.secateur.groups == {"filters": (4, 4)}


def test_a_deep_copy_of_a_small_network_shrinks_like_the_original() -> None:
    model, groups = mlp()
    small = copy.deepcopy(shrink(model, groups))
    again = sc.neurons(small, torch.ones(2, 4)).scale_(torch.tensor([0.0, 1, 1]))
    assert shrink(small, again).secateur.kept["0.weight"] == {0: (2, 5)}


class LowRank(nn.Module):
    """A LoRA of rank 0 beside a hidden layer, and a parameter that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 8), nn.Linear(8, 2)
        self.down, self.up = nn.Parameter(torch.empty(0, 4)), nn.Parameter(torch.empty(8, 0))
        self.unused = nn.Parameter(torch.empty(0, 4))
        self.register_buffer("nothing", torch.empty(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer((self.inner(x) + x @ self.down.T @ self.up.T).relu())


@pytest.mark.parametrize("kind", [sc.neurons, sc.channels])
@pytest.mark.parametrize("adam", [False, True])
def test_empty_parameters_are_grouped_trained_cut_and_kept(kind, adam, tmp_path) -> None:
    model, x = LowRank(), torch.randn(3, 4)
    inner = (
        torch.optim.Adam(model.parameters()) if adam else torch.optim.SGD(model.parameters(), 0.1)
    )
    optimizer = sc.Proximal(inner, kind(model, x), sc.Budget(params=0.6), steps=6)
    for _ in range(6):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    small = sc.shrink(model, optimizer.groups)
    assert small.up.shape == (small.inner.out_features, 0) and len(small.up) < 8
    assert small.down.shape == small.unused.shape == (0, 4)
    loaded = sc.load(sc.save(small, tmp_path / "small.safetensors"), model=LowRank())
    assert torch.equal(loaded(x), small(x))
    again = sc.refit(optimizer, model, small)
    small(x).sum().backward()
    again.step()


def in_training(steps: int) -> tuple[nn.Module, sc.Proximal]:
    model = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 2))
    x = torch.randn(8, 4)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    optimizer = sc.Proximal(sgd, sc.neurons(model, x), sc.Budget(params=0.5), steps=20)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return model, optimizer


def test_a_run_that_has_not_chosen_is_not_cut_without_a_word() -> None:
    model, optimizer = in_training(5)
    assert not optimizer.done
    with pytest.raises(ShrinkError, match=r"step 5 of 20, now params \d+, asked 36\. Train to the"):
        shrink(model, optimizer.groups)
    assert shrink(model, optimizer.groups, partial=True)[0].out_features == 10
    optimizer.freeze_()
    assert shrink(model, optimizer.groups)[0].out_features == 4
    assert not optimizer.done


def test_a_run_is_done_from_its_last_step_on() -> None:
    for steps in (20, 23):
        model, optimizer = in_training(steps)
        assert optimizer.done
        assert shrink(model, optimizer.groups)[0].out_features == 4
