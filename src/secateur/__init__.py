"""secateur: networks that end, after one training run, at exactly the size the hardware can afford."""

from secateur import envelope, groups
from secateur.groups import Groups, custom, filters, neurons

__all__ = ["Groups", "custom", "envelope", "filters", "groups", "neurons"]
