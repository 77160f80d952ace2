"""A normalisation's recipe is found by what it does, whatever it is called."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur.groups.coupling import Norm
from secateur.kinds.stream_width import find_recipe
from secateur.surgery.norms import numbers, rescale_
from secateur.tracing.statistics import Recipe, Statistic
from streams import Centred, Direction, Literal, Rms, RootMeanSquare

WIDTH = 10


def over(module: nn.Module, shape: tuple[int, ...] = (2, 3, WIDTH), dim: int = -1) -> Recipe | str:
    """The recipe of a module that is the whole model."""
    atoms = np.arange(shape[dim])
    return find_recipe(module, Statistic("", "is mixed", atoms, shape, dim))


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        (nn.RMSNorm(WIDTH), Recipe(True, "weight", 0.0, 0.5, "eps", 1.0)),
        (nn.RMSNorm(WIDTH, eps=1e-6), Recipe(True, "weight", 0.0, 0.5, "eps", 1.0)),
        (Rms(WIDTH, "variance_epsilon"), Recipe(True, "weight", 0.0, 0.5, "variance_epsilon", 1.0)),
        (Rms(WIDTH, offset=1.0), Recipe(True, "weight", 1.0, 0.5, "eps", 1.0)),
        (RootMeanSquare(WIDTH), Recipe(True, "gain", 0.0, 0.5, "epsilon", 0.5)),
        (Direction(WIDTH), Recipe(True)),
        (nn.LayerNorm(WIDTH), Recipe(False, "weight", 0.0, 0.5, "eps", 1.0)),
        (Centred(WIDTH), Recipe(False, "weight", 0.0, 0.5, "eps", 1.0)),
        (nn.LayerNorm(WIDTH, elementwise_affine=False), Recipe(False)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_makes_up_for_missing_channels(norm, expected, dtype):
    assert over(norm.to(dtype)) == expected


def test_channels_may_stand_anywhere():
    assert over(nn.GroupNorm(1, WIDTH), (2, WIDTH, 4, 4), -3) == Recipe(
        False, "weight", 0.0, 0.5, "eps", 1.0
    )

    class Turned(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.movedim(1, -1)).movedim(-1, 1)

    found = over(Turned(WIDTH), (2, WIDTH, 4, 4), -3)
    assert found == Recipe(False, "weight", 0.0, 0.5, "eps", 1.0)


def test_a_mean_in_the_denominator_takes_the_whole_ratio():
    """As ConvNeXt-V2's response normalisation does, were its eps not in its code."""

    class Response(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.ones(WIDTH)), 1e-4

        def forward(self, x: Tensor) -> Tensor:
            size = x.abs().amax((1, 2), keepdim=True)
            return x + self.weight * x * size / (size.mean(-1, keepdim=True) + self.eps)

    assert over(Response(), (2, 4, 4, WIDTH)) == Recipe(True, "weight", 0.0, 1.0, "eps", 1.0)


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[..., :1] - x.mean(-1, keepdim=True)


class Twofold(nn.Module):
    """A statistic that is no mean of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(WIDTH)), 1e-5

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x / (x.square().mean(-1, keepdim=True) + x.var() + self.eps)


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Literal(WIDTH), "no scale and eps"),
        (nn.RMSNorm(WIDTH, elementwise_affine=False), "no scale and eps"),
        (Twofold(), "no scale and eps"),
        (Halved(), "its output has another shape"),
        (nn.Sequential(nn.LayerNorm(WIDTH)), "does more than normalise"),
        (nn.LayerNorm(WIDTH + 1), "does not run on its own"),
    ],
)
def test_what_can_not_follow_is_refused_with_the_reason(module, reason):
    found = over(module)
    assert isinstance(found, str) and reason in found and type(module).__name__ in found


def test_a_module_on_the_meta_device_is_tried_with_other_values():
    with torch.device("meta"):
        norms = [nn.RMSNorm(WIDTH, eps=1e-6), Rms(WIDTH, offset=1.0), nn.LayerNorm(WIDTH)]
    assert [over(norm).offset for norm in norms] == [0.0, 1.0, 0.0]
    assert norms[0].weight.is_meta


@pytest.mark.parametrize("make", [partial(Rms, offset=1.0), RootMeanSquare, nn.RMSNorm, Direction])
def test_the_recipe_holds_for_other_shares_than_the_one_that_was_tried(make):
    """Written out: the norm of x and zeros is that of x, followed."""
    norm = make(WIDTH).double()
    for parameter in norm.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    recipe = over(norm)
    assert isinstance(recipe, Recipe)
    dead = np.arange(WIDTH) >= 3
    follower = Norm("", -1, np.arange(WIDTH), recipe)
    small = make(3).double()
    small.load_state_dict({name: value[:3] for name, value in norm.state_dict().items()})
    for name, value in numbers(norm, [follower], dead).get("", {}).items():
        setattr(small, name, value)
    if isinstance(small, Direction):
        small.scale = norm.scale
    rescale_(small, [follower], dead)
    x = 1e-3 * torch.randn(5, 3, dtype=torch.float64)
    whole = norm(torch.cat([x, torch.zeros(5, WIDTH - 3)], -1))[:, :3]
    assert torch.allclose(small(x), whole, rtol=1e-9, atol=1e-12)
