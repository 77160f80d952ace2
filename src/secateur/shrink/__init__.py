"""From zeros to a smaller network."""

from secateur.shrink.shrink import ShrinkError, shrink

__all__ = ["ShrinkError", "shrink"]
