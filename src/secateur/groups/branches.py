"""Residual branches: what must be zero for a sum to be its other summand, and what goes then.

In: the record of a run. Out: a `Branch` for each sum of a stream and something computed from it,
and for each expert of a mixture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from secateur.groups.absent import known_by_class
from secateur.groups.record import ModuleCall, Origin, Record, Step

_PASSING = {  # zero where the first argument is zero
    "view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "expand",
    "squeeze", "unsqueeze", "clone", "contiguous", "alias", "detach", "native_dropout", "_to_copy",
    "slice", "select", "roll", "flip", "div", "sum", "mean", "relu", "gelu", "silu", "tanh", "neg",
    "im2col", "pixel_shuffle", "index", "index_select", "movedim", "narrow", "lift_fresh",
}  # fmt: skip
_NORMS = {
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "_batch_norm_with_update", "_batch_norm_no_update", "cudnn_batch_norm", "miopen_batch_norm",
    "native_layer_norm", "_fused_rms_norm", "native_group_norm",
}  # fmt: skip
_PRODUCTS = {
    "mm": ("mat2", "self"), "addmm": ("mat2", "mat1"), "bmm": ("mat2", "self"),
    "baddbmm": ("batch2", "batch1"), "convolution": ("weight",), "mul": ("other", "self"),
    "_grouped_mm": ("mat2", "self"),
}  # fmt: skip
_BIAS = {"addmm": "self", "baddbmm": "self", "convolution": "bias"}
_WEIGHED = {"mm", "addmm", "bmm", "baddbmm", "convolution", "_grouped_mm"}
_SHORT = {  # what a shortcut may be made of, besides one product
    *_PASSING, *_NORMS, *_WEIGHED, "add", "avg_pool1d", "avg_pool2d", "avg_pool3d", "cat",
    "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "max_pool2d_with_indices", "constant_pad_nd",
    "upsample_nearest2d", "upsample_bilinear2d",
}  # fmt: skip


@dataclass(frozen=True)
class Branch:
    """A residual branch.

    Attributes:
        name: a module that the branch is computed by.
        zeros: the parameters that make it zero.
        absent: modules that go with it -> how their zeros look (absent.py).
        operators: which of the trace's operators are inside them.
        reason: why it can't be removed, or "".
    """

    name: str
    zeros: tuple[str, ...]
    absent: dict[str, dict[str, Any]]
    operators: frozenset[int]
    reason: str = ""


@dataclass(frozen=True)
class _Zero:
    parameters: frozenset[str]
    steps: frozenset[int]


def find_branches(model: nn.Module, run: Record) -> Iterator[Branch]:
    """The residual branches of a recorded run, in its order."""
    consumers, readers = run.consumers(), run.readers()
    ancestors = _Ancestors(run)
    taken: set[str] = set()
    unread = _dead(run, consumers, ())
    for step in run.steps:
        if step.name != "add" or len(step.inputs) != 2 or step.shapes[0] != step.shapes[1]:
            continue
        for stream, branch in (step.inputs, step.inputs[::-1]):
            if not isinstance(branch, int) or not (
                ancestors.has(branch, stream) or _is_shortcut(run, ancestors, stream, branch)
            ):
                continue
            for summand in _summands(run, ancestors, branch):
                zero = _zero(run, summand)
                if zero is None or zero.parameters & taken:
                    continue
                dead = _dead(run, consumers, zero.steps)
                if all(reader in dead for name in zero.parameters for reader in readers[name]):
                    taken |= zero.parameters
                    yield _branch(model, run, zero, dead, dead - unread)
            break


def _is_shortcut(run: Record, ancestors: _Ancestors, origin: Origin, branch: int) -> bool:
    """Whether a summand is a projection of what `branch` reads, too, which is more than that."""
    products = 0
    while isinstance(origin, int) and not ancestors.has(branch, origin):
        step = run.steps[origin]
        products += step.name in _WEIGHED
        sources = [source for source in step.inputs if ancestors.reads_input(source)]
        if step.name not in _SHORT or products > 1 or len(set(sources)) != 1:
            return False
        origin = sources[0]
    if not isinstance(origin, int) or (run.steps[origin].name == "input" and not products):
        return False  # a mask, as far as one can tell
    return ancestors.products_between(origin, branch) > 1


def _summands(run: Record, ancestors: _Ancestors, origin: int) -> Iterator[int]:
    """Parallel branches that are summed before they meet the stream."""
    step = run.steps[origin]
    a, b = step.inputs if step.name == "add" and len(step.inputs) == 2 else (None, None)
    if not isinstance(a, int) or not isinstance(b, int):
        yield origin  # no sum, or one with a bias
    elif ancestors.has(a, b) or ancestors.has(b, a):
        yield origin  # a stream of its own
    else:
        yield from _summands(run, ancestors, a)
        yield from _summands(run, ancestors, b)


def find_experts(model: nn.Module, run: Record) -> Iterator[tuple[str, Branch]]:
    """The modules of each nn.ModuleList that work side by side: (list, expert), in order."""
    consumers, readers = run.consumers(), run.readers()
    ancestors, unread = _Ancestors(run), _dead(run, consumers, ())
    for owner, modules in model.named_modules():
        if not isinstance(modules, nn.ModuleList) or not _are_alike(modules):
            continue
        names = [f"{owner}.{child}" if owner else child for child, _ in modules.named_children()]
        calls = [[call for call in run.calls if call.module == name] for name in names]
        results = [found[0].result for found in calls if found]
        if len(results) < 2 or any(
            ancestors.has(a, b) for a in results if isinstance(a, int) for b in results
        ):
            continue  # one after the other: blocks of a chain
        for name, found in zip(names, calls, strict=True):
            yield owner, _expert(model, run, name, found, consumers, readers, unread)


def _expert(
    model: nn.Module,
    run: Record,
    name: str,
    calls: list[ModuleCall],
    consumers: list[list[int]],
    readers: dict[str, list[int]],
    unread: set[int],
) -> Branch:
    zero = _zero(run, calls[0].result) if len(calls) == 1 else None
    if zero is None:
        reasons = {0: "the example never reaches it", 1: "no parameters make its output zero"}
        return Branch(name, (), {}, frozenset(), reasons.get(len(calls), "it is called repeatedly"))
    dead = _dead(run, consumers, zero.steps)
    branch = _branch(model, run, zero, dead, dead - unread)
    elsewhere = any(reader not in dead for p in zero.parameters for reader in readers[p])
    if elsewhere or not all(f"{p}.".startswith(f"{name}.") for p in zero.parameters):
        return replace(branch, name=name, reason="what makes it zero is not its own")
    if calls[0].result in run.outputs:
        return replace(branch, name=name, reason="its output leaves the model")
    if name not in branch.absent:
        return replace(branch, name=name, reason="it could not be left out whole")
    return replace(branch, name=name)


def _are_alike(modules: nn.ModuleList) -> bool:
    shapes = [[tuple(p.shape) for p in module.parameters()] for module in modules]
    return len(shapes) > 1 and bool(shapes[0]) and all(found == shapes[0] for found in shapes)


def _zero(run: Record, origin: Origin) -> _Zero | None:
    """The nearest parameters that make a tensor zero, and the steps from them on."""
    if isinstance(origin, str):
        return _Zero(frozenset([origin]), frozenset())
    if origin is None:
        return None
    step = run.steps[origin]
    found = _zero_of(run, step)
    return found and _Zero(found.parameters, found.steps | {origin})


def _zero_of(run: Record, step: Step) -> _Zero | None:
    given = step.given
    if step.name in _PASSING and step.inputs:
        return _zero(run, step.inputs[0])
    if step.name in _NORMS:
        if not isinstance(given.get("weight"), str):
            return None
        return _all(run, [given["weight"], *([given["bias"]] if "bias" in given else [])])
    if step.name == "add" and len(step.inputs) == 2:  # a bias
        return _all(run, step.inputs) if any(isinstance(x, str) for x in step.inputs) else None
    if step.name in _PRODUCTS:
        sides = [_zero(run, given[name]) for name in _PRODUCTS[step.name] if name in given]
        sides = [side for side in sides if side is not None]
        bias = given.get(_BIAS.get(step.name, ""))
        if not sides or (_BIAS.get(step.name) in given and not isinstance(bias, str)):
            return None
        nearest = min(sides, key=lambda side: len(side.steps))
        parameters = nearest.parameters | ({bias} if isinstance(bias, str) else set())
        return _Zero(parameters, nearest.steps)
    return None


def _all(run: Record, origins: Any) -> _Zero | None:
    found = [_zero(run, origin) for origin in origins]
    if any(zero is None for zero in found):
        return None
    parameters = frozenset().union(*(zero.parameters for zero in found if zero))
    return _Zero(parameters, frozenset().union(*(zero.steps for zero in found if zero)))


def _dead(run: Record, consumers: list[list[int]], zeros: Iterable[int]) -> set[int]:
    """The steps that are `zeros`, and those whose result nobody but such steps reads."""
    dead = set(zeros)
    for number in range(len(run.steps) - 1, -1, -1):
        readers = consumers[number]
        matters = number in run.outputs or (run.steps[number].writes and not readers)
        if not matters and all(reader in dead for reader in readers):
            dead.add(number)
    return dead


def _branch(model: nn.Module, run: Record, zero: _Zero, dead: set[int], freed: set[int]) -> Branch:
    owners = {name.rpartition(".")[0] for name in zero.parameters}
    absent: dict[str, dict[str, Any]] = {}
    operators: set[int] = set()
    counts: dict[str, int] = {}
    for call in run.calls:
        counts[call.module] = counts.get(call.module, 0) + 1
    for call in sorted(run.calls, key=lambda call: -len(call.steps)):
        name = call.module
        if (
            name
            and counts[name] == 1
            and (output := call.output or known_by_class(model.get_submodule(name))) is not None
            and any(number in freed for number in call.steps)
            and all(number in dead for number in call.steps)
            and not any(f"{name}.".startswith(f"{outer}.") for outer in absent)
            and _has_its_own(model, name)
        ):
            absent[name] = dict(output)
            inside = (run.steps[number].operators for number in call.steps)
            operators.update(number for found in inside for number in found)
    around = [
        name for name in absent if any(f"{owner}.".startswith(f"{name}.") for owner in owners)
    ]
    name = [*around, *absent, *sorted(owners)][0]
    reason = "" if absent else "no module of its own computes it, so nothing could be left out"
    return Branch(name, tuple(sorted(zero.parameters)), absent, frozenset(operators), reason)


def _has_its_own(model: nn.Module, name: str) -> bool:
    """Whether a module has parameters, and nobody else has them."""
    module = model.get_submodule(name)
    mine = {id(p) for p in module.parameters()}
    return bool(mine) and not any(
        id(p) in mine and not other.startswith(f"{name}.")
        for other, p in model.named_parameters(remove_duplicate=False)
    )


class _Ancestors:
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
            self._products |= (step.name in _WEIGHED) << number

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
