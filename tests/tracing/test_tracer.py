"""Which axes a model has, what is tied, what is protected, and that tracing leaves no trace."""

from __future__ import annotations

import copy
import dataclasses
import time

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import networks
import secateur as sc
from cuts import Apply, axes, some_dead, zero
from networks import images
from secateur.surgery.equivalence import difference
from secateur.surgery.removal import remove
from secateur.tracing import Trace, trace
from secateur.utils.contexts import preserve_state, tensors_in
from secateur.utils.forward import arguments

OUTPUT = "reaches an output of the model"


def tied(found: Trace, name: str) -> set[str]:
    """The parameters that make an axis, without the axis's own name in front."""
    return next(set(axis.producers) for axis in found.axes if axis.name == name)


def test_a_residual_sum_couples_the_whole_stream():
    found = trace(networks.ResNet(), images(1, 3, 16, 16))
    assert tied(found, "stem") == {
        "stem.weight", "bn.weight", "bn.bias",
        "layer1.conv2.weight", "layer1.bn2.weight", "layer1.bn2.bias",
    }  # fmt: skip
    assert tied(found, "layer1.conv1") == {
        "layer1.conv1.weight", "layer1.bn1.weight", "layer1.bn1.bias",
    }  # fmt: skip
    assert tied(found, "layer2.conv2") == {
        "layer2.conv2.weight", "layer2.bn2.weight", "layer2.bn2.bias",
        "layer2.shortcut.0.weight", "layer2.shortcut.1.weight", "layer2.shortcut.1.bias",
    }  # fmt: skip


def test_a_concatenation_keeps_its_parts_apart_and_norms_behind_it_follow_each():
    model = networks.DenseNet(growth=6, depth=3)
    groups = sc.filters(model, images(1, 3, 8, 8))
    assert [(la.name, len(la)) for la in groups.layers] == [
        ("stem", 12), ("convs.0", 6), ("convs.1", 6), ("convs.2", 6),
    ]  # fmt: skip
    last_norm = {m.name: m.ids.tolist() for m in groups.members}["norms.2.weight"]
    assert last_norm == list(range(24))  # stem, convs.0 and convs.1, in the order they stand in


def test_depthwise_and_squeeze_excite_are_one_axis():
    found = trace(networks.MobileNet(), images(1, 3, 16, 16))
    assert {"expand.0.weight", "depthwise.0.weight", "squeeze.3.weight", "squeeze.3.bias"} <= tied(
        found, "expand.0"
    )
    assert tied(found, "squeeze.1") == {"squeeze.1.weight", "squeeze.1.bias"}


def test_flattened_channels_repeat_once_a_pixel():
    model = networks.vgg()
    groups = sc.filters(model, images(1, 3, 16, 16))
    slot = next(slot for slot in groups.coupling.slots if slot.names == ("9.weight",))
    assert slot.entries[0] is None
    np.testing.assert_array_equal(slot.entries[1], 8 + np.repeat(np.arange(12), 16))


def test_grouped_shuffled_and_chunked_channels_leave_together():
    assert axes(networks.ResNeXt(), images(1, 3, 8, 8))[0]["block.conv1"] == 4
    assert axes(networks.Shuffle(12), images(1, 3, 8, 8))[0] == {"stem": 6, "branch.0": 6}
    assert axes(networks.SuperResolution(), images(1, 3, 8, 8))[0] == {"conv1": 8, "conv2": 6}
    assert axes(networks.Gated(6, 16), images(1, 6))[0] == {"up": 16, "up2": 16}


def test_a_module_called_twice_is_one_axis():
    found = trace(networks.Twice(), images(1, 3, 8, 8))
    assert {"stem.weight", "again.weight"} <= tied(found, "stem")
    assert [len(axis) for axis in found.axes if not axis.protected] == [8, 6]


@pytest.mark.parametrize(
    ("make", "example", "outputs"),
    [
        (networks.LeNet, images(1, 1, 28, 28), {"fc2"}),
        (networks.UNet, images(1, 3, 8, 8), {"head"}),
        (networks.SuperResolution, images(1, 3, 8, 8), {"conv3"}),
        (networks.Functional, {"image": images(1, 3, 8, 8), "shift": images(1, 8)}, {"head"}),
    ],
)
def test_outputs_stay(make, example, outputs):
    found = trace(make(), example)
    assert {axis.name for axis in found.axes if axis.protected == OUTPUT} == outputs


@dataclasses.dataclass
class Answer:
    logits: Tensor
    hidden: Tensor
    note: str = ""
    more: object = None


@dataclasses.dataclass(slots=True)
class Slotted:
    hidden: Tensor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y, h: {"logits": y, "state": {"hidden": h}},
        lambda y, h: Answer(y, h),
        lambda y, h: (y, [Slotted(h)]),
    ],
    ids=["mapping", "data class", "slots"],
)
def test_what_any_kind_of_output_holds_is_protected(wrap):
    model = Apply(
        lambda m, x: wrap(m.last(m.deep(h := m.first(x).relu()).relu()), h),
        first=nn.Linear(3, 5),
        deep=nn.Linear(5, 6),
        last=nn.Linear(6, 2),
    )
    assert axes(model, images(2, 3)) == ({"deep": 6}, {"first": OUTPUT, "last": OUTPUT})


def test_outputs_may_refer_to_themselves():
    answer = Answer(torch.ones(1), torch.ones(2))
    answer.more = [answer, {"again": answer}]
    assert [tensor.numel() for tensor in tensors_in(answer)] == [1, 2]


def test_parameters_that_the_example_never_reaches_are_named_and_left_alone():
    found = trace(networks.Functional(), {"image": images(1, 3, 8, 8), "shift": images(1, 8)})
    assert found.unreached == ("auxiliary.weight", "auxiliary.bias")
    assert "the example never reaches: auxiliary.weight, auxiliary.bias" in str(found)
    assert "auxiliary" not in {axis.name for axis in found.axes}


def test_parameters_outside_modules_are_found():
    model = Apply(
        lambda m, x: m.head(F.conv2d(x, m.weight, m.bias, stride=2).relu().mean((2, 3))),
        weight=nn.Parameter(torch.randn(8, 3, 3, 3)),
        bias=nn.Parameter(torch.randn(8)),
        head=nn.Linear(8, 4),
    )
    groups = sc.filters(model, images(2, 3, 8, 8))
    assert {member.name for member in groups.members} == {"weight", "bias"}
    zeroed, mine = zero(model, groups, dead := some_dead(groups, 0))
    small = remove(zeroed, mine, dead).model
    assert small.weight.shape == (4, 3, 3, 3) and small.head.in_features == 4
    assert difference(zeroed, small, images(2, 3, 8, 8)) <= 1e-5


# -- never wrong: what nobody knows is protected --------------------------------------------------


@torch.library.custom_op("secateur_tests::relu", mutates_args=())
def foreign_relu(x: Tensor) -> Tensor:
    """Has the name of a pointwise operator, and reverses the channels."""
    return x.flip(1).clamp(min=0)


UNKNOWN = {
    "secateur_tests::relu": foreign_relu,
    "linalg_lu": lambda x: torch.linalg.lu(x).U[:, : x.shape[1]],
    "linalg_qr": lambda x: torch.linalg.qr(x).R[:, : x.shape[1]],
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_operator_protects_and_is_reported(name):
    model = Apply(
        lambda m, x: m.last(UNKNOWN[name](m.first(x))), first=nn.Linear(3, 4), last=nn.LazyLinear(2)
    )
    x = images(5, 3)
    model(x)
    found = trace(model, x)
    first = next(axis for axis in found.axes if axis.name == "first")
    assert "has no rule" in first.protected
    assert f"operators without a rule: {first.protected.split()[3].rstrip(',')}" in str(found)
    with pytest.raises(ValueError, match=r"(?s)no removable neurons.*has no rule"):
        sc.neurons(model, x)
    with pytest.raises(ValueError, match=r"(?s)no removable filters.*without a rule protect"):
        sc.filters(model, x)  # there are none; what has no rule may be why


def test_a_model_without_any_groups_of_a_kind_is_told_so():
    with pytest.raises(ValueError, match=r"^Linear has no removable filters$"):
        sc.filters(nn.Linear(3, 4), images(5, 3))


@pytest.mark.parametrize(
    "write",
    [
        lambda out, x: out[:, :4].add_(x),
        lambda out, x: out.view(2, 4, 2)[:, :, 0].copy_(x),
        lambda out, x: torch.add(x, 1, out=out[:, :4]),
    ],
)
def test_writes_through_views_protect(write):
    def run(m, x):
        out = torch.full((2, 8), 0.0)
        write(out, m.first(x).relu())
        return m.last(out)

    model = Apply(run, first=nn.Linear(3, 4), last=nn.Linear(8, 2))
    assert axes(model, images(2, 3))[0] == {}


def test_in_place_operators_on_whole_tensors_are_followed():
    def run(m, x):
        y = m.first(x)
        y += m.other(x)
        y.relu_().mul_(2).clamp_(max=5)
        return m.last(y)

    model = Apply(run, first=nn.Linear(3, 4), other=nn.Linear(3, 4), last=nn.Linear(4, 2))
    assert axes(model, images(2, 3))[0] == {"first": 4}
    assert len(sc.neurons(model, images(2, 3))) == 4


# -- the model is left as it was ------------------------------------------------------------------


class Restless(nn.Module):
    """Counts its calls, replaces a buffer, and drops out even in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.norm(self.first(x))
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        noise = torch.rand(len(x), 1)
        return self.last(x.relu() * noise)


def test_tracing_and_grouping_leave_the_model_and_the_random_state_alone():
    model = Restless().train()
    model.norm.eval()
    mean = model.mean
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    groups = sc.neurons(model, images(6, 3))
    assert len(groups) == 8  # the same random numbers on both sides of the comparison
    assert [m.training for m in (model, model.first, model.norm, model.last)] == [
        True, True, False, True,
    ]  # fmt: skip
    assert model.mean is mean
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(random, torch.get_rng_state())


def test_a_failing_run_names_the_operator_and_changes_nothing():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(5, 2)).train()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="Sequential failed in the operator aten::addmm"):
        trace(model, images(2, 3))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()


def test_an_error_of_the_model_itself_is_shown():
    def run(m, x):
        raise KeyError("no such answer")

    with pytest.raises(RuntimeError, match="failed in its own code: 'no such answer'"):
        trace(Apply(run), images(1, 3))


def test_eval_mode_ends_with_the_context():
    model = nn.Sequential(nn.Dropout(), nn.ReLU())
    model[1].eval()
    with preserve_state(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, True, False]


def test_examples_are_tensors_tuples_or_keywords():
    x = torch.ones(1)
    assert arguments(x) == ((x,), {})
    assert arguments((x, 2)) == ((x, 2), {}) == arguments([(x, 2), x])
    assert arguments({"a": x}) == ((), {"a": x})


# -- speed ----------------------------------------------------------------------------------------


def test_resnet_50_is_grouped_in_seconds():
    model, x = networks.ResNet50(), images(1, 3, 64, 64)
    start = time.perf_counter()
    groups = sc.filters(model, x)
    assert time.perf_counter() - start < 10
    assert len(groups) == 64 + sum(
        depth * 2 * 64 * 2**i + 4 * 64 * 2**i for i, depth in enumerate((3, 4, 6, 3))
    )
