"""The mathematics: group norms and a budget in, one factor per group out.

Pure functions on tensors (..., m), one row a problem; nothing here knows of networks. `prox_` and
`firm_` apply the factors, in place, to groups that are rows of one tensor.
"""

from secateur.envelope.firm_operator import firm
from secateur.envelope.penalty import conjugate, value
from secateur.envelope.proximal_operator import multipliers, prox
from secateur.envelope.rows import firm_, prox_
from secateur.kernels.cpu import implementation

__all__ = [
    "conjugate",
    "firm",
    "firm_",
    "implementation",
    "multipliers",
    "prox",
    "prox_",
    "value",
]
