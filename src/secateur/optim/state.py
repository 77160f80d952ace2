"""Where a state_dict carries what belongs to `Proximal` itself.

In: the wrapped optimizer's state_dict and our entry. Out: one state_dict of both, and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

NAME = "proximal"


def joined(theirs: Mapping[str, Any], ours: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The wrapped optimizer's state_dict, and ours under "proximal".

    It lies in the first of param_groups, too, beside the parameters: of a state_dict,
    torch.distributed.checkpoint keeps "state" and "param_groups" only, on one device.
    """
    beside = tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, ours)
    first, *others = theirs["param_groups"]
    return {**theirs, "param_groups": [{**first, NAME: beside}, *others], NAME: ours}


def ours_in(state_dict: Mapping[str, Any]) -> dict[str, Any] | None:
    """Our entry, wherever it lies; None where there is none."""
    places = [state_dict, *state_dict.get("param_groups", ())]
    found = next((place[NAME] for place in places if NAME in place), None)
    empty: dict[str, Any] = {"weighting": {}, "statistics": {}}  # which may have been dropped
    return None if found is None else {**empty, **found}


def theirs_in(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The state_dict of the wrapped optimizer: everything but our entry."""
    theirs = {name: value for name, value in state_dict.items() if name != NAME}
    if "param_groups" in theirs:
        theirs["param_groups"] = [
            {name: value for name, value in group.items() if name != NAME}
            for group in theirs["param_groups"]
        ]
    return theirs
