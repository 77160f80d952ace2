"""Whether a difference is rounding: the same removal, with numbers that round less.

In: a model whose dead groups are zero, and how far the small one was off. Out: whether nothing but
rounding explains that. Deep networks amplify the last digit; a mistake stays as large in float64.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from secateur.groups.groups import Groups
from secateur.surgery.equivalence import TOLERANCE, Narrowed, difference, widened
from secateur.surgery.norms import full_size_norms
from secateur.surgery.removal import Removal, remove


def gap_after(
    model: nn.Module,
    removal: Removal,
    groups: Groups,
    *,
    thorough: bool = False,
    again: bool = True,
) -> float:
    """How far a small model is off, where normalisations that can't follow are at full size."""
    norms = groups.coupling.norms if groups.coupling else ()
    with full_size_norms(removal.model, model, norms, removal.dead, removal.plan.out):
        return difference(model, removal.model, groups.example, thorough=thorough, again=again)


def rounding_explains(
    model: nn.Module, groups: Groups, dead: np.ndarray, found: float, *, thorough: bool = False
) -> bool:
    """Whether the removal is exact in float64, and float32 rounds this model as much.

    Args:
        model: with the dead groups at zero.
        groups: its groups.
        dead: which of them leave, bool of shape (m,).
        found: the difference in float32.
        thorough: whether to compare on other inputs as well.
    """
    if not np.isfinite(found) or found > 0.1:
        return False
    wide = widened(model, groups.example, (torch.float32,), torch.float64)
    if wide is None or not any(p.dtype == torch.float64 for p in wide[0].parameters()):
        return False
    twin, example = wide
    mine = groups.on(twin, example)
    removal = remove(twin, mine, dead, prove=False)
    gap = gap_after(twin, removal, mine, thorough=thorough)
    if gap > TOLERANCE[torch.float64]:
        return False
    return found <= 10 * difference(model, Narrowed(twin), groups.example, thorough=thorough)
