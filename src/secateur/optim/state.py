"""An optimizer around another one: its state_dict carries what is the other's and what is its own.

In: the wrapped optimizer's state_dict and our entry. Out: one state_dict of both, and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from secateur.groups import Groups

NAME = "proximal"
ADVICE = (
    "A run goes on as it began: make the Proximal with what was found. Once its groups are chosen "
    "it may take more steps than were announced. For another run, load the model's state alone, "
    "and begin with a new Proximal"
)


class Wrapper(Optimizer):
    """All of torch.optim's contract but the step: parameters and their state are the other's.

    Who derives from it says what else a state_dict carries (`_own_state`), what of it must be equal
    where it is loaded (`_identity`), and how to go on from there (`_resume`).
    """

    def __init__(self, optimizer: Optimizer, groups: Groups) -> None:
        self.optimizer, self.groups = optimizer, groups
        super().__setstate__({})  # hooks and profiling, without parameters of our own

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # pyright: ignore
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:  # pyright: ignore
        return self.optimizer.state

    @property
    def defaults(self) -> dict[str, Any]:  # pyright: ignore
        return self.optimizer.defaults

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Optimize more parameters; those in no group stay free."""
        self.optimizer.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's state, and ours under "proximal": tensors and plain values."""
        for hook in self._optimizer_state_dict_pre_hooks.values():
            hook(self)
        ours = {**self._identity(), **self._own_state()}
        state = joined(self.optimizer.state_dict(), ours, self.groups.device)
        for hook in self._optimizer_state_dict_post_hooks.values():
            state = hook(self, state) or state
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where a state_dict was taken; the model's own state is loaded separately.

        Raises:
            ValueError: the state comes from another kind of optimizer, other groups, another budget
                or schedule; nothing has been changed.
        """
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = hook(self, state_dict) or state_dict
        ours = ours_in(state_dict)
        if ours is None:
            raise ValueError(
                "this state_dict was not taken from secateur.Proximal (it has no 'proximal' "
                "entry); load it into the wrapped optimizer before wrapping"
            )
        ours, identity = self._completed(ours), self._identity()
        if missing := [name for name in (*identity, *self._own_state()) if name not in ours]:
            raise ValueError(f"this state_dict is damaged: it lacks {', '.join(missing)}")
        for name, expected in identity.items():
            if ours[name] != expected:
                raise ValueError(
                    f"this state_dict was taken from a Proximal with other {name}\n"
                    f"  expected {expected}\n  found    {ours[name]}\n{ADVICE}"
                )
        self.optimizer.load_state_dict(theirs_in(state_dict))
        self._resume(ours)
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    def _identity(self) -> dict[str, Any]:
        """What must be equal here and where a state comes from."""
        raise NotImplementedError

    def _completed(self, ours: dict[str, Any]) -> dict[str, Any]:
        """An entry with what earlier versions left out."""
        return ours

    def _own_state(self) -> dict[str, Any]:
        """Where training stands, beside what the wrapped optimizer remembers."""
        raise NotImplementedError

    def _resume(self, ours: dict[str, Any]) -> None:
        """Go on from `_own_state` of another."""
        raise NotImplementedError


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
    empty: dict[str, Any] = {"learned": {}, "statistics": {}}  # which may have been dropped
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
