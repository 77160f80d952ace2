"""The mathematics: group norms and a budget in, one factor per group out.

Pure functions on tensors (..., m), one row a problem; nothing here knows of networks.
"""

from secateur.envelope.firm import firm
from secateur.envelope.penalty import conjugate, value
from secateur.envelope.proximal import multipliers, prox

__all__ = ["conjugate", "firm", "multipliers", "prox", "value"]
