"""Other inputs than the example: what a user varies, so that what holds on one input isn't enough.

In: example inputs. Out: other calls of the same model: another batch, other sizes, masks and
integers drawn anew, larger values, flags turned. What a model can't run at, the caller leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from secateur.utils.contexts import tensors_in
from secateur.utils.forward import arguments

Call = tuple[tuple[Any, ...], dict[str, Any]]
Places = frozenset[tuple[int, int]]  # dimensions: (tensor, dim)


@dataclass(frozen=True)
class Variation:
    """Calls of which the first that runs is to be taken, and the dimensions of another size."""

    calls: list[Call]
    places: Places = frozenset()


SIZES = 6  # how many sets of dimensions are tried at another size
CHANGES: tuple[Callable[[int], int], ...] = (  # of a size, the cheapest first
    lambda size: size // 2 or 2,
    lambda size: 2 * size,
    lambda size: size + 1,
)


def usual(example: Any) -> Iterator[Variation]:
    """The example, and random numbers in another batch."""
    call = arguments(example)
    yield Variation([call])
    sizes = {tensor.shape[0] for tensor in tensors_in(call) if tensor.ndim}
    if len(sizes) == 1:
        generator = torch.Generator().manual_seed(0)
        order = [*range(sizes.pop()), 0]

        def vary(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor) or not leaf.ndim:
                return leaf
            taken = leaf[order]
            return noise(taken, generator) if leaf.is_floating_point() else taken

        yield Variation([_mapped(call, vary)])


def others(example: Any, *, flags: bool = False) -> Iterator[Variation]:
    """All drawn anew, larger, at other sizes, and with other numbers.

    With `flags`, true and false are turned as well, with which a model may return other things.
    """
    call = arguments(example)
    generator = torch.Generator().manual_seed(1)
    if not all(tensor.is_floating_point() for tensor in tensors_in(call)):
        yield Variation([_mapped(call, lambda leaf: _drawn(leaf, generator, 1.0))])
    yield Variation([_mapped(call, lambda leaf: _drawn(leaf, generator, 8.0))])
    for places in _sets_of_dims(call):
        sized = [_resized(call, places, change, generator) for change in CHANGES]
        yield Variation(sized, places)
    leaves, tree = tree_flatten(call)
    for position, leaf in enumerate(leaves):
        if isinstance(leaf, (int, float)) and (flags or not isinstance(leaf, bool)):
            other = not leaf if isinstance(leaf, bool) else 2 * leaf + 1
            turned = [*leaves[:position], other, *leaves[position + 1 :]]
            yield Variation([tree_unflatten(turned, tree)])


def _mapped(call: Call, vary: Any) -> Call:
    """The call with other leaves; what no tree knows (an object that holds tensors) stays."""
    leaves, tree = tree_flatten(call)
    return tree_unflatten([vary(leaf) for leaf in leaves], tree)


def _drawn(
    leaf: Any, generator: torch.Generator, scale: float, shape: tuple[int, ...] | None = None
) -> Any:
    """A tensor of the same kind, drawn anew: within the same bounds where it counts or chooses."""
    if not isinstance(leaf, Tensor):
        return leaf
    shape = tuple(leaf.shape) if shape is None else shape
    if leaf.is_complex():
        return noise(leaf.new_empty(shape), generator)
    if leaf.numel() and (leaf.dtype == torch.bool or _is_mask(leaf)):
        drawn = torch.rand(shape, generator=generator, device="cpu") < 0.6
        if shape and shape[-1]:  # what stands first is rarely masked: nothing would be left
            drawn[..., 0] = bool(leaf.reshape(-1)[0])
        return drawn.to(leaf)
    if leaf.is_floating_point():
        spread = float(leaf.double().std(correction=0)) if leaf.numel() > 1 else 1.0
        spread = spread if 0 < spread < float("inf") else 1.0
        if scale == 1.0:
            return noise(leaf.new_empty(shape), generator) * spread
        return (noise(leaf.new_empty(shape), generator) * (spread * scale)).to(leaf)
    if not leaf.numel():
        return leaf.new_zeros(shape)
    low, high = int(leaf.min()), int(leaf.max()) + 1
    return torch.randint(low, high, shape, generator=generator, device="cpu").to(leaf)


def _is_mask(leaf: Tensor) -> bool:
    """Whether numbers say yes or no."""
    return bool(((leaf == 0) | (leaf == 1)).all())


def noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Normal random numbers, the same on every device, whatever torch's default device is."""
    shape = like.shape
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu").to(like)


def _sets_of_dims(call: Call) -> list[Places]:
    """Dimensions that may have another size together: all of one size, or one of each tensor."""
    tensors = [leaf for leaf in tree_flatten(call)[0] if isinstance(leaf, Tensor)]
    places = {(n, d): size for n, t in enumerate(tensors) for d, size in enumerate(t.shape)}
    inside = {place: size for place, size in places.items() if place[1] > 0}
    found: dict[Places, None] = {}
    for group in (inside, places):
        for size in dict.fromkeys(group.values()):
            found[frozenset(place for place, its in group.items() if its == size)] = None
        for dim in sorted({dim for _, dim in group}):
            found[frozenset(place for place in group if place[1] == dim)] = None
    batch = frozenset(place for place in places if place[1] == 0)  # `usual` varies it
    varied = {places[place] for place in batch}
    done = [batch] if len(varied) == 1 else []
    return [places for places in found if places and places not in done][:SIZES]


def _resized(
    call: Call,
    places: Places,
    change: Callable[[int], int],
    generator: torch.Generator,
) -> Call:
    leaves, tree = tree_flatten(call)
    number, resized = -1, []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            number += 1
            shape = [
                change(size) if (number, dim) in places else size
                for dim, size in enumerate(leaf.shape)
            ]
            leaf = _drawn(leaf, generator, 1.0, tuple(shape))
        resized.append(leaf)
    return tree_unflatten(resized, tree)
