"""The groups that were chosen to stay, and the zeros everywhere else.

In: groups and which of them stay. Out: parameters, gradients and optimizer state whose entries in
the other groups are exactly zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.groups import Groups
from secateur.groups.sharded import local


class Support:
    """Holds every group that was not kept at zero.

    Args:
        groups: the groups.
        kept: which of them stay, bool of shape (m,).
    """

    def __init__(self, groups: Groups, kept: np.ndarray) -> None:
        self.kept = kept
        factors = groups.pad(torch.from_numpy(kept))
        masks: dict[int, tuple[Tensor, Tensor]] = {}
        for member in groups.members:
            parameter = member.parameter
            mask = member.spread(factors.to(parameter.device))
            if bool(mask.all()):
                continue
            mask = mask.to(parameter.dtype)
            if id(parameter) in masks:
                mask = mask * masks[id(parameter)][1]
            masks[id(parameter)] = (parameter, mask)
        self.masks = list(masks.values())

    @torch.no_grad()
    def clear_parameters_(self) -> None:
        """Set the parameters of the dead groups to zero."""
        _multiply_([(parameter, mask) for parameter, mask in self.masks])

    @torch.no_grad()
    def clear_gradients_(self) -> None:
        """Set their gradients to zero."""
        _multiply_([(p.grad, mask) for p, mask in self.masks if p.grad is not None])

    @torch.no_grad()
    def clear_state_(self, state: Any) -> None:
        """Set to zero what an optimizer remembers of them, such as momentum."""
        _multiply_(
            [
                (value, mask)
                for parameter, mask in self.masks
                for value in state.get(parameter, {}).values()
                if isinstance(value, Tensor)
                and local(value).shape == local(parameter).shape
                and value.is_floating_point()
            ]
        )


def _multiply_(pairs: list[tuple[Tensor, Tensor]]) -> None:
    if pairs:
        targets, masks = zip(*pairs, strict=True)
        torch._foreach_mul_([local(target) for target in targets], masks)  # pyright: ignore[reportPrivateImportUsage]
