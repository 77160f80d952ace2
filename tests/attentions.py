"""Small attention modules, one for each way in which people write them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Stream(nn.Module):
    """A residual stream around any attention and a feed-forward network."""

    def __init__(self, attention: nn.Module, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Linear(6, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = attention
        self.up, self.down = nn.Linear(width, 24), nn.Linear(24, width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attention(self.norm1(x))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


class Separate(nn.Module):
    """Three layers, sizes as attributes, a bias on none, softmax by hand."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.num_heads, self.all_head_size = heads, width
        self.q, self.k, self.v = (nn.Linear(width, width, bias=i > 0) for i in range(3))
        self.o = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.num_heads, -1)) for f in (self.q, self.k, self.v))
        scores = torch.einsum("blhd,bmhd->bhlm", q, k) / 2
        y = torch.einsum("bhlm,bmhd->blhd", scores.softmax(-1), v)
        return self.o(y.reshape(*x.shape[:2], self.all_head_size))


class Fused(nn.Module):
    """One layer for all three, and a reshape to the width of the input."""

    def __init__(self, width: int = 16, heads: int = 4, order: str = "3hd") -> None:
        super().__init__()
        self.heads, self.order = heads, order
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x)
        if self.order == "3hd":
            parts = qkv.reshape(batch, length, 3, self.heads, width // self.heads)
            q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        elif self.order == "h3d":
            q, k, v = qkv.view(batch, length, self.heads, -1).transpose(1, 2).chunk(3, -1)
        else:
            parts = qkv.chunk(3, -1)
            q, k, v = (p.view(batch, length, 4, 4).transpose(1, 2) for p in parts)  # literally
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(batch, length, width))


class Grouped(nn.Module):
    """Several query heads for each key/value head, with query norms and rotary positions."""

    def __init__(self, heads: int = 8, kv_heads: int = 4, size: int = 4, width: int = 16) -> None:
        super().__init__()
        self.size, self.n_rep = size, heads // kv_heads
        self.q = nn.Linear(width, heads * size)
        self.k = nn.Linear(width, kv_heads * size)
        self.v = nn.Linear(width, kv_heads * size)
        self.o = nn.Linear(heads * size, width)
        self.scale = nn.Parameter(torch.rand(size))

    def turn(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[2]).reshape(-1, 1) / 5
        a, b = x[..., : self.size // 2], x[..., self.size // 2 :]
        return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).unflatten(-1, (-1, self.size)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        q = self.turn(q * (q.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * self.scale)
        k, v = (y.repeat_interleave(self.n_rep, 1) for y in (self.turn(k), v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Packed(nn.Module):
    """Queries, keys and values of unequal widths in one layer."""

    def __init__(self, heads: int = 4, kv_heads: int = 2, size: int = 4, width: int = 16) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.size = heads, kv_heads, size
        self.qkv = nn.Linear(width, (heads + 2 * kv_heads) * size)
        self.o = nn.Linear(heads * size, width)

    def forward(self, x: Tensor) -> Tensor:
        sizes = [n * self.size for n in (self.num_heads, self.num_kv_heads, self.num_kv_heads)]
        parts = self.qkv(x).split(sizes, -1)
        q, k, v = (y.unflatten(-1, (-1, self.size)).transpose(1, 2) for y in parts)
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.o(y.transpose(1, 2).flatten(2))


class ByGroup(nn.Module):
    """Queries, keys and values of one group behind one another, group by group."""

    def __init__(self, groups: int = 2, queries: int = 2, size: int = 4, width: int = 16) -> None:
        super().__init__()
        self.num_kv_heads, self.queries, self.size = groups, queries, size
        self.qkv = nn.Linear(width, groups * (queries + 2) * size)
        self.o = nn.Linear(groups * queries * size, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.qkv(x).unflatten(-1, (-1, self.queries + 2, self.size))
        q, k, v = y[..., :-2, :], y[..., [-2], :], y[..., [-1], :]
        q, k, v = (part.expand(q.shape).flatten(2, 3).transpose(1, 2) for part in (q, k, v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Relative(nn.Module):
    """Keys of relative positions, which every head makes of weights alone; one copy a row."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.num_heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.places = nn.Parameter(torch.randn(7, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, places = map(self.split, (self.q(x), self.k(x), self.v(x), self.k(self.places)))
        scores = q @ k.mT + q @ places.repeat(len(x), 1, 1).mT
        hidden = (torch.arange(7) > torch.arange(7)[:, None]).expand(scores.shape)
        y = scores.masked_fill(hidden, -9.0).softmax(-1) @ v
        return self.o(y.unflatten(0, (len(x), -1)).transpose(1, 2).flatten(2))

    def split(self, x: Tensor) -> Tensor:
        x = x.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)
        return x.flatten(0, 1) if x.ndim > 3 else x


class Blocks(nn.Module):
    """Weights of three dimensions (inputs, heads, size), and einsum."""

    def __init__(self, width: int = 16, heads: int = 4, size: int = 6) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (
            nn.Parameter(torch.randn(width, heads, size) / 4) for _ in range(4)
        )
        self.shift = nn.Parameter(torch.randn(heads, size))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bld,dhs->blhs", x, w) for w in (self.q, self.k, self.v))
        scores = torch.einsum("blhs,bmhs->bhlm", q + self.shift, k).softmax(-1)
        return torch.einsum("blhs,dhs->bld", torch.einsum("bhlm,bmhs->blhs", scores, v), self.o)


class Shared(nn.Module):
    """Keys of which all heads share a part (latent attention)."""

    def __init__(self, width: int = 16, heads: int = 4, own: int = 4, shared: int = 2) -> None:
        super().__init__()
        self.num_heads, self.own, self.shared = heads, own, shared
        self.q = nn.Linear(width, heads * (own + shared))
        self.k, self.v = nn.Linear(width, heads * own), nn.Linear(width, heads * own)
        self.turned, self.o = nn.Linear(width, shared), nn.Linear(heads * own, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )
        turned = self.turned(x)[:, None].expand(-1, self.num_heads, -1, -1)
        k = torch.cat([k, turned], -1)
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Turned(nn.Module):
    """Turns as many dimensions of a head as there are heads: two numbers that mean other things."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.num_heads, self.turned = heads, heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        size = (*x.shape[:2], self.num_heads, -1)
        q, k, v = (f(x).view(size).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = (
            torch.cat([y[..., : self.turned].flip(-2), y[..., self.turned :]], -1) for y in (q, k)
        )
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Own(nn.Module):
    """nn.MultiheadAttention, as most people call it."""

    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(16, 4, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x)[0]


ATTENTIONS = {
    "separate": (Separate, 4),
    "fused": (Fused, 4),
    "fused by head": (lambda: Fused(order="h3d"), 4),
    "fused, sizes in the code": (lambda: Fused(order="literal"), 4),
    "grouped queries": (Grouped, 4),
    "one key/value head": (lambda: Grouped(4, 1), 4),
    "packed groups": (Packed, 2),
    "packed group by group": (ByGroup, 2),
    "keys of relative positions": (Relative, 4),
    "weights of three dimensions": (Blocks, 4),
    "a part of the keys shared": (Shared, 4),
    "as many turned dimensions as heads": (Turned, 2),
    "torch": (Own, 4),
    "torch, extra keys": (lambda: Own(add_bias_kv=True), 4),
}
