"""The groups that were chosen to stay, and the zeros everywhere else.

In: groups and which of them stay. Out: parameters, gradients and optimizer state whose entries in
the other groups are exactly zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.groups import Groups, Member
from secateur.groups.batched import MemberBatch
from secateur.utils.distributed import local


class Support:
    """Holds every group that was not kept at zero.

    Args:
        groups: the groups.
        kept: which of them stay, bool of shape (m,).
    """

    def __init__(self, groups: Groups, kept: np.ndarray) -> None:
        self.kept = kept
        self._stays = groups.pad(torch.from_numpy(kept.astype(float)))
        self._members = [member for member in groups.members if self._loses(member)]
        self._parameters, self._gradients = MemberBatch(self._members), MemberBatch(self._members)
        self._masks: dict[int, Tensor] = {}

    @torch.no_grad()
    def clear_parameters_(self) -> None:
        """Set the parameters of the dead groups to zero."""
        self._clear_(self._parameters, [member.parameter for member in self._members])

    @torch.no_grad()
    def clear_gradients_(self) -> None:
        """Set their gradients to zero."""
        self._clear_(self._gradients, [member.parameter.grad for member in self._members])

    @torch.no_grad()
    def clear_state_(self, state: Any) -> None:
        """Set to zero what an optimizer remembers of them, such as momentum."""
        owned = [state.get(member.parameter, {}) for member in self._members]
        for name in {name for values in owned for name in values}:
            values = (values.get(name) for values in owned)
            pairs = zip(values, self._members, strict=True)
            tensors = [value if _fits(value, member) else None for value, member in pairs]
            self._clear_(MemberBatch(self._members), tensors)

    def _loses(self, member: Member) -> bool:
        mask = member.spread(self._stays.to(member.parameter.device))
        return not bool(mask.all())

    def _clear_(self, together: MemberBatch, tensors: list[Tensor | None]) -> None:
        left = together.scale_(self._stays[:-1], tensors)
        pairs = [(tensor, self._mask(i)) for i in left if (tensor := tensors[i]) is not None]
        if pairs:
            targets, masks = zip(*pairs, strict=True)
            torch._foreach_mul_([local(target) for target in targets], masks)  # pyright: ignore[reportPrivateImportUsage]

    def _mask(self, position: int) -> Tensor:
        """1 and 0, for what the compiled loops can't read; broadcasts against the parameter."""
        if position not in self._masks:
            parameter = self._members[position].parameter
            mask = self._members[position].spread(self._stays.to(parameter.device))
            self._masks[position] = mask.to(parameter.dtype)
        return self._masks[position]


def _fits(value: Any, member: Member) -> bool:
    """Whether a value of an optimizer's state has an entry for each of the parameter's."""
    return (
        isinstance(value, Tensor)
        and local(value).shape == local(member.parameter).shape
        and value.is_floating_point()
    )
