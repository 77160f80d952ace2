"""The width of the residual stream: exact under root mean squares, measured under LayerNorm."""

from __future__ import annotations

import os
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import secateur as sc
from cuts import Apply, counted, cut_out, predicted, some_dead, zero
from secateur.surgery.equivalence import difference
from streams import (
    TOKENS,
    Centred,
    Direction,
    Literal,
    Rms,
    RootMeanSquare,
    Stream,
    stream,
)

EXACT = {
    "torch": nn.RMSNorm,
    "torch, eps given": partial(nn.RMSNorm, eps=1e-3),
    "by hand": Rms,
    "library's name for eps": partial(Rms, name="variance_epsilon"),
    "one plus weight": partial(Rms, offset=1.0),
    "eps outside the root": RootMeanSquare,
    "direction": Direction,
}


@pytest.mark.parametrize("where", ["before", "behind", "around"])
@pytest.mark.parametrize("name", EXACT)
def test_root_mean_squares_lose_channels_exactly(name, where):
    model = stream(EXACT[name], where)
    groups = sc.width(model, TOKENS)
    assert len(groups) == 12 and not groups.layers[0].inexact
    for share in (0.5, 0.8):
        dead = some_dead(groups, 0, share=share)
        removal, gap = cut_out(model, groups, dead)
        assert removal.refused == () and gap <= 1e-6
        assert predicted(groups, dead) == counted(removal.model, TOKENS)
        assert removal.model.head.weight.shape == (20, 12 - dead.sum())


def test_what_writes_into_the_stream_is_what_has_to_be_zero():
    groups = sc.width(stream(), TOKENS)
    writers = {"words.weight", "places.weight"}
    for block in range(2):
        for layer in ("attention.o", "down"):
            writers |= {f"blocks.{block}.{layer}.weight", f"blocks.{block}.{layer}.bias"}
    assert {member.name for member in groups.members} == writers


def test_a_shift_has_to_be_zero_and_a_scale_does_not():
    names = {member.name for member in sc.width(stream(RootMeanSquare), TOKENS).members}
    assert "last.shift" in names and "last.gain" not in names
    names = {member.name for member in sc.width(stream(nn.LayerNorm), TOKENS).members}
    assert {"last.weight", "last.bias"} <= names


def test_scale_and_eps_take_up_the_missing_channels():
    """w' = w sqrt(d / d'), eps' = eps d / d'; and 1 + w' = (1 + w) sqrt(d / d')."""
    for offset in (0.0, 1.0):
        model = stream(partial(Rms, offset=offset))
        groups = sc.width(model, TOKENS)
        dead = some_dead(groups, 0, share=0.75)
        small = sc.shrink(*zero(model, groups, dead)).last
        assert small.eps == pytest.approx(4e-3)
        kept = torch.from_numpy(~dead)
        assert torch.allclose(offset + small.weight, 2 * (offset + model.last.weight[kept]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("norm", [nn.RMSNorm, nn.LayerNorm])
def test_other_numbers_than_float32(norm, dtype):
    """The default eps of nn.RMSNorm is that of its number type."""
    model = stream(norm).to(dtype)
    for parameter in (model.words.weight, model.places.weight):
        parameter.data *= 1e-4  # so small that eps counts
    groups = sc.width(model, TOKENS)
    zeroed, groups = zero(model, groups, some_dead(groups, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = sc.shrink(zeroed, groups, exact=norm is nn.RMSNorm)
    assert small.last.weight.shape == (6,) and small.last.weight.dtype == dtype
    if norm is nn.RMSNorm:
        assert small.last.eps == 2 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps


def test_an_embedding_tied_to_the_head_stays_tied(tmp_path):
    model = stream(tied=True)
    groups = sc.width(model, TOKENS)
    small = sc.shrink(*zero(model, groups, some_dead(groups, 0)))
    assert small.head.weight is small.words.weight and small.head.weight.shape == (20, 6)
    loaded = sc.load(sc.save(small, tmp_path / "small.safetensors"), model=stream(tied=True))
    assert loaded.head.weight is loaded.words.weight
    assert difference(small, loaded, TOKENS) == 0


def test_norms_over_the_size_of_a_head_stay_whole():
    model = stream(inside=nn.RMSNorm)
    groups = sc.width(model, TOKENS)
    assert [len(layer) for layer in groups.layers] == [12]
    removal, gap = cut_out(model, groups, some_dead(groups, 0))
    assert gap <= 1e-6 and removal.model.blocks[0].attention.q_norm.weight.shape == (4,)


def test_the_size_of_a_single_head_is_not_the_stream():
    def run(m, x):
        x = m.embed(x)
        q, k = m.q_norm(m.q(x)), m.k_norm(m.k(x))
        x = x + (q @ k.transpose(1, 2)).softmax(-1) @ m.v(x)
        return m.head(m.norm(x))

    parts = {name: nn.Linear(8, 8) for name in ("q", "k", "v")}
    norms = {name: nn.RMSNorm(8) for name in ("q_norm", "k_norm", "norm")}
    model = Apply(run, embed=nn.Linear(3, 8), head=nn.Linear(8, 2), **parts, **norms)
    groups = sc.width(model, torch.randn(2, 5, 3))
    assert sum(len(layer) for layer in groups.layers) == 8
    reasons = {name: reason for name, _, reason in groups.refused}
    assert "it is the size of a head" in reasons["q"]


def test_a_stream_on_the_meta_device_is_grouped_and_the_real_one_shrunk():
    with torch.device("meta"):
        model = Stream(partial(Rms, offset=1.0))
    with pytest.warns(UserWarning, match="on the meta device"):
        groups = sc.width(model, TOKENS)
    real = stream(partial(Rms, offset=1.0))
    zeroed, groups = zero(real, groups, some_dead(groups, 0))
    assert difference(zeroed, sc.shrink(zeroed, groups), TOKENS) <= 1e-6


# -- what is refused, by name ----------------------------------------------------------------------


def refusal(model: nn.Module, *example: torch.Tensor) -> str:
    with pytest.raises(ValueError, match="has no removable width") as caught:
        sc.width(model, example)
    return str(caught.value)


def test_an_eps_that_nothing_can_scale_is_refused():
    assert "Literal" in (said := refusal(stream(Literal), TOKENS)) and "scale and eps" in said


def test_a_norm_without_a_scale_is_refused():
    norm = partial(nn.RMSNorm, elementwise_affine=False)
    assert "no scale and eps" in refusal(stream(norm), TOKENS)
    norm = partial(nn.LayerNorm, elementwise_affine=False)  # minus the mean, where x is zero
    assert "a value from it that changes with the input" in refusal(stream(norm), TOKENS)


def test_a_norm_in_the_code_of_a_block_is_refused():
    def run(m, x):
        x = m.first(x)
        return m.last(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + m.eps) * m.scale)

    ends = {"first": nn.Linear(3, 8), "last": nn.Linear(8, 2)}
    model = Apply(run, scale=nn.Parameter(torch.ones(8)), **ends)
    model.eps = 1e-3
    assert "put the normalisation into a module of its own" in refusal(model, torch.ones(2, 3))


def test_position_codes_that_are_no_parameters_keep_the_stream():
    model = stream()
    codes = model.places.weight.detach().clone()
    del model.places
    model.places = Apply(lambda m, at: F.embedding(at, m.codes))
    model.places.register_buffer("codes", codes)
    assert "o (12): head reads a value from it that changes" in refusal(model, TOKENS)


def test_a_stream_that_leaves_the_model_is_protected():
    model = stream()
    model.head = nn.Identity()
    assert "o (12): reaches an output of the model" in refusal(model, TOKENS)


def test_ignored_and_frozen_writers_keep_the_stream():
    with pytest.raises(ValueError, match=r"ignored \('places'\)"):
        sc.width(stream(), TOKENS, ignore="places")
    model = stream()
    model.words.weight.requires_grad = False
    assert "words.weight is frozen" in refusal(model, TOKENS)


# -- LayerNorm -------------------------------------------------------------------------------------

LAYER_NORMS = {
    "torch": nn.LayerNorm,
    "by hand": Centred,
    "no bias": partial(nn.LayerNorm, bias=False),
}


@pytest.mark.parametrize("where", ["before", "behind"])
@pytest.mark.parametrize("name", LAYER_NORMS)
def test_layer_norms_lose_channels_on_request_only(name, where, tmp_path):
    model = stream(LAYER_NORMS[name], where)
    groups = sc.width(model, TOKENS)
    assert "a mean over all channels" in groups.layers[0].inexact
    assert "exact=False" in groups.summary() and groups.layers[0].inexact in groups.summary()
    dead = some_dead(groups, 0)
    zeroed, groups = zero(model, groups, dead)
    with pytest.raises(sc.ShrinkError, match=r"(?s)6 dead groups .* a mean over .*exact=False"):
        sc.shrink(zeroed, groups)
    with pytest.warns(UserWarning, match=r"outputs differ by \d\.\de-0\d of their scale"):
        small = sc.shrink(zeroed, groups, exact=False)
    found = difference(zeroed, small, TOKENS)
    assert 1e-4 < found < 0.5 and small.secateur.difference == found
    assert predicted(groups, dead) == counted(small, TOKENS)
    path = sc.save(small, tmp_path / "small.safetensors")
    loaded = sc.load(path, model=stream(LAYER_NORMS[name], where))
    assert difference(small, loaded, TOKENS) == 0
    assert loaded.secateur == small.secateur


def test_layer_norms_of_inputs_without_a_mean_are_exact():
    """The one case in which the correction is the truth: nothing else may be left to differ."""
    model = nn.Sequential(nn.Linear(5, 12), nn.LayerNorm(12), nn.Linear(12, 3)).eval()
    example = torch.randn(4, 5)
    groups = sc.width(model, example)
    dead = some_dead(groups, 0)
    zeroed, groups = zero(model, groups, dead)
    alive = ~torch.from_numpy(dead)
    with torch.no_grad():
        for parameter in zeroed[0].parameters():
            parameter[alive] -= parameter[alive].mean(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = sc.shrink(zeroed, groups, exact=False)
    assert small.secateur.difference <= 1e-6


def test_exactness_is_asked_for_only_where_layer_norms_lose_channels():
    model = stream(nn.LayerNorm)
    groups = sc.width(model, TOKENS) + sc.neurons(model, TOKENS)
    dead = some_dead(groups, 0)
    dead[:12] = False
    zeroed, groups = zero(model, groups, dead)
    assert sc.shrink(zeroed, groups).secateur.difference == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sc.shrink(zeroed, groups, exact=False).secateur.difference == 0


class Counting(Stream):
    """A stream that can be made to add its own width to what it returns."""

    counts = False

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return super().forward(tokens) + self.counts * self.head.weight.shape[1]


def test_more_than_a_mean_may_not_differ():
    """exact=False is no licence: a mistake elsewhere is found as ever."""
    model = Counting(nn.LayerNorm).eval()
    groups = sc.width(model, TOKENS)
    zeroed, groups = zero(model, groups, some_dead(groups, 0))
    zeroed.counts = True
    with pytest.raises(sc.ShrinkError, match="output differs by"):
        sc.shrink(zeroed, groups, exact=False)
