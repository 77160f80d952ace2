"""Heads: from every way of writing attention, exactly, and together with neurons."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import networks
import secateur as sc
from attentions import ATTENTIONS, Fused, Grouped, Own, Separate, Stream
from cuts import Apply, counted, cut_out, predicted, some_dead, zero
from networks import images
from secateur.measurement import count_flops, count_params
from secateur.surgery.equivalence import difference
from secateur.tracing.attention import Attention

X = images(2, 7, 6)


@pytest.mark.parametrize("trained", [False, True], ids=["random", "trained"])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_heads_leave_exactly_and_cost_what_was_predicted(name, trained):
    torch.manual_seed(0)
    make, count = ATTENTIONS[name]
    model = Stream(make()).eval()
    if trained:
        networks.warm(model, X)
    groups = sc.heads(model, X)
    assert len(groups) == count and len(groups.layers) == 1
    for seed in range(2):
        dead = some_dead(groups, seed)
        removal, gap = cut_out(model, groups, dead)
        assert removal.refused == () and gap <= 1e-5
        assert predicted(groups, dead) == counted(removal.model, X)


@pytest.mark.parametrize("share", [0.5, 0.25])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_heads_and_neurons_meet_a_budget_together_and_are_saved(name, share, tmp_path):
    torch.manual_seed(0)
    make, _ = ATTENTIONS[name]
    model = networks.warm(Stream(make()), X)
    groups = sc.heads(model, X) + sc.neurons(model, X)
    budget = sc.Budget(flops=max(share, 0.02 + least_flops(groups)))
    optimizer = sc.Proximal(torch.optim.SGD(model.parameters(), lr=0.01), groups, budget, steps=4)
    for _ in range(4):
        optimizer.zero_grad()
        (model(torch.randn_like(X)) - 1).square().mean().backward()
        optimizer.step()
    full = count_flops(model, X)
    small = sc.shrink(model, groups)
    assert difference(model, small, X) <= 1e-5
    assert count_flops(small, X) <= budget.reached(small, X).lines[0].asked < full
    alive = groups.alive().numpy()
    assert predicted(groups, ~alive) == (count_flops(small, X), count_params(small))
    loaded = sc.load(sc.save(small, tmp_path / "small.safetensors"), model=Stream(make()))
    assert difference(small, loaded, X) == 0
    if sum(alive[: groups.layers[0].stop]) > 1:  # the small network has heads like any other
        assert difference(*zeroed_and_cut(small, sc.heads(small, X))) <= 1e-5


def least_flops(groups: sc.Groups) -> float:
    allowance = sc.Budget(flops=1.0).on(groups)
    return allowance.spent(allowance.cheapest().astype(float))["flops"] / sum(
        operation.flops for operation in groups.coupling.operations
    )


def zeroed_and_cut(model, groups):
    dead = some_dead(groups, 0)
    zeroed, mine = zero(model, groups, dead)
    return zeroed, sc.shrink(zeroed, mine), groups.example


# -- what a group is ------------------------------------------------------------------------------


def test_a_group_is_a_key_value_head_with_its_query_heads():
    groups = sc.heads(Stream(Grouped(heads=8, kv_heads=4, size=4)), X)
    ids = {member.name: member.ids.flatten().tolist() for member in groups.members}
    assert ids["attention.q.weight"] == [head for head in range(4) for _ in range(8)]
    assert ids["attention.k.weight"] == [head for head in range(4) for _ in range(4)]
    assert ids["attention.v.bias"] == ids["attention.k.weight"]
    assert "attention.o.weight" not in ids and "attention.scale" not in ids


def test_queries_of_a_single_key_value_head_need_the_columns_that_read_them():
    model = Stream(Grouped(heads=4, kv_heads=1))
    groups = sc.heads(model, X)
    ids = {member.name: tuple(member.ids.shape) for member in groups.members}
    assert ids == {
        "attention.q.weight": (16, 1), "attention.q.bias": (16,), "attention.o.weight": (1, 16),
    }  # fmt: skip
    small = cut_out(model, groups, some_dead(groups, 0))[0].model
    assert small.attention.k.weight.shape == (4, 16) and small.attention.n_rep == 2


def test_head_sizes_stay_and_numbers_follow():
    model = Stream(Separate())
    small = cut_out(model, sc.heads(model, X), some_dead(sc.heads(model, X), 0))[0].model
    assert (small.attention.num_heads, small.attention.all_head_size) == (2, 8)
    assert small.attention.o.in_features == 8 and small.attention.q.bias is None
    assert (model.attention.num_heads, model.attention.all_head_size) == (4, 16)


def test_a_position_bias_for_each_head_belongs_to_it():
    class Biased(Separate):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(13, 4)

        def forward(self, x):
            q, k, v = (f(x).unflatten(-1, (self.num_heads, -1)) for f in (self.q, self.k, self.v))
            place = torch.arange(x.shape[1])
            bias = self.table(place[:, None] - place + 6).permute(2, 0, 1)
            scores = torch.einsum("blhd,bmhd->bhlm", q, k) + bias
            return self.o(torch.einsum("bhlm,bmhd->blhd", scores.softmax(-1), v).flatten(2))

    model = Stream(Biased())
    groups = sc.heads(model, X)
    assert "attention.table.weight" in groups.layers[0].producers
    small = cut_out(model, groups, some_dead(groups, 0))[0].model
    assert small.attention.table.weight.shape == (13, 2)


def test_tracing_for_heads_and_for_neurons_sees_the_same_operators():
    model = Stream(Fused())
    heads, neurons = sc.heads(model, X), sc.neurons(model, X)
    assert heads.coupling.matches(neurons.coupling)
    assert {layer.kind for layer in (heads + neurons).layers} == {"heads", "neurons"}
    assert predicted(neurons + heads, some_dead(neurons + heads, 0))[0] < count_flops(model, X)


# -- refused by name ------------------------------------------------------------------------------


def test_a_norm_over_all_heads_is_refused():
    class Normed(Separate):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(16)

        def forward(self, x):
            q = self.norm(self.q(x)).unflatten(-1, (self.num_heads, -1))
            k, v = (f(x).unflatten(-1, (self.num_heads, -1)) for f in (self.k, self.v))
            scores = torch.einsum("blhd,bmhd->bhlm", q, k)
            return self.o(torch.einsum("bhlm,bmhd->blhd", scores.softmax(-1), v).flatten(2))

    with pytest.raises(ValueError, match="mixed by the statistic of native_layer_norm"):
        sc.heads(Stream(Normed()), X)


def test_attention_weights_that_leave_the_model_keep_the_heads():
    model = nn.MultiheadAttention(16, 4, batch_first=True)
    x = images(2, 5, 16)
    with pytest.raises(ValueError, match="has no removable heads"):
        sc.heads(model, (x, x, x))
    assert type(model) is nn.MultiheadAttention
    without = Apply(lambda m, x: m.inner(x, x, x, need_weights=False)[0], inner=model)
    assert len(sc.heads(without, x)) == 4


def test_a_subclass_that_may_compute_something_else_is_not_replaced():
    class Special(nn.MultiheadAttention):
        pass

    with pytest.raises(ValueError, match=r"has no removable heads"):
        sc.heads(Apply(lambda m, x: m.inner(x, x, x)[0], inner=Special(16, 4)), images(5, 2, 16))


def test_heads_that_are_ignored_or_absent():
    model = Stream(Own())
    with pytest.raises(ValueError, match=r"ignored \('attention'\)"):
        sc.heads(model, X, ignore="attention")
    with pytest.raises(ValueError, match="LeNet has no removable heads"):
        sc.heads(networks.LeNet(), images(1, 1, 28, 28))


# -- torch's own attention ------------------------------------------------------------------------

SEQUENCE = images(5, 2, 16)
MASK = torch.zeros(2, 5, dtype=torch.bool)
MASK[1, 3:] = True
LAYERS = {
    "encoder layer": (lambda: nn.TransformerEncoderLayer(16, 4, 32), (SEQUENCE, None, MASK)),
    "encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2, enable_nested_tensor=True
        ),
        (SEQUENCE.transpose(0, 1), None, MASK),
    ),
    "decoder layer": (
        lambda: nn.TransformerDecoderLayer(16, 4, 32),
        (SEQUENCE, images(7, 2, 16), nn.Transformer.generate_square_subsequent_mask(5)),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_heads_of_torchs_layers_leave_exactly_with_masks(name):
    make, example = LAYERS[name]
    model = make().eval()
    groups = sc.heads(model, example)
    removal, gap = cut_out(model, groups, some_dead(groups, 0))
    assert gap <= 1e-5
    kinds = {type(m) for m in removal.model.modules() if isinstance(m, nn.MultiheadAttention)}
    assert kinds == {Attention}
    with torch.no_grad():  # the user's own way of running it: fast paths on
        found = removal.model(*example)
        expected = zero(model, groups, some_dead(groups, 0))[0](*example)
    keep = ~MASK if "batch" in name or found.shape[0] == 2 else ~MASK.T  # padding may differ
    if name == "decoder layer":
        keep = torch.ones_like(keep)
    assert (found - expected)[keep].abs().max() <= 1e-5 * expected.abs().max()
    copy.deepcopy(removal.model)(*example)
    pickle.loads(pickle.dumps(removal.model))(*example)


@pytest.mark.parametrize("name", ["fused", "torch"])
def test_small_attention_is_exported_and_trains_on(name, tmp_path: Path):
    make, _ = ATTENTIONS[name]
    model = Stream(make())
    groups = sc.heads(model, X)
    zeroed, mine = zero(model, groups, some_dead(groups, 0))
    small = sc.shrink(zeroed, mine)
    sc.export(small, X, tmp_path / "small.onnx")  # compares the two, in another batch size too
    small.train()(X).sum().backward()
    assert all(p.grad is not None for p in small.parameters())
    copied = copy.deepcopy(small)
    with torch.no_grad():
        copied.head.weight.zero_()
    assert difference(small, copied, X) > 1e-3
    assert difference(small, pickle.loads(pickle.dumps(small)), X) == 0


def test_a_failed_load_leaves_torchs_attention_as_it_was(tmp_path: Path):
    model = Stream(Own())
    groups = sc.heads(model, X)
    small = sc.shrink(*zero(model, groups, some_dead(groups, 0)))
    path = sc.save(small, tmp_path / "small.safetensors")
    other = Stream(Own())
    other.head = nn.Linear(16, 9)
    with pytest.raises(ValueError, match="does not fit this Stream"):
        sc.load(path, model=other)
    assert type(other.attention.inner) is nn.MultiheadAttention
    assert other(X).shape == (2, 9)
