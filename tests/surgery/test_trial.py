"""The comparison that has the last word, and the trial removal before training."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import nn

import networks
import secateur as sc
from cuts import Apply
from networks import images
from secateur.surgery.equivalence import difference, precise, tolerance


def plus(value: float) -> nn.Module:
    return Apply(lambda m, x: x.abs().clamp(max=2) + value)


def test_the_difference_is_relative_to_the_scale_of_the_output():
    x = torch.full((2, 3), 2.0)
    assert difference(plus(0.0), plus(0.5), x) == pytest.approx(0.25, rel=0.2)
    assert difference(plus(0.0), plus(0.0), x) == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_none_is_an_infinite_difference(bad):
    x = torch.ones(2, 3)
    assert difference(plus(0.0), plus(bad), x) == math.inf
    assert difference(plus(bad), plus(0.0), x) == math.inf
    assert difference(plus(math.nan), plus(math.nan), x) == math.inf


def test_masked_outputs_may_be_infinite():
    model = Apply(lambda m, x: torch.where(x > 0, x, -math.inf))
    assert difference(model, copy.deepcopy(model), images(3, 4)) == 0.0


def test_other_shapes_are_infinitely_different():
    assert difference(nn.Linear(3, 2), nn.Linear(3, 4), images(2, 3)) == math.inf


def test_all_outputs_count_whatever_holds_them():
    model = Apply(lambda m, x: {"a": x, "b": [x * 1.0]})
    other = Apply(lambda m, x: {"a": x, "b": [x * 2.0]})
    assert difference(model, other, images(2, 3)) == pytest.approx(1.0)
    spectrum = Apply(lambda m, x: torch.fft.rfft(x))
    assert difference(spectrum, Apply(lambda m, x: torch.fft.rfft(2 * x)), images(2, 3)) > 0.5


def test_other_inputs_and_batch_sizes_are_tried():
    """Two models that agree on the example only."""
    x = torch.ones(2, 3)
    other = Apply(lambda m, y: y if torch.equal(y, x) else 2 * y)
    assert difference(Apply(lambda m, y: y), other, x) > 0.5


def test_a_fixed_batch_size_is_respected():
    model = Apply(lambda m, x: x.view(2, 3))
    assert difference(model, copy.deepcopy(model), images(2, 3)) == 0.0


def test_random_models_are_compared_with_the_same_random_numbers():
    model = Apply(lambda m, x: x + torch.randn_like(x))
    before = torch.get_rng_state()
    assert difference(model, copy.deepcopy(model), images(2, 3)) == 0.0
    assert torch.equal(before, torch.get_rng_state())


def test_the_tolerance_follows_the_coarsest_parameter():
    assert tolerance(nn.Linear(2, 2)) == 1e-5
    assert tolerance(nn.Linear(2, 2).double()) == 1e-9
    assert tolerance(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).bfloat16())) == 1e-1


def test_a_branch_that_starts_at_zero_hides_nothing():
    """Behind a zero gate the code fixes a width by its values, not by its shapes."""

    def run(m, x):
        h = m.up(x).relu()
        weights = torch.linspace(0, 1, h.shape[1])[:, None]  # other values for another width
        return m.last(x) + m.gate * (h @ weights)

    model = Apply(run, up=nn.Linear(3, 8), last=nn.Linear(3, 1), gate=nn.Parameter(torch.zeros(1)))
    with pytest.raises(ValueError, match=r"has no removable neurons(.|\n)*up \(8\)"):
        sc.neurons(model, images(4, 3))


def test_layers_that_fail_are_found_among_those_that_do_not():
    def run(m, x):
        for layer in m.layers:
            x = layer(x).relu()
            if x.shape[1] == 7 or (layer is m.layers[4] and x.shape[1] != 12):
                raise RuntimeError("this width is written somewhere")
        return m.last(x)

    sizes = [3, 10, 10, 10, 10, 12, 10]
    layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
    model = Apply(run, layers=layers, last=nn.Linear(10, 2))
    groups = sc.neurons(model, images(4, 3))
    reasons = {name: why for name, _, why in groups.refused if name != "last"}
    assert reasons == {
        "layers.4": "the smaller network does not run: this width is written somewhere"
    }
    assert [layer.name for layer in groups.layers] == [f"layers.{i}" for i in (0, 1, 2, 3, 5)]


def test_layers_that_fail_only_together_are_not_both_accepted():
    def run(m, x):
        a, b = m.a(x), m.b(x)
        if a.shape[1] == 3 and b.shape[1] == 3:
            raise RuntimeError("not both")
        return m.c(a) + m.d(b)

    model = Apply(run, a=nn.Linear(3, 6), b=nn.Linear(3, 6), c=nn.Linear(6, 2), d=nn.Linear(6, 2))
    assert [layer.name for layer in sc.neurons(model, images(4, 3)).layers] == ["a"]


@pytest.mark.parametrize("make", [networks.ResNet, networks.MobileNet])
def test_the_trial_leaves_the_model_alone(make):
    model = make()
    state = copy.deepcopy(model.state_dict())
    sc.filters(model, images(2, 3, 16, 16))
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


class Autocasting(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.inner(x).float()


def test_the_tolerance_follows_what_the_model_computes_with():
    model, x = Autocasting(nn.Linear(3, 2)), images(2, 3)
    assert tolerance(model) == 1e-5
    assert tolerance(model, x) == 1e-1
    assert tolerance(nn.Linear(3, 2), x) == 1e-5
    with torch.autocast("cpu", dtype=torch.float16):
        assert tolerance(nn.Linear(3, 2), x) == 2e-2


def test_a_model_that_autocasts_is_grouped():
    groups = sc.neurons(Autocasting(networks.Gated(8, 64)), images(3, 8))
    assert len(groups) == 128


def slightly_wrong(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The width shows in the output, by less than half precision rounds."""
    h = m.up(x).relu()
    return m.last(h) * (1 + h.shape[1] / 2000)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_mistake_does_not_pass_for_rounding_in_half_precision(dtype):
    parts = {"up": nn.Linear(3, 16), "last": nn.Linear(16, 2)}
    model = Apply(slightly_wrong, **parts).to(dtype)
    with pytest.raises(ValueError, match=r"up \(16\): removal changes the output by .*e-03"):
        sc.neurons(model, images(4, 3).to(dtype))


def test_a_model_that_insists_on_halves_is_compared_in_halves():
    def run(m, x):
        return m.last(m.up(x.half()).relu().half())

    model = Apply(run, up=nn.Linear(3, 16), last=nn.Linear(16, 2)).half()
    wide, _ = precise(model, images(4, 3))
    assert wide is model
    assert len(sc.neurons(model, images(4, 3))) == 16


def test_precise_widens_halves_and_nothing_else():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2)).bfloat16()
    words = torch.tensor([[1, 2]])
    wide, example = precise(model, words)
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    assert example.dtype == torch.int64
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    double = nn.Linear(2, 2).double()
    assert precise(double, images(1, 2))[0] is double
