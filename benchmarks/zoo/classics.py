"""Plain and concatenating convolutional networks, small and from their papers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.entry import entry, random


@entry("LeNet", random(2, 1, 28, 28))
class LeNet(nn.Module):
    """LeCun et al. 1998, with ReLU and max pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x).relu(), 2)
        x = F.max_pool2d(self.conv2(x).relu(), 2)
        x = self.fc1(x.flatten(1)).relu()
        return self.fc3(self.fc2(x).relu())


@entry("VGG16-BN", random(2, 3, 32, 32))
def vgg16() -> nn.Module:
    """Simonyan and Zisserman 2014, with BatchNorm and a classifier of two hidden layers."""
    layers: list[nn.Module] = []
    channels = 3
    for repeats, width in ((2, 8), (2, 16), (3, 24), (3, 32), (3, 32)):
        for _ in range(repeats):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    hidden = [nn.Linear(channels, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), *hidden, nn.Dropout(), nn.Linear(64, 10))


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, 1 x 1, BatchNorm, ReLU, 3 x 3; the result joins its input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(self.norm1(x).relu())
        return torch.cat([x, self.conv2(self.norm2(new).relu())], 1)


@entry("DenseNet", random(2, 3, 32, 32))
class DenseNet(nn.Module):
    """Huang et al. 2017, with bottlenecks and compressing transitions."""

    def __init__(self, growth: int = 8, repeats: tuple[int, ...] = (3, 4, 3)) -> None:
        super().__init__()
        channels = 2 * growth
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
        for stage, count in enumerate(repeats):
            for _ in range(count):
                layers.append(DenseLayer(channels, growth))
                channels += growth
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            if stage < len(repeats) - 1:
                layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
                channels //= 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


def unit(
    channels: int, width: int, kernel: int | tuple[int, int] = 1, stride: int = 1
) -> nn.Module:
    """Convolution, BatchNorm, ReLU; the size stays."""
    sizes = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (sizes[0] // 2, sizes[1] // 2)
    convolution = nn.Conv2d(channels, width, sizes, stride, padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())


class InceptionBlock(nn.Module):
    """Four branches side by side: 1 x 1, 3 x 3, factorised 5 x 5, and pooling."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.one = unit(channels, width)
        self.three = nn.Sequential(unit(channels, width), unit(width, 2 * width, 3))
        self.five = nn.Sequential(
            unit(channels, width), unit(width, width, (1, 5)), unit(width, width, (5, 1))
        )
        self.pool = nn.Sequential(nn.AvgPool2d(3, 1, 1), unit(channels, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


@entry("Inception", random(2, 3, 32, 32))
def inception() -> nn.Module:
    """Szegedy et al. 2015, with BatchNorm."""
    return nn.Sequential(
        unit(3, 16, 3), nn.MaxPool2d(2),
        InceptionBlock(16, 8), InceptionBlock(40, 8), nn.MaxPool2d(2), InceptionBlock(40, 12),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(60, 10),
    )  # fmt: skip
