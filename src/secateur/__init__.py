"""secateur: networks that end, after one training run, at the size the hardware can afford.

Each name is imported when it is first used, so that `secateur --help` need not wait for torch. The
rooms behind the names (`secateur.optim`, `secateur.envelope` ...) are imported likewise.
"""

from secateur.utils.lazy_names import lazy_names

__version__ = "0.1.0"

__getattr__, __all__ = lazy_names(
    __name__,
    {
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
        "tracing": ["method", "trace"],
    },
)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
