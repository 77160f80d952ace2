"""The loop behind `secateur train`: it can stop after any step and go on as if it had not.

Each name is imported when it is first used, so that the command line need not wait for torch to
know a run's `Settings`.
"""

from secateur.utils.lazy_names import lazy_names

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "checkpoint": ["CheckpointError"],
        "data": ["Data"],
        "distill": ["Distill"],
        "finishing": ["finish"],
        "loggers": ["JsonLines", "Logger", "Tracker"],
        "loop": ["Interrupted", "Loop"],
        "settings": ["Settings"],
    },
)
