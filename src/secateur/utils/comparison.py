"""How far apart two tensors are: the one measure by which outputs are compared.

In: what was expected and what was found. Out: the largest difference, relative to the scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def relative_difference(expected: Tensor, found: Tensor) -> float:
    """max |expected - found| / max |expected|, in float64.

    Returns:
        The difference; inf where the shapes differ or one is not a number; 0 for empty tensors.
        Equal infinities don't differ, and don't count as scale (a scale of 0 is taken as 1).

    Example:
        >>> relative_difference(torch.tensor([2.0, -torch.inf]), torch.tensor([1.0, -torch.inf]))
        0.5
    """
    if expected.shape != found.shape:
        return math.inf
    if not expected.numel():
        return 0.0
    if expected.device.type == "mps":  # has no float64
        expected, found = expected.cpu(), found.cpu()
    wide = torch.complex128 if expected.is_complex() else torch.float64
    expected, found = expected.to(wide), found.to(expected.device, wide)
    scale = float(torch.where(expected.isfinite(), expected, 0.0).abs().max()) or 1.0
    gap = float(torch.where(expected == found, 0.0, (expected - found).abs()).max()) / scale
    return gap if math.isfinite(gap) else math.inf


def largest_difference(expected: Sequence[Tensor], found: Iterable[Tensor]) -> float:
    """The largest `relative_difference` of all pairs; inf where there are more of one."""
    found = list(found)
    if len(found) != len(expected):
        return math.inf
    return max(map(relative_difference, expected, found), default=0.0)
