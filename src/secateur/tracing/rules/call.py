"""One operator call, and the table of rules that say how labels move through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import flop_registry, shape_wrapper

from secateur.measurement.count import LEFT_OUT
from secateur.tracing.labels import Labels


@dataclass
class Call:
    """One operator call, as the dispatcher saw it."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    name: str = field(init=False)

    def __post_init__(self) -> None:
        namespace, _, name = self.func._schema.name.partition("::")
        self.name = name if namespace in ("aten", "prim") else f"{namespace}::{name}"

    def argument(self, name: str) -> Any:
        """The argument called `name` in the operator's schema, given or by default."""
        if name in self.kwargs:
            return self.kwargs[name]
        for position, parameter in enumerate(self.func._schema.arguments):
            if parameter.name == name:
                if position < len(self.args):
                    return self.args[position]
                return parameter.default_value
        raise KeyError(f"{self.name} has no argument {name!r}")

    def has(self, name: str) -> bool:
        return any(parameter.name == name for parameter in self.func._schema.arguments)

    @property
    def written(self) -> list[Tensor]:
        """The arguments that the operator writes into."""
        found = [
            self.argument(parameter.name)
            for parameter in self.func._schema.arguments
            if parameter.alias_info is not None and parameter.alias_info.is_write
        ]
        return [leaf for leaf in tree_flatten(found)[0] if isinstance(leaf, Tensor)]

    @property
    def inputs(self) -> list[Tensor]:
        flat, _ = tree_flatten((self.args, self.kwargs))
        return [leaf for leaf in flat if isinstance(leaf, Tensor)]

    @property
    def outputs(self) -> list[Tensor]:
        flat, _ = tree_flatten(self.out)
        return [leaf for leaf in flat if isinstance(leaf, Tensor)]

    def flops(self) -> int:
        """What `secateur.measurement.count_flops` counts for this call."""
        packet = self.func.overloadpacket
        count = shape_wrapper(LEFT_OUT[packet]) if packet in LEFT_OUT else flop_registry.get(packet)
        return 0 if count is None else int(count(*self.args, **self.kwargs, out_val=self.out))


Rule = Callable[[Labels, Call], None]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for the aten operators `names` (their in-place forms included)."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def unknown(labels: Labels, call: Call) -> None:
    """Protect everything the operator touches: never wrong, only less."""
    for tensor in call.inputs:
        labels.protect(labels.planes(tensor), f"meets the operator {call.name}, which has no rule")
    labels.unknown[call.name] = labels.unknown.get(call.name, 0) + 1
    is_data = labels.any_data(call.inputs)
    for out in call.outputs:
        labels.put(out, [], is_data=is_data)
