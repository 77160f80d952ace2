"""Which parameters live and die together: what every kind of group is made of."""

from secateur.groups.coupling import Coupling
from secateur.groups.groups import Groups
from secateur.groups.layer import Layer
from secateur.groups.member import Member

__all__ = ["Coupling", "Groups", "Layer", "Member"]
