"""What zeros that lie inside weights allow: unread channels, kernel borders, and what stays.

In: a model whose dead groups are zero, and its groups. Out: the indices of tensors that can go
without changing the network, and the dead groups that stay as zeros.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from secateur.groups.groups import Groups

Kept = Mapping[str, Mapping[int, tuple[int, ...]]]  # tensor -> dimension -> the indices kept


def all_zero(coarse: Groups, model: nn.Module, groups: Groups, dead: np.ndarray) -> np.ndarray:
    """Which of the coarse groups are zero in `model`, bool of shape (m,).

    One of a layer stays in any case, besides what the removal of the `dead` groups takes.
    """
    zero = ~coarse.on(model).alive().cpu().numpy()
    gone = _taken(coarse, groups, dead)
    for layer in coarse.layers:
        part = slice(layer.start, layer.stop)
        if (zero | gone)[part].all():
            zero[layer.start + int(gone[part].argmin())] = False
    return zero


def _taken(coarse: Groups, groups: Groups, dead: np.ndarray) -> np.ndarray:
    """Which of the coarse groups are channels that the removal of `dead` groups takes, (m,)."""
    taken = np.zeros(len(coarse) + 1, bool)
    if groups.coupling is not None and coarse.coupling is not None:
        removed = np.append(dead, False)
        for mine, theirs in zip(groups.coupling.slots, coarse.coupling.slots, strict=True):
            for a, b in zip(mine.entries, theirs.entries, strict=True):
                if a is not None and b is not None:
                    taken[b[removed[a]]] = True
    return taken[:-1]


def borders(model: nn.Module, groups: Groups) -> dict[str, dict[int, tuple[int, ...]]]:
    """The kernel positions to keep where a convolution's first and last ones are zero everywhere.

    As many are cut on one side as on the other, and no more than the padding can make up for: the
    output then keeps its size and position, with dilation x cut less padding on either side.
    """
    owners: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner, _, leaf = name.rpartition(".")
        if leaf == "weight":
            owners.setdefault(id(parameter), []).append((name, model.get_submodule(owner)))
    kept: dict[str, dict[int, tuple[int, ...]]] = {}
    for layer in groups.layers:
        if layer.kind == "shapes":
            weight = model.get_parameter(layer.producers[0])
            shared = owners[id(weight)]
            for axis, size in enumerate(weight.shape[2:]):
                cut = min(_outside(weight, axis), *(_room(module, axis) for _, module in shared))
                for name, _ in shared if cut else ():
                    kept.setdefault(name, {})[axis + 2] = tuple(range(cut, size - cut))
    return kept


def _outside(weight: Tensor, axis: int) -> int:
    """How many positions along a kernel's axis are zero everywhere, counted from both ends."""
    taps = weight.detach().movedim(axis + 2, 0).flatten(1).any(1)
    if not bool(taps.any()):
        return 0
    used = taps.nonzero()
    return min(int(used[0]), len(taps) - 1 - int(used[-1]))


def _room(module: nn.Module, axis: int) -> int:
    """By how many positions at each end the kernel may shrink."""
    if not isinstance(module, _ConvNd) or module.padding_mode != "zeros":
        return 0
    if isinstance(module.padding, str):  # "same" follows the kernel by itself, "valid" can't
        return module.kernel_size[axis] if module.padding == "same" else 0
    return int(module.padding[axis]) // module.dilation[axis]


def shrink_kernel(module: _ConvNd, old: tuple[int, ...]) -> None:
    """Let a convolution's sizes follow its weight, whose kernel had the size `old`."""
    new = tuple(module.weight.shape[2:])
    if new == old:
        return
    module.kernel_size = new
    if not isinstance(module.padding, str):
        sizes = zip(module.padding, module.dilation, old, new, strict=True)
        module.padding = tuple(
            int(pad) - dilation * (before - after) // 2 for pad, dilation, before, after in sizes
        )


def staying(groups: Groups, dead: np.ndarray, kept: Kept) -> list[tuple[str, int, str]]:
    """Dead groups that no trace ties to a removable axis and that stay as zeros in `kept`.

    Returns:
        (layers, groups, reason), one entry a kind.
    """
    zeros = np.append(dead & ~tied(groups), False)
    left = np.zeros(len(zeros), bool)
    numbers = torch.arange(len(zeros))
    for member in groups.members if zeros.any() else ():
        inside = member.spread(numbers.to(member.parameter.device))
        for dim, indices in kept.get(member.name, {}).items():
            if inside.shape[dim] > 1:
                inside = inside.index_select(dim, torch.tensor(indices, device=inside.device))
        left[inside.reshape(-1).cpu().numpy()] = True
    left = (left & zeros)[:-1]
    found = []
    for kind in dict.fromkeys(layer.kind for layer in groups.layers):
        counts = {
            layer.name: int(left[layer.start : layer.stop].sum())
            for layer in groups.layers
            if layer.kind == kind
        }
        names = [name for name, count in counts.items() if count]
        if names:
            more = f" and {len(names) - 3} more layers" if len(names) > 3 else ""
            reason = f"{kind} leave zeros in weights that others need, so nothing can be cut there"
            found.append((", ".join(names[:3]) + more, sum(counts.values()), reason))
    return found


def tied(groups: Groups) -> np.ndarray:
    """Which groups the coupling knows, bool of shape (m,)."""
    tied = np.zeros(len(groups) + 1, bool)
    for slot in groups.coupling.slots if groups.coupling else ():
        tied[list(slot.within)] = True
        for entries in slot.entries:
            if entries is not None:
                tied[entries] = True  # -1 marks the last entry, which is cut off
    return tied[:-1]
