"""`Chained`: several optimizers, each of its own parameters, that step as one.

In: optimizers, such as Muon for matrices and AdamW for the rest. Out: one optimizer of them all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

STANDARD = ("state", "param_groups")  # what every state_dict of torch.optim has


class Chained(Optimizer):
    """Several optimizers that step as one, in the order given.

    Its param_groups are theirs, one after the other, so that a scheduler reaches them all; its
    state_dict is one, numbered throughout, as if one optimizer had all parameters.

    Args:
        optimizers: of torch.optim or in its style, no parameter in two of them.

    Raises:
        TypeError: something that is not an optimizer, or none.
        ValueError: a parameter that is in two of them.

    Example:
        >>> layer = torch.nn.Linear(2, 2)
        >>> sgd, adamw = torch.optim.SGD([layer.weight], 0.1), torch.optim.AdamW([layer.bias], 1e-3)
        >>> both = Chained(sgd, adamw)
        >>> [group["lr"] for group in both.param_groups]
        [0.1, 0.001]
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> both.step()
        >>> [group["params"] for group in both.state_dict()["param_groups"]]
        [[0], [1]]
    """

    def __init__(self, *optimizers: Optimizer) -> None:
        for optimizer in optimizers:
            if not isinstance(optimizer, Optimizer):
                raise TypeError(
                    f"several optimizers: expected those of torch.optim, got "
                    f"{type(optimizer).__name__}"
                )
        if not optimizers:
            raise TypeError("several optimizers: there are none")
        self.optimizers = optimizers
        super().__setstate__({})  # hooks and profiling, without parameters of its own
        given = [id(parameter) for group in self.param_groups for parameter in group["params"]]
        if len(set(given)) < len(given):
            raise ValueError(
                "several optimizers: a parameter is in two of them, and would be moved twice a step"
            )

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore
        """Take a step with each; a closure is called once, before the first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # pyright: ignore
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @property
    def state(self) -> dict[Tensor, Any]:  # pyright: ignore
        """What they remember of each parameter; a dictionary of its own, with their entries."""
        return {p: entry for optimizer in self.optimizers for p, entry in optimizer.state.items()}

    @property
    def defaults(self) -> dict[str, Any]:  # pyright: ignore
        """What they all have, where they agree."""
        first, *others = (optimizer.defaults for optimizer in self.optimizers)
        return {k: v for k, v in first.items() if all(k in o and o[k] == v for o in others)}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused: add it to one of `optimizers`, which takes part at once."""
        raise ValueError(
            "several optimizers: say which one takes the parameters, "
            "optimizer.optimizers[i].add_param_group(...)"
        )

    def state_dict(self) -> dict[str, Any]:
        """Their state as one; what else a state_dict of theirs holds is kept under "others"."""
        whole: dict[str, Any] = {"state": {}, "param_groups": []}
        others, first = [], 0
        for optimizer in self.optimizers:
            mine = optimizer.state_dict()
            whole["state"] |= {first + number: entry for number, entry in mine["state"].items()}
            for group in mine["param_groups"]:
                numbers = [first + number for number in group["params"]]
                whole["param_groups"].append({**group, "params": numbers})
            others.append({name: mine[name] for name in mine if name not in STANDARD})
            first += sum(len(group["params"]) for group in mine["param_groups"])
        return whole | ({"others": others} if any(others) else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give each its part of a state_dict.

        Raises:
            ValueError: it was taken from optimizers with other parameters; nothing was changed.
        """
        sizes = [len(group["params"]) for group in self.param_groups]
        found = [len(group["params"]) for group in state_dict["param_groups"]]
        others = state_dict.get("others", [{}] * len(self.optimizers))
        if found != sizes or len(others) != len(self.optimizers):
            raise ValueError(
                "this state_dict was taken from optimizers with other parameter groups\n"
                f"  sizes expected {sizes}\n  sizes found    {found}"
            )
        parts = zip(self.optimizers, _split(state_dict, self.optimizers), others, strict=True)
        for optimizer, part, more in parts:
            optimizer.load_state_dict({**more, **part})

    def __getstate__(self) -> dict[str, Any]:
        return {"optimizers": self.optimizers}

    def __repr__(self) -> str:
        return " then ".join(map(repr, self.optimizers))


def parts_of(optimizer: Optimizer) -> Sequence[Optimizer]:
    """The optimizers that an optimizer consists of: itself, or those of a `Chained`."""
    return optimizer.optimizers if isinstance(optimizer, Chained) else (optimizer,)


def wrapped_in(optimizer: Optimizer) -> Iterator[Optimizer]:
    """An optimizer, and all that it steps: its parts, and what a wrapper calls its optimizer."""
    yield optimizer
    inner = getattr(optimizer, "optimizer", None)
    for part in (*parts_of(optimizer), inner):
        if isinstance(part, Optimizer) and part is not optimizer:
            yield from wrapped_in(part)


def _split(state_dict: dict[str, Any], optimizers: Sequence[Optimizer]) -> Iterator[dict[str, Any]]:
    """What belongs to each of the optimizers, numbered as it was."""
    groups = iter(state_dict["param_groups"])
    for optimizer in optimizers:
        mine = list(itertools.islice(groups, len(optimizer.param_groups)))
        numbers = {number for group in mine for number in group["params"]}
        state = {n: entry for n, entry in state_dict["state"].items() if n in numbers}
        yield {"state": state, "param_groups": mine}
