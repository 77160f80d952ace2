"""Filter shapes: the same position in every filter of a convolution."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_map

from secateur.groups.admission import admitted
from secateur.groups.channels import channels
from secateur.groups.eligible import zeros_in_place
from secateur.groups.groups import Groups
from secateur.groups.members import Member
from secateur.groups.select import Ignore


def shapes(
    model: nn.Module,
    example: Any = None,
    *,
    ignore: Ignore | str | nn.Module | type[nn.Module] = (),
) -> Groups:
    """Group each position of a convolution's kernel over all of its filters.

    A group is weight[:, i, y, x], the elements that read one position of one input channel in every
    filter (weight[i, :, y, x] in a transposed convolution). It is dead when all of these are zero:
    the position is never read. What then is removed, always exactly:

    - an input channel none of whose positions is read, by this and every other layer that reads it,
      goes with what makes it (as in `channels`);
    - the first and last rows or columns of a kernel that are zero everywhere go, and with each one
      `dilation` of the padding on its side: the output stays where it is. The two sides may lose
      different numbers; where that is more than the padding, the input is cropped. Padding that
      isn't zeros can't make up for more than there is of it, and a transposed convolution only for
      what its output padding allows (kernels.py): there the rest stays.

    All other dead positions stay as zeros, and `shrink` says how many. A budget counts positions:
    `Budget(groups=0.5)`.

    Args:
        model: any module.
        example: inputs on which the model runs once, in eval mode; without them nothing is removed.
        ignore: names, modules or module types whose kernels stay as they are.

    Returns:
        One group a position, one layer a convolution.

    Raises:
        ValueError: an unknown name in `ignore`, or the model has no convolution.

    Example:
        >>> import secateur as sc
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten())
        >>> groups = shapes(model, torch.ones(1, 1, 8, 8))
        >>> _ = groups.scale_(torch.tensor([0.0, 0, 0, 1, 1, 1, 0, 0, 0]))  # the middle row
        >>> sc.shrink(model, groups)[0]
        Conv2d(1, 4, kernel_size=(1, 3), stride=(1, 1), padding=(0, 1))
    """
    model = admitted(model)
    owners = dict(model.named_modules())

    def member(name: str, weight: nn.Parameter, start: int) -> Member | None:
        owner = owners[name.rpartition(".")[0]]
        if not isinstance(owner, _ConvNd):
            return None
        filters = 1 if owner.transposed else 0
        sizes = [1 if dim == filters else size for dim, size in enumerate(weight.shape)]
        count = weight.numel() // weight.shape[filters]
        ids = torch.arange(start, start + count, device="cpu").reshape(sizes)
        return Member(name, weight, ids)

    groups = zeros_in_place(model, ignore, kind="shapes", member=member)
    if example is None:
        return groups
    kept = tree_map(lambda x: x.detach().clone() if isinstance(x, torch.Tensor) else x, example)
    return replace(groups, example=kept, coarse=_channels(model, example))


def _channels(model: nn.Module, example: Any) -> Groups | None:
    """The channels that can go when nothing reads them; None if all of them have to stay."""
    try:
        return channels(model, example)
    except ValueError:
        return None
