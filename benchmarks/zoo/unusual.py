"""Networks of further kinds, written as their papers draw them, small."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from zoo.entry import entry, random, tokens
from zoo.mobile import classifier, unit


class Ghost(nn.Module):
    """Half of the channels are filtered out of the other half."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.primary = unit(channels, half, activation=nn.ReLU)
        self.cheap = unit(half, half, 3, groups=half, activation=nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        x = self.primary(x)
        return torch.cat([x, self.cheap(x)], 1)


@entry("GhostNet", random(2, 3, 32, 32))
def ghostnet() -> nn.Module:
    """Han et al. 2020."""
    down = nn.MaxPool2d(2)
    return classifier([unit(3, 16, 3), Ghost(16, 32), down, Ghost(32, 48), Ghost(48, 48)], 48)


class Reparameterised(nn.Module):
    """Two convolutions and the identity, each normalised, added up."""

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, width, size, stride, size // 2, bias=False),
                nn.BatchNorm2d(width),
            )
            for size in (3, 1)
        )
        if channels == width and stride == 1:
            self.branches.append(nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([branch(x) for branch in self.branches]).sum(0).relu()


@entry("RepVGG", random(2, 3, 32, 32))
def repvgg() -> nn.Module:
    """Ding et al. 2021, as trained."""
    widths = ((3, 16, 2), (16, 16, 1), (16, 32, 2), (32, 32, 1))
    return classifier([Reparameterised(*sizes) for sizes in widths], 32)


class Fire(nn.Module):
    def __init__(self, channels: int, squeezed: int, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.wide = nn.ModuleList(nn.Conv2d(squeezed, width, k, padding=k // 2) for k in (1, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([layer(x).relu() for layer in self.wide], 1)


@entry("SqueezeNet", random(2, 3, 32, 32))
def squeezenet() -> nn.Module:
    """Iandola et al. 2016."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), Fire(16, 8, 16), Fire(32, 8, 16),
        nn.MaxPool2d(2, ceil_mode=True), Fire(32, 12, 24), nn.Dropout(), nn.Conv2d(48, 10, 1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


@entry("HRNet", random(2, 3, 32, 32))
class HighResolution(nn.Module):
    """Two resolutions side by side that exchange what they see (Wang et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = unit(3, 16, 3, 2), unit(16, 32, 3, 2)
        self.high, self.low = unit(16, 16, 3), unit(32, 32, 3)
        self.up, self.across = nn.Conv2d(32, 16, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.head = nn.Conv2d(48, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        high, low = self.high(x), self.low(self.down(x))
        size = high.shape[2:]
        raised = F.interpolate(self.up(low), size, mode="bilinear")
        high, low = (high + raised).relu(), (low + self.across(high)).relu()
        return self.head(torch.cat([high, F.interpolate(low, size)], 1))


@entry("PointNet", random(4, 3, 20))
class PointNet(nn.Module):
    """A set of points, turned by a matrix that it predicts (Qi et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(nn.Conv1d(3, 24, 1), nn.BatchNorm1d(24), nn.ReLU())
        self.turn = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 9))
        self.points = nn.Sequential(
            nn.Conv1d(3, 24, 1), nn.ReLU(), nn.Conv1d(24, 48, 1), nn.BatchNorm1d(48)
        )
        self.head = nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.turn(self.look(x).amax(2)).view(-1, 3, 3) + torch.eye(3)
        x = (x.transpose(1, 2) @ matrix).transpose(1, 2)
        return self.head(self.points(x).amax(2)).log_softmax(-1)


@entry("WaveNet", random(2, 1, 32))
class WaveNet(nn.Module):
    """Gated causal convolutions, a residual and a skip path (van den Oord et al. 2016)."""

    def __init__(self, width: int = 16, inner: int = 24, skip: int = 20) -> None:
        super().__init__()
        self.start = nn.Conv1d(1, width, 1)
        self.steps = (1, 2, 4)
        self.filters, self.gates = (
            nn.ModuleList(nn.Conv1d(width, inner, 2, dilation=step) for step in self.steps)
            for _ in range(2)
        )
        self.residual = nn.ModuleList(nn.Conv1d(inner, width, 1) for _ in self.steps)
        self.skip = nn.ModuleList(nn.Conv1d(inner, skip, 1) for _ in self.steps)
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(skip, skip, 1), nn.ReLU(),
                                  nn.Conv1d(skip, 8, 1))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.start(x), []
        layers = zip(self.steps, self.filters, self.gates, self.residual, self.skip, strict=True)
        for step, filtered, gate, residual, skip in layers:
            padded = F.pad(x, (step, 0))
            inner = filtered(padded).tanh() * gate(padded).sigmoid()
            skips.append(skip(inner))
            x = x + residual(inner)
        return self.head(torch.stack(skips).sum(0))


class Causal(nn.Module):
    """Two weight-normalised causal convolutions and a shortcut."""

    def __init__(self, channels: int, width: int, step: int) -> None:
        super().__init__()
        self.cut = 2 * step
        self.first, self.second = (
            weight_norm(nn.Conv1d(size, width, 3, padding=self.cut, dilation=step))
            for size in (channels, width)
        )
        self.shortcut = nn.Conv1d(channels, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)[..., : -self.cut].relu()
        y = self.second(y)[..., : -self.cut].relu()
        return (y + self.shortcut(x)).relu()


@entry("TCN, weight norm", random(2, 4, 24))
def tcn() -> nn.Module:
    """Bai et al. 2018."""
    blocks = [Causal(4, 16, 1), Causal(16, 16, 2), Causal(16, 24, 4)]
    return nn.Sequential(*blocks, nn.Conv1d(24, 5, 1))


@entry("CRNN", random(2, 1, 16, 32))
class ConvolutionalRecurrent(nn.Module):
    """Columns of a picture of a word, read by an LSTM (Shi et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Sequential(unit(1, 8, 3), nn.MaxPool2d(2), unit(8, 16, 3), nn.MaxPool2d(2))
        self.read = nn.LSTM(64, 24, bidirectional=True, batch_first=True)
        self.head = nn.Linear(48, 11)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(self.see(x).permute(0, 3, 1, 2).flatten(2))[0])


@entry("VAE", random(4, 40))
class VariationalAutoencoder(nn.Module):
    """Kingma & Welling 2014."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(40, 32)
        self.mean, self.spread = nn.Linear(32, 12), nn.Linear(32, 12)
        self.decoder = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 40), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x).relu()
        mean, spread = self.mean(h), self.spread(h)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return self.decoder(mean + noise * spread.exp()), mean, spread


@entry("NeRF", random(16, 3))
class RadianceField(nn.Module):
    """Mildenhall et al. 2020: the place comes in again halfway."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(27, 32), nn.Linear(32 + 27, 32)
        self.density, self.features = nn.Linear(32, 1), nn.Linear(32, 24)
        self.view, self.colour = nn.Linear(24 + 3, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        waves = [f(x * 2**n) for n in range(4) for f in (torch.sin, torch.cos)]
        place = torch.cat([x, *waves], -1)
        h = self.second(torch.cat([self.first(place).relu(), place], -1)).relu()
        seen = self.view(torch.cat([self.features(h), x], -1)).relu()
        return torch.cat([self.colour(seen).sigmoid(), self.density(h)], -1)


class Sine(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(3 * self.linear(x))


@entry("SIREN", random(16, 2))
def siren() -> nn.Module:
    """Sitzmann et al. 2020."""
    return nn.Sequential(Sine(2, 32), Sine(32, 32), Sine(32, 32), nn.Linear(32, 3))


class Cell(nn.Module):
    """An LSTM's step with convolutions."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.gates = nn.Conv2d(channels + width, 4 * width, 3, padding=1)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, o, g = self.gates(torch.cat([x, h], 1)).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


@entry("ConvLSTM", random(2, 3, 3, 8, 8))
class ConvLSTM(nn.Module):
    """Shi et al. 2015."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = Cell(3, 12), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), self.cell.width, *x.shape[3:])
        for now in x.unbind(1):
            h, c = self.cell(now, h, c)
        return self.head(h)


@entry("Attention U-Net", random(2, 3, 16, 16))
class GatedUNet(nn.Module):
    """What comes from below weighs what comes from the side (Oktay et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.high = nn.Sequential(unit(3, 12, 3), unit(12, 12, 3))
        self.low = nn.Sequential(unit(12, 24, 3), unit(24, 24, 3))
        self.up = nn.ConvTranspose2d(24, 12, 2, 2)
        self.below, self.beside, self.gate = (
            nn.Conv2d(12, 8, 1),
            nn.Conv2d(12, 8, 1),
            nn.Conv2d(8, 1, 1),
        )
        self.join, self.head = unit(24, 12, 3), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.high(x)
        up = self.up(self.low(F.max_pool2d(high, 2)))
        weight = self.gate((self.below(up) + self.beside(high)).relu()).sigmoid()
        return self.head(self.join(torch.cat([up, high * weight], 1)))


@entry("SSD", random(2, 3, 32, 32))
class Boxes(nn.Module):
    """Boxes and classes from two resolutions, the first one normalised (Liu et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(unit(3, 16, 3, 2), unit(16, 32, 3, 2))
        self.second = unit(32, 48, 3, 2)
        self.boxes = nn.ModuleList(nn.Conv2d(width, 16, 3, padding=1) for width in (32, 48))
        self.classes = nn.ModuleList(nn.Conv2d(width, 12, 3, padding=1) for width in (32, 48))
        self.scale = nn.Parameter(torch.full((32, 1, 1), 20.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.first(x)
        maps = (a / (a.square().sum(1, keepdim=True).sqrt() + 1e-6) * self.scale, self.second(a))
        return self.flat(self.boxes, maps, 4), self.flat(self.classes, maps, 3)

    @staticmethod
    def flat(heads: nn.ModuleList, maps: tuple[Tensor, ...], size: int) -> Tensor:
        found = [head(y).permute(0, 2, 3, 1) for head, y in zip(heads, maps, strict=True)]
        return torch.cat([y.reshape(len(y), -1, size) for y in found], 1)


@entry("Res2Net", random(2, 3, 16, 16))
class Scales(nn.Module):
    """Quarters of the channels, each filtered after the one before (Gao et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = unit(3, 32)
        self.inner = nn.ModuleList(unit(8, 8, 3) for _ in range(3))
        self.last = nn.Conv2d(32, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        quarters = self.first(x).chunk(4, 1)
        found = [quarters[0]]
        for layer, quarter in zip(self.inner, quarters[1:], strict=True):
            found.append(layer(quarter + found[-1]))
        return self.last(torch.cat(found, 1)).mean((2, 3))


@entry("Diffusion block", lambda: (random(2, 3, 8, 8)(), torch.tensor([0.1, 0.7])))
class Denoiser(nn.Module):
    """A residual block under group normalisation that is told the time (Ho et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(8, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU())
        self.start, self.end = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(4, 16), nn.GroupNorm(8, 32)
        self.conv1, self.conv2 = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 16, 3, padding=1)
        self.shift = nn.Linear(32, 32)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angles = time[:, None] * 2 ** torch.arange(4)
        when = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        x = self.start(x)
        h = self.conv1(F.silu(self.norm1(x))) + self.shift(when)[:, :, None, None]
        return self.end(F.silu(x + self.conv2(F.silu(self.norm2(h)))))


@entry("GAT", lambda: (random(2, 6, 12)(), torch.ones(2, 6, 6)))
class GraphAttention(nn.Module):
    """Heads that score pairs of nodes by a sum (Velickovic et al. 2018)."""

    def __init__(self, heads: int = 4, size: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(12, heads * size, bias=False)
        self.left, self.right = (nn.Parameter(torch.randn(heads, size)) for _ in range(2))
        self.head = nn.Linear(heads * size, 5)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        z = self.project(x).unflatten(-1, (self.heads, -1))
        left, right = (z * self.left).sum(-1), (z * self.right).sum(-1)
        scores = F.leaky_relu(left[:, :, None] + right[:, None], 0.2)
        weights = scores.masked_fill(adjacency[..., None] == 0, -1e9).softmax(2)
        return self.head(torch.einsum("bijh,bjhd->bihd", weights, z).flatten(2).relu())


@entry("DLRM", lambda: (random(6, 5)(), tokens(6, 3, count=10)()))
class Recommender(nn.Module):
    """Products of embeddings with each other (Naumov et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(10, 8) for _ in range(3))
        self.bottom = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(14, 24), nn.ReLU(), nn.Linear(24, 1))

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        x = self.bottom(dense)
        found = [table(sparse[:, n]) for n, table in enumerate(self.tables)]
        rows = torch.stack([x, *found], 1)
        i, j = torch.tril_indices(4, 4, -1)
        return self.top(torch.cat([x, (rows @ rows.mT)[:, i, j]], 1))


@entry("nn.Transformer", lambda: (tokens(2, 6)(), tokens(2, 5)()))
class Translator(nn.Module):
    """Torch's own encoder and decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 32)
        self.transformer = nn.Transformer(32, 4, 1, 1, 128, batch_first=True)
        self.head = nn.Linear(32, 40)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.head(self.transformer(self.embed(source), self.embed(target)))
