"""The peak memory of a network as a function of how much of each group is kept.

In: groups that were traced. Out: a `Peak`: the largest, over all moments of one forward, of the
bytes of weights, inputs and activations that are alive then.

What is counted is what `secateur.measurement.measure_peak_memory` counts: every storage that an
operator of torch returns, from then until it is freed, beside parameters, buffers and inputs. Not
counted: the scratch space inside a kernel, and what the allocator and the process hold besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.costs.terms import Cost, Term, present, state_terms
from secateur.groups import Groups
from secateur.measurement.count import distinct, tensor_bytes
from secateur.measurement.memory import Follower
from secateur.tracing import rules
from secateur.tracing.attention import converted
from secateur.tracing.labels import Labels, entries, varied
from secateur.utils.contexts import preserve_state, tensors_in
from secateur.utils.forward import forward, inputs_of, state_of, unfused_attention


@dataclass(frozen=True, eq=False)
class Peak(Cost):
    """The largest of several costs that are made of the same products: C(u) = max_p C_p(u).

    Increasing, as each C_p is, and exact wherever u is 0 or 1.

    Attributes:
        moments: how many bytes of each product are alive at each moment, (moments, products).
    """

    moments: np.ndarray

    def __call__(self, multipliers: np.ndarray) -> float:
        """The cost at `multipliers`, float64 of shape (m,)."""
        return float((self.moments @ self.products(multipliers)).max())

    def gradient(self, multipliers: np.ndarray) -> np.ndarray:
        """The gradient of the cost that is the largest at `multipliers` (the first of them)."""
        fullest = int((self.moments @ self.products(multipliers)).argmax())
        return replace(self, rates=self.moments[fullest])._gradient_at(multipliers)


@dataclass(frozen=True)
class Allocation:
    """A storage of one forward: its bytes, the groups along its axes, and those that hold it."""

    size: int
    axes: tuple[np.ndarray, ...]
    within: tuple[tuple[int, ...], ...]

    def terms(self) -> Iterator[Term]:
        """Its bytes as products of widths."""
        widths = float(np.prod([len(axis) for axis in self.axes]))
        yield from present(self.size / widths, list(self.axes), self.within)


def peak(groups: Groups) -> Peak:
    """The peak memory of one forward on the groups' example, as a function of their multipliers.

    Raises:
        ValueError: the groups were not traced.

    Example:
        >>> import secateur as sc
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> found = peak(sc.neurons(model, torch.ones(8, 4)))
        >>> found(np.ones(6)), found(np.array([1, 1, 1, 0, 0, 0]))  # ReLU reads 8 x 6, writes 8 x 6
        (688.0, 412.0)
    """
    if groups.model is None or groups.coupling is None or groups.example is None:
        raise ValueError(
            "a budget on memory needs groups that were traced through the model, such as filters; "
            "these leave zeros in place and can be budgeted by groups= only"
        )
    allocations: list[Allocation] = []
    moments: list[tuple[int, ...]] = []
    for way in _ways(groups.model):
        found, fullest = follow(groups, way)
        moments += [tuple(len(allocations) + n for n in alive) for alive in fullest]
        allocations += found
    inputs = sum(map(tensor_bytes, distinct(inputs_of(groups.example))))
    resident = [(float(inputs), ()), *state_terms(groups.coupling, "bytes")]
    passing = [list(allocation.terms()) for allocation in allocations]
    terms = [*resident, *(term for found in passing for term in found)]
    shared, number = Cost.numbered(terms, len(groups))
    owner = np.repeat(np.arange(len(passing)), [len(found) for found in passing])
    rate = np.array([rate for rate, _ in terms])
    rates = np.zeros((len(moments), len(shared.rates)))
    for row, alive in zip(rates, moments, strict=True):
        there = np.append(np.ones(len(resident), bool), np.isin(owner, alive))
        np.add.at(row, number[there], rate[there])
    return Peak(**vars(shared), moments=_undominated(rates))


def _undominated(rates: np.ndarray) -> np.ndarray:
    """The rows that are not smaller than another row in every entry."""
    rates = np.unique(rates, axis=0)
    kept = [row for n, row in enumerate(rates) if not np.delete((rates >= row).all(1), n).any()]
    return np.array(kept)


Way = Callable[[nn.Module], AbstractContextManager[None]]


def _ways(model: nn.Module) -> list[Way]:
    """How the small network may run: surgery replaces nn.MultiheadAttention where it must."""
    replaced = any(isinstance(module, nn.MultiheadAttention) for module in model.modules())
    return [lambda _: nullcontext(), converted] if replaced else [lambda _: nullcontext()]


def follow(groups: Groups, way: Way) -> tuple[list[Allocation], list[tuple[int, ...]]]:
    """Follow the memory of one forward.

    Returns:
        The storages in the order in which they came, and the moments at which memory is fullest:
        for each the storages alive.
    """
    model, example = groups.model, groups.example
    assert model is not None
    run = forward(model, example)
    resident = [*state_of(model), *inputs_of(example)]
    with preserve_state(model), way(model), torch.no_grad(), unfused_attention():
        follower = _Historian(resident, _ride(groups, model))
        with _inside(groups, model, follower), follower:
            run()
    return follower.allocations, follower.moments()


class _Riding(Labels):
    """Labels that are the groups themselves; what the model makes of nothing has none."""

    def fresh(self, tensor: Tensor) -> list[Tensor]:
        return []


def _ride(groups: Groups, model: nn.Module) -> Labels:
    """Let every parameter and buffer carry the groups along its axes."""
    labels = _Riding([], len(groups), keep="batch", held=np.zeros(len(groups), bool))
    tensors = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers(remove_duplicate=False))
    assert groups.coupling is not None
    for slot in groups.coupling.slots:
        planes = []
        for dim, line in enumerate(slot.entries):
            if line is not None:
                shape = [-1 if d == dim else 1 for d in range(len(slot.shape))]
                planes.append(torch.from_numpy(np.asarray(line)).reshape(shape))
        for name in slot.names:
            labels.put(tensors[name], planes, is_data=False)
    for tensor in tensors_in(groups.example):
        labels.put(tensor, [], is_data=True)
    return labels


class _Historian(Follower):
    """Writes down every storage: what it is made of, when it comes and when it goes."""

    def __init__(self, resident: list[Tensor], labels: Labels) -> None:
        self.labels = labels
        self.allocations: list[Allocation] = []
        self.within: list[tuple[int, ...]] = []
        self._events: list[tuple[bool, int]] = []  # comes or goes, which storage
        self._known: dict[int, int] = {}
        self._passive = True
        super().__init__(resident)
        self._passive = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        call = rules.Call(func, args, kwargs, result)
        if not _attend(self.labels, call):
            rules.apply(self.labels, call)
        self.follow(call.outputs)
        return result

    def appeared(self, key: int, size: int, tensor: Tensor) -> None:
        if self._passive:
            return
        if key in self._known:  # grew in place: the old memory is gone
            self._events.append((False, self._known[key]))
        axes = tuple(entries(plane) for plane in _apart(self.labels.planes(tensor)))
        self._known[key] = len(self.allocations)
        self._events.append((True, len(self.allocations)))
        self.allocations.append(Allocation(size, axes, tuple(self.within)))

    def vanished(self, key: int) -> None:
        if key in self._known:
            self._events.append((False, self._known.pop(key)))

    def stays(self, tensors: Iterable[Tensor], without: tuple[int, ...]) -> None:
        """What a module returns is there, as zeros, also where the module is not."""
        for tensor in tensors:
            number = self._known.get(tensor.untyped_storage()._cdata)
            if number is not None:
                found = self.allocations[number]
                left = tuple(groups for groups in found.within if groups != without)
                self.allocations[number] = replace(found, within=left)

    def moments(self) -> list[tuple[int, ...]]:
        """The storages alive whenever one has come and the next event is that one goes."""
        alive: dict[int, None] = {}
        found: list[tuple[int, ...]] = [()]
        for position, (comes, number) in enumerate(self._events):
            if comes:
                alive[number] = None
                after = self._events[position + 1 : position + 2]
                if not after or not after[0][0]:
                    found.append(tuple(alive))
            else:
                alive.pop(number, None)
        return found


def _apart(planes: Sequence[Tensor]) -> Iterator[Tensor]:
    """Planes that vary along different axes: of two along the same one, the first."""
    taken: set[int] = set()
    for plane in planes:
        if not taken & set(varied(plane)):
            taken |= set(varied(plane))
            yield plane


def _attend(labels: Labels, call: rules.Call) -> bool:
    """Let groups pass a fused attention: heads with the queries, head sizes with the values."""
    if not call.name.startswith("_scaled_dot_product"):
        return False
    query, _, value = call.args[:3]
    rows = [plane for plane in labels.planes(query) if query.ndim - 1 not in varied(plane)]
    columns = [plane for plane in labels.planes(value) if varied(plane) == (value.ndim - 1,)]
    for out in call.outputs:
        if out.ndim == query.ndim and out.shape[:-1] == query.shape[:-1]:
            labels.put(out, [*rows, *columns], is_data=True)
        elif out.shape == query.shape[:-1]:  # one number for each row of the softmax
            labels.put(out, [plane.squeeze(-1) for plane in rows], is_data=True)
        else:
            labels.put(out, [], is_data=True)
    return True


@contextmanager
def _inside(groups: Groups, model: nn.Module, follower: _Historian) -> Iterator[None]:
    """Tell the follower which groups hold what is made now: their modules leave with them."""
    hooks = []
    for gone in groups.coupling.absent if groups.coupling else ():

        def enter(_: nn.Module, __: Any, together: tuple[int, ...] = gone.groups) -> None:
            follower.within.append(together)

        def leave(
            _: nn.Module, __: Any, output: Any, together: tuple[int, ...] = gone.groups
        ) -> None:
            follower.within.remove(together)
            follower.stays(tensors_in(output), together)

        module = model.get_submodule(gone.module)
        hooks.append(module.register_forward_pre_hook(enter))
        hooks.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
