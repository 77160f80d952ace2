"""An equal of nn.MultiheadAttention without its demand that heads x head size is the model's width.

In: an nn.MultiheadAttention. Out: the same module, with the same parameters, as an `Attention`,
whose heads may be fewer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.MultiheadAttention):
    """nn.MultiheadAttention whose number of heads follows from its weights.

    Parameters, arguments and results are those of nn.MultiheadAttention; only the projections may
    be narrower or wider than the model. It is made by `convert`, not by its constructor.

    Example:
        >>> original = nn.MultiheadAttention(8, 2, batch_first=True).eval()
        >>> x = torch.ones(1, 3, 8)
        >>> expected, _ = original(x, x, x)
        >>> found, _ = convert(original)(x, x, x)
        >>> torch.allclose(expected, found, atol=1e-6)
        True
    """

    def forward(  # the signature is that of nn.MultiheadAttention
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal=True is a hint about attn_mask: pass attn_mask too")
        has_batch = query.dim() == 3
        if not has_batch:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._projected(query, key, value)
        mask = self._mask(key_padding_mask, attn_mask, q, k)
        if need_weights:
            y, weights = self._weighted(q, k, v, mask)
            if average_attn_weights:  # a sum, so that heads are free where nobody reads the result
                weights = weights.sum(1) / weights.shape[1]
            weights = weights if has_batch else weights.squeeze(0)
        else:
            dropout = self.dropout if self.training else 0.0
            y, weights = F.scaled_dot_product_attention(q, k, v, mask, dropout), None
        y = self.out_proj(y.transpose(1, 2).flatten(2))
        if not has_batch:
            return y.squeeze(0), weights
        return (y if self.batch_first else y.transpose(0, 1)), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Queries, keys and values by head, each of shape (batch, heads, length, head size)."""
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        inputs = (query, key, value)
        q, k, v = (F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True))
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(len(k), 1, -1)], 1)
            v = torch.cat([v, self.bias_v.expand(len(v), 1, -1)], 1)
        parts = [x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for x in (q, k, v)]
        if self.add_zero_attn:
            parts[1:] = [F.pad(x, (0, 0, 0, 1)) for x in parts[1:]]
        return parts

    def _mask(
        self, padding: Tensor | None, mask: Tensor | None, q: Tensor, k: Tensor
    ) -> Tensor | None:
        """What is added to the scores; broadcasts to (batch, heads, queries, keys)."""
        found = None
        if mask is not None:
            mask = mask.unflatten(0, (len(q), -1)) if mask.dim() == 3 else mask[None, None]
            found = _additive(mask, q.dtype)
        if padding is not None:
            padded = _additive(padding[:, None, None], q.dtype)
            found = padded if found is None else found + padded
        more = 0 if found is None else k.shape[2] - found.shape[3]  # bias_k and add_zero_attn
        return F.pad(found, (0, more)) if found is not None and more else found

    def _weighted(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        scores = (q / math.sqrt(self.head_dim)) @ k.transpose(2, 3)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        weights = F.dropout(weights, self.dropout, self.training)
        return weights @ v, weights


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)


def convert(module: nn.MultiheadAttention) -> Attention:
    """Make an nn.MultiheadAttention an `Attention`, in place; its number of heads is counted."""
    if type(module) not in (nn.MultiheadAttention, Attention):
        raise TypeError(
            f"{type(module).__name__} changes what nn.MultiheadAttention does, so it can't be "
            "replaced by an equal one with fewer heads"
        )
    module.__class__ = Attention
    assert isinstance(module, Attention)
    weight = module.in_proj_weight if module.in_proj_weight is not None else module.q_proj_weight
    rows, columns = weight.shape
    rows = rows // 3 if module.in_proj_weight is not None else rows
    module.num_heads, module.embed_dim = rows // module.head_dim, columns
    module._qkv_same_embed_dim = False  # what keeps torch from its fused path, which wants a width
    return module


def without_fast_path(model: nn.Module) -> None:
    """Keep nn.TransformerEncoder from nested tensors where its attention is an `Attention`."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(
            isinstance(inner, Attention) for inner in module.modules()
        ):
            module.use_nested_tensor = False


@contextmanager
def converted(model: nn.Module) -> Iterator[None]:
    """Every nn.MultiheadAttention computes as an `Attention` inside, and is itself afterwards."""
    found = [module for module in model.modules() if type(module) is nn.MultiheadAttention]
    for module in found:
        module.__class__ = Attention
    try:
        yield
    finally:
        for module in found:
            module.__class__ = nn.MultiheadAttention
