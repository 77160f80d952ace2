"""Filter shapes: positions that no filter reads free channels and the borders of kernels."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import networks
import secateur as sc
from networks import images
from secateur.surgery.equivalence import difference


def tapped(conv: nn.Module, *cut: tuple[int, int]) -> nn.Module:
    """The convolution with its first and last kernel positions zero: (first, last) an axis."""
    weight = conv.weight.detach()
    for axis, (first, last) in enumerate(cut):
        taps = weight.movedim(axis + 2, 0)
        taps[:first] = 0
        taps[len(taps) - last :] = 0
    return conv


def shrunk(model: nn.Module, example: Tensor) -> tuple[nn.Module, float, list[str]]:
    """What shrink leaves, how much the output changes, and what was said."""
    groups = sc.shapes(model, example)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        small = sc.shrink(model, groups)
    return small, difference(model, small, example), [str(w.message) for w in caught]


def test_a_group_is_one_position_in_every_filter():
    model = networks.LeNet()
    groups = sc.shapes(model)
    assert [(layer.name, len(layer)) for layer in groups.layers] == [("conv1", 25), ("conv2", 500)]
    torch.testing.assert_close(
        groups.norms()[25:], model.conv2.weight.detach().double().norm(dim=0).reshape(-1)
    )
    transposed = nn.ConvTranspose2d(3, 4, 2)
    torch.testing.assert_close(
        sc.shapes(transposed).norms(), transposed.weight.detach().double().norm(dim=1).reshape(-1)
    )


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 2, 4])
def test_zero_borders_shrink_the_kernel_whatever_the_padding(stride, dilation, padding):
    conv = nn.Conv2d(2, 3, 5, stride=stride, dilation=dilation, padding=padding)
    model = nn.Sequential(tapped(conv, (2, 1), (0, 2)))
    small, gap, said = shrunk(model, images(2, 2, 13, 11))
    assert gap <= 1e-6 and said == []
    assert small[0].kernel_size == (2, 3) == tuple(small[0].weight.shape[2:])
    assert small[0].padding_mode == "constant"  # what is added differs between the two sides


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 2, 4])
@pytest.mark.parametrize(("first", "last"), [(2, 1), (1, 2), (0, 1), (1, 0)])
def test_a_transposed_convolution_loses_what_its_output_padding_can_make_up_for(
    stride, dilation, padding, first, last
):
    conv = nn.ConvTranspose1d(2, 3, 5, stride=stride, dilation=dilation, padding=padding)
    model = nn.Sequential(tapped(conv, (first, last)))
    small, gap, _ = shrunk(model, images(2, 2, 9))
    possible = [
        a + b
        for a in range(first + 1)
        for b in range(last + 1)
        if padding >= a * dilation and 0 <= (b - a) * dilation < max(stride, dilation)
    ]
    assert gap <= 1e-6 and small[0].kernel_size == (5 - max(possible),)


@pytest.mark.parametrize(
    ("options", "kernel", "mode"),
    [
        ({"padding": "same"}, (3, 1), "zeros"),
        ({"padding": "same", "dilation": 2}, (3, 1), "zeros"),
        ({"padding": "valid"}, (3, 1), "constant"),
        ({"padding": 2, "padding_mode": "reflect"}, (3, 1), "reflect"),
        ({"padding": (1, 0), "padding_mode": "circular"}, (3, 3), "circular"),
        ({"padding": (0, 1), "padding_mode": "replicate", "dilation": 2}, (5, 3), "replicate"),
        ({"padding": (2, 1)}, (3, 1), "zeros"),
    ],
)
def test_padding_by_name_by_mode_and_by_axis(options, kernel, mode):
    model = nn.Sequential(tapped(nn.Conv2d(2, 3, (5, 3), **options), (1, 1), (1, 1)))
    small, gap, said = shrunk(model, images(2, 2, 9, 9))
    assert gap <= 1e-6 and small[0].kernel_size == kernel and small[0].padding_mode == mode
    assert bool(said) == (kernel != (3, 1))  # what stays is told


@pytest.mark.parametrize(
    "options", [{"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}]
)
def test_one_side_goes_where_padding_has_a_name_or_a_mode(options):
    model = nn.Sequential(tapped(nn.Conv2d(2, 3, (4, 3), **options), (1, 0), (0, 1)))
    small, gap, said = shrunk(model, images(2, 2, 9, 9))
    assert gap <= 1e-6 and small[0].kernel_size == (3, 2) and said == []


def test_one_and_three_dimensions_and_depthwise_kernels():
    model = nn.Sequential(
        tapped(nn.Conv1d(4, 4, 3, padding=1, groups=4), (1, 1)), nn.Conv1d(4, 2, 1)
    )
    small, gap, _ = shrunk(model, images(2, 4, 9))
    assert gap <= 1e-6 and small[0].kernel_size == (1,)
    model = nn.Sequential(tapped(nn.Conv3d(2, 3, 3, padding=1), (1, 1), (0, 0), (1, 1)))
    small, gap, _ = shrunk(model, images(2, 2, 5, 5, 5))
    assert gap <= 1e-6 and small[0].kernel_size == (1, 3, 1)


def test_a_channel_goes_when_every_reader_agrees_and_only_then():
    example = images(2, 3, 16, 16)
    model = networks.warm(networks.ResNet(), example)
    readers = [model.layer1.conv1, model.layer2.conv1, model.layer2.shortcut[0]]
    for conv in readers[:2]:
        conv.weight.data[:, 3] = 0
    small, gap, said = shrunk(model, example)
    assert gap == 0 and small.stem.out_channels == 8  # the shortcut still reads it
    assert said == [
        "18 dead groups of layer1.conv1, layer2.conv1 stay in the network: other layers read their "
        "channels"
    ]
    readers[2].weight.data[:, 3] = 0
    small, gap, said = shrunk(model, example)
    assert gap <= 1e-6 and said == []
    assert small.stem.out_channels == small.layer1.conv2.out_channels == 7
    assert small.layer2.shortcut[0].in_channels == 7


@pytest.mark.parametrize("between", ["depthwise", "norms", "nothing"])
def test_an_unread_channel_leaves_with_all_that_makes_it(between):
    """Filters, biases, BatchNorms and depthwise kernels in front of a channel that nobody reads."""
    torch.manual_seed(0)
    middle = {
        "depthwise": [
            nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.BatchNorm2d(8), nn.Sigmoid(),
        ],
        "norms": [nn.BatchNorm2d(8), nn.PReLU(8)],
        "nothing": [],
    }[between]  # fmt: skip
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), *middle, nn.Conv2d(8, 4, 3, padding=1), nn.Flatten()
    )
    example = images(2, 3, 8, 8)
    networks.warm(model, example)
    model[-2].weight.data[:, [1, 6]] = 0
    small, gap, said = shrunk(model, example)
    assert gap <= 1e-6 and said == []
    assert small[0].out_channels == small[-2].in_channels == 6
    for module in small[1:-2]:
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_features == 6
        if isinstance(module, nn.Conv2d):
            assert module.groups == 6


def test_every_dead_position_that_stays_has_its_reason():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.Conv2d(4, 2, 3), nn.Flatten(),
    )  # fmt: skip
    example = images(2, 3, 8, 8)
    model[0].weight.data[:, 1] = 0  # a channel of the input
    model[2].weight.data[:, 0, 1, 1] = 0  # a position in the middle
    model[4].weight.data.zero_()  # all channels: one stays
    small, gap, said = shrunk(model, example)
    assert gap == 0 and small[2].out_channels == small[4].in_channels == 1
    assert said == [
        "9 dead groups of 0 stay in the network: their channels can't leave: no weight makes it: "
        "the model's input keeps its shape",
        "1 dead groups of 2 stay in the network: they lie among positions of their kernels that "
        "are read",
        "9 dead groups of 4 stay in the network: one channel stays for a layer to read",
    ]


def test_the_input_keeps_its_channels_and_the_zeros_are_told():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    model[0].weight.data[:, 1] = 0
    small, gap, said = shrunk(model, images(2, 3, 8, 8))
    assert gap == 0 and small[0].in_channels == 3
    assert said == [
        "9 dead groups of 0 stay in the network: their channels can't leave (secateur.channels "
        "says why)"
    ]


def test_without_an_example_nothing_is_cut():
    model = nn.Sequential(tapped(nn.Conv2d(2, 3, 3, padding=1), (1, 1), (1, 1)))
    with pytest.warns(UserWarning, match="16 dead groups of 0 stay .* without example inputs"):
        small = sc.shrink(model, sc.shapes(model))
    assert small[0].kernel_size == (3, 3) and torch.equal(small[0].weight, model[0].weight)


def test_a_convolution_without_any_tap_left_keeps_its_sizes():
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 3))
    model[2].weight.data.zero_()
    small, gap, _ = shrunk(model, images(2, 2, 8, 8))
    assert gap == 0 and small[2].kernel_size == (3, 3) and small[2].in_channels == 1


def test_a_kernel_shared_by_two_convolutions_shrinks_as_far_as_both_can():
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.near, self.far = (
                nn.Conv2d(2, 2, 5, padding=2), nn.Conv2d(2, 2, 5, padding=2, dilation=2)
            )  # fmt: skip
            self.far.weight = self.near.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.near(x).sum((2, 3)) + self.far(x).sum((2, 3))

    model = Pyramid()
    tapped(model.near, (2, 2), (2, 2))
    small, gap, _ = shrunk(model, images(2, 2, 9, 9))
    assert gap <= 1e-6 and small.near.weight is small.far.weight
    assert small.near.kernel_size == small.far.kernel_size == (1, 1)
    assert (small.near.padding, small.near.padding_mode) == ((0, 0), "zeros")
    assert (small.far.padding, small.far.padding_mode) == ((-2, -2), "constant")


def test_a_shrunk_kernel_is_saved_loaded_exported_and_shrinks_again(tmp_path):
    model = nn.Sequential(tapped(nn.Conv2d(2, 3, 7, padding=3), (1, 1), (2, 3)))
    example = images(2, 2, 9, 9)
    small, *_ = shrunk(model, example)
    assert small[0].kernel_size == (5, 2) and small[0].padding_mode == "constant"
    tapped(small[0], (1, 1), (0, 0))
    smaller, gap, _ = shrunk(small, example)
    assert gap <= 1e-6 and smaller[0].kernel_size == (3, 2)
    sc.save(smaller, tmp_path / "small.safetensors")
    loaded = sc.load(
        tmp_path / "small.safetensors", model=nn.Sequential(nn.Conv2d(2, 3, 7, padding=3))
    )
    assert difference(smaller, loaded, example) == 0
    sc.export(smaller, example, tmp_path / "small.onnx")  # compares the two itself


def test_an_even_rest_is_padded_by_one_number_again():
    model = nn.Sequential(tapped(nn.Conv1d(2, 3, 7, padding=3), (1, 0)))
    small, *_ = shrunk(model, images(2, 2, 9))
    assert small[0].padding_mode == "constant"
    smaller, gap, _ = shrunk(nn.Sequential(tapped(small[0], (0, 1))), images(2, 2, 9))
    assert gap <= 1e-6
    assert smaller[0].padding_mode == "zeros" and smaller[0].padding == (2,)
