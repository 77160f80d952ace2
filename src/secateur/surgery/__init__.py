"""Cutting groups out of a model: the plan, the cut, and the check that both compute the same."""

from secateur.surgery.plan import Plan

__all__ = ["Plan"]
