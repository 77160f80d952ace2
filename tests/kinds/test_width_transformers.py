"""The width of the transformers library's models, from small random configurations."""

from __future__ import annotations

import os
import warnings

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import secateur as sc
from cuts import counted, predicted, some_dead, zero
from secateur.surgery.equivalence import difference

transformers = pytest.importorskip("transformers")

IDS = torch.arange(14).reshape(2, 7)
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TEXT = {
    "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 24,
}  # fmt: skip
DECODER = {**TEXT, "use_cache": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {**DECODER, "num_key_value_heads": 2, "head_dim": 4}
GPT2 = {
    "vocab_size": 30, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 16,
    "use_cache": False, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
    "image_size": 32, "patch_size": 16,
}  # fmt: skip
T5 = {"vocab_size": 30, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}

MODELS = {  # name: (model class, config, example, groups, whether removal is exact)
    "Llama": ("ForCausalLM", GROUPED, {"input_ids": IDS}, 16, True),
    "Qwen3": ("ForCausalLM", GROUPED, {"input_ids": IDS}, 16, True),
    "Gemma": ("ForCausalLM", GROUPED, {"input_ids": IDS}, 16, True),
    "Gemma2": (
        "ForCausalLM", {**GROUPED, "query_pre_attn_scalar": 4}, {"input_ids": IDS}, 16, True
    ),
    "Mixtral": (
        "ForCausalLM",
        {**GROUPED, "num_local_experts": 2, "experts_implementation": "batched_mm"},
        {"input_ids": IDS},
        16,
        True,
    ),
    "T5": ("EncoderModel", T5, {"input_ids": IDS}, 16, True),
    "Bert": ("ForSequenceClassification", TEXT, {"input_ids": IDS}, 16, False),
    "GPT2": ("LMHeadModel", GPT2, {"input_ids": IDS}, 16, False),
    "GPTNeoX": ("ForCausalLM", DECODER, {"input_ids": IDS}, 16, False),
    "ViT": ("ForImageClassification", VISION, {"pixel_values": PIXELS}, 16, False),
    "ConvNext": (
        "ForImageClassification",
        {"depths": [1, 1], "hidden_sizes": [8, 12], "num_stages": 2},
        {"pixel_values": PIXELS},
        20,
        False,
    ),
    "PoolFormer": (
        "ForImageClassification",
        {"depths": [1, 1], "hidden_sizes": [8, 12], "num_encoder_blocks": 2,
         "patch_sizes": [7, 3], "strides": [4, 2], "padding": [2, 1], "mlp_ratio": 2.0},
        {"pixel_values": PIXELS},
        20,
        False,
    ),
}  # fmt: skip


def made(name: str) -> torch.nn.Module:
    suffix, options, *_ = MODELS[name]
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}{suffix}")(
        getattr(transformers, f"{name}Config")(**options)
    )
    if suffix == "EncoderModel":  # what it returns is its stream: a head protects it from that
        model = Headed(model)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


class Headed(torch.nn.Module):
    """A linear layer behind an encoder."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, torch.nn.Linear(16, 3)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(input_ids).last_hidden_state)


@pytest.mark.parametrize("name", MODELS)
def test_width_leaves_and_is_saved(name, tmp_path):
    _, _, example, count, exact = MODELS[name]
    model = made(name)
    groups = sc.width(model, example)
    assert len(groups) == count, groups.summary()
    assert all(bool(layer.inexact) != exact for layer in groups.layers)
    dead = some_dead(groups, 0)
    zeroed, groups = zero(model, groups, dead)
    with warnings.catch_warnings():
        warnings.simplefilter("error" if exact else "ignore")
        small = sc.shrink(zeroed, groups, exact=exact)
    gap = difference(zeroed, small, example)
    assert gap <= 1e-5 if exact else gap == small.secateur.difference > 1e-3
    assert predicted(groups, dead) == counted(small, example)
    loaded = sc.load(sc.save(small, tmp_path / "small.safetensors"), model=made(name))
    assert difference(small, loaded, example) == 0


class Translator(torch.nn.Module):
    """nn.Transformer, which checks its inputs against a width that it stores."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = torch.nn.Linear(5, 16), torch.nn.Linear(5, 16)
        self.inner = torch.nn.Transformer(16, 4, 1, 1, 24, batch_first=True)
        self.head = torch.nn.Linear(16, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(self.source(x), self.target(y)))


def test_width_heads_and_neurons_of_torch_s_own_transformer(tmp_path):
    torch.manual_seed(0)
    model, example = Translator().eval(), (torch.randn(2, 6, 5), torch.randn(2, 4, 5))
    groups = sc.width(model, example) + sc.heads(model, example) + sc.neurons(model, example)
    dead = some_dead(groups, 0)
    zeroed, groups = zero(model, groups, dead)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = sc.shrink(zeroed, groups, exact=False)
    assert small.inner.d_model == 8 and predicted(groups, dead) == counted(small, example)
    loaded = sc.load(sc.save(small, tmp_path / "small.safetensors"), model=Translator())
    assert difference(small, loaded, example) == 0
