"""Taking dead groups out of a model: a plan, and the surgery that follows it.

In: a model, its groups and which of them are dead. Out: a smaller copy of the model and the `Plan`
that made it, which rebuilds the same small model from a full-size one (deploy/ saves it).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList

from secateur.groups.absent import Recipe, is_inside, leave_out
from secateur.groups.attention import convert, without_fast_path
from secateur.groups.coupling import Coupling
from secateur.groups.groups import Groups, Layer
from secateur.groups.in_place import all_zero, borders, shrink_kernel, staying
from secateur.groups.reshaping import follow, only_needed
from secateur.groups.sizes import (
    Sizes,
    has_size,
    set_sizes,
    ways,
)
from secateur.groups.trace import as_call, evaluating, plain_kernels


@dataclass(frozen=True)
class Plan:
    """How a small model was cut out of a full-size one.

    Attributes:
        kept: for each parameter or buffer that was cut, the indices kept along each cut dimension.
        biases: biases that the full-size model lacks and the small one needs.
        groups: kind of group -> (groups kept, groups in all).
        sizes: module -> the attributes of it that hold a size, with their new values.
        reshaped: modules whose code has to follow the width of its heads, and the size of a head
            (reshaping.py).
        absent: modules that leave whole, and how the zeros look that they leave (absent.py).
    """

    kept: dict[str, dict[int, tuple[int, ...]]] = field(default_factory=dict)
    biases: tuple[str, ...] = ()
    groups: dict[str, tuple[int, int]] = field(default_factory=dict)
    sizes: Sizes = field(default_factory=dict)
    reshaped: dict[str, int] = field(default_factory=dict)
    absent: dict[str, Recipe] = field(default_factory=dict)

    def meet(self, other: Plan) -> Plan:
        """The plan that cuts what either cuts out of the same model; the groups are ours."""
        kept = {name: dict(dims) for name, dims in self.kept.items()}
        for name, dims in other.kept.items():
            for dim, theirs in dims.items():
                mine = kept.setdefault(name, {}).get(dim, theirs)
                kept[name][dim] = tuple(sorted(set(mine) & set(theirs)))
        return replace(self, kept=kept)

    def after(self, earlier: Plan | None) -> Plan:
        """The one plan that does what `earlier` and then this one do."""
        if earlier is None:
            return self
        kept = {name: dict(dims) for name, dims in earlier.kept.items()}
        for name, dims in self.kept.items():
            if name in earlier.biases:
                continue  # the full-size model lacks it; it is made at its final size
            for dim, indices in dims.items():
                before = kept.setdefault(name, {}).get(dim)
                chosen = indices if before is None else tuple(before[i] for i in indices)
                kept[name][dim] = chosen
        groups = {
            kind: (count, earlier.groups.get(kind, (0, total))[1])
            for kind, (count, total) in self.groups.items()
        }
        sizes = {name: dict(values) for name, values in earlier.sizes.items()}
        for name, values in self.sizes.items():
            sizes.setdefault(name, {}).update(values)
        biases = (*earlier.biases, *self.biases)
        reshaped = {**earlier.reshaped, **self.reshaped}
        absent = {**earlier.absent, **self.absent}
        return Plan(kept, biases, {**earlier.groups, **groups}, sizes, reshaped, absent)


@dataclass(frozen=True)
class Removal:
    """What `remove` did.

    Attributes:
        model: the small model.
        plan: how it was cut.
        refused: groups that had to stay although they are dead: (layer, groups, reason).
    """

    model: nn.Module
    plan: Plan
    refused: tuple[tuple[str, int, str], ...] = ()


def remove(model: nn.Module, groups: Groups, dead: np.ndarray) -> Removal:
    """Cut dead groups out of a copy of `model`.

    Args:
        model: a model whose dead groups are exactly zero; left as it was.
        groups: groups of a model of this shape; those that no trace ties to an axis stay as zeros,
            but for what they free between them (unread channels, the borders of kernels).
        dead: which groups to remove, bool of shape (m,).

    Returns:
        The small model; a constant that a dead channel leaves behind an activation with f(0) != 0
        is folded into the bias of the layer that reads it; where that isn't exact it stays.
    """
    constants, refused = _constants(model, groups.coupling, groups.example, dead)
    dead = dead.copy()
    dead[list(refused)] = False
    plan = _plan(groups.coupling, groups.layers, dead)
    if groups.coarse is not None:
        unused = all_zero(groups.coarse, model, groups, dead)
        plan = plan.meet(_plan(groups.coarse.coupling, (), unused))
    if groups.example is not None:
        plan = plan.meet(Plan(borders(model, groups)))
    small, plan = _cut_out(model, groups, plan, dead)
    _keep_weight_norms(small, model, plan)
    constants = {name: x for name, x in constants.items() if not is_inside(name, plan.absent)}
    plan = replace(plan, biases=tuple(_fold(small, model, constants, plan, dead)))
    layer_ids = groups.layer_ids
    report = Counter(
        (groups.layers[layer_ids[group]].name, reason) for group, reason in refused.items()
    )
    stay = [(name, n, why) for (name, why), n in report.items()]
    return Removal(small, plan, (*stay, *staying(groups, dead, plan.kept)))


def _cut_out(
    model: nn.Module, groups: Groups, plan: Plan, dead: np.ndarray
) -> tuple[nn.Module, Plan]:
    """Follow a plan on a copy of `model`; where heads leave, with the numbers that run."""
    attempts = [plan]
    if groups.coupling is not None:
        found = ways(model, groups.coupling, groups.layers, dead, plan.sizes)
        attempts = [replace(plan, sizes=sizes, reshaped=names) for sizes, names in found] or [plan]
    first = None
    for attempt in attempts:
        small = copy.deepcopy(model)
        cut(small, attempt)
        if len(attempts) == 1 or _runs(small, groups.example):
            names = only_needed(small, attempt.reshaped)
            return small, replace(attempt, reshaped=names)
        first = first or (small, attempt)
    assert first is not None
    return first  # whoever compares the two models will say why it doesn't run


def _runs(model: nn.Module, example: Any) -> bool:
    args, kwargs = as_call(example)
    try:
        with evaluating(model), torch.no_grad(), plain_kernels():
            model(*args, **kwargs)
    except Exception:
        return False
    return True


def _keep_weight_norms(small: nn.Module, model: nn.Module, plan: Plan) -> None:
    """A weight g v / |v| that lost part of v keeps the rest as it was: g follows |v|."""
    for name, module in small.named_modules():
        norm = module[0] if isinstance(module, ParametrizationList) else None
        if not isinstance(norm, _WeightNorm):
            continue
        dims = plan.kept.get(f"{name}.original1", {})
        axis: int = norm.dim  # pyright: ignore[reportAssignmentType]
        if axis >= 0 and any(dim != axis for dim in dims):
            old = torch.norm_except_dim(model.get_parameter(f"{name}.original1"), 2, axis)
            if axis in dims:
                old = old.index_select(axis, torch.tensor(dims[axis], device=old.device))
            new = torch.norm_except_dim(small.get_parameter(f"{name}.original1"), 2, axis)
            small.get_parameter(f"{name}.original0").data.mul_(new / old)


def _plan(coupling: Coupling | None, layers: Sequence[Layer], dead: np.ndarray) -> Plan:
    padded = np.append(dead, False)  # the last entry answers for "no group" (-1)
    kept: dict[str, dict[int, tuple[int, ...]]] = {}
    for slot in coupling.slots if coupling else ():
        for dim, entries in enumerate(slot.entries):
            if entries is not None and padded[entries].any():
                indices = tuple(np.flatnonzero(~padded[entries]).tolist())
                for name in slot.names:
                    kept.setdefault(name, {})[dim] = indices
    counts: dict[str, tuple[int, int]] = {}
    for layer in layers:
        alive, total = counts.get(layer.kind, (0, 0))
        left = int((~dead[layer.start : layer.stop]).sum())
        counts[layer.kind] = (alive + left, total + len(layer))
    sizes: dict[str, dict[str, int]] = {}
    for size in coupling.sizes if coupling else ():
        if padded[size.entries].any():
            sizes.setdefault(size.module, {})[size.attribute] = int((~padded[size.entries]).sum())
    leaving = [gone for gone in (coupling.absent if coupling else ()) if dead[gone.group]]
    absent = {gone.module: gone.recipe for gone in leaving}
    return Plan(kept, (), counts, sizes, absent=absent)


# -- surgery ---------------------------------------------------------------------------------------


def cut(model: nn.Module, plan: Plan) -> None:
    """Follow a plan on `model`, in place: slice tensors, add biases, correct the modules' sizes.

    Raises:
        ValueError: the plan does not fit the model; nothing has been changed then.
    """
    tensors = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers(remove_duplicate=False))
    for name, dims in plan.kept.items():
        if name not in tensors:
            raise ValueError(f"the plan cuts {name}, which {type(model).__name__} does not have")
        for dim, indices in dims.items():
            shape = tuple(tensors[name].shape)
            if dim >= len(shape) or (indices and max(indices) >= shape[dim]):
                raise ValueError(
                    f"the plan does not fit {name}\n"
                    f"  expected more than {max(indices, default=0)} entries along dim {dim}\n"
                    f"  found    shape {shape}"
                )
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in plan.absent:
        if name not in modules:
            raise ValueError(
                f"the plan leaves out {name}, which {type(model).__name__} does not have"
            )
    for name, values in plan.sizes.items():
        for attribute in values:
            if not has_size(modules.get(name), attribute):
                raise ValueError(
                    f"the plan sets {name}.{attribute}, which {type(model).__name__} does not have"
                )
    touched: dict[nn.Module, dict[str, tuple[int, ...]]] = {}
    for name in plan.kept:
        owner, _, leaf = name.rpartition(".")
        if (
            ".parametrizations." in f".{owner}"
        ):  # the size belongs to the module that is computed for
            owner, _, leaf = owner.rpartition("parametrizations.")
        module = model.get_submodule(owner.rstrip("."))
        touched.setdefault(module, {})[leaf] = tuple(getattr(module, leaf).shape)
    made: dict[int, Tensor] = {}
    for name, dims in plan.kept.items():
        owner, _, leaf = name.rpartition(".")
        old = tensors[name]
        if id(old) not in made:
            made[id(old)] = _sliced(old, dims)
        setattr(model.get_submodule(owner), leaf, made[id(old)])
    for module, shapes in touched.items():
        _correct_sizes(module, shapes)
    without_fast_path(model)
    set_sizes(model, plan.sizes)
    for name, size_inside in plan.reshaped.items():
        follow(model.get_submodule(name), size_inside)
    for name in plan.biases:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        weight = module.weight
        assert isinstance(weight, Tensor)
        size = weight.shape[1] if isinstance(module, _ConvTransposeNd) else weight.shape[0]
        setattr(module, leaf, nn.Parameter(weight.new_zeros(size)))
    leave_out(model, plan.absent)


def _sliced(tensor: Tensor, dims: dict[int, tuple[int, ...]]) -> Tensor:
    data = tensor.detach()
    for dim, indices in dims.items():
        data = data.index_select(dim, torch.tensor(indices, dtype=torch.int64, device=data.device))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(data, requires_grad=tensor.requires_grad)
    return data


_GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}  # weight rows for each hidden unit


def _correct_sizes(module: nn.Module, before: dict[str, tuple[int, ...]]) -> None:
    """Sizes that a module of torch.nn stores beside its tensors follow the tensors."""
    if isinstance(module, nn.MultiheadAttention):
        convert(module)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _ConvNd):
        rows, inside = module.weight.shape[:2]
        old_rows = before.get("weight", (rows,))[0]
        shrink_kernel(module, before.get("weight", tuple(module.weight.shape))[2:])
        module.groups = module.groups * rows // old_rows if module.groups > 1 else 1
        sizes = (rows, inside * module.groups)
        if module.transposed:
            module.in_channels, module.out_channels = sizes
        else:
            module.out_channels, module.in_channels = sizes
    elif isinstance(module, _NormBase):
        for tensor in (module.weight, module.running_mean):
            if tensor is not None:
                module.num_features = tensor.shape[0]
    elif isinstance(module, nn.GroupNorm):
        old = module.num_channels
        module.num_channels = module.weight.shape[0]
        module.num_groups = module.num_groups * module.num_channels // old
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.shape[0]
    elif isinstance(module, nn.RNNBase):
        inputs, states = (module.get_parameter(f"weight_{end}_l0") for end in ("ih", "hh"))
        module.input_size = inputs.shape[1]
        module.hidden_size = inputs.shape[0] // _GATES[module.mode]
        module.proj_size = states.shape[1] if module.proj_size else 0
    elif isinstance(module, nn.RNNCellBase):
        module.input_size = module.weight_ih.shape[1]
        module.hidden_size = module.weight_hh.shape[1]


# -- constants that dead channels leave behind -----------------------------------------------------


@dataclass
class _Seen:
    """The least and the largest value of each input channel of a layer over a run."""

    low: Tensor
    high: Tensor


def _consumers(
    model: nn.Module, coupling: Coupling, dead: np.ndarray
) -> Iterator[tuple[str, nn.Module, np.ndarray]]:
    """Layers that read dead channels: name, module, and the group of each input.

    -1 where the input is alive, or all the weights that read it are zero.
    """
    padded = np.append(dead, False)
    for slot in coupling.slots:
        for name in slot.names:
            owner, _, leaf = name.rpartition(".")
            module = model.get_submodule(owner)
            is_convolution = isinstance(module, _ConvNd) and module.groups == 1
            if leaf == "weight" and (isinstance(module, nn.Linear) or is_convolution):
                entries = slot.entries[0 if getattr(module, "transposed", False) else 1]
                if entries is not None and padded[entries].any():
                    dim = 0 if getattr(module, "transposed", False) else 1
                    taps = module.weight.detach().movedim(dim, 0).flatten(1)  # pyright: ignore
                    read = (taps != 0).any(1).cpu().numpy()
                    yield owner, module, np.where(padded[entries] & read, entries, -1)


def _constants(
    model: nn.Module, coupling: Coupling | None, example: Any, dead: np.ndarray
) -> tuple[dict[str, Tensor], dict[int, str]]:
    """What each layer reads on its dead inputs, and the dead groups that can't be folded."""
    consumers = list(_consumers(model, coupling, dead)) if coupling else []
    if not consumers:
        return {}, {}
    seen: dict[str, _Seen] = {}
    hooks = [
        module.register_forward_pre_hook(_watch(seen, name, module), with_kwargs=True)
        for name, module, _ in consumers
    ]
    args, kwargs = as_call(example)
    try:
        with evaluating(model), torch.no_grad(), plain_kernels():
            model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    constants: dict[str, Tensor] = {}
    refused: dict[int, str] = {}
    for name, module, inputs in consumers:
        if name not in seen:
            continue  # called through a function: the numerical check has the last word
        low, high = seen[name].low.cpu().numpy(), seen[name].high.cpu().numpy()
        scale = max(1.0, float(np.abs(high).max(initial=0)), float(np.abs(low).max(initial=0)))
        is_dead = inputs >= 0
        changing = is_dead & (high - low > 1e-6 * scale)
        for group in inputs[changing].tolist():
            refused[group] = f"{name} reads a value from it that changes with the input"
        constant = np.where(is_dead & ~changing, low, 0.0)
        if _pads_with_zeros(module):
            for group in inputs[is_dead & (constant != 0)].tolist():
                refused[group] = f"{name} pads a constant of it with zeros"
        elif constant.any():
            constants[name] = torch.from_numpy(constant)
    return constants, refused


def _pads_with_zeros(module: nn.Module) -> bool:
    """Whether a constant input reaches some outputs with fewer taps than others."""
    if not isinstance(module, _ConvNd):
        return False
    if isinstance(module.padding, str):
        has_padding = module.padding == "same" and any(size > 1 for size in module.kernel_size)
    else:
        has_padding = any(module.padding)
    return module.transposed or (has_padding and module.padding_mode == "zeros")


def _watch(seen: dict[str, _Seen], name: str, module: nn.Module) -> Any:
    channel = -1 if isinstance(module, nn.Linear) else -len(module.weight.shape) + 1  # pyright: ignore

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = (args[0] if args else kwargs["input"]).movedim(channel, 0)
        x = x.reshape(len(x), -1)
        low, high = x.amin(1).double(), x.amax(1).double()
        if name in seen:
            low, high = torch.minimum(low, seen[name].low), torch.maximum(high, seen[name].high)
        seen[name] = _Seen(low, high)

    return hook


def _fold(
    small: nn.Module, model: nn.Module, constants: dict[str, Tensor], plan: Plan, dead: np.ndarray
) -> Iterator[str]:
    """Add what removed inputs contributed to each layer's bias; yields the biases that are new."""
    for name, constant in constants.items():
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        taps = weight.detach().double()
        taps = taps.sum(tuple(range(2, taps.ndim))) if taps.ndim > 2 else taps
        removed = torch.ones(len(constant), dtype=torch.bool)
        removed[list(plan.kept.get(f"{name}.weight", {}).get(1, range(len(constant))))] = False
        shift = taps @ (constant * removed).to(taps.device)
        kept = plan.kept.get(f"{name}.weight", {}).get(0)
        shift = shift if kept is None else shift[list(kept)]
        layer = small.get_submodule(name)
        if layer.bias is None:
            layer.bias = nn.Parameter(shift.to(weight.dtype))
            yield f"{name}.bias"
        else:
            layer.bias.data += shift.to(weight.dtype)  # pyright: ignore
