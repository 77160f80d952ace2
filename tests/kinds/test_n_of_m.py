"""n of m: blocks of consecutive inputs of one output."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import secateur as sc


@pytest.mark.parametrize(
    ("layer", "dim"),
    [
        (nn.Linear(8, 3), 1),
        (nn.Conv2d(8, 3, 2), 1),
        (nn.ConvTranspose2d(8, 3, 2), 0),
        (nn.Conv1d(10, 3, 3), 1),
    ],
)
def test_a_block_is_m_consecutive_inputs_of_one_output(layer, dim):
    groups = sc.n_of_m(layer, 2, 4)
    assert len(groups) == layer.weight.numel() // layer.weight.shape[dim] * 8
    assert groups.layers[0].blocks == (2, 4) and groups.layers[0].kind == "2_of_4"
    ids = groups.members[0].ids.movedim(dim, -1)
    blocks = ids[..., :8].unflatten(-1, (2, 4)) // 4
    assert (blocks == blocks[..., :1]).all()  # one block number inside a block
    assert len(blocks[..., 0].unique()) * 4 == len(groups)
    assert (ids[..., 8:] == -1).all()


def test_transformers_linear_layers_run_along_their_inputs():
    """GPT-2's are stored (in, out), also square ones; Mixtral's experts (expert, out, in)."""
    transformers = pytest.importorskip("transformers")
    gpt2 = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=11, n_positions=8)
    model = transformers.GPT2LMHeadModel(gpt2)
    groups = sc.n_of_m(model, 2, 4, ignore=nn.Embedding)
    dims = {"c_attn": 0, "c_proj": 0, "c_fc": 0}
    mixtral = transformers.MixtralConfig(
        hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=3, vocab_size=11,
    )  # fmt: skip
    experts = sc.n_of_m(transformers.MixtralForCausalLM(mixtral), 2, 4, ignore=nn.Embedding)
    checked = 0
    for member in (*groups.members, *experts.members):
        parts = member.name.split(".")
        dim = dims.get(parts[-2], 2 if parts[-2] == "experts" else 1)
        blocks = member.ids.movedim(dim, -1).unflatten(-1, (-1, 4)) // 4
        assert (blocks == blocks[..., :1]).all() and len(blocks[..., 0].unique()) > 1, member.name
        checked += parts[-2] in dims or parts[-2] == "experts"
    assert checked == 4 + 2


def test_a_small_gpt2_trains_to_two_of_four_along_its_inputs():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=11, n_positions=8)
    model = transformers.GPT2LMHeadModel(config)
    groups = sc.n_of_m(model, 2, 4, ignore=[nn.Embedding, "lm_head"])
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = sc.Proximal(sgd, groups, sc.Budget(groups=2 / 4), steps=3)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.arange(8)[None]).logits.square().mean().backward()
        optimizer.step()
    weight = model.transformer.h[0].mlp.c_fc.weight  # (in, out)
    assert ((weight.unflatten(0, (2, 4)) != 0).sum(1) == 2).all()


def test_layers_without_m_inputs_and_embeddings_are_told():
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 3), nn.Linear(3, 2))
    groups = sc.n_of_m(model)
    assert [layer.name for layer in groups.layers] == ["1"]
    assert [reason for *_, reason in groups.refused] == [
        "an embedding has no inputs", "it has 3 inputs, fewer than 4",
    ]  # fmt: skip


@pytest.mark.parametrize(("n", "m"), [(0, 4), (4, 4), (5, 4), (1.0, 2)])
def test_bad_levels_are_refused(n, m):
    with pytest.raises(ValueError, match="1 <= n < m"):
        sc.n_of_m(nn.Linear(8, 2), n, m)
