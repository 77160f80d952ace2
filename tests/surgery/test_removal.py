"""Removing equals zeroing: on every pattern of network, trained or not, and on random ones."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

import networks
import secateur as sc
from cuts import counted, cut_out, predicted, some_dead, zero
from networks import images
from secateur.groups import Groups
from secateur.surgery.cut import cut
from secateur.surgery.equivalence import difference
from secateur.surgery.plan import Plan
from secateur.surgery.removal import remove


def everything(model: nn.Module, example) -> Groups:
    """All the groups that filters and neurons find together."""
    found = [found for kind in (sc.filters, sc.neurons) if (found := those(kind, model, example))]
    return found[0] if len(found) == 1 else found[0] + found[1]


def those(kind, model: nn.Module, example) -> Groups | None:
    try:
        return kind(model, example)
    except ValueError as error:
        assert "has no removable" in str(error)
        return None


def weight_normed() -> nn.Module:
    return nn.Sequential(
        *[weight_norm(nn.Conv1d(4, 8, 3)), nn.ReLU(), weight_norm(nn.Conv1d(8, 6, 3)), nn.ReLU()],
        *[nn.Flatten(), weight_norm(nn.Linear(6 * 16, 10)), nn.Tanh(), nn.Linear(10, 5)],
    )


def instance_normed() -> nn.Module:
    return nn.Sequential(
        *[nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.ReLU(), nn.Conv2d(8, 6, 3)],
        *[nn.InstanceNorm2d(6), nn.Flatten(), nn.Linear(6 * 144, 5)],
    )


NETWORKS = {
    "lenet": (networks.LeNet, images(2, 1, 28, 28)),
    "vgg": (networks.vgg, images(2, 3, 16, 16)),
    "resnet": (networks.ResNet, images(2, 3, 16, 16)),
    "bottleneck": (lambda: networks.ResNet50(4, (1, 1)), images(2, 3, 32, 32)),
    "resnext": (networks.ResNeXt, images(2, 3, 8, 8)),
    "densenet": (networks.DenseNet, images(2, 3, 8, 8)),
    "mobilenet": (networks.MobileNet, images(2, 3, 16, 16)),
    "shuffle": (networks.Shuffle, images(2, 3, 8, 8)),
    "unet": (networks.UNet, images(2, 3, 8, 8)),
    "super-resolution": (networks.SuperResolution, images(2, 3, 8, 8)),
    "1-d": (networks.one_dimensional, images(2, 4, 20)),
    "3-d": (networks.three_dimensional, images(2, 1, 8, 8, 8)),
    "transformer": (networks.Transformer, images(2, 5, 8)),
    "mixer": (networks.Mixer, images(2, 3, 16, 16)),
    "gated": (networks.Gated, images(3, 6)),
    "layer scale": (networks.Scaled, images(2, 3, 8, 8)),
    "twice": (networks.Twice, images(2, 3, 8, 8)),
    "weight norm": (weight_normed, images(2, 4, 20)),
    "instance norm": (instance_normed, images(2, 3, 16, 16)),
    "keywords": (networks.Functional, {"image": images(2, 3, 8, 8), "shift": images(2, 8)}),
}


@pytest.mark.parametrize("trained", [False, True], ids=["random", "trained"])
@pytest.mark.parametrize("name", NETWORKS)
def test_removing_equals_zeroing_and_costs_what_was_predicted(name, trained):
    torch.manual_seed(0)
    make, example = NETWORKS[name]
    model = make()
    if trained and isinstance(example, Tensor):
        networks.warm(model, example)
    groups = everything(model, example)
    for seed, share in enumerate((0.5, 0.2, 0.95)):
        dead = some_dead(groups, seed, share=share)
        removal, gap = cut_out(model, groups, dead)
        assert removal.refused == ()
        assert removal.plan.biases == ()
        assert gap <= 1e-5
        assert predicted(groups, dead) == counted(removal.model, example)


# -- constants behind f(0) != 0 -------------------------------------------------------------------


def test_constants_of_dead_channels_are_folded_into_the_next_bias():
    model = networks.warm(networks.Sigmoids(), images(2, 3, 16, 16))
    groups = everything(model, images(2, 3, 16, 16))
    assert len(groups) == 36
    for seed in range(3):
        dead = some_dead(groups, seed)
        removal, gap = cut_out(model, groups, dead)
        assert removal.refused == ()
        assert removal.plan.biases == ("conv2.bias",)  # conv2 had none; fc1 and fc2 had one
        assert gap <= 1e-5
        assert predicted(groups, dead) == counted(removal.model, images(2, 3, 16, 16))
        without = copy.deepcopy(removal.model)
        without.conv2.bias.data.zero_()
        zeroed, _ = zero(model, groups, dead)
        assert difference(zeroed, without, images(2, 3, 16, 16)) > 1e-3  # the fold is what does it


class Padded(nn.Module):
    """A sigmoid before a convolution whose padding decides whether a constant can be folded."""

    def __init__(self, mode: str = "zeros", activation: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.activation = activation or nn.Sigmoid()
        self.conv2 = nn.Conv2d(8, 6, 3, padding=1, padding_mode=mode)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.activation(self.conv1(x))).relu()
        return self.head(x.mean((2, 3)))


def test_a_constant_that_is_padded_with_zeros_is_refused_by_name():
    model, x = Padded(), images(2, 3, 10, 10)
    groups = sc.filters(model, x)
    assert groups.refused == (("conv1", 8, "conv2 pads a constant of it with zeros"),)
    assert [layer.name for layer in groups.layers] == ["conv2"]


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_a_constant_that_is_padded_with_itself_is_folded(mode):
    model, x = Padded(mode), images(2, 3, 10, 10)
    groups = sc.filters(model, x)
    assert [layer.name for layer in groups.layers] == ["conv1", "conv2"]
    assert cut_out(model, groups, some_dead(groups, 0))[1] <= 1e-5


def test_activations_that_keep_zero_may_be_padded():
    for activation in (nn.Hardswish(), nn.GELU(), nn.SiLU(), nn.Tanh(), nn.ELU(), nn.ReLU6()):
        groups = sc.filters(Padded(activation=activation), images(2, 3, 10, 10))
        assert [layer.name for layer in groups.layers] == ["conv1", "conv2"]


def test_constants_are_folded_for_inputs_without_a_batch():
    model = nn.Sequential(nn.Linear(3, 8), nn.Sigmoid(), nn.Linear(8, 2))
    groups = sc.neurons(model, images(3))
    assert cut_out(model, groups, some_dead(groups, 0))[1] <= 1e-5


def test_batch_norm_without_scale_leaves_a_constant_that_the_trial_sees():
    """Its running mean is zero before training, so only a perturbed trial can know."""
    model = nn.Sequential(
        *[nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False), nn.ReLU()],
        *[nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 4)],
    )
    groups = sc.filters(model, images(2, 3, 8, 8))
    assert ("0", 8, "3 pads a constant of it with zeros") in groups.refused


# -- what the small modules say about themselves --------------------------------------------------


def test_module_attributes_follow_their_tensors():
    model = nn.Sequential(
        *[nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.PReLU(8), nn.Conv2d(8, 8, 3, groups=8)],
        *[nn.Conv2d(8, 12, 1), nn.GroupNorm(4, 12), nn.ConvTranspose2d(12, 6, 2), nn.ReLU()],
        *[nn.Flatten(), nn.Linear(6 * 25, 10), nn.ReLU(), nn.Linear(10, 2)],
    )
    groups = everything(model, images(2, 3, 8, 8))
    dead = np.zeros(len(groups), bool)
    for layer, count in zip(groups.layers, (3, 1, 2, 4), strict=True):
        dead[layer.start : layer.start + count] = True
    small = cut_out(model, groups, dead)[0].model
    assert (small[0].in_channels, small[0].out_channels) == (3, 5)
    assert (small[1].num_features, small[2].num_parameters) == (5, 5)
    assert (small[3].in_channels, small[3].out_channels, small[3].groups) == (5, 5, 5)
    assert (small[4].in_channels, small[4].out_channels) == (5, 9)
    assert (small[5].num_groups, small[5].num_channels) == (3, 9)
    assert (small[6].in_channels, small[6].out_channels) == (9, 4)
    assert (small[9].in_features, small[9].out_features) == (100, 6)
    assert (small[11].in_features, small[11].out_features) == (6, 2)
    for before, after in zip(model.parameters(), small.parameters(), strict=True):
        assert type(after) is nn.Parameter and after.requires_grad == before.requires_grad
    small(images(4, 3, 8, 8)).sum().backward()  # it trains on
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())


def test_a_grouped_convolution_loses_whole_groups():
    model = networks.ResNeXt()
    groups = sc.filters(model, images(2, 3, 8, 8))
    block = next(layer for layer in groups.layers if layer.name == "block.conv1")
    assert len(block) == 4  # four groups of four channels
    dead = np.zeros(len(groups), bool)
    dead[block.start] = True
    conv = cut_out(model, groups, dead)[0].model.block.conv2
    assert (conv.in_channels, conv.out_channels, conv.groups) == (12, 12, 3)
    assert conv.weight.shape == (12, 4, 3, 3)


def test_weight_norm_reports_sizes_and_keeps_its_parametrization():
    model = weight_normed()
    groups = everything(model, images(2, 4, 20))
    assert [layer.name for layer in groups.layers] == ["0", "2", "5"]
    assert {m.name.rpartition(".")[2] for m in groups.members} == {"bias", "original0"}  # not v
    small = cut_out(model, groups, some_dead(groups, 0))[0].model
    assert (small[0].out_channels, small[2].in_channels, small[2].out_channels) == (4, 4, 3)
    assert small[2].parametrizations.weight.original1.shape == (3, 4, 3)


def test_tied_weights_stay_tied():
    model = networks.Twice()
    groups = everything(model, images(2, 3, 8, 8))
    small = cut_out(model, groups, some_dead(groups, 0))[0].model
    assert small.left.weight is small.right.weight
    assert small.left.weight.shape == (3, 4)


def test_the_model_is_left_as_it_was():
    model = networks.warm(networks.MobileNet(), images(2, 3, 16, 16))
    groups = sc.filters(model, images(2, 3, 16, 16))
    before = copy.deepcopy(model.state_dict())
    remove(model, groups, some_dead(groups, 0))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


# -- plans ----------------------------------------------------------------------------------------


def test_a_plan_rebuilds_the_small_model_from_a_full_one():
    model = networks.ResNet()
    groups = sc.filters(model, images(2, 3, 16, 16))
    removal = remove(*zero(model, groups, dead := some_dead(groups, 0)), dead)
    other = networks.ResNet()
    cut(other, removal.plan)
    other.load_state_dict(removal.model.state_dict())
    assert difference(removal.model, other, images(2, 3, 16, 16)) == 0
    assert removal.plan.groups == {"filters": (int((~dead).sum()), len(groups))}


def test_two_plans_are_one():
    model = networks.Sigmoids()
    x = images(2, 3, 16, 16)
    plans, small = [], model
    for seed in (0, 1):
        groups = everything(small, x)
        dead = some_dead(groups, seed, share=0.3)
        removal = remove(*zero(small, groups, dead), dead)
        plans.append(removal.plan)
        small = removal.model
    both = plans[1].after(plans[0])
    other = networks.Sigmoids()
    cut(other, both)
    other.load_state_dict(small.state_dict())
    assert difference(small, other, x) == 0
    assert both.groups["filters"][1] == 20


@pytest.mark.parametrize(
    "kept", [{"conv9.weight": {0: (0,)}}, {"conv1.weight": {0: (20,)}}, {"conv1.bias": {1: (0,)}}]
)
def test_a_plan_that_does_not_fit_changes_nothing(kept):
    model = networks.LeNet()
    with pytest.raises(ValueError, match="plan"):
        cut(model, Plan({"conv2.weight": {0: (0, 1)}, **kept}))
    assert model.conv2.weight.shape == (50, 20, 5, 5)


# -- random networks ------------------------------------------------------------------------------


class Drawn(nn.Module):
    """A chain of drawn steps; each reads what the last one left and keeps the image size."""

    def __init__(self, steps: list[tuple[str, int]]) -> None:
        super().__init__()
        self.kinds = [kind for kind, _ in steps]
        self.parts = nn.ModuleList()
        width = 3
        for kind, size in steps:
            self.parts.append(self._part(kind, width, size))
            width = {"conv": size, "norm": size, "concat": width + size}.get(kind, width)
        self.head = nn.Linear(width, 4)

    @staticmethod
    def _part(kind: str, width: int, size: int) -> nn.Module:
        conv = nn.Conv2d(width, size, 3, padding=1)
        if kind == "norm":
            return nn.Sequential(conv, nn.BatchNorm2d(size), nn.ReLU())
        if kind == "residual":
            return nn.Sequential(conv, nn.ReLU(), nn.Conv2d(size, width, 1, bias=False))
        if kind == "depthwise":
            return nn.Conv2d(width, width, 3, padding=1, groups=width)
        if kind == "gate":
            return nn.Sequential(nn.Conv2d(width, size, 1), nn.ReLU(), nn.Conv2d(size, width, 1))
        return nn.Sequential(conv, nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        for kind, part in zip(self.kinds, self.parts, strict=True):
            if kind == "residual":
                x = x + part(x)
            elif kind == "concat":
                x = torch.cat([x, part(x)], 1)
            elif kind == "gate":
                x = x * part(x.mean((2, 3), keepdim=True)).sigmoid()
            else:
                x = part(x)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["conv", "norm", "residual", "concat", "depthwise", "gate"]),
        st.integers(2, 7),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS, seed=st.integers(0, 1000))
def test_random_networks_lose_random_groups_exactly(steps, seed):
    torch.manual_seed(seed)
    model, x = Drawn([("conv", 5), *steps]), images(2, 3, 6, 6)
    with torch.no_grad():  # statistics that are not the defaults
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
    groups = sc.filters(model, x)
    assert groups.layers[0].name == "parts.0.0"
    assert all("reaches" in reason for _, _, reason in groups.refused)  # nothing else stays
    rng = np.random.default_rng(seed)
    dead = rng.random(len(groups)) < rng.random()
    for layer in groups.layers:
        dead[rng.integers(layer.start, layer.stop)] = False
    removal, gap = cut_out(model, groups, dead)
    assert removal.refused == () and gap <= 1e-5
    assert predicted(groups, dead) == counted(removal.model, x)


def test_groups_that_are_not_zero_stay():
    torch.manual_seed(0)
    model, x = networks.warm(networks.ResNet(), images(2, 3, 16, 16)), images(2, 3, 16, 16)
    groups = sc.filters(model, x)
    removal = remove(model, groups, some_dead(groups, 1))  # asked for, but nothing is dead
    assert difference(model, removal.model, x) <= 1e-5
    assert {layer for layer, _, _ in removal.refused} == {layer.name for layer in groups.layers}
    assert all("changes with the input" in reason for _, _, reason in removal.refused)


def test_a_cut_in_the_wrong_place_is_seen():
    model, x = networks.warm(networks.ResNet(), images(2, 3, 16, 16)), images(2, 3, 16, 16)
    groups = sc.filters(model, x)
    plans = [
        remove(*zero(model, groups, dead), dead).plan
        for dead in (some_dead(groups, 0), some_dead(groups, 1))
    ]
    zeroed, _ = zero(model, groups, some_dead(groups, 0))
    right, wrong = copy.deepcopy(zeroed), copy.deepcopy(zeroed)
    cut(right, plans[0])
    cut(wrong, plans[1])
    assert difference(zeroed, right, x) <= 1e-5
    assert difference(zeroed, wrong, x) > 1e-3
    assert difference(zeroed, right, images(5, 3, 20, 20)) <= 1e-5  # any size of image
