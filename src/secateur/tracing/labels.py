"""What the tracer remembers: one label for every index of every dimension of every parameter.

In: a model's parameters and buffers. Out: `Labels`, which says which labels ride on each tensor
(its planes), which labels were tied, which are protected and why, and what each operator costs.

Words used throughout this room:
    atom    an integer that names one index of one dimension of one parameter or buffer;
    plane   an integer tensor that broadcasts to a tensor's shape and holds atoms (-1: no atom);
    tie     two atoms that can only be removed together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

NO_GROUP = "meets a part of the computation that no removable axis reaches"


@dataclass(frozen=True)
class Tracked:
    """A parameter or buffer: its names in the model and the first atom of each dimension."""

    names: tuple[str, ...]
    tensor: Tensor
    is_parameter: bool
    first_atoms: tuple[int, ...]  # -1 for a dimension of size 1, which can't be cut

    @property
    def name(self) -> str:
        return self.names[0]

    def atoms(self, dim: int) -> np.ndarray:
        """The atoms along `dim`, shape (size,)."""
        first, size = self.first_atoms[dim], self.tensor.shape[dim]
        return np.full(size, -1) if first < 0 else np.arange(first, first + size)


@dataclass(frozen=True)
class Operator:
    """An operator that costs FLOPs: its total, and the planes over its axes.

    Its axes are those it contracts and those of its result, in an order of its own.
    """

    name: str
    flops: int
    depth: int = 0  # the number of axes
    planes: tuple[Tensor, ...] = ()


@dataclass
class _Value:
    planes: list[Tensor]
    is_data: bool  # computed from the model's inputs, so not a weight


@dataclass
class Labels:
    """The state of one tracing run.

    `keep` says what stays free where labels vary along the batch axis of an attention product and
    along another axis: "inner" (head sizes) or "batch" (heads). With "batch", `heads` collects the
    atoms that one head holds together, pair by pair, and `held` says which labels stand for more
    than one atom. `buffers` counts how often what the model made of nothing has been written to.
    """

    tracked: list[Tracked]
    atom_count: int
    operators: list[Operator] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)
    protected: list[tuple[np.ndarray, str]] = field(default_factory=list)
    inexact: list[tuple[np.ndarray, str]] = field(default_factory=list)
    ties: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    weight_ties: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    choices: list[Tensor] = field(default_factory=list)
    roles: dict[str, list[np.ndarray]] = field(default_factory=dict)
    keep: str = "inner"
    heads: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    held: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    first_fresh: int = 0  # from here on, atoms name what the model makes of nothing
    buffers: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)
    _values: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)

    @classmethod
    def of(
        cls, model: nn.Module, *, keep: str = "inner", pairs: Sequence[tuple[Any, Any]] = ()
    ) -> Labels:
        """Label every dimension of every parameter and buffer of `model`.

        Atoms that `pairs` tie ride as one label from the beginning.
        """
        tensors: dict[int, tuple[Tensor, list[str]]] = {}
        for name, tensor in [
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ]:
            tensors.setdefault(id(tensor), (tensor, []))[1].append(name)
        tracked, start = [], 0
        for tensor, names in tensors.values():
            first_atoms = []
            for size in tensor.shape:
                first_atoms.append(start if size > 1 else -1)
                start += size if size > 1 else 0
            is_parameter = isinstance(tensor, nn.Parameter)
            tracked.append(Tracked(tuple(names), tensor, is_parameter, tuple(first_atoms)))
        labels = cls(tracked, start, keep=keep, heads=list(pairs), first_fresh=start)
        label = first_of_each(components(start, labels.heads))
        labels.held = np.bincount(label, minlength=start) > 1
        joined = (label, np.arange(start))
        labels.ties, labels.weight_ties = [joined], [joined]
        for item in tracked:
            planes = [
                torch.from_numpy(label[item.atoms(dim)]).reshape(
                    [-1 if d == dim else 1 for d in range(item.tensor.ndim)]
                )
                for dim in range(item.tensor.ndim)
                if item.first_atoms[dim] >= 0
            ]
            labels.put(item.tensor, planes, is_data=False)
        return labels

    # -- what rides on a tensor --------------------------------------------------------------------

    def put(self, tensor: Tensor, planes: Sequence[Tensor], *, is_data: bool) -> None:
        """Let `planes` ride on `tensor`; planes without any atom are dropped."""
        kept = [plane for plane in map(compress, planes) if bool((plane >= 0).any())]
        self._values[tensor] = _Value([p for p in kept if varied(p)], is_data)
        self.protect([p for p in kept if not varied(p)], "broadcast along an axis of size 1")

    def fresh(self, tensor: Tensor) -> list[Tensor]:
        """New atoms for a tensor that the model makes of nothing: one for each index."""
        planes = []
        for dim, size in enumerate(tensor.shape):
            if size > 1:
                shape = [-1 if d == dim else 1 for d in range(tensor.ndim)]
                planes.append(torch.arange(self.atom_count, self.atom_count + size).reshape(shape))
                self.atom_count += size
        return planes

    def planes(self, tensor: Tensor) -> list[Tensor]:
        value = self._values.get(tensor)
        return [] if value is None else value.planes

    def is_data(self, tensor: Tensor) -> bool:
        value = self._values.get(tensor)
        return value is not None and value.is_data

    def any_data(self, tensors: Iterable[Tensor]) -> bool:
        return any(map(self.is_data, tensors))

    def knows(self, tensor: Tensor) -> bool:
        return tensor in self._values

    def sharing(self, tensor: Tensor) -> list[Tensor]:
        """Other tensors of this run that share memory with `tensor`."""
        storage = tensor.untyped_storage()._cdata
        return [
            other
            for other in list(self._values.keys())
            if other is not tensor and other.untyped_storage()._cdata == storage
        ]

    # -- what is learned about atoms ---------------------------------------------------------------

    def protect(self, planes: Iterable[Tensor], reason: str) -> None:
        """No atom of `planes` may be removed."""
        self._note(self.protected, planes, reason)

    def mark_inexact(self, planes: Iterable[Tensor], reason: str) -> None:
        """Removing atoms of `planes` changes what the network computes."""
        self._note(self.inexact, planes, reason)

    @staticmethod
    def _note(target: list[tuple[np.ndarray, str]], planes: Iterable[Tensor], reason: str) -> None:
        for plane in planes:
            atoms = entries(plane)
            atoms = np.unique(atoms[atoms >= 0])
            if atoms.size:
                target.append((atoms, reason))

    def mark_role(self, role: str, planes: Iterable[Tensor]) -> None:
        """Record that atoms of `planes` play `role` ("consumer", "linear", "attention", ...)."""
        for plane in planes:
            atoms = entries(plane)
            self.roles.setdefault(role, []).append(np.unique(atoms[atoms >= 0]))

    def is_head(self, plane: Tensor) -> bool:
        """Whether the labels of `plane` are those of an attention's heads."""
        return self.plays("heads", plane)

    def plays(self, role: str, plane: Tensor) -> bool:
        """Whether labels of `plane` have been marked with a role."""
        mine = np.unique(entries(plane))
        return any(np.isin(atoms, mine).all() for atoms in self.roles.get(role, []))

    def holds_heads(self, plane: Tensor) -> bool:
        """Whether a label of `plane` stands for several atoms of one head."""
        atoms = entries(plane)
        tracked = atoms[atoms < len(self.held)]  # what the model makes of nothing is no head
        return bool((atoms >= 0).all() and self.held[tracked].any())

    def tie(self, first: Tensor, second: Tensor, *, weights: bool = False) -> None:
        """Tie two planes entry by entry; an atom opposite to none is protected."""
        a, b = torch.broadcast_tensors(first, second)
        a, b = entries(a), entries(b)
        for atoms, mate in ((a, b), (b, a)):
            alone = np.unique(atoms[(atoms >= 0) & (mate < 0)])
            if alone.size:
                self.protected.append((alone, NO_GROUP))
        both = (a >= 0) & (b >= 0) & (a != b)
        if both.any():
            code = np.unique(a[both] * self.atom_count + b[both])  # far quicker than unique rows
            pair = np.divmod(code, self.atom_count)
            self.ties.append(pair)
            if weights:
                self.weight_ties.append(pair)

    def join_heads(self, plane: Tensor, keep: Sequence[int]) -> None:
        """Remember which atoms of `plane` lie in one place along the dimensions `keep`.

        Atoms that lie in more places than others do belong to no head (keys that all share).
        """
        others = [dim for dim in range(plane.ndim) if dim not in keep]
        places = math.prod(plane.shape[dim] for dim in keep)
        lines = plane.permute(*keep, *others).reshape(places, -1).numpy()
        code = lines + (np.arange(places) * self.atom_count)[:, None]
        count = np.bincount(np.unique(code[lines >= 0]) % self.atom_count)
        share = np.where(lines >= 0, count[lines], places + 1)
        own = (lines >= 0) & (share == share.min(1, keepdims=True))
        first = lines[np.arange(places), own.argmax(1)]
        self.join(first[:, None].repeat(lines.shape[1], 1), np.where(own, lines, -1))

    def join(self, first: np.ndarray, second: np.ndarray) -> None:
        """Remember that atoms opposite one another belong to the same head."""
        a, b = first.reshape(-1), second.reshape(-1)
        both = (a >= 0) & (b >= 0) & (a != b)
        both &= (a < self.first_fresh) & (b < self.first_fresh)
        self.heads.append((a[both], b[both]))

    def straighten(self, plane: Tensor, keep: Sequence[int]) -> Tensor:
        """Tie `plane` across all dimensions but `keep`, and return it varying along `keep` only."""
        for dim in varied(plane):
            if dim not in keep:
                first = plane.narrow(dim, 0, 1)
                self.tie(first, plane)
                plane = first
        return plane


def components(count: int, ties: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The number of the connected component of each atom, shape (count,), in order of appearance.

    Every atom points at a smaller one of its component, or is the smallest; ties between different
    ones join them, until there are none. (As fast as SciPy's, whose import takes 0.2 s.)
    """
    smallest = np.arange(count)
    a, b = (np.concatenate([pair[side] for pair in ties] or [smallest]) for side in (0, 1))
    while len(a):
        first, second = smallest[a], smallest[b]
        apart = first != second
        a, b, first, second = a[apart], b[apart], first[apart], second[apart]
        np.minimum.at(smallest, np.maximum(first, second), np.minimum(first, second))
        while not np.array_equal(further := smallest[smallest], smallest):
            smallest = further
    return np.unique(smallest, return_inverse=True)[1]


def first_of_each(numbers: np.ndarray) -> np.ndarray:
    """For each entry the position of the first entry with the same number."""
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    return first[inverse]


def varied(plane: Tensor) -> tuple[int, ...]:
    """The dimensions along which a compressed plane varies."""
    return tuple(dim for dim, size in enumerate(plane.shape) if size > 1)


def entries(plane: Tensor) -> np.ndarray:
    """All entries of a plane in row-major order, as numpy."""
    return plane.reshape(-1).numpy()


def compress(plane: Tensor) -> Tensor:
    """Reduce every dimension along which the plane is constant to size 1."""
    for dim, size in enumerate(plane.shape):
        if size > 1:
            first = plane.narrow(dim, 0, 1)
            if bool((plane == first).all()):
                plane = first
    return plane.contiguous()
