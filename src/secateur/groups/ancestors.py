"""What each step of a recorded run depends on.

In: a record. Out: answers about pairs of steps.
"""

from __future__ import annotations

from secateur.groups.record import Origin, Record

WEIGHED = {"mm", "addmm", "bmm", "baddbmm", "convolution", "_grouped_mm"}  # products


class Ancestors:
    """Which steps a step depends on, as bits of one integer each."""

    def __init__(self, run: Record) -> None:
        self._masks: list[int] = []
        self._inputs = self._products = 0
        for number, step in enumerate(run.steps):
            mask = 0
            for origin in step.inputs:
                if isinstance(origin, int):
                    mask |= self._masks[origin] | (1 << origin)
            self._masks.append(mask)
            self._inputs |= (step.name == "input") << number
            self._products |= (step.name in WEIGHED) << number

    def has(self, step: int, origin: Origin) -> bool:
        """Whether a step depends on what another one made."""
        return isinstance(origin, int) and bool(self._masks[step] >> origin & 1)

    def reads_input(self, origin: Origin) -> bool:
        """Whether a tensor is one of the model's inputs, or computed from them."""
        return isinstance(origin, int) and bool(self._with(origin) & self._inputs)

    def products_between(self, origin: int, step: int) -> int:
        """How many products a step depends on, itself included, that `origin` does not."""
        return (self._with(step) & ~self._with(origin) & self._products).bit_count()

    def _with(self, step: int) -> int:
        return self._masks[step] | (1 << step)
