"""Networks for small devices: depthwise convolutions, inverted residuals, channel shuffles."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.entry import entry, random


def unit(
    channels: int, width: int, kernel: int = 1, stride: int = 1, groups: int = 1,
    activation: type[nn.Module] = nn.ReLU6,
) -> nn.Sequential:  # fmt: skip
    """Convolution, BatchNorm, activation."""
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(width),
        activation(),
    )


def classifier(features: list[nn.Module], width: int) -> nn.Module:
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2)]
    return nn.Sequential(*features, *pool, nn.Linear(width, 10))


@entry("MobileNetV1", random(2, 3, 32, 32))
def mobilenet_v1() -> nn.Module:
    """Howard et al. 2017."""
    layers: list[nn.Module] = [unit(3, 8, 3, 2, activation=nn.ReLU)]
    channels = 8
    for width, stride in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        layers += [
            unit(channels, channels, 3, stride, channels, nn.ReLU),
            unit(channels, width, activation=nn.ReLU),
        ]
        channels = width
    return classifier(layers, channels)


class Gate(nn.Module):
    """Squeeze-and-excite by 1 x 1 convolutions."""

    def __init__(self, width: int, squeezed: int, activation: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)
        self.activation, self.gate = activation, gate

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.activation(self.down(x.mean((2, 3), keepdim=True)))
        return x * self.gate(self.up(squeezed))


class InvertedResidual(nn.Module):
    """Widen, filter each channel, gate, narrow; with a shortcut where sizes allow."""

    def __init__(
        self, channels: int, width: int, *, expand: int, stride: int = 1, kernel: int = 3,
        activation: type[nn.Module] = nn.ReLU6, gate: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        inner = channels * expand
        layers: list[nn.Module] = [unit(channels, inner, activation=activation)] * (expand > 1)
        layers.append(unit(inner, inner, kernel, stride, inner, activation))
        if gate is not None:
            layers.append(Gate(inner, max(4, inner // 4), activation(), gate))
        layers += [nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)]
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


@entry("MobileNetV2", random(2, 3, 32, 32))
def mobilenet_v2() -> nn.Module:
    """Sandler et al. 2018."""
    layers: list[nn.Module] = [unit(3, 8, 3, 2), InvertedResidual(8, 8, expand=1)]
    channels = 8
    for width, stride, repeats in ((12, 2, 2), (16, 2, 3), (24, 1, 2)):
        for position in range(repeats):
            step = stride if position == 0 else 1
            layers.append(InvertedResidual(channels, width, expand=6, stride=step))
            channels = width
    return classifier([*layers, unit(channels, 64)], 64)


@entry("MobileNetV3", random(2, 3, 32, 32))
def mobilenet_v3() -> nn.Module:
    """Howard et al. 2019: hard swish, gates of hard sigmoids."""
    layers: list[nn.Module] = [unit(3, 8, 3, 2, activation=nn.Hardswish)]
    channels = 8
    for width, kernel, stride, gated, activation in (
        (8, 3, 1, True, nn.ReLU),
        (12, 3, 2, False, nn.ReLU),
        (12, 5, 1, True, nn.Hardswish),
        (16, 5, 2, True, nn.Hardswish),
        (16, 5, 1, True, nn.Hardswish),
    ):
        layers.append(
            InvertedResidual(
                channels,
                width,
                expand=4,
                stride=stride,
                kernel=kernel,
                activation=activation,
                gate=nn.Hardsigmoid() if gated else None,
            )
        )
        channels = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 80), nn.Hardswish()]
    last = unit(channels, 64, activation=nn.Hardswish)
    return nn.Sequential(*layers, last, *head, nn.Dropout(0.2), nn.Linear(80, 10))


@entry("EfficientNet", random(2, 3, 32, 32))
def efficientnet() -> nn.Module:
    """Tan and Le 2019: MobileNetV2 with gates and SiLU."""
    layers: list[nn.Module] = [unit(3, 8, 3, 2, activation=nn.SiLU)]
    channels = 8
    for width, expand, kernel, stride, repeats in (
        (8, 1, 3, 1, 1), (12, 6, 3, 2, 2), (16, 6, 5, 2, 2), (24, 6, 3, 1, 1),
    ):  # fmt: skip
        for position in range(repeats):
            layers.append(
                InvertedResidual(
                    channels,
                    width,
                    expand=expand,
                    stride=1 if position else stride,
                    kernel=kernel,
                    activation=nn.SiLU,
                    gate=nn.Sigmoid(),
                )
            )
            channels = width
    return classifier([*layers, unit(channels, 64, activation=nn.SiLU)], 64)


class ShuffleUnit(nn.Module):
    """One half of the channels passes, the other is convolved; then both are shuffled."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        half = width // 2
        self.splits = stride == 1
        inside = half if self.splits else channels
        self.branch = nn.Sequential(
            unit(inside, half, activation=nn.ReLU),
            nn.Conv2d(half, half, 3, stride, 1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            unit(half, half, activation=nn.ReLU),
        )
        self.other = nn.Sequential(
            nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            unit(channels, half, activation=nn.ReLU),
        )
        if self.splits:
            self.other = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1) if self.splits else (x, x)
        y = torch.cat([self.other(left), self.branch(right)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


@entry("ShuffleNetV2", random(2, 3, 32, 32))
def shufflenet_v2() -> nn.Module:
    """Ma et al. 2018."""
    layers: list[nn.Module] = [unit(3, 16, 3, 2, activation=nn.ReLU)]
    channels = 16
    for width, repeats in ((32, 2), (64, 2)):
        for position in range(repeats):
            layers.append(ShuffleUnit(channels, width, 1 if position else 2))
            channels = width
    return classifier([*layers, unit(channels, 64, activation=nn.ReLU)], 64)
