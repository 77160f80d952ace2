"""Networks whose output is an image or a map: segmentation, super-resolution, detection."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.entry import entry, random


def double(channels: int, width: int) -> nn.Sequential:
    """Two 3 x 3 convolutions with BatchNorm and ReLU."""
    layers: list[nn.Module] = []
    for inside in (channels, width):
        layers += [nn.Conv2d(inside, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


@entry("U-Net", random(2, 3, 32, 32))
class UNet(nn.Module):
    """Ronneberger et al. 2015: what went down is concatenated on the way up."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down = nn.ModuleList([double(3, width), double(width, 2 * width)])
        self.bottom = double(2 * width, 4 * width)
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(s * width, s * width // 2, 2, 2) for s in (4, 2)]
        )
        self.merge = nn.ModuleList([double(s * width, s * width // 2) for s in (4, 2)])
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for block in self.down:
            kept.append(block(x))
            x = F.max_pool2d(kept[-1], 2)
        x = self.bottom(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([kept.pop(), up(x)], 1))
        return self.head(x)


class CascadingBlock(nn.Module):
    """Each 1 x 1 convolution reads everything before it (Ahn et al. 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([ResidualUnit(width) for _ in range(3)])
        self.joins = nn.ModuleList([nn.Conv2d((n + 2) * width, width, 1) for n in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        gathered, out = x, x
        for block, join in zip(self.blocks, self.joins, strict=True):
            gathered = torch.cat([gathered, block(out)], 1)
            out = join(gathered).relu()
        return out


class ResidualUnit(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x).relu()) + x).relu()


@entry("CARN", random(2, 3, 12, 12))
class CARN(nn.Module):
    """Super-resolution by cascading blocks and a pixel shuffle."""

    def __init__(self, width: int = 16, scale: int = 2) -> None:
        super().__init__()
        self.entry = nn.Conv2d(3, width, 3, padding=1)
        self.body = CascadingBlock(width)
        self.up = nn.Conv2d(width, width * scale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)
        self.exit = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.exit(self.shuffle(self.up(self.body(self.entry(x))).relu()))


def silu(channels: int, width: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.SiLU())


class C2f(nn.Module):
    """Half of the channels runs through bottlenecks; all stages are concatenated."""

    def __init__(self, channels: int, width: int, repeats: int = 1, adds: bool = True) -> None:
        super().__init__()
        self.half, self.adds = width // 2, adds
        self.cv1 = silu(channels, width)
        self.cv2 = silu((2 + repeats) * self.half, width)
        self.blocks = nn.ModuleList(
            [nn.Sequential(silu(self.half, self.half, 3), silu(self.half, self.half, 3))
             for _ in range(repeats)]
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        stages = list(self.cv1(x).split((self.half, self.half), 1))
        for block in self.blocks:
            y = block(stages[-1])
            stages.append(stages[-1] + y if self.adds else y)
        return self.cv2(torch.cat(stages, 1))


class PyramidPooling(nn.Module):
    """Three poolings of the same map, one after the other, side by side (SPPF)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = silu(width, width // 2), silu(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        stages = [self.cv1(x)]
        for _ in range(3):
            stages.append(F.max_pool2d(stages[-1], 5, 1, 2))
        return self.cv2(torch.cat(stages, 1))


class Detect(nn.Module):
    """Boxes and classes of one scale, by two branches."""

    def __init__(self, channels: int, classes: int, bins: int = 4) -> None:
        super().__init__()
        self.box = nn.Sequential(silu(channels, 16, 3), nn.Conv2d(16, 4 * bins, 1))
        self.kind = nn.Sequential(silu(channels, 16, 3), nn.Conv2d(16, classes, 1))
        self.register_buffer("bins", torch.arange(bins).float())
        self.bins: Tensor

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        share = self.box(x).view(n, 4, -1, h * w).softmax(2)
        distance = (share * self.bins[:, None]).sum(2)  # the expected bin of each side
        return torch.cat([distance, self.kind(x).view(n, -1, h * w).sigmoid()], 1)


@entry("YOLO with C2f", random(2, 3, 64, 64))
class YOLO(nn.Module):
    """A backbone, a pyramid up and down again, and three heads."""

    def __init__(self, width: int = 8, classes: int = 5) -> None:
        super().__init__()
        w1, w2, w3, w4 = width, 2 * width, 4 * width, 8 * width
        self.stem = nn.Sequential(silu(3, w1, 3, 2), silu(w1, w2, 3, 2), C2f(w2, w2))
        self.p3 = nn.Sequential(silu(w2, w3, 3, 2), C2f(w3, w3, 2))
        self.p4 = nn.Sequential(silu(w3, w3, 3, 2), C2f(w3, w3, 2))
        self.p5 = nn.Sequential(silu(w3, w4, 3, 2), C2f(w4, w4), PyramidPooling(w4))
        self.up4, self.up3 = C2f(w4 + w3, w3, adds=False), C2f(2 * w3, w2, adds=False)
        self.down3, self.down4 = silu(w2, w2, 3, 2), silu(w3, w3, 3, 2)
        self.out4, self.out5 = C2f(w2 + w3, w3, adds=False), C2f(w3 + w4, w4, adds=False)
        self.heads = nn.ModuleList([Detect(w, classes) for w in (w2, w3, w4)])

    def forward(self, x: Tensor) -> Tensor:
        p3 = self.p3(self.stem(x))
        p4 = self.p4(p3)
        p5 = self.p5(p4)
        m4 = self.up4(torch.cat([F.interpolate(p5, scale_factor=2.0), p4], 1))
        m3 = self.up3(torch.cat([F.interpolate(m4, scale_factor=2.0), p3], 1))
        m4 = self.out4(torch.cat([self.down3(m3), m4], 1))
        m5 = self.out5(torch.cat([self.down4(m4), p5], 1))
        maps = (m3, m4, m5)
        return torch.cat([head(m) for head, m in zip(self.heads, maps, strict=True)], 2)


@entry("Autoencoder", random(2, 1, 28, 28))
def autoencoder() -> nn.Module:
    """Convolutions down to a code and transposed convolutions back."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 49, 32), nn.ReLU(), nn.Linear(32, 16 * 49), nn.ReLU(),
        nn.Unflatten(1, (16, 7, 7)),
        nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 1, 4, 2, 1),
        nn.Sigmoid(),
    )  # fmt: skip
