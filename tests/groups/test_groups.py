"""`Groups`: adding, naming, moving to another copy, and what is refused."""

from __future__ import annotations

import copy
import time

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from cuts import counted, cut_out, predicted, some_dead
from networks import LeNet, ResNet, images
from secateur.groups import Groups, Layer, Member


def lenet() -> tuple[nn.Module, Tensor]:
    return LeNet(), images(2, 1, 28, 28)


def test_lenet_has_570_groups():
    model, x = lenet()
    groups = sc.filters(model, x) + sc.neurons(model, x)
    assert [(la.name, la.kind, len(la)) for la in groups.layers] == [
        ("conv1", "filters", 20),
        ("conv2", "filters", 50),
        ("fc1", "neurons", 500),
    ]
    assert len(groups) == 570 == len(groups.names) == len(groups.norms()) == len(groups.layer_ids)
    assert [groups.names[i] for i in (0, 19, 20, 69, 70, -1)] == [
        "conv1[0]", "conv1[19]", "conv2[0]", "conv2[49]", "fc1[0]", "fc1[499]",
    ]  # fmt: skip
    assert groups.names[18:21] == ["conv1[18]", "conv1[19]", "conv2[0]"]
    assert list(groups.names)[70] == "fc1[0]"
    with pytest.raises(IndexError):
        groups.names[570]


def test_a_sum_of_kinds_is_their_union():
    model, x = lenet()
    filters, neurons = sc.filters(model, x), sc.neurons(model, x)
    both = filters + neurons
    torch.testing.assert_close(both.norms(), torch.cat([filters.norms(), neurons.norms()]))
    assert both.costs.tolist() == [*filters.costs.tolist(), *neurons.costs.tolist()]
    assert both.costs[0] == 1 * 25 + 1 + 50 * 25  # filter, bias, and what reads the channel
    assert both.costs[20] == 20 * 25 + 1 + 500 * 16  # one channel is 16 inputs of fc1
    assert both.costs[70] == 800 + 1 + 10


class TwoSources(nn.Module):
    """One linear layer reads convolution channels and linear units, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(5, 4)
        self.head = nn.Linear(10, 7)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(torch.cat([self.conv(x).relu().mean((2, 3)), self.fc(y).relu()], 1))


def test_flops_of_an_axis_that_two_kinds_share_add_up():
    model, example = TwoSources(), (images(2, 3, 6, 6), images(2, 5))
    groups = sc.filters(model, example) + sc.neurons(model, example)
    dead = some_dead(groups, 0)
    removal, gap = cut_out(model, groups, dead)
    assert gap <= 1e-5
    assert removal.model.head.in_features == 10 - dead.sum() == 5
    assert predicted(groups, dead) == counted(removal.model, example)


def test_overlaps_are_refused_by_name():
    model, x = lenet()
    filters = sc.filters(model, x)
    with pytest.raises(ValueError, match=r"overlap in conv1\.weight: 500 of its 500 elements"):
        filters + filters
    with pytest.raises(ValueError, match=r"overlap in conv1\.weight: 25 of its 500 elements"):
        ids = torch.full((20, 1, 1, 1), -1)
        ids[7] = 0
        filters + sc.custom(model, {"conv1.weight": ids})


def test_disjoint_parts_of_one_parameter_may_be_added():
    model = nn.Linear(3, 2)
    first = sc.custom(model, {"weight": torch.tensor([[0], [-1]])})
    second = sc.custom(model, {"weight": torch.tensor([[-1], [0]])})
    assert (first + second).norms().tolist() == pytest.approx(model.weight.norm(dim=1).tolist())


def test_groups_of_different_examples_do_not_add():
    model = ResNet()
    with pytest.raises(ValueError, match="different models or example inputs"):
        sc.filters(model, images(2, 3, 16, 16)) + sc.filters(model, images(2, 3, 24, 24))


def test_on_follows_a_copy_and_refuses_another_model():
    model, x = lenet()
    groups, other = sc.filters(model, x), copy.deepcopy(model)
    groups.on(other).scale_(torch.zeros(70))
    assert groups.alive().all() and not groups.on(other).alive().any()
    with pytest.raises(ValueError, match=r"do not fit this LeNet, at conv2(.|\n)*\(50, 20, 5, 5\)"):
        other.conv2 = nn.Conv2d(20, 40, 5)
        groups.on(other)
    with pytest.raises(ValueError, match=r"do not fit this ResNet(.|\n)*no such parameter"):
        groups.on(ResNet())


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_scale_refuses_factors_that_are_none(bad: float) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    groups = sc.neurons(model, torch.ones(1, 4))
    before = groups.norms()
    with pytest.raises(ValueError, match=rf"the factor of 0\[1\] is {bad}; expected finite"):
        groups.scale_(torch.tensor([1.0, bad, 0.0, 1.0, 1.0, 1.0]))
    assert torch.equal(groups.norms(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["leading", "trailing", "blocks", "weights"])
def test_zero_kills_what_is_no_number(kind: str, dtype: torch.dtype) -> None:
    layer = nn.Linear(40, 6, bias=False).to(dtype)
    ids = torch.arange(6)[:, None] if kind == "leading" else torch.arange(40)[None]
    groups = {
        "leading": lambda: sc.custom(layer, {"weight": ids}),
        "trailing": lambda: sc.custom(layer, {"weight": ids}),
        "blocks": lambda: sc.blocks(layer, (2, 4)),
        "weights": lambda: sc.weights(layer),
    }[kind]()
    with torch.no_grad():
        layer.weight[1, 2:30] = torch.nan
        layer.weight[3, 5] = torch.inf
    before = layer.weight.clone()
    groups.scale_(torch.zeros(len(groups)))
    assert torch.equal(layer.weight, torch.zeros_like(before))


def test_scale_refuses_the_wrong_number_of_factors():
    model, x = lenet()
    before = model.conv1.weight.clone()
    with pytest.raises(ValueError, match=r"70 groups, shape \(70,\); got \(3,\)"):
        sc.filters(model, x).scale_(torch.zeros(3))
    assert torch.equal(model.conv1.weight, before)


def test_the_summary_tells_what_is_tied_and_what_stays():
    model = ResNet()
    groups = sc.filters(model, images(2, 3, 16, 16), ignore="layer3")
    groups.scale_(torch.tensor([0.0] * 3 + [1.0] * (len(groups) - 3)))
    text = groups.summary()
    stem = next(line for line in text.splitlines() if line.startswith("stem"))
    assert stem.split()[2:4] == ["8", "5"]  # groups, alive
    assert stem.endswith("layer1.conv2, bn, layer1.bn2")
    assert "layer3.conv1 (32): ignored ('layer3')" in text


def test_no_groups_at_all():
    empty = Groups((), ())
    assert len(empty) == 0 == len(empty.names) == len(empty.norms()) == len(empty.costs)


def test_a_hundred_thousand_groups_cost_no_python_loop():
    count = 100_000
    parameter = nn.Parameter(torch.randn(count, 2))
    member = Member("w", parameter, torch.arange(count).reshape(-1, 1))
    groups = Groups((member,), (Layer("w", "custom", 0, count),))
    start = time.perf_counter()
    groups.norms(), groups.alive(), groups.costs, groups.layer_ids, groups.summary()
    groups.scale_(torch.ones(count))
    assert groups.names[count - 1] == f"w[{count - 1}]"
    assert time.perf_counter() - start < 1.0


def test_layer_ids_number_the_layers():
    model, x = lenet()
    assert np.bincount(sc.filters(model, x).layer_ids).tolist() == [20, 50]


def test_on_checks_everything_that_will_be_cut():
    model = ResNet()
    groups = sc.filters(model, images(2, 3, 16, 16))
    other = ResNet()
    other.layer1.conv2 = nn.Conv2d(4, 8, 3, padding=1)  # reads fewer channels than conv1 makes
    with pytest.raises(ValueError, match=r"at layer1.conv2.weight\n.*\(8, 8, 3, 3\)\n.*\(8, 4, 3"):
        groups.on(other)
    other = ResNet()
    other.bn.running_mean = torch.zeros(7)
    with pytest.raises(ValueError, match=r"at bn.running_mean\n.*\(8,\)\n.*\(7,\)"):
        groups.on(other)
    other = ResNet(classes=12)  # of the head, no group cuts the classes; its inputs are 32
    assert groups.on(ResNet()) is not None
    with pytest.raises(ValueError, match=r"at head.weight"):
        sc.channels(model, images(2, 3, 16, 16)).on(other)


def test_on_wants_the_same_tied_weights():
    class Model(nn.Module):
        def __init__(self, tied: bool) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)
            if tied:
                self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.a(x).relu() + self.b(x.sin()).relu())

    x = images(2, 4)
    for here in (True, False):
        groups = sc.neurons(Model(here), x)
        with pytest.raises(ValueError, match=r"whether a.weight and b.weight are one tensor"):
            groups.on(Model(not here))
        assert len(groups.on(Model(here))) == 6


def test_on_counts_bytes_of_the_model_s_own_type():
    model, x = lenet()
    groups = sc.filters(model, x)
    half = copy.deepcopy(model).half()
    assert sum(slot.itemsize for slot in groups.on(half).coupling.slots) * 2 == sum(
        slot.itemsize for slot in groups.coupling.slots
    )


def test_groups_follow_a_model_that_changes_in_place():
    """`.to` keeps Parameter objects: whatever the groups keep beside them has to follow."""
    model, x = lenet()
    groups = sc.filters(model, x)
    before = groups.norms()
    model.double()
    assert groups.members[0].parameter.dtype == torch.float64
    torch.testing.assert_close(groups.norms(), before, rtol=1e-6, atol=0)
    model.half()
    groups.scale_(torch.zeros(70))
    assert not groups.alive().any()


def test_groups_do_not_depend_on_torch_s_default_device():
    model, x = ResNet(), images(2, 3, 16, 16)
    expected = sc.filters(model, x)
    with torch.device("meta"):  # as torch.set_default_device does
        groups = sc.filters(model, x) + sc.weights(model.head)
        shapes = sc.shapes(model, x)
        groups.scale_((torch.arange(len(groups), device="cpu") % 2).double())
    assert groups.layers[: len(expected.layers)] == expected.layers
    assert int(groups.alive().sum()) == len(groups) // 2
    assert {m.ids.device.type for m in (*groups.members, *shapes.members)} == {"cpu"}
