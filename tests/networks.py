"""Small real networks that the tests share, one per pattern that grouping must understand."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LeNet(nn.Module):
    """The 20-50-500 network on 28 x 28 images: 570 groups."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x).relu(), 2)
        x = F.max_pool2d(self.conv2(x).relu(), 2)
        return self.fc2(self.fc1(x.flatten(1)).relu())


class Block(nn.Module):
    """A basic residual block with BatchNorm and a projected shortcut where sizes change."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(y)) + self.shortcut(x)).relu()


class ResNet(nn.Module):
    """A residual network of three stages."""

    def __init__(self, width: int = 8, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.layer1 = Block(width, width, 1)
        self.layer2 = Block(width, 2 * width, 2)
        self.layer3 = Block(2 * width, 4 * width, 2)
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.stem(x)).relu()
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.head(x.mean((2, 3)))


class DenseNet(nn.Module):
    """Concatenation: every layer reads all earlier ones."""

    def __init__(self, growth: int = 6, depth: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 2 * growth, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d((2 + i) * growth) for i in range(depth))
        self.convs = nn.ModuleList(
            nn.Conv2d((2 + i) * growth, growth, 3, padding=1) for i in range(depth)
        )
        self.head = nn.Linear((2 + depth) * growth, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(norm(x).relu())], 1)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class MobileNet(nn.Module):
    """Depthwise convolutions, squeeze and excitation, an inverted residual, Hardswish."""

    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        hidden = 4 * width
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.Hardswish()
        )
        self.expand = nn.Sequential(
            nn.Conv2d(width, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(hidden, hidden // 4, 1),
            nn.ReLU(),
            nn.Conv2d(hidden // 4, hidden, 1),
            nn.Sigmoid(),
        )
        self.project = nn.Sequential(nn.Conv2d(hidden, width, 1, bias=False), nn.BatchNorm2d(width))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.depthwise(self.expand(x))
        y = self.project(y * self.squeeze(y))
        return self.head((x + y).mean((2, 3)))


class Sigmoids(nn.Module):
    """Activations with f(0) != 0: a dead channel leaves a constant behind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.conv2 = nn.Conv2d(8, 12, 3, bias=False)
        self.fc1 = nn.Linear(12, 16)
        self.fc2 = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.conv1(x).sigmoid()).sigmoid().mean((2, 3))
        return self.fc2(F.softplus(self.fc1(x)))


class Transformer(nn.Module):
    """One pre-norm block with self-attention and a feed-forward network on a residual stream."""

    def __init__(self, width: int = 16, heads: int = 4, hidden: int = 48) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(y.transpose(1, 2).reshape(batch, length, width))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


def warm(model: nn.Module, *inputs: Tensor, steps: int = 3) -> nn.Module:
    """Train a few steps on random targets, so that BatchNorm and biases leave their defaults."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        output = model(*(torch.randn_like(x) for x in inputs))
        (output - torch.randn_like(output)).square().mean().backward()
        optimizer.step()
    return model.eval()


# -- one pattern each, small: what grouping must understand, or refuse -----------------------------


def vgg() -> nn.Module:
    """Convolutions with BatchNorm, flattened into linear layers with a spatial repeat."""
    return nn.Sequential(
        *[nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(True), nn.MaxPool2d(2)],
        *[nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(True), nn.MaxPool2d(2)],
        *[nn.Flatten(), nn.Linear(12 * 16, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 10)],
    )


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 with a residual sum; grouped as in ResNeXt, with a layer scale."""

    def __init__(
        self, wide: int, narrow: int, out: int = 0, groups: int = 1, stride: int = 1
    ) -> None:
        super().__init__()
        out = out or wide
        self.conv1 = nn.Conv2d(wide, narrow, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(narrow)
        self.conv3 = nn.Conv2d(narrow, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.shortcut = None
        if stride != 1 or wide != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(wide, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        y += x if self.shortcut is None else self.shortcut(x)
        return y.relu_()


class ResNet50(nn.Module):
    """The ImageNet ResNet-50: 25.6 million parameters, or a narrow one."""

    def __init__(self, width: int = 64, blocks: tuple[int, ...] = (3, 4, 6, 3)) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(True),
            nn.MaxPool2d(3, 2, 1),
        )
        stages, wide = [], width
        for number, depth in enumerate(blocks):
            narrow = width * 2**number
            for index in range(depth):
                stride = 2 if number and not index else 1
                stages.append(Bottleneck(wide, narrow, 4 * narrow, stride=stride))
                wide = 4 * narrow
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(wide, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.stages(self.stem(x)), 1).flatten(1))


class ResNeXt(nn.Module):
    """A grouped convolution inside a bottleneck: whole groups live and die together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = Bottleneck(8, 16, groups=4)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)).mean((2, 3)))


class Shuffle(nn.Module):
    """ShuffleNet v2: one half of the channels waits, both are shuffled."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        half = width // 2
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.branch = nn.Sequential(
            *[nn.Conv2d(half, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU()],
            nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False),
            *[nn.BatchNorm2d(half), nn.Conv2d(half, half, 1, bias=False), nn.BatchNorm2d(half)],
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.stem(x).relu().chunk(2, 1)
        y = torch.cat([a, self.branch(b)], 1)
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(y.mean((2, 3)))


class UNet(nn.Module):
    """Down, up by a transposed convolution, and a skip that is concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.down2 = nn.Sequential(nn.Conv2d(6, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU())
        self.up = nn.ConvTranspose2d(10, 8, 2, 2)
        self.fuse = nn.Sequential(nn.Conv2d(14, 7, 3, padding=1), nn.BatchNorm2d(7), nn.ReLU())
        self.head = nn.Conv2d(7, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down1(x)
        deep = self.up(self.down2(F.max_pool2d(skip, 2)))
        return self.head(self.fuse(torch.cat([deep, skip], 1)))


class SuperResolution(nn.Module):
    """Pixel shuffle: r x r neighbouring channels become one, so they leave together."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 6 * 4, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.conv3 = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.shuffle(self.conv2(self.conv1(x).relu())).relu())


def one_dimensional() -> nn.Module:
    """A 1-d convolution net with PReLU and GroupNorm."""
    return nn.Sequential(
        *[nn.Conv1d(4, 8, 3, padding=1), nn.PReLU(8), nn.Conv1d(8, 12, 3), nn.GroupNorm(4, 12)],
        *[nn.GELU(), nn.Conv1d(12, 6, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 5)],
    )


def three_dimensional() -> nn.Module:
    """A 3-d convolution net with in-place activations."""
    return nn.Sequential(
        *[nn.Conv3d(1, 6, 3, padding=1), nn.BatchNorm3d(6), nn.LeakyReLU(0.1, True)],
        *[nn.MaxPool3d(2), nn.Conv3d(6, 8, 3, padding=1), nn.ReLU(True)],
        *[nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 4)],
    )


class Mixer(nn.Module):
    """MLP-Mixer: linear layers along the patches, then along the channels."""

    def __init__(self, width: int = 10, patches: int = 16, hidden: int = 14) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(
            nn.Linear(patches, hidden), nn.GELU(), nn.Linear(hidden, patches)
        )
        self.channels = nn.Sequential(nn.Linear(width, 24), nn.GELU(), nn.Linear(24, width))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.head(x.mean(1))


class Gated(nn.Module):
    """Feed-forward networks with fused gates: SwiGLU by chunk, and F.glu."""

    def __init__(self, width: int = 6, hidden: int = 16) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * hidden)
        self.down = nn.Linear(hidden, width)
        self.up2 = nn.Linear(width, 2 * hidden, bias=False)
        self.down2 = nn.Linear(hidden, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.up(x).chunk(2, -1)
        x = x + self.down(F.silu(a) * b)
        return self.down2(F.glu(self.up2(x), -1))


class Scaled(nn.Module):
    """A residual branch that is scaled per channel, from a value that hides it (LayerScale)."""

    def __init__(self, scale: float = 1e-6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1 = nn.Conv2d(8, 16, 1)
        self.conv2 = nn.Conv2d(16, 8, 1)
        self.gamma = nn.Parameter(torch.full((8, 1, 1), scale))
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.gamma * self.conv2(F.gelu(self.conv1(x)))
        return self.head(x.mean((2, 3)))


class Twice(nn.Module):
    """One convolution called twice, and two linear layers that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.left, self.right = nn.Linear(8, 6), nn.Linear(8, 6, bias=False)
        self.right.weight = self.left.weight
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.again(self.stem(x).relu()).relu())
        x = x.mean((2, 3))
        return self.head(self.left(x).relu() + self.right(-x).relu())


class Functional(nn.Module):
    """Parameters outside modules, keyword inputs, and a head that the example never reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3, 3, 3) * 0.3)
        self.bias = nn.Parameter(torch.randn(8))
        self.mix = nn.Linear(8, 12)
        self.head = nn.Linear(12, 4)
        self.auxiliary = nn.Linear(12, 4)

    def forward(self, image: Tensor, shift: Tensor, *, train_head: bool = False) -> dict:
        x = F.conv2d(image, self.weight, self.bias, padding=1).relu().mean((2, 3))
        x = self.mix(x + shift).relu()
        return {"logits": self.auxiliary(x) if train_head else self.head(x), "note": "ok"}


def images(*shape: int) -> Tensor:
    """Random images, the same ones each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))
