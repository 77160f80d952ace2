"""save_pretrained of small networks: the folder makes the same network, or refuses to make one."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import secateur as sc
from cuts import zero
from secateur.deploy import FileError
from secateur.deploy.small_pretrained import FILE
from secateur.surgery.equivalence import difference

transformers = pytest.importorskip("transformers")

IDS = torch.arange(14).reshape(2, 7) % 29 + 1
PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
TEXT = {
    "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 32, **ENDS,
}  # fmt: skip
WORDS = {"input_ids": IDS, "use_cache": False}
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "Llama": ("ForCausalLM", {**TEXT, "num_key_value_heads": 2}, WORDS),
    "Gemma": ("ForCausalLM", {**TEXT, "num_key_value_heads": 2, "head_dim": 4}, WORDS),
    "GPT2": (
        "LMHeadModel",
        {"vocab_size": 30, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 32, **ENDS},
        WORDS,
    ),
    "Bert": ("ForMaskedLM", TEXT, {"input_ids": IDS}),
    "T5": (
        "ForConditionalGeneration",
        {"vocab_size": 30, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 3, "num_heads": 4,
         "decoder_start_token_id": 0, **ENDS},
        {**WORDS, "decoder_input_ids": IDS.flip(1)},
    ),
    "ViT": (
        "ForImageClassification",
        {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
         "intermediate_size": 32, "image_size": 16, "patch_size": 8},
        {"pixel_values": PIXELS},
    ),
    "Mixtral": (
        "ForCausalLM",
        {**TEXT, "num_key_value_heads": 2, "num_local_experts": 4,
         "experts_implementation": "batched_mm"},
        WORDS,
    ),
}  # fmt: skip
IMPLEMENTATION = {"Mixtral": {"experts_implementation": "batched_mm"}}  # which no file holds


def made(name: str) -> Any:
    suffix, options, _ = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**options)
    model = getattr(transformers, name + suffix)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model.eval()


def small_of(name: str, kind: str, how: str) -> Any:
    """A network without a quarter or half of each layer's groups, or without the first group."""
    model, example = made(name), MODELS[name][2]
    groups = getattr(sc, kind)(model, example)
    dead = np.zeros(len(groups), bool)
    for layer in groups.layers if how == "alike" else ():
        dead[layer.stop - len(layer) // (4 if kind == "width" else 2) : layer.stop] = True
    if how == "one":
        dead[0] = True
    if how == "block":
        dead = np.isin(np.arange(len(groups)), [2, 3])
    return sc.shrink(*zero(model, groups, dead), exact=kind != "width")


FOLLOWS = {  # what a configuration can say -> what it says then
    ("Llama", "neurons", "alike"): {"intermediate_size": 16},
    ("Llama", "heads", "alike"): {"num_attention_heads": 2, "num_key_value_heads": 1},
    ("Llama", "width", "alike"): {"hidden_size": 12, "rms_norm_eps": 1e-6 * 16 / 12},
    ("Llama", "depth", "block"): {"num_hidden_layers": 2},
    ("GPT2", "neurons", "alike"): {"n_inner": 32},
    ("GPT2", "depth", "block"): {"n_layer": 2},
    ("Bert", "neurons", "alike"): {"intermediate_size": 16},
    ("T5", "neurons", "alike"): {"d_ff": 16},
    ("T5", "heads", "alike"): {"num_heads": 2},
    ("ViT", "neurons", "alike"): {"intermediate_size": 16},
    ("ViT", "depth", "block"): {"num_hidden_layers": 2},
    ("Mixtral", "neurons", "alike"): {"intermediate_size": 16},
}
REMAINS = [  # what it can't
    ("Llama", "depth", "one"),
    ("Llama", "neurons", "one"),
    ("GPT2", "heads", "alike"),
    ("GPT2", "depth", "one"),
    ("Bert", "neurons", "one"),
    ("Bert", "heads", "alike"),
    ("Bert", "depth", "one"),
    ("T5", "depth", "one"),
    ("ViT", "heads", "alike"),
    ("ViT", "depth", "one"),
    ("Gemma", "width", "alike"),  # its code multiplies by the root of the configuration's width
    ("Mixtral", "experts", "alike"),
]


@pytest.mark.filterwarnings("ignore:the small network's outputs differ")
@pytest.mark.parametrize("case", FOLLOWS, ids="-".join)
def test_where_the_configuration_says_it_anyone_loads_it(case, tmp_path: Path):
    small, example, more = small_of(*case), MODELS[case[0]][2], IMPLEMENTATION.get(case[0], {})
    assert {name: getattr(small.config, name) for name in FOLLOWS[case]} == FOLLOWS[case]
    small.save_pretrained(tmp_path)
    assert not (tmp_path / FILE).exists()
    for read in (
        type(small).from_pretrained,
        lambda *a, **b: sc.from_pretrained(type(small), *a, **b),
    ):
        assert difference(small, read(tmp_path, **more).eval(), example) == 0


@pytest.mark.filterwarnings("ignore:the small network's outputs differ")
@pytest.mark.parametrize("case", REMAINS, ids="-".join)
def test_where_it_cannot_only_from_pretrained_loads_it(case, tmp_path: Path):
    small, example = small_of(*case), MODELS[case[0]][2]
    small.save_pretrained(tmp_path)
    with pytest.raises(OSError, match="no file named"):
        type(small).from_pretrained(tmp_path)
    again = sc.from_pretrained(type(small), tmp_path, **IMPLEMENTATION.get(case[0], {}))
    assert not again.training and again.secateur == small.secateur
    assert difference(small, again, example) == 0
    again.save_pretrained(tmp_path / "again")  # and so it goes on
    assert difference(small, sc.from_pretrained(type(small), tmp_path / "again"), example) < 1e-5


def test_a_new_process_has_the_same_outputs(tmp_path: Path):
    cases = [("Llama", "depth", "one"), ("T5", "depth", "one"), ("Llama", "heads", "alike")]
    expected = {}
    for case in cases:
        small = small_of(*case)
        small.save_pretrained(tmp_path / "-".join(case))
        with torch.no_grad():
            logits = small(**MODELS[case[0]][2]).logits
        expected["-".join(case)] = (type(small).__name__, MODELS[case[0]][2], logits)
    torch.save(expected, tmp_path / "expected.pt")
    script = """
import sys, torch, transformers, secateur as sc
for folder, (name, example, logits) in torch.load(f"{sys.argv[1]}/expected.pt").items():
    model = sc.from_pretrained(getattr(transformers, name), f"{sys.argv[1]}/{folder}")
    with torch.no_grad():
        assert torch.equal(model(**example).logits, logits), folder
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)


def test_generation_goes_on_as_it_did(tmp_path: Path):
    small = small_of("Llama", "depth", "one")
    small.generation_config.max_new_tokens = 5
    small.save_pretrained(tmp_path)
    again = sc.from_pretrained(transformers.AutoModelForCausalLM, tmp_path)
    assert type(again) is type(small) and again.generation_config.max_new_tokens == 5
    ids, mask = IDS[:, :3], torch.ones(2, 3)
    one, two = (net.generate(ids, attention_mask=mask, do_sample=False) for net in (small, again))
    assert torch.equal(one, two) and one.shape[1] == 8


def test_the_trainer_saves_it(tmp_path: Path):
    small = small_of("Bert", "depth", "one")
    args = transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    transformers.Trainer(small, args).save_model(str(tmp_path / "saved"))
    again = sc.from_pretrained(type(small), tmp_path / "saved")
    assert difference(small, again, MODELS["Bert"][2]) == 0


def test_copies_save_themselves(tmp_path: Path):
    small = small_of("GPT2", "depth", "one")
    for other in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        with torch.no_grad():
            other.transformer.wte.weight.mul_(2)
        other.save_pretrained(tmp_path)
        again = sc.from_pretrained(type(small), tmp_path)
        assert torch.equal(again.transformer.wte.weight, 2 * small.transformer.wte.weight)


def test_what_is_given_is_written_on_the_main_process(tmp_path: Path):
    small = small_of("GPT2", "depth", "one")
    twice = {name: 2 * tensor for name, tensor in small.state_dict().items()}
    small.save_pretrained(tmp_path / "none", is_main_process=False)
    assert not (tmp_path / "none").exists()
    small.save_pretrained(tmp_path, state_dict=twice)
    again = sc.from_pretrained(type(small), tmp_path, dtype=torch.float64)
    assert again.dtype == torch.float64
    weight = small.transformer.wpe.weight
    assert torch.equal(again.transformer.wpe.weight, 2 * weight.double())
    with pytest.raises(TypeError, match="state_dict is not this network's: transformer"):
        small.save_pretrained(tmp_path, state_dict={"lm_head.weight": weight})


def test_a_network_cut_twice_and_one_loaded_remember_the_full_size(tmp_path: Path):
    example = MODELS["Llama"][2]
    small = small_of("Llama", "neurons", "alike")
    groups = sc.depth(small, example)
    dead = np.arange(len(groups)) == 0
    smaller = sc.shrink(*zero(small, groups, dead))
    smaller.save_pretrained(tmp_path)
    assert '"intermediate_size": 32' in (tmp_path / "config.json").read_text()
    assert difference(smaller, sc.from_pretrained(type(small), tmp_path), example) == 0
    loaded = sc.load(sc.save(small, tmp_path / "small.safetensors"), model=made("Llama"))
    assert loaded.config.intermediate_size == 16
    loaded.save_pretrained(tmp_path / "ordinary")
    plain = type(small).from_pretrained(tmp_path / "ordinary")
    assert difference(small, plain.eval(), example) == 0


def test_one_folder_holds_one_network(tmp_path: Path):
    model, small = made("GPT2"), small_of("GPT2", "depth", "one")
    model.save_pretrained(tmp_path)
    assert difference(model, sc.from_pretrained(type(model), tmp_path), WORDS) == 0
    small.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    model.save_pretrained(tmp_path)  # which does not know of our file
    with pytest.raises(FileError, match=f"two networks, in {FILE} and model.safetensors"):
        sc.from_pretrained(type(model), tmp_path)
    small_of("GPT2", "neurons", "alike").save_pretrained(tmp_path)
    assert not (tmp_path / FILE).exists()


def test_a_network_that_nothing_describes_is_not_saved(tmp_path: Path):
    small = small_of("GPT2", "depth", "one")
    small.lm_head = nn.Linear(16, 5)
    with pytest.raises(TypeError, match=r"lm_head.bias, lm_head.weight would be another"):
        small.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_errors_say_what_is_wrong(tmp_path: Path):
    small = small_of("GPT2", "depth", "one")
    small.save_pretrained(tmp_path)
    kind = type(small)
    for wrong in (nn.Linear, small, "GPT2"):
        with pytest.raises(TypeError, match="expected a class such as"):
            sc.from_pretrained(wrong, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder .*snapshot_download"):
        sc.from_pretrained(kind, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    small.config.save_pretrained(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=f"has no {FILE}, and otherwise: .*no file named"):
        sc.from_pretrained(kind, tmp_path / "empty")
    with pytest.raises(FileError, match="does not fit this GPT2Model"):
        sc.from_pretrained(transformers.GPT2Model, tmp_path)
    with pytest.raises(TypeError, match="device_map has no meaning"):
        sc.from_pretrained(kind, tmp_path, device_map="auto")
    with pytest.raises(ValueError, match=r"push_to_hub=\.\.\..*network.push_to_hub"):
        small.save_pretrained(tmp_path, push_to_hub=True)


def test_a_network_that_lost_nothing_saves_as_it_always_did():
    model = made("GPT2")
    small = sc.shrink(model, sc.depth(model, WORDS))
    assert "save_pretrained" not in vars(small)
