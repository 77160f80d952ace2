"""What makes a tensor of a recorded run zero, and what nobody needs then.

In: the record of a run and where a tensor came from. Out: the parameters nearest to it that make it
zero, and the steps whose results are not read any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from secateur.tracing.graph import Graph, Node, Origin

PASSING = {  # zero where the first argument is zero
    "view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "expand",
    "squeeze", "unsqueeze", "clone", "contiguous", "alias", "detach", "native_dropout", "_to_copy",
    "slice", "select", "roll", "flip", "div", "sum", "mean", "relu", "gelu", "silu", "tanh", "neg",
    "im2col", "pixel_shuffle", "index", "index_select", "movedim", "narrow", "lift_fresh",
    "leaky_relu", "elu", "hardtanh", "hardswish", "mish", "_prelu_kernel", "avg_pool1d",
    "avg_pool2d", "avg_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
    "constant_pad_nd", "upsample_nearest2d", "upsample_bilinear2d",
}  # fmt: skip
NORMS = {
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


@dataclass(frozen=True)
class Zero:
    """Parameters that make a tensor zero, and the steps from them on to it."""

    parameters: frozenset[str]
    steps: frozenset[int]


def made_zero(run: Graph, origin: Origin) -> Zero | None:
    """The nearest parameters that make a tensor zero, and the steps from them on."""
    if isinstance(origin, str):
        return Zero(frozenset([origin]), frozenset())
    if origin is None:
        return None
    step = run.steps[origin]
    found = _zero_of(run, step)
    return found and Zero(found.parameters, found.steps | {origin})


def _zero_of(run: Graph, step: Node) -> Zero | None:
    given = step.given
    if step.name in PASSING and step.inputs:
        return made_zero(run, step.inputs[0])
    if step.name in NORMS:
        if not isinstance(given.get("weight"), str):
            return None
        return _all(run, [given["weight"], *([given["bias"]] if "bias" in given else [])])
    if step.name == "add" and len(step.inputs) == 2:  # a bias
        return _all(run, step.inputs) if any(isinstance(x, str) for x in step.inputs) else None
    if step.name in _PRODUCTS:
        sides = [made_zero(run, given[name]) for name in _PRODUCTS[step.name] if name in given]
        sides = [side for side in sides if side is not None]
        bias = given.get(_BIAS.get(step.name, ""))
        if not sides or (_BIAS.get(step.name) in given and not isinstance(bias, str)):
            return None
        nearest = min(sides, key=lambda side: len(side.steps))
        parameters = nearest.parameters | ({bias} if isinstance(bias, str) else set())
        return Zero(parameters, nearest.steps)
    return None


def _all(run: Graph, origins: Any) -> Zero | None:
    found = [made_zero(run, origin) for origin in origins]
    if any(zero is None for zero in found):
        return None
    parameters = frozenset().union(*(zero.parameters for zero in found if zero))
    return Zero(parameters, frozenset().union(*(zero.steps for zero in found if zero)))


def unneeded(run: Graph, consumers: list[list[int]], zeros: Iterable[int]) -> set[int]:
    """The steps that are `zeros`, and those whose result nobody but such steps reads."""
    dead = set(zeros)
    for number in range(len(run.steps) - 1, -1, -1):
        readers = consumers[number]
        matters = number in run.outputs or (run.steps[number].writes and not readers)
        if not matters and all(reader in dead for reader in readers):
            dead.add(number)
    return dead
