"""Who trains which groups: held weakly, so that neither keeps the other nor is copied with it.

In: what trains groups, once it is made. Out: it, for whoever has the groups or their model.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Protocol

from torch import nn

from secateur.groups.groups import Groups


class Trainer(Protocol):
    """What trains groups to a budget."""

    groups: Groups

    @property
    def unchosen(self) -> str:
        """Why the groups to keep are not chosen, such as "step 80 of 1000"; "" where they are."""
        ...


_LIVING: weakref.WeakValueDictionary[int, Trainer] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count()
_TRAINED: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()  # by id


def register(trainer: Trainer) -> None:
    """Remember a trainer for as long as it is there, and that its model had one after that."""
    _LIVING[next(_NUMBERS)] = trainer
    if (model := trainer.groups.model) is not None:
        _TRAINED[id(model)] = model


def trainers() -> list[Trainer]:
    """Those that are still there, the latest first."""
    return list(_LIVING.values())[::-1]


def was_trained(model: nn.Module | None) -> bool:
    """Whether groups of this model had a trainer, which may be gone."""
    return model is not None and _TRAINED.get(id(model)) is model


def trainer_of(groups: Groups | None = None, model: nn.Module | None = None) -> Trainer | None:
    """The latest trainer of these groups, or without them of those that were traced in a model."""
    for trainer in trainers():
        here = trainer.groups if groups is not None else trainer.groups.model
        if here is not None and here is (model if groups is None else groups):
            return trainer
    return None
