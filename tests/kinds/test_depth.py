"""Layers: dead residual branches leave with everything that only they read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import networks
import secateur as sc
from attentions import Fused, Own, Separate, Stream
from cuts import Apply, counted, cut_out, predicted, some_dead, zero
from networks import images
from secateur.measurement import count_flops, count_params
from secateur.surgery.equivalence import difference
from secateur.surgery.module_removal import Placeholder

X = images(2, 7, 6)


class Deep(nn.Module):
    """Several transformer blocks on one stream."""

    def __init__(self, depth: int = 3, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Linear(6, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 24, batch_first=True, norm_first=i % 2 == 0)
            for i in range(depth)
        )
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class Parallel(nn.Module):
    """Attention and feed-forward side by side behind one norm, as in GPT-J."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 16), nn.LayerNorm(16)
        self.attention = Separate()
        self.mlp = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        return self.head((self.mlp(y) + self.attention(y) + x).mean(1))


class Widening(nn.Module):
    """Shortcuts of three kinds: pooled and filled with zeros, cut out and filled, projected.

    The last branch ends in a pool, as Xception's do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b), nn.ReLU(),
                nn.Conv2d(b, b, 3, padding=1), nn.BatchNorm2d(b), nn.MaxPool2d(3, 2 // stride, 1),
            )
            for a, b, stride in ((4, 6, 2), (6, 8, 2), (8, 10, 1))
        )  # fmt: skip
        self.project = nn.Conv2d(8, 10, 1, 2)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.branches[0](x) + F.pad(F.avg_pool2d(x, 2), (0, 0, 0, 0, 1, 1))
        x = self.branches[1](x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))
        x = (self.branches[2](x) + self.project(x)).relu()
        return self.head(x.mean((2, 3)))


MODELS = {
    "deep": (Deep, X, 6),
    "fused attention": (lambda: Stream(Fused()), X, 2),
    "parallel branches": (Parallel, X, 2),
    "basic blocks": (networks.ResNet, images(2, 3, 16, 16), 3),
    "bottlenecks": (lambda: networks.ResNet50(4, (2, 3)), images(2, 3, 32, 32), 5),
    "shortcuts without weights": (lambda: Widening(), images(2, 3, 16, 16), 3),
    "inverted residual": (networks.MobileNet, images(2, 3, 16, 16), 1),
    "layer scale": (networks.Scaled, images(2, 3, 8, 8), 1),
    "mixer": (networks.Mixer, images(2, 3, 16, 16), 2),
    "in one run with the input": (
        lambda: nn.TransformerDecoderLayer(16, 4, 24),
        (images(5, 2, 16), images(7, 2, 16)),
        3,
    ),
}


@pytest.mark.parametrize("trained", [False, True], ids=["random", "trained"])
@pytest.mark.parametrize("name", MODELS)
def test_dead_branches_leave_exactly_and_cost_what_was_predicted(name, trained):
    torch.manual_seed(0)
    make, x, count = MODELS[name]
    model = make().eval()
    if trained and isinstance(x, Tensor):
        networks.warm(model, x)
    groups = sc.depth(model, x)
    assert len(groups) == count == len(set(groups.names))
    for dead in (
        some_dead(groups, 0),
        ~some_dead(groups, 1),
        torch.ones(count, dtype=bool).numpy(),
    ):
        removal, gap = cut_out(model, groups, dead)
        assert removal.refused == () and gap <= 1e-5
        assert predicted(groups, dead) == counted(removal.model, x)
    assert counted(removal.model, x) < counted(model, x)


def test_a_branch_takes_all_that_only_it_reads_and_the_last_one_its_block():
    model = Deep()  # the second block norms after its sums: it stays around its dead branches
    groups = sc.depth(model, X)
    assert list(groups.names[:2]) == ["blocks.0.self_attn", "blocks.0.linear2"]
    assert set(groups.layers[0].producers[:2]) == {
        "blocks.0.self_attn.out_proj.weight", "blocks.0.self_attn.out_proj.bias",
    }  # fmt: skip
    small = cut_out(model, groups, np.array([1, 1, 1, 1, 0, 1], bool))[0].model
    gone = {name for name, module in small.named_modules() if isinstance(module, Placeholder)}
    assert gone == {
        "blocks.0.self_attn", "blocks.0.linear1", "blocks.0.linear2",
        "blocks.1.linear1", "blocks.1.linear2", "blocks.1.norm2",
    }  # fmt: skip
    assert len(small.blocks) == 2 and isinstance(small.blocks[0].norm1, nn.LayerNorm)


def test_a_norm_that_two_branches_read_stays():
    model = Parallel()
    groups = sc.depth(model, X)
    small = cut_out(model, groups, np.ones(2, bool))[0].model
    assert isinstance(small.norm, nn.LayerNorm)
    assert isinstance(small.mlp, Placeholder) and isinstance(small.attention, Placeholder)


def test_the_nearest_parameters_make_a_branch_zero():
    zeros = {name: sc.depth(make(), x).layers[0].producers for name, (make, x, _) in MODELS.items()}
    assert zeros["basic blocks"][:2] == ("layer1.bn2.bias", "layer1.bn2.weight")
    assert zeros["layer scale"] == ("gamma",)
    assert zeros["inverted residual"] == ("project.1.bias", "project.1.weight")


def test_budgets_in_flops_are_met_together_with_heads_and_neurons(tmp_path: Path):
    for share in (0.5, 0.25):
        torch.manual_seed(0)
        model = networks.warm(Deep(), X)
        groups = sc.depth(model, X) + sc.heads(model, X) + sc.neurons(model, X)
        budget = sc.Budget(flops=share)
        adam = torch.optim.SGD(model.parameters(), lr=0.01)
        optimizer = sc.Proximal(adam, groups, budget, steps=6)
        for _ in range(6):
            optimizer.zero_grad()
            (model(torch.randn_like(X)) - 1).square().mean().backward()
            optimizer.step()
        full = count_flops(model, X)
        small = sc.shrink(model, groups)
        assert difference(model, small, X) <= 1e-5
        dead = ~groups.alive().numpy()
        assert predicted(groups, dead) == (count_flops(small, X), count_params(small))
        assert count_flops(small, X) <= share * full
        for group in dead.nonzero()[0]:  # nothing that was left out would still fit
            revived = dead.copy()
            revived[group] = False
            more = predicted(groups, revived)[0]
            assert more > share * full or more == count_flops(small, X)  # within a dead branch
        loaded = sc.load(sc.save(small, tmp_path / "small.safetensors"), model=Deep())
        assert difference(small, loaded, X) == 0


def test_a_dead_branch_beside_a_projection_leaves_the_projection(tmp_path: Path):
    x = images(2, 3, 32, 32)
    model = networks.warm(networks.ResNet50(4, (2, 3)), x)
    groups = sc.depth(model, x)
    assert [name for name in groups.names if name.startswith("stages.2.")] == ["stages.2.bn3"]
    small = sc.shrink(*zero(model, groups, np.arange(5) == 2))
    block = small.stages[2]
    gone = {name for name, module in block.named_modules() if isinstance(module, Placeholder)}
    assert gone == {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3"}
    assert isinstance(block.shortcut[0], nn.Conv2d)
    zeroed = zero(model, groups, np.arange(5) == 2)[0]
    other = images(3, 3, 40, 24)  # zeros follow the size of the picture
    torch.testing.assert_close(small(other), zeroed(other))
    loaded = sc.load(
        sc.save(small, tmp_path / "small.safetensors"), model=networks.ResNet50(4, (2, 3))
    )
    assert difference(small, loaded.eval(), x) == 0
    sc.export(small, x, tmp_path / "small.onnx")


def test_layers_and_channels_leave_together():
    """A stream that lost channels meets zeros that are as narrow."""
    torch.manual_seed(0)
    x = images(2, 3, 32, 32)
    model = networks.warm(networks.ResNet50(4, (2, 3)), x)
    groups = sc.depth(model, x) + sc.channels(model, x)
    assert any(layer.name == "stages.1.conv1" for layer in groups.layers)  # the stream
    for seed in range(3):
        dead = some_dead(groups, seed)
        removal, gap = cut_out(model, groups, dead)
        assert removal.refused == () and gap <= 1e-5
        assert predicted(groups, dead) == counted(removal.model, x)
        assert removal.model.head.in_features == 16


def test_sums_of_equals_are_no_branches():
    """Two projections side by side, and a mask that is added: neither is a shortcut."""
    model = Apply(
        lambda m, x: m.last((m.a(x) + m.b(x)).relu()),
        a=nn.Linear(6, 6), b=nn.Linear(6, 6), last=nn.Linear(6, 2),
    )  # fmt: skip
    with pytest.raises(ValueError, match="no removable depth"):
        sc.depth(model, images(3, 6))
    masked = Apply(
        lambda m, x, mask: m.last(m.b(m.a(x).relu()) + mask),
        a=nn.Linear(6, 8), b=nn.Linear(8, 6), last=nn.Linear(6, 2),
    )  # fmt: skip
    with pytest.raises(ValueError, match="no removable depth"):
        sc.depth(masked, (images(3, 6), images(3, 6)))


def test_a_shallow_model_is_exported_trains_on_and_shrinks_again(tmp_path: Path):
    model = Deep()
    groups = sc.depth(model, X)
    small = sc.shrink(*zero(model, groups, some_dead(groups, 0)))
    sc.export(small, X, tmp_path / "small.onnx")
    small.train()(X).sum().backward()
    assert all(p.grad is not None for p in small.parameters())
    again = sc.depth(small.eval(), X)
    assert len(again) == 3
    smaller = sc.shrink(*zero(small, again, some_dead(again, 0)))
    loaded = sc.load(sc.save(smaller, tmp_path / "smaller.safetensors"), model=Deep())
    assert difference(smaller, loaded, X) == 0


def test_what_the_caller_runs_is_not_torchs_fused_path():
    """Under no_grad an encoder layer hands its weights to one fused operator, if it can."""
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), 2).eval()
    x, mask = images(2, 5, 16), torch.zeros(2, 5, dtype=torch.bool)
    mask[1, 3:] = True
    groups = sc.depth(model, (x, None, mask))
    zeroed, mine = zero(model, groups, some_dead(groups, 0))
    small = sc.shrink(zeroed, mine)
    with torch.no_grad():
        gap = (small(x, src_key_padding_mask=mask) - zeroed(x, None, mask))[~mask].abs().max()
    assert gap <= 1e-5


# -- refused by name ------------------------------------------------------------------------------


def test_a_shared_branch_and_one_without_modules_are_refused():
    shared = Apply(
        lambda m, x: m.last(m.f(x + m.f(x)) + x), f=nn.Linear(6, 6), last=nn.Linear(6, 2)
    )
    with pytest.raises(ValueError, match="Apply has no removable depth"):
        sc.depth(shared, images(3, 6))
    bare = Apply(
        lambda m, x: m.last(x + F.linear(x, m.w)),
        w=nn.Parameter(torch.randn(6, 6)),
        last=nn.Linear(6, 2),
    )
    with pytest.raises(ValueError, match="no module of its own computes it"):
        sc.depth(bare, images(3, 6))


def test_frozen_and_ignored_branches_stay():
    model = Deep()
    model.blocks[0].linear2.requires_grad_(False)
    groups = sc.depth(model, X, ignore=["blocks.1"])
    assert len(groups) == 3
    reasons = {name: why for name, _, why in groups.refused}
    assert "frozen" in reasons["blocks.0.linear2"]
    assert reasons["blocks.1.self_attn"] == "ignored ('blocks.1')"


def test_a_module_that_nobody_reads_belongs_to_no_branch():
    def run(m, x):
        m.unread(x)
        return m.last(x + m.f(x.relu()))

    model = Apply(run, unread=nn.Linear(6, 3), f=nn.Linear(6, 6), last=nn.Linear(6, 2))
    groups = sc.depth(model, images(3, 6))
    small = cut_out(model, groups, np.ones(1, bool))[0].model
    assert isinstance(small.f, Placeholder) and isinstance(small.unread, nn.Linear)


def test_a_branch_that_also_leaves_the_model_keeps_what_is_returned():
    """As caches do: keys and values that are returned have to be computed."""

    def run(m, x):
        y = m.up(x)
        return m.last(x + m.down(y.relu())), y

    model = Apply(run, up=nn.Linear(6, 9), down=nn.Linear(9, 6), last=nn.Linear(6, 2))
    groups = sc.depth(model, images(3, 6))
    small = cut_out(model, groups, np.ones(1, bool))[0].model
    assert isinstance(small.up, nn.Linear) and isinstance(small.down, Placeholder)


def test_a_damaged_plan_changes_nothing(tmp_path: Path):
    model = Stream(Own())
    groups = sc.depth(model, X)
    small = sc.shrink(*zero(model, groups, some_dead(groups, 0)))
    path = sc.save(small, tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match="which does not fit"):
        sc.load(path, model=networks.LeNet())


# -- the transformers library ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Bert", "GPT2", "Llama", "GPTNeoX", "T5"])
def test_branches_of_transformers(name, tmp_path: Path):
    pytest.importorskip("transformers")
    from kinds.test_heads_transformers import MODELS as LIBRARY
    from kinds.test_heads_transformers import made

    model, example = made(name), LIBRARY[name][2]
    groups = sc.depth(model, example)
    assert len(groups) == (10 if name == "T5" else 4)
    dead = some_dead(groups, 0)
    removal, gap = cut_out(model, groups, dead)
    assert removal.refused == () and gap <= 1e-5
    assert predicted(groups, dead) == counted(removal.model, example)
    small = sc.shrink(*zero(model, groups, dead))
    loaded = sc.load(sc.save(small, tmp_path / "small.safetensors"), model=made(name))
    assert difference(small, loaded, example) == 0
