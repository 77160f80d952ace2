"""secateur: networks that end, after one training run, at the size the hardware can afford.

Each name is imported when it is first used, so that `secateur --help` need not wait for torch.
"""

from importlib import import_module
from sys import modules
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur import envelope, groups
    from secateur.budget import Budget, Target, profile
    from secateur.deploy import export, load, save
    from secateur.groups import (
        Groups,
        blocks,
        channels,
        custom,
        experts,
        filters,
        heads,
        layers,
        n_of_m,
        neurons,
        shapes,
        weights,
        width,
    )
    from secateur.measure import Footprint, measure
    from secateur.optim import Constant, Homotopy, Proximal
    from secateur.shrink import ShrinkError, shrink

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Constant",
    "Footprint",
    "Groups",
    "Homotopy",
    "Proximal",
    "ShrinkError",
    "Target",
    "blocks",
    "channels",
    "custom",
    "envelope",
    "experts",
    "export",
    "filters",
    "groups",
    "heads",
    "layers",
    "load",
    "measure",
    "n_of_m",
    "neurons",
    "profile",
    "save",
    "shapes",
    "shrink",
    "weights",
    "width",
]

_HOMES = {
    "budget": ["Budget", "Target", "profile"],
    "deploy": ["export", "load", "save"],
    "groups": [
        "Groups",
        "blocks",
        "channels",
        "custom",
        "experts",
        "filters",
        "heads",
        "layers",
        "n_of_m",
        "neurons",
        "shapes",
        "weights",
        "width",
    ],
    "measure": ["Footprint", "measure"],
    "optim": ["Constant", "Homotopy", "Proximal"],
    "shrink": ["ShrinkError", "shrink"],
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from its room, and keep it here."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = import_module(f"{__name__}.{_HOME.get(name, name)}")
    value = getattr(room, name) if name in _HOME else room
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _Package(ModuleType):
    """This module; `measure` and `shrink` are its functions, not the rooms of the same name."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOME and isinstance(value, ModuleType):
            return  # what `import secateur.shrink` does last
        super().__setattr__(name, value)


modules[__name__].__class__ = _Package
