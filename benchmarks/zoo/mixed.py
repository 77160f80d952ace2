"""Networks of other kinds: mixers, unrolled algorithms, graphs, towers, experts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.entry import entry, random, tokens


class MixerBlock(nn.Module):
    """One perceptron mixes the patches, one the channels."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(patches, 24), nn.GELU(), nn.Linear(24, patches))
        self.channels = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


@entry("MLP-Mixer", random(2, 3, 32, 32))
class Mixer(nn.Module):
    """Tolstikhin et al. 2021."""

    def __init__(self, width: int = 24, depth: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 8, 8)
        self.blocks = nn.Sequential(*[MixerBlock(16, width) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(1))


@entry("LISTA", random(2, 20))
class LISTA(nn.Module):
    """Gregor and LeCun 2010: iterative shrinkage with learned matrices, unrolled, then decoded."""

    def __init__(self, size: int = 20, code: int = 48, steps: int = 4) -> None:
        super().__init__()
        self.encode = nn.Linear(size, code, bias=False)
        self.inhibit = nn.Linear(code, code, bias=False)
        self.threshold = nn.Parameter(0.1 * torch.ones(code))
        self.decode = nn.Linear(code, size, bias=False)
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        drive = self.encode(x)
        code = self.shrink(drive)
        for _ in range(self.steps):
            code = self.shrink(drive + self.inhibit(code))
        return self.decode(code)

    def shrink(self, z: Tensor) -> Tensor:
        return z.sign() * (z.abs() - self.threshold).relu()


@entry("GCN, dense adjacency", lambda: (random(2, 6, 10)(), random(2, 6, 6)().sigmoid()))
class GraphNetwork(nn.Module):
    """Kipf and Welling 2017: neighbours are averaged by a dense adjacency matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(10, 32), nn.Linear(32, 32), nn.Linear(32, 32)])
        self.readout = nn.Linear(32, 3)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        degree = adjacency.sum(-1).clamp(min=1e-6).rsqrt()
        mixing = degree[:, :, None] * adjacency * degree[:, None, :]
        for layer in self.layers:
            nodes = (mixing @ layer(nodes)).relu()
        return self.readout(nodes.amax(1))


@entry("Two towers", lambda: (tokens(3, 5)(), random(3, 12)()))
class TwoTowers(nn.Module):
    """Query and item are embedded side by side and compared by a cosine."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(40, 24, mode="mean")
        self.query = nn.Sequential(nn.Linear(24, width), nn.ReLU(), nn.Linear(width, 16))
        self.item = nn.Sequential(nn.Linear(12, width), nn.Tanh(), nn.Linear(width, 16))
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, words: Tensor, features: Tensor) -> Tensor:
        a = F.normalize(self.query(self.words(words)), dim=-1)
        b = F.normalize(self.item(features), dim=-1)
        return self.scale * (a * b).sum(-1)


@entry("Mixture of experts", random(4, 12))
class MixtureOfExperts(nn.Module):
    """Two of four experts a row, weighed by a router (Shazeer et al. 2017); computed densely."""

    def __init__(self, width: int = 24, experts: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(12, width)
        self.router = nn.Linear(width, experts)
        self.experts = nn.ModuleList(
            [nn.Sequential(nn.Linear(width, 48), nn.GELU(), nn.Linear(48, width))
             for _ in range(experts)]
        )  # fmt: skip
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).relu()
        score = self.router(x)
        best = score.topk(2, -1).indices
        chosen = torch.zeros_like(score).scatter(-1, best, 1.0)
        share = (score.softmax(-1) * chosen).unsqueeze(-1)
        outputs = torch.stack([expert(x) for expert in self.experts], 1)
        return self.head(x + (share * outputs).sum(1))
