"""Why kernel positions that no filter reads stay in a network.

In: groups of filter shapes and which of the dead ones stay. Out: how many stay for which reason.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from secateur.groups.groups import Groups
from secateur.groups.layer import Layer

AMONG = "they lie among positions of their kernels that are read"
READ = "other layers read their channels"
LAST = "one channel stays for a layer to read"
NOT_TRACED = "the groups were made without example inputs, so nothing is cut"


def reasons(groups: Groups, dead: np.ndarray, left: np.ndarray) -> Counter[tuple[str, str]]:
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
        part = slice(layer.start, layer.stop)
        if layer.kind != "shapes" or not left[part].any():
            continue
        if groups.example is None:
            found[layer.name, NOT_TRACED] = int(left[part].sum())
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
