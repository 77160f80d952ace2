"""secateur: networks that end, after one training run, at the size the hardware can afford.

Each name is imported when it is first used, so that `secateur --help` need not wait for torch. The
rooms behind the names (`secateur.optim`, `secateur.envelope` ...) are imported likewise.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur import (  # noqa: F401
        budget,
        commands,
        costs,
        deploy,
        envelope,
        groups,
        integrations,
        kernels,
        kinds,
        measurement,
        optim,
        report,
        runtimes,
        shrinking,
        surgery,
        tracing,
        train,
        utils,
    )
    from secateur.budget import Budget, LatencyTarget, reachable
    from secateur.costs import LatencyTable, profile
    from secateur.deploy import export, from_pretrained, load, save
    from secateur.groups import Groups
    from secateur.kinds import (
        blocks,
        channels,
        custom,
        depth,
        experts,
        filters,
        heads,
        n_of_m,
        neurons,
        shapes,
        weights,
        width,
    )
    from secateur.measurement import Footprint, measure
    from secateur.optim import Constant, Homotopy, Proximal
    from secateur.shrinking import ShrinkError, recalibrate, refit, shrink
    from secateur.surgery import Plan
    from secateur.tracing import trace

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Constant",
    "Footprint",
    "Groups",
    "Homotopy",
    "LatencyTable",
    "LatencyTarget",
    "Plan",
    "Proximal",
    "ShrinkError",
    "blocks",
    "channels",
    "custom",
    "depth",
    "envelope",
    "experts",
    "export",
    "filters",
    "from_pretrained",
    "groups",
    "heads",
    "load",
    "measure",
    "n_of_m",
    "neurons",
    "profile",
    "reachable",
    "recalibrate",
    "refit",
    "save",
    "shapes",
    "shrink",
    "trace",
    "weights",
    "width",
]

_NAMES = {
    "budget": ["Budget", "LatencyTarget", "reachable"],
    "costs": ["LatencyTable", "profile"],
    "deploy": ["export", "from_pretrained", "load", "save"],
    "groups": ["Groups"],
    "kinds": [
        "blocks",
        "channels",
        "custom",
        "experts",
        "filters",
        "heads",
        "depth",
        "n_of_m",
        "neurons",
        "shapes",
        "weights",
        "width",
    ],
    "measurement": ["Footprint", "measure"],
    "optim": ["Constant", "Homotopy", "Proximal"],
    "shrinking": ["ShrinkError", "recalibrate", "refit", "shrink"],
    "surgery": ["Plan"],
    "tracing": ["trace"],
}
_ROOMS = {
    "budget",
    "commands",
    "costs",
    "deploy",
    "envelope",
    "groups",
    "integrations",
    "kernels",
    "kinds",
    "measurement",
    "optim",
    "report",
    "runtimes",
    "shrinking",
    "surgery",
    "tracing",
    "train",
    "utils",
}
_HOME = {name: room for room, names in _NAMES.items() for name in names}

if not TYPE_CHECKING:  # a type checker shall find what is missing

    def __getattr__(name: str) -> Any:
        """Import a public name from its room, or a room, and keep it here."""
        if name in _HOME:
            value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        elif name in _ROOMS:
            value = import_module(f"{__name__}.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
