"""`Layer`: a range of groups with a name, and the names of all groups.

In: what one place of a model produces. Out: a record of it, which knows no tensor.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload


@dataclass(frozen=True)
class Layer:
    """Groups that one place of the model produces: what `at_least` and layer norms refer to.

    Attributes:
        name: the producing module, such as "layer1.0.conv1".
        kind: the kind of group, such as "filters".
        start, stop: the groups of the layer are `range(start, stop)`.
        producers: the parameters that are zero where a group is dead.
        blocks: (n, m) where n of every m consecutive groups stay, whatever the budget; or None.
        parts: the groups' own names, where they have any.
        inexact: why the removal of its groups changes what is computed, or "".
    """

    name: str
    kind: str
    start: int
    stop: int
    producers: tuple[str, ...] = ()
    blocks: tuple[int, int] | None = None
    parts: tuple[str, ...] = ()
    inexact: str = ""

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def span(self) -> slice:
        """The layer's part of a vector with one entry a group."""
        return slice(self.start, self.stop)


class Names(Sequence[str]):
    """Names made when they are read: a model may have millions of groups."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers
        self._stops = [layer.stop for layer in layers]

    def __len__(self) -> int:
        return self._stops[-1] if self._stops else 0

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        layer = self._layers[bisect_right(self._stops, position)]
        if layer.parts:
            return layer.parts[position - layer.start]
        return f"{layer.name}[{position - layer.start}]"

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self[:3]))}{', ...' if len(self) > 3 else ''}]"
