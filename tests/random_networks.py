"""Random networks of what makes constants go wrong, and inputs that the groups have not seen.

In: a seed. Out: a network with an example, and other inputs it runs on: other lengths, masks,
integers, image sizes, larger values. `silent_difference` trains nothing: it kills random groups
and says how far the small network is off where nobody warned of it.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from cuts import some_dead
from secateur.surgery.equivalence import difference

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "silu": F.silu,
    "cos": torch.cos,
    "shifted": lambda x: F.elu(x) + 1,
    "hardsigmoid": F.hardsigmoid,
}
FILLS = (0.0, 0.5, -1.0)


class Sequences(nn.Module):
    """Positions with a mask and a class each: gates, fills, padding and pools between layers."""

    POOLS = ("sum", "mean", "masked sum", "masked mean", "max", "last", "attention", "length")
    MIDDLES = (
        "none", "mask", "fill where masked", "fill where large", "where class", "class gate",
        "own gate", "batch norm", "bare batch norm", "bare instance norm", "count", "pad", "cumsum",
        "lengths", "norm after", "dropout", "position", "scatter", "clamp", "in place",
    )  # fmt: skip

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.widths = [4, rng.choice([6, 8]), rng.choice([6, 9])]
        self.layers = nn.ModuleList(map(nn.Linear, self.widths[:-1], self.widths[1:]))
        self.acts = [rng.choice(list(ACTIVATIONS)) for _ in self.layers]
        self.middles = [rng.choice(self.MIDDLES) for _ in self.layers]
        self.fill = rng.choice(FILLS)
        self.classes = nn.ModuleList(nn.Embedding(5, width) for width in self.widths[1:])
        self.gates = nn.ModuleList(nn.Linear(width, width) for width in self.widths[1:])
        self.norms = nn.ModuleList(map(self.norm_of, self.middles, self.widths[1:]))
        self.positions = nn.Parameter(torch.randn(64, 1))
        self.pool = rng.choice(self.POOLS)
        self.score = nn.Linear(self.widths[-1], 1)
        self.head = nn.Linear(self.widths[-1], 3)

    @staticmethod
    def norm_of(middle: str, width: int) -> nn.Module:
        if "instance" in middle:
            return nn.InstanceNorm1d(width)
        return nn.BatchNorm1d(width, affine="bare" not in middle)

    def forward(self, x: Tensor, mask: Tensor, kind: Tensor) -> Tensor:
        start = x
        for number, layer in enumerate(self.layers):
            x = self.normed(number, layer(x), first=True)
            x = self.normed(number, ACTIVATIONS[self.acts[number]](x), first=False)
            x = self.between(number, x, start, mask, kind)
        return self.head(self.pooled(x, mask))

    def normed(self, number: int, x: Tensor, *, first: bool) -> Tensor:
        """Normalised, before the activation or behind it."""
        middle, norm = self.middles[number], self.norms[number]
        if "norm" not in middle or first == (middle == "norm after"):
            return x
        return norm(x.transpose(1, 2)).transpose(1, 2)

    def between(self, number: int, x: Tensor, start: Tensor, mask: Tensor, kind: Tensor) -> Tensor:
        """What stands behind the activation; `start` is the network's input."""
        middle, keep = self.middles[number], mask.unsqueeze(-1)
        large = start.amax(-1, keepdim=True) > 4
        if middle == "mask":
            return x * keep
        if middle == "fill where masked":
            return x.masked_fill(~keep, self.fill)
        if middle == "fill where large":
            return x.masked_fill(large, self.fill)
        if middle == "where class":
            return torch.where((kind == 3)[..., None], torch.full_like(x, self.fill), x)
        if middle == "class gate":
            return x * torch.sigmoid(self.classes[number](kind))
        if middle == "own gate":
            return x * torch.sigmoid(self.gates[number](x))
        if middle == "count":
            return x / x.shape[1]
        if middle == "pad":
            return F.avg_pool1d(x.transpose(1, 2), 3, 1, 1).transpose(1, 2)
        if middle == "cumsum":
            return x.cumsum(1)
        if middle == "lengths":
            return x * mask.sum(1)[:, None, None]
        if middle == "dropout":
            return F.dropout(x, 0.3, self.training)
        if middle == "position":
            return x + self.positions[: x.shape[1]]
        if middle == "scatter":
            return torch.zeros_like(x).index_add(1, kind[0] % x.shape[1], x)
        if middle == "clamp":
            return torch.maximum(x, start.mean(-1, keepdim=True) - 3)
        if middle == "in place":
            x = x.clone()
            x[:, 0] *= keep[:, 0]
            return x
        return x

    def pooled(self, x: Tensor, mask: Tensor) -> Tensor:
        keep = mask.unsqueeze(-1).to(x.dtype)
        if self.pool == "sum":
            return x.sum(1)
        if self.pool == "masked sum":
            return (x * keep).sum(1)
        if self.pool == "masked mean":
            return (x * keep).sum(1) / keep.sum(1).clamp(min=1)
        if self.pool == "max":
            return x.amax(1)
        if self.pool == "last":
            return x[:, -1]
        if self.pool == "attention":
            return (x * self.score(x).softmax(1)).sum(1)
        if self.pool == "length":
            return x.mean(1) * (x.shape[1] ** 0.5)
        return x.mean(1)

    @staticmethod
    def example(rng: random.Random) -> tuple[Tensor, ...]:
        shape = (3, rng.choice([5, 6, 7]))
        kind = torch.randint(0, 5, shape) if rng.random() < 0.5 else torch.zeros(shape).long()
        mask = torch.ones(shape, dtype=torch.bool)
        return torch.randn(*shape, 4).clamp(-1, 1), mask, kind

    @staticmethod
    def others() -> Iterator[tuple[Tensor, ...]]:
        for batch, length, scale in ((2, 11, 1.0), (4, 3, 6.0), (3, 8, 3.0)):
            mask = torch.rand(batch, length) < 0.6
            mask[:, 0] = True
            x = scale * torch.randn(batch, length, 4)
            yield x, mask, torch.randint(0, 5, (batch, length))


class Images(nn.Module):
    """Convolutions with all sorts of borders, pools, gates and fills between them."""

    MIDDLES = (
        "none", "padded average", "average", "padded max", "squeeze", "batch norm",
        "bare batch norm", "instance norm", "group norm", "up", "fill where large", "dropout",
        "zero border", "own border", "depthwise", "area",
    )  # fmt: skip

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.widths = [2, 6, 8]
        modes = [rng.choice([("zeros", 1), ("zeros", 0), ("reflect", 1)]) for _ in range(2)]
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=pad, padding_mode=mode)
            for a, b, (mode, pad) in zip(self.widths, self.widths[1:], modes, strict=False)
        )
        self.acts = [rng.choice(list(ACTIVATIONS)) for _ in self.layers]
        self.middles = [rng.choice(self.MIDDLES) for _ in self.layers]
        self.fill = rng.choice(FILLS)
        self.norms = nn.ModuleList(map(self.norm_of, self.middles, self.widths[1:]))
        self.squeezes = nn.ModuleList(nn.Linear(width, width) for width in self.widths[1:])
        self.pool = rng.choice(["mean", "sum", "max", "flat", "mean of padded"])
        self.head = nn.Linear(8 * (4 if self.pool == "flat" else 1), 3)

    @staticmethod
    def norm_of(middle: str, width: int) -> nn.Module:
        made = {
            "batch norm": lambda: nn.BatchNorm2d(width),
            "bare batch norm": lambda: nn.BatchNorm2d(width, affine=False),
            "instance norm": lambda: nn.InstanceNorm2d(width),
            "group norm": lambda: nn.GroupNorm(2, width),
            "depthwise": lambda: nn.Conv2d(width, width, 3, padding=1, groups=width),
        }
        return made.get(middle, nn.Identity)()

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            y = self.norms[number](layer(x))
            x = self.behind(number, ACTIVATIONS[self.acts[number]](y), x)
        if self.pool == "flat":
            return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))
        if self.pool == "mean of padded":
            x = F.avg_pool2d(x, 3, 2, 1)
        pooled = {"sum": x.sum((2, 3)), "max": x.amax((2, 3))}.get(self.pool, x.mean((2, 3)))
        return self.head(pooled)

    def behind(self, number: int, x: Tensor, before: Tensor) -> Tensor:
        middle = self.middles[number]
        if middle in ("padded average", "average"):
            return F.avg_pool2d(x, 3, 2, int(middle != "average"))
        if middle == "padded max":
            return F.max_pool2d(x, 3, 2, 1)
        if middle == "squeeze":
            return x * torch.sigmoid(self.squeezes[number](x.mean((2, 3))))[..., None, None]
        if middle == "up":
            return F.interpolate(x, scale_factor=2, mode="bilinear")
        if middle == "fill where large":
            return x.masked_fill(before.amax((1, 2, 3), keepdim=True) > 4, self.fill)
        if middle == "dropout":
            return F.dropout2d(x, 0.3, self.training)
        if middle == "zero border":
            return F.pad(x, (1, 0, 0, 1))
        if middle == "own border":
            return F.pad(x, (1, 0, 0, 1), mode="replicate")
        if middle == "area":
            return x * (x.shape[2] * x.shape[3])
        return x

    @staticmethod
    def example(rng: random.Random) -> tuple[Tensor, ...]:
        size = rng.choice([12, 15])
        return (torch.randn(3, 2, size, size).clamp(-1, 1),)

    @staticmethod
    def others() -> Iterator[tuple[Tensor, ...]]:
        for batch, height, width, scale in ((2, 19, 14, 1.0), (4, 12, 12, 6.0), (3, 24, 17, 3.0)):
            yield (scale * torch.randn(batch, 2, height, width),)


def network(seed: int) -> tuple[Any, tuple[Tensor, ...]]:
    """A random network in float64, so that rounding hides nothing, and its example."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    model = (Sequences, Images)[seed % 2](rng)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):  # has seen data
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    example = tuple(x.double() if x.is_floating_point() else x for x in model.example(rng))
    return model.double().eval(), example


def outcome(seed: int, kind: str = "") -> dict[str, Any]:
    """What became of one network: how many groups, how many died, and the largest difference.

    The difference is over the example, inputs of another kind, and train mode (without dropout).
    """
    model, example = network(seed)
    kind = kind or ("neurons", "filters")[seed % 2]
    line: dict[str, Any] = {"seed": seed, "network": type(model).__name__, "kind": kind}
    line["parts"] = [*model.middles, *model.acts, model.pool]
    try:
        groups = getattr(sc, kind)(model, example)
    except ValueError as error:
        return line | {"groups": 0, "dead": 0, "difference": 0.0, "reason": str(error)}
    dead = some_dead(groups, seed)
    zeroed = copy.deepcopy(model)
    mine = groups.on(zeroed)
    mine.scale_(torch.from_numpy(1.0 - dead))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = sc.shrink(zeroed, mine)
    gap = difference(zeroed, small, example)
    with torch.no_grad():
        for args in model.others():
            args = tuple(x.double() if x.is_floating_point() else x for x in args)
            try:
                expected = zeroed(*args)
            except (RuntimeError, IndexError):
                continue  # this network has a fixed size
            gap = max(gap, relative(expected, small(*args)))
            gap = max(gap, in_train_mode(zeroed, small, args))
    lost = sum(p.numel() for p in zeroed.parameters()) - sum(p.numel() for p in small.parameters())
    counts = {"groups": len(groups), "dead": int(dead.sum()), "parameters": lost}
    return line | counts | {"difference": gap}


def in_train_mode(model: nn.Module, small: nn.Module, args: tuple[Tensor, ...]) -> float:
    """How far copies are off in train mode, where they have no dropout."""
    if any("dropout" in middle for middle in model.middles):  # pyright: ignore
        return 0.0
    return relative(*(copy.deepcopy(network).train()(*args) for network in (model, small)))


def relative(expected: Tensor, found: Tensor) -> float:
    return float((expected - found).abs().max() / expected.abs().max().clamp(min=1e-30))
