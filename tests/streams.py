"""Small residual streams, one for each way in which people normalise them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Make = Callable[[int], nn.Module]


class Rms(nn.Module):
    """Written by hand, with its eps under any name; scales by offset + weight."""

    def __init__(self, width: int, name: str = "eps", offset: float = 0.0) -> None:
        super().__init__()
        self.weight, self.offset = nn.Parameter(torch.full((width,), 1 - offset)), offset
        self.name = name
        setattr(self, name, 1e-3)

    def forward(self, x: Tensor) -> Tensor:
        variance = x.pow(2).mean(-1, keepdim=True)
        return (self.offset + self.weight) * x * torch.rsqrt(variance + getattr(self, self.name))


class RootMeanSquare(nn.Module):
    """As the paper writes it: eps is added to the root, and there is a shift."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.epsilon = 1e-3

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x / (x.pow(2).mean(-1, keepdim=True).sqrt() + self.epsilon) + self.shift


class Direction(nn.Module):
    """A length instead of a mean: nothing has to make up for zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.scale = nn.Parameter(torch.ones(width)), width**0.5

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * self.scale * self.gamma


class Literal(nn.Module):
    """Its eps is in its code, where nothing can scale it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3)


class Centred(nn.Module):
    """A LayerNorm written by hand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.eps = 1e-3

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        return self.weight * (x - mean) / torch.sqrt(variance + self.eps) + self.bias


class Attention(nn.Module):
    """Four heads of four; `norm` is over the size of a head, for queries and keys."""

    def __init__(self, width: int, norm: Make | None = None) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, 16) for _ in range(3))
        self.o = nn.Linear(16, width)
        self.q_norm = nn.Identity() if norm is None else norm(4)
        self.k_norm = nn.Identity() if norm is None else norm(4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, scale=0.5)
        return self.o(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """An attention and a feed-forward network, normalised before, behind or on both sides."""

    def __init__(self, width: int, norm: Make, where: str, inside: Make | None = None) -> None:
        super().__init__()
        self.where = where
        self.attention = Attention(width, inside)
        self.up, self.down = nn.Linear(width, 24), nn.Linear(24, width)
        self.norms = nn.ModuleList(norm(width) for _ in range(4 if where == "around" else 2))

    def forward(self, x: Tensor) -> Tensor:
        if self.where == "behind":
            x = self.norms[0](x + self.attention(x))
            return self.norms[1](x + self.feed(x))
        if self.where == "around":
            x = x + self.norms[2](self.attention(self.norms[0](x)))
            return x + self.norms[3](self.feed(self.norms[1](x)))
        x = x + self.attention(self.norms[0](x))
        return x + self.feed(self.norms[1](x))

    def feed(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Stream(nn.Module):
    """A small language model whose head may be tied to its embedding."""

    def __init__(
        self,
        norm: Make = nn.RMSNorm,
        where: str = "before",
        *,
        width: int = 12,
        tied: bool = False,
        inside: Make | None = None,
    ) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, width), nn.Embedding(9, width)
        self.blocks = nn.ModuleList(Block(width, norm, where, inside) for _ in range(2))
        self.last = norm(width)
        self.head = nn.Linear(width, 20, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.last(x))


def stream(norm: Make = nn.RMSNorm, where: str = "before", **options: object) -> Stream:
    """A stream whose parameters have no special values."""
    torch.manual_seed(0)
    model = Stream(norm, where, **options)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


TOKENS = torch.arange(14).reshape(2, 7)
