"""Heads of the transformers library's models, from small random configurations."""

from __future__ import annotations

import os

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import secateur as sc
from cuts import counted, cut_out, predicted, some_dead, zero
from secateur.surgery.equivalence import difference

transformers = pytest.importorskip("transformers")

IDS = torch.arange(14).reshape(2, 7)
PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TEXT = {"vocab_size": 30, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
NO_CACHE = {"use_cache": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WIDE = {**TEXT, **NO_CACHE, "hidden_size": 16, "num_attention_heads": 8, "head_dim": 4}
VISION = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip

MODELS = {  # name: (config, model class, example, heads)
    "Bert": ("Model", {**TEXT, "hidden_size": 16}, {"input_ids": IDS}, 8),
    "GPT2": (
        "LMHeadModel",
        {**NO_CACHE, "vocab_size": 30, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 16},
        {"input_ids": IDS},
        8,
    ),
    "Llama": ("ForCausalLM", {**WIDE, "num_key_value_heads": 4}, {"input_ids": IDS}, 8),
    "Mistral": ("ForCausalLM", {**WIDE, "num_key_value_heads": 1}, {"input_ids": IDS}, 16),
    "Qwen3": ("ForCausalLM", {**WIDE, "num_key_value_heads": 4}, {"input_ids": IDS}, 8),
    "Phi3": ("ForCausalLM", {**WIDE, "num_key_value_heads": 4}, {"input_ids": IDS}, 8),
    "GPTNeoX": ("ForCausalLM", {**TEXT, **NO_CACHE, "hidden_size": 32}, {"input_ids": IDS}, 8),
    "Mixtral": (  # the experts that data chooses are no heads of the next layer
        "ForCausalLM",
        {**WIDE, "num_key_value_heads": 4, "num_local_experts": 4,
         "experts_implementation": "batched_mm"},
        {"input_ids": IDS},
        8,
    ),
    "Falcon": (
        "ForCausalLM",
        {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_kv_heads": 2, "new_decoder_architecture": True, "use_cache": False},
        {"input_ids": IDS},
        4,
    ),
    "XLNet": (
        "Model",
        {"vocab_size": 30, "d_model": 16, "n_layer": 2, "n_head": 4, "d_inner": 24,
         "use_mems_eval": False},
        {"input_ids": IDS},
        8,
    ),
    "ViT": ("Model", VISION, {"pixel_values": PIXELS}, 8),
    "T5": (
        "Model",
        {"vocab_size": 30, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4},
        {"input_ids": IDS, "decoder_input_ids": IDS, "use_cache": False},
        12,  # a position bias that all layers share couples their heads; the cross attention's too
    ),
    "Swin": (
        "Model",
        {"image_size": 16, "patch_size": 4, "embed_dim": 8, "depths": [2], "num_heads": [4],
         "window_size": 2},
        {"pixel_values": PIXELS},
        8,
    ),
}  # fmt: skip


def made(name: str) -> torch.nn.Module:
    suffix, options, _, _ = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**options)
    return getattr(transformers, f"{name}{suffix}")(config).eval()


@pytest.mark.parametrize("name", MODELS)
def test_heads_leave_exactly_and_are_saved(name, tmp_path):
    _, _, example, count = MODELS[name]
    model = made(name)
    groups = sc.heads(model, example)
    assert len(groups) == count, groups.summary()
    dead = some_dead(groups, 0)
    removal, gap = cut_out(model, groups, dead)
    assert removal.refused == () and gap <= 1e-5
    assert predicted(groups, dead) == counted(removal.model, example)
    small = sc.shrink(*zero(model, groups, dead))
    loaded = sc.load(sc.save(small, tmp_path / "small.safetensors"), model=made(name))
    assert difference(small, loaded, example) == 0


@pytest.mark.parametrize("name", ["Bert", "GPT2", "Llama"])
def test_heads_and_neurons_leave_together(name):
    _, _, example, _ = MODELS[name]
    model = made(name)
    groups = sc.heads(model, example) + sc.neurons(model, example)
    dead = some_dead(groups, 1)
    removal, gap = cut_out(model, groups, dead)
    assert removal.refused == () and gap <= 1e-5
    assert predicted(groups, dead) == counted(removal.model, example)


def test_a_shared_configuration_is_copied_where_a_module_reads_its_heads_from_it():
    model = made("Phi3")
    example = MODELS["Phi3"][2]
    small = cut_out(model, groups := sc.heads(model, example), some_dead(groups, 0))[0].model
    assert model.config.num_attention_heads == small.config.num_attention_heads == 8
    assert small.model.layers[0].self_attn.config.num_attention_heads == 4


def test_the_number_of_a_block_is_no_number_of_heads():
    options = {**WIDE, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**options)).eval()
    groups = sc.heads(model, {"input_ids": IDS, "use_cache": False})
    small = sc.shrink(*zero(model, groups, some_dead(groups, 0)))
    assert [layer.self_attn.layer_idx for layer in small.model.layers] == [0, 1, 2]
