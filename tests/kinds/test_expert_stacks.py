"""Stacked experts: slices of three-dimensional parameters leave, and routing stays what it was."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import networks
import secateur as sc
from cuts import cut_out, predicted, some_dead, zero
from networks import images
from secateur.measurement import count_bytes, count_flops, count_params
from secateur.surgery.equivalence import difference
from secateur.surgery.forward_wrappers import AT_FIRST, PAST

X = images(8, 6)


class Stack(nn.Module):
    """Experts behind one another, taken one by one, or all that are chosen at once."""

    def __init__(self, count: int, *, one_by_one: bool) -> None:
        super().__init__()
        self.num_experts, self.one_by_one = count, one_by_one
        self.up = nn.Parameter(torch.randn(count, 14, 10) / 3)
        self.up_bias = nn.Parameter(torch.randn(count, 14))
        self.down = nn.Parameter(torch.randn(count, 10, 14) / 3)
        self.down_bias = nn.Parameter(torch.randn(count, 10))

    def forward(self, x: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        if self.one_by_one:
            for number in range(self.num_experts):
                row, place = (chosen == number).nonzero(as_tuple=True)
                h = (x[row] @ self.up[number].T + self.up_bias[number]).relu()
                h = h @ self.down[number].T + self.down_bias[number]
                y.index_add_(0, row, h * shares[row, place, None])
            return y
        for place in range(chosen.shape[1]):
            one = chosen[:, place]
            h = torch.bmm(self.up[one], x[..., None])[..., 0] + self.up_bias[one]
            h = torch.bmm(self.down[one], h.relu()[..., None])[..., 0] + self.down_bias[one]
            y = y + h * shares[:, place, None]
        return y


class Mixture(nn.Module):
    def __init__(self, *, one_by_one: bool = True, count: int = 4) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 10), nn.Linear(10, 3)
        self.router = nn.Linear(10, count)
        self.experts = Stack(count, one_by_one=one_by_one)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        shares, chosen = self.router(x).softmax(-1).topk(2, -1)
        shares = shares / shares.sum(-1, keepdim=True)  # those of lost experts count here
        return self.head(x + self.experts(x, chosen, shares))


def costs(model: nn.Module, x: object) -> tuple[int, int]:
    return count_flops(model, x), count_params(model)


@pytest.mark.parametrize("one_by_one", [True, False])
def test_slices_leave_exactly_and_are_saved_and_exported(one_by_one, tmp_path: Path):
    torch.manual_seed(0)
    model = networks.warm(Mixture(one_by_one=one_by_one), X)
    groups = sc.experts(model, X)
    assert list(groups.names) == [f"experts[{n}]" for n in range(4)]
    assert groups.layers[0].producers == ("experts.down", "experts.down_bias")
    (routed,) = groups.coupling.routed
    assert routed.gone == (PAST if one_by_one else AT_FIRST)  # gathering needs an expert
    for seed in range(3):
        dead = some_dead(groups, seed)
        removal, gap = cut_out(model, groups, dead)
        small = removal.model
        assert removal.refused == () and gap <= 1e-6
        assert predicted(groups, dead) == costs(small, X)
        assert small.router.out_features == 4 and small.experts.num_experts == 2
        assert [p.shape[0] for p in small.experts.parameters()] == [2] * 4
    if one_by_one:
        assert count_flops(small, X) < count_flops(model, X)
    small = sc.shrink(*zero(model, groups, dead))
    again = sc.experts(small, X)
    smaller = sc.shrink(*zero(small, again, np.array([True, False])))
    make = lambda: Mixture(one_by_one=one_by_one).eval()  # noqa: E731
    for found in (small, smaller):
        loaded = sc.load(sc.save(found, tmp_path / "small.safetensors"), model=make())
        assert difference(found, loaded, X) == 0
    if not one_by_one:  # the other's work depends on its data, which ONNX can't express
        sc.export(smaller, X, tmp_path / "small.onnx")


def test_a_budget_in_bytes_is_met_with_the_neurons_of_all_experts():
    torch.manual_seed(0)
    model = networks.warm(Mixture(one_by_one=False), X)
    groups = sc.experts(model, X) + sc.neurons(model, X, ignore="embed")
    assert {layer.kind for layer in groups.layers} == {"experts", "neurons"}
    budget = sc.Budget(bytes=0.4)
    optimizer = sc.Proximal(torch.optim.SGD(model.parameters(), lr=0.01), groups, budget, steps=4)
    for _ in range(4):
        optimizer.zero_grad()
        (model(torch.randn_like(X)) - 1).square().mean().backward()
        optimizer.step()
    full = count_bytes(model)
    small = sc.shrink(model, groups)
    assert difference(model, small, X) <= 1e-5
    assert count_bytes(small) <= 0.4 * full
    assert predicted(groups, ~groups.alive().numpy())[1] == count_params(small)
    counts = {p.shape[0] for p in small.experts.parameters()}
    assert counts == {int(groups.alive()[:4].sum())}


def test_frozen_and_ignored_stacks_stay_by_name():
    model = Mixture()
    with pytest.raises(ValueError, match=r"experts \(4\): ignored"):
        sc.experts(model, X, ignore="experts")
    model.experts.down.requires_grad_(False)
    with pytest.raises(ValueError, match="down is frozen"):
        sc.experts(model, X)


def test_a_stack_that_chooses_for_itself_is_no_group():
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router = nn.Linear(6, 3)
            self.matrices = nn.Parameter(torch.randn(3, 6, 4))

        def forward(self, x: Tensor) -> Tensor:
            shares = self.router(x).softmax(-1)
            return torch.einsum("be,eio,bi->bo", shares, self.matrices, x)

    with pytest.raises(ValueError, match="no removable experts"):
        sc.experts(Alone(), X)


# -- the transformers library ----------------------------------------------------------------------

IDS = torch.arange(14).reshape(2, 7)
TEXT = {
    "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 24, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": None, "num_experts_per_tok": 2,
}  # fmt: skip
MODELS = {
    "Mixtral": {"num_local_experts": 4},
    "Qwen3Moe": {
        "num_experts": 4, "moe_intermediate_size": 24, "decoder_sparse_step": 1, "head_dim": 4,
        "norm_topk_prob": True,
    },
    "GptOss": {"num_local_experts": 4, "head_dim": 4, "sliding_window": 4},
}  # fmt: skip


def made(name: str, way: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**TEXT, **MODELS[name])
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    if not hasattr(model, "set_experts_implementation"):
        pytest.skip("this version keeps its experts in a list")
    model.set_experts_implementation(way)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("way", ["grouped_mm", "batched_mm", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_experts_of_the_library_leave(name, way, tmp_path: Path):
    model, example = made(name, way), {"input_ids": IDS, "use_cache": False}
    groups = sc.experts(model, example)
    assert len(groups) == 8
    dead = np.array([1, 0, 0, 1, 1, 1, 1, 0], bool)
    removal, gap = cut_out(model, groups, dead)
    small, zeroed = removal.model, zero(model, groups, dead)[0]
    assert removal.refused == () and gap <= 1e-6
    flops, params = costs(small, example)
    assert predicted(groups, dead)[1] == params
    if way != "eager":  # there, later routers send their tokens elsewhere
        assert predicted(groups, dead)[0] == flops
    tokens = [
        m.generate(IDS, attention_mask=torch.ones(2, 7), max_new_tokens=6, do_sample=False)
        for m in (small, zeroed)
    ]
    assert torch.equal(*tokens)
    small = sc.shrink(*zero(model, groups, dead))
    loaded = sc.load(sc.save(small, tmp_path / "small.safetensors"), model=made(name, way))
    assert difference(small, loaded, example) == 0


def test_layers_experts_and_neurons_of_a_mixture_leave_together():
    model, example = made("Mixtral", "batched_mm"), {"input_ids": IDS, "use_cache": False}
    experts = sc.experts(model, example)  # which own what would make their whole layer zero
    layers = sc.depth(model, example, ignore=[layer.name for layer in experts.layers])
    groups = layers + experts + sc.neurons(model, example)
    assert [len(kind) for kind in (layers, experts)] == [2, 8]
    for seed in range(3):
        dead = some_dead(groups, seed)
        removal, gap = cut_out(model, groups, dead)
        assert removal.refused == () and gap <= 1e-5
        assert predicted(groups, dead) == costs(removal.model, example)


def test_a_small_mixture_is_exported(tmp_path: Path):
    model, example = made("Mixtral", "batched_mm"), {"input_ids": IDS, "use_cache": False}
    groups = sc.experts(model, example)
    small = sc.shrink(*zero(model, groups, some_dead(groups, 0)))
    sc.export(small, example, tmp_path / "small.onnx")
