"""What zeros inside weights allow: unread channels, kernel borders; what stays, and why.

In: a model whose dead groups are zero, and its groups. Out: the indices of tensors that can go
without changing the network, and the dead groups that stay as zeros, with the reasons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import nn

from secateur.groups.groups import Groups
from secateur.groups.layer import Layer
from secateur.surgery.conv_kernels import removable

Kept = Mapping[str, Mapping[int, tuple[int, ...]]]  # tensor -> dimension -> the indices kept


def all_zero(coarse: Groups, model: nn.Module, groups: Groups, dead: np.ndarray) -> np.ndarray:
    """Which of the coarse groups are zero in `model`, bool of shape (m,).

    One of a layer stays in any case, besides what the removal of the `dead` groups takes.
    """
    zero = ~coarse.on(model).alive().cpu().numpy()
    gone = _taken(coarse, groups, dead)
    for layer in coarse.layers:
        if (zero | gone)[layer.span].all():
            zero[layer.start + int(gone[layer.span].argmin())] = False
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
    """The kernel positions to keep where a convolution's first or last ones are zero everywhere."""
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
                first, last = removable(weight, axis, [module for _, module in shared])
                for name, _ in shared if first + last else ():
                    kept.setdefault(name, {})[axis + 2] = tuple(range(first, size - last))
    return kept


def staying(groups: Groups, dead: np.ndarray, kept: Kept) -> list[tuple[str, int, str]]:
    """Dead groups that no trace ties to a removable axis and that stay as zeros in `kept`.

    Returns:
        (layers, groups, reason), one entry a kind and reason.
    """
    zeros = np.append(dead & ~tied(groups), False)
    left = np.zeros(len(zeros), bool)
    numbers = torch.arange(len(zeros), device="cpu")
    for member in groups.members if zeros.any() else ():
        inside = member.spread(numbers.to(member.parameter.device))
        for dim, indices in kept.get(member.name, {}).items():
            if inside.shape[dim] > 1:
                inside = inside.index_select(dim, torch.tensor(indices, device=inside.device))
        left[inside.reshape(-1).cpu().numpy()] = True
    left = (left & zeros)[:-1]
    counts: dict[str, dict[str, int]] = {}  # reason -> layer -> how many
    for layer in groups.layers:
        why = f"{layer.kind} leave zeros in weights that others need, so nothing can be cut there"
        if count := int(left[layer.span].sum()) if layer.kind != "shapes" else 0:
            counts.setdefault(why, {})[layer.name] = count
    for (name, reason), count in position_reasons(groups, dead, left).items():
        counts.setdefault(reason, {})[name] = count
    return [(_listed(found), sum(found.values()), reason) for reason, found in counts.items()]


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - 3} more layers" if len(names) > 3 else ""
    return ", ".join(list(names)[:3]) + more


def tied(groups: Groups) -> np.ndarray:
    """Which groups the coupling knows, bool of shape (m,)."""
    tied = np.zeros(len(groups) + 1, bool)
    for slot in groups.coupling.slots if groups.coupling else ():
        for together in slot.within:
            tied[list(together)] = True
        for entries in slot.entries:
            if entries is not None:
                tied[entries] = True  # -1 marks the last entry, which is cut off
    return tied[:-1]


def severed(groups: Groups, dead: np.ndarray) -> str:
    """The layers all of whose groups are dead, where that cuts the network in two; "" if none."""
    gone = dead & tied(groups)
    return _listed(
        [
            layer.name
            for layer in groups.layers
            if layer.kind != "depth"  # the stream goes on without any branch
            and gone[layer.span].all()
        ]
    )


AMONG = "they lie among positions of their kernels that are read"
READ = "other layers read their channels"
LAST = "one channel stays for a layer to read"
NOT_TRACED = "the groups were made without example inputs, so nothing is cut"


def position_reasons(
    groups: Groups, dead: np.ndarray, left: np.ndarray
) -> Counter[tuple[str, str]]:
    """Why groups of filter shapes that are `left` stay.

    Args:
        groups: of any kind; those of the kind "shapes" count.
        dead: which groups are zero, bool of shape (m,).
        left: which of them stay, bool of shape (m,).

    Returns:
        (layer, reason) -> how many.
    """
    found: Counter[tuple[str, str]] = Counter()
    ids = {member.name: member.ids for member in groups.members}
    for layer in groups.layers:
        if layer.kind != "shapes" or not left[layer.span].any():
            continue
        if groups.example is None:
            found[layer.name, NOT_TRACED] = int(left[layer.span].sum())
            continue
        positions = ids[layer.producers[0]]
        dim = 0 if positions.shape[0] > 1 else 1  # transposed convolutions read along the first
        channels = positions.movedim(dim, 0).flatten(1).cpu().numpy()  # (inputs, positions)
        for channel, numbers in enumerate(channels):
            if count := int(left[numbers].sum()):
                unread = dead[numbers].all()
                why = _why_the_channel(groups, layer, dim, channel) if unread else AMONG
                found[layer.name, why] += count
    return found


def _why_the_channel(groups: Groups, layer: Layer, dim: int, channel: int) -> str:
    """Why an input channel of a layer stays although this layer does not read it."""
    coarse = groups.coarse
    if coarse is not None and coarse.coupling is not None:
        for slot in coarse.coupling.slots:
            entries = slot.entries[dim] if layer.producers[0] in slot.names else None
            if entries is not None and entries[channel] >= 0:
                return READ if bool(coarse.alive()[entries[channel]]) else LAST
        for name, _, reason in coarse.refused:
            if name == layer.name:
                return f"their channels can't leave: {reason}"
    return "their channels can't leave (secateur.channels says why)"
