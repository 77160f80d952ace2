"""Shorter lists: what counts blocks follows, names are translated, and language models go on."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import secateur as sc
from cuts import counted, cut_out, predicted, some_dead, zero
from secateur.surgery.equivalence import difference
from secateur.surgery.module_removal import name_after, name_before, remove_from_lists

OUT = ["a.1", "a.3", "a.3.b.0", "a.0.b.1"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a.0.x", "a.0.x"),
        ("a.1.weight", None),
        ("a.2.weight", "a.1.weight"),
        ("a.3.b.1", None),
        ("a.4", "a.2"),
        ("a.0.b.0.w", "a.0.b.0.w"),
        ("a.0.b.1.w", None),
        ("a.0.b.2.w", "a.0.b.1.w"),
        ("c.2", "c.2"),
        ("a.10.1", "a.8.1"),
    ],
)
def test_names_move_up_with_their_blocks(before, after):
    assert name_after(before, OUT) == after
    if after is not None:
        assert name_before(after, OUT) == before


class Numbered(nn.Module):
    def __init__(self, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.inner = nn.Linear(2, 2)


class Config:
    def __init__(self) -> None:
        self.num_hidden_layers = 4
        self.layer_types = ["a", "b", "c", "d"]
        self.num_attention_heads = 4


class Counted(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.depth = 4
        self.blocks = nn.ModuleList(Numbered(i + 2) for i in range(4))
        self.tail = nn.Sequential(OrderedDict(first=nn.ReLU(), second=nn.Tanh()))


def test_numbers_and_depths_follow_and_a_shared_configuration_stays():
    config = Config()
    model = Counted(config)
    remove_from_lists(model, ["blocks.0", "blocks.2", "tail.first"])
    assert [name for name, _ in model.blocks.named_children()] == ["0", "1"]
    assert [block.layer_idx for block in model.blocks] == [2, 3]  # they count from 2 on
    assert (model.depth, model.config.num_hidden_layers) == (2, 2)
    assert model.config.layer_types == ["b", "d"] and model.config.num_attention_heads == 4
    assert [name for name, _ in model.tail.named_children()] == ["second"]
    assert config.num_hidden_layers == 4 and len(config.layer_types) == 4


def test_a_number_that_counts_something_else_stays():
    model = nn.ModuleList([Numbered(5), Numbered(5), Numbered(5)])  # all in the sixth block
    remove_from_lists(model, ["0"])
    assert [block.layer_idx for block in model] == [5, 5]


def test_two_lists_of_one_length_leave_a_common_depth_alone():
    model = nn.Module()
    model.num_layers, model.num_decoder_layers = 3, 3
    model.encoder, model.decoder = (
        nn.ModuleList(nn.ReLU() for _ in range(3)), nn.ModuleList(nn.ReLU() for _ in range(3)),
    )  # fmt: skip
    model.depth = 3
    remove_from_lists(model, ["decoder.1"])
    assert (model.num_layers, model.num_decoder_layers, model.depth) == (3, 2, 3)
    remove_from_lists(model, ["encoder.0", "encoder.1"])  # caches are as deep as num_layers, too
    assert (model.num_layers, model.num_decoder_layers, model.depth) == (2, 2, 2)


# -- whole models --------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 9), nn.GELU())
        self.last = nn.Linear(9, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.f(x))


class Stacked(nn.Module):
    """Two lists in one, a list that is indexed, and a block with a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(Residual(), Residual(), Residual()) for _ in range(2)
        )
        self.picked = nn.ModuleList(Residual() for _ in range(2))
        self.named = Residual()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        x = self.named(self.picked[1](self.picked[0](x)))
        return self.head(x)


X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def test_blocks_leave_lists_and_others_become_identities(tmp_path: Path):
    torch.manual_seed(0)
    model = Stacked()
    groups = sc.depth(model, X)
    assert len(groups) == 9
    where = {
        gone.module: gone.recipe["kind"]
        for gone in groups.coupling.absent
        if not gone.module.endswith((".f", ".last"))
    }
    assert where == {
        "stages.0": "out", "stages.1": "out",
        **{f"stages.{i}.{j}": "out" for i in range(2) for j in range(3)},
        "picked.0": "tensor", "picked.1": "tensor", "named": "tensor",
    }  # fmt: skip
    assert {name for name, *_ in groups.refused} == set()
    for seed in range(4):
        dead = some_dead(groups, seed)
        removal, gap = cut_out(model, groups, dead)
        assert removal.refused == () and gap <= 1e-6
        assert predicted(groups, dead) == counted(removal.model, X)
    dead = np.array([1, 1, 1, 0, 1, 0, 1, 1, 0], bool)
    small = sc.shrink(*zero(model, groups, dead))
    assert [len(stage) for stage in small.stages] == [2] and len(small.picked) == 2
    again = sc.depth(small, X)
    last = np.zeros(len(again), bool)
    last[again.names.index("stages.0.1.last")] = True  # which was stages.1.2
    smaller = sc.shrink(*zero(small, again, last))
    assert smaller.secateur.absent["stages.1.2"] == {"kind": "out"}
    loaded = sc.load(sc.save(smaller, tmp_path / "small.safetensors"), model=Stacked())
    assert difference(smaller, loaded, X) == 0
    assert [len(stage) for stage in loaded.stages] == [1]
    sc.export(smaller, X, tmp_path / "small.onnx")
    everything = sc.shrink(*zero(model, groups, np.ones(9, bool)))
    assert [n for n, _ in everything.named_parameters()] == ["head.weight", "head.bias"]


def test_a_failed_load_leaves_a_full_model(tmp_path: Path):
    model = Stacked()
    groups = sc.depth(model, X)
    small = sc.shrink(*zero(model, groups, np.arange(9) < 2))
    small.head = nn.Linear(6, 4)  # no longer what a full model makes
    path = sc.save(small, tmp_path / "small.safetensors")
    full = Stacked()
    names = list(full.state_dict())
    with pytest.raises(ValueError, match="does not fit"):
        sc.load(path, model=full)
    assert list(full.state_dict()) == names and [len(s) for s in full.stages] == [3, 3]


# -- the transformers library ----------------------------------------------------------------------

IDS = torch.arange(14).reshape(2, 7) % 29 + 1
TEXT = {
    "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 24, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None,
}  # fmt: skip
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None, "decoder_start_token_id": 0}
SLIDING = ["full_attention", "sliding_attention", "full_attention"]
MODELS = {  # name: (class, config, branches in the last block, where the depth is kept)
    "GPT2": (
        "LMHeadModel",
        {"vocab_size": 30, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 32, **ENDS},
        2,
        "n_layer",
    ),
    "Llama": ("ForCausalLM", {**TEXT, "num_key_value_heads": 2}, 2, "num_hidden_layers"),
    "Qwen3": (
        "ForCausalLM",
        {**TEXT, "num_key_value_heads": 2, "head_dim": 4, "layer_types": SLIDING,
         "sliding_window": 3, "use_sliding_window": True},
        2,
        "num_hidden_layers",
    ),
    "Phi": ("ForCausalLM", TEXT, 2, "num_hidden_layers"),  # both branches read one norm
    "T5": (
        "ForConditionalGeneration",
        {"vocab_size": 30, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 3, "num_heads": 4,
         **ENDS},
        3,
        "num_decoder_layers",
    ),
}  # fmt: skip


def made(name: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    suffix, options, *_ = MODELS[name]
    torch.manual_seed(0)
    model = getattr(transformers, name + suffix)(getattr(transformers, f"{name}Config")(**options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)  # tiny ones repeat one token only
    return model.eval()


def tokens(model: nn.Module, *, cache: bool) -> Tensor:
    return model.generate(
        IDS[:, :5], attention_mask=torch.ones(2, 5), max_new_tokens=8, do_sample=False,
        use_cache=cache,
    )  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_blocks_leave_and_generation_goes_on_with_its_cache(name, tmp_path: Path):
    model, (_, _, branches, depth) = made(name), MODELS[name]
    example = {"input_ids": IDS, "use_cache": False}
    if name == "T5":
        example["decoder_input_ids"] = IDS.flip(1)
    groups = sc.depth(model, example)
    one_block = np.zeros(len(groups), bool)
    one_block[-2 * branches : -branches] = True  # the second block of three
    first = np.arange(len(groups)) == 0  # the first attention alone
    for dead in (one_block, first, one_block | first, ~one_block):
        removal, gap = cut_out(model, groups, dead)
        assert removal.refused == () and gap == 0
        assert predicted(groups, dead) == counted(removal.model, example)
        small, zeroed = removal.model, zero(model, groups, dead)[0]
        for cache in (True, False):
            assert torch.equal(tokens(small, cache=cache), tokens(zeroed, cache=cache))
    small = sc.shrink(*zero(model, groups, one_block))
    assert getattr(small.config, depth) == 2 and getattr(model.config, depth) == 3
    if name == "Qwen3":
        assert small.config.layer_types == ["full_attention", "full_attention"]
    decoder = small.get_decoder()
    assert {m.layer_idx for m in decoder.modules() if "layer_idx" in vars(m)} - {None} == {0, 1}
    loaded = sc.load(sc.save(small, tmp_path / "small.safetensors"), model=made(name))
    assert difference(small, loaded, example) == 0
    assert getattr(loaded.config, depth) == 2


def test_a_shallow_language_model_is_one_of_its_library_again(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    model = made("Llama")
    example = {"input_ids": IDS, "use_cache": False}
    groups = sc.depth(model, example)
    small = sc.shrink(*zero(model, groups, np.isin(np.arange(6), [2, 3])))
    small.save_pretrained(tmp_path)
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval()
    assert difference(small, again, example) == 0


def test_a_shallow_language_model_is_exported(tmp_path: Path):
    model = made("GPT2")
    groups = sc.depth(model, example := {"input_ids": IDS, "use_cache": False})
    small = sc.shrink(*zero(model, groups, np.isin(np.arange(6), [0, 1, 3])))
    sc.export(small, example, tmp_path / "small.onnx")
