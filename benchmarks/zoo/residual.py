"""Residual networks: basic, bottleneck, pre-activation, grouped and squeeze-and-excite blocks."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.entry import entry, random


def convolution(channels: int, width: int, kernel: int = 3, stride: int = 1, groups: int = 1):
    return nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False)


class Basic(nn.Module):
    """Two 3 x 3 convolutions around a shortcut (He et al. 2016)."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(channels, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = convolution(width, width), nn.BatchNorm2d(width)
        self.shortcut = shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(y)) + self.shortcut(x)).relu()


def shortcut(channels: int, width: int, stride: int) -> nn.Module:
    if channels == width and stride == 1:
        return nn.Identity()
    return nn.Sequential(convolution(channels, width, 1, stride), nn.BatchNorm2d(width))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (in groups: ResNeXt), 1 x 1; with squeeze-and-excite where asked."""

    expansion = 4

    def __init__(
        self, channels: int, width: int, stride: int, groups: int = 1, squeeze: bool = False
    ) -> None:
        super().__init__()
        wide = 4 * width
        self.conv1, self.bn1 = convolution(channels, width, 1), nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride, groups)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = convolution(width, wide, 1), nn.BatchNorm2d(wide)
        self.squeeze = SqueezeExcite(wide) if squeeze else nn.Identity()
        self.shortcut = shortcut(channels, wide, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        return (self.squeeze(self.bn3(self.conv3(y))) + self.shortcut(x)).relu()


class SqueezeExcite(nn.Module):
    """A gate for each channel, computed from the means of all of them (Hu et al. 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, width // 4), nn.Linear(width // 4, width)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.up(self.down(x.mean((2, 3))).relu()).sigmoid()
        return x * gate[:, :, None, None]


class ResNet(nn.Module):
    """A stem, stages of blocks that double the width, the mean over space, a classifier."""

    def __init__(
        self, block: Callable[[int, int, int], nn.Module], expansion: int, repeats: tuple[int, ...],
        width: int = 8,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stem, self.bn = convolution(3, width), nn.BatchNorm2d(width)
        stages, channels = [], width
        for stage, count in enumerate(repeats):
            inner = width * 2**stage
            blocks = []
            for position in range(count):
                stride = 2 if stage and not position else 1
                blocks.append(block(channels, inner, stride))
                channels = inner * expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.bn(self.stem(x)).relu())
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


@entry("ResNet-20", random(2, 3, 32, 32))
def resnet20() -> nn.Module:
    return ResNet(Basic, 1, (3, 3, 3))


@entry("ResNet-56", random(2, 3, 16, 16))
def resnet56() -> nn.Module:
    return ResNet(Basic, 1, (9, 9, 9))


@entry("ResNet-50", random(2, 3, 16, 16))
def resnet50() -> nn.Module:
    return ResNet(Bottleneck, 4, (3, 4, 6, 3))


@entry("ResNeXt", random(2, 3, 32, 32))
def resnext() -> nn.Module:
    """Xie et al. 2017."""
    return ResNet(lambda *sizes: Bottleneck(*sizes, groups=4), 4, (2, 2, 2))


@entry("SE-ResNet", random(2, 3, 32, 32))
def se_resnet() -> nn.Module:
    return ResNet(lambda *sizes: Bottleneck(*sizes, squeeze=True), 4, (2, 2, 2))


class PreActivation(nn.Module):
    """BatchNorm and ReLU come before the convolutions (He et al. 2016, Identity Mappings)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(channels), convolution(channels, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), convolution(width, width)
        same = channels == width and stride == 1
        self.shortcut = None if same else convolution(channels, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(x).relu()
        kept = x if self.shortcut is None else self.shortcut(y)
        return self.conv2(self.bn2(self.conv1(y)).relu()) + kept


@entry("PreActResNet", random(2, 3, 32, 32))
def preactivation() -> nn.Module:
    return ResNet(PreActivation, 1, (2, 2, 2))
