"""Following a plan on a model: slice tensors, add biases, correct the sizes that modules store.

In: a `Plan` and a full-size model. Out: the same model object, small.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from secateur.surgery.conv_kernels import shrink_kernel
from secateur.surgery.forward_wrappers import follow, reroute
from secateur.surgery.head_sizes import has_size, set_sizes
from secateur.surgery.module_removal import is_in_list, leave_out
from secateur.surgery.norms import has_number
from secateur.surgery.plan import Plan
from secateur.tracing.attention import convert, without_fast_path


def cut(model: nn.Module, plan: Plan) -> None:
    """Follow a plan on `model`, in place: slice tensors, add biases, correct the modules' sizes.

    Only the blocks that leave their lists are still there: taking them out, which changes the names
    of others, is the last step (module_removal.py).

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
    for name in plan.rerouted:
        if name not in modules:
            raise ValueError(
                f"the plan reroutes {name}, which {type(model).__name__} does not have"
            )
    for name in plan.absent:
        if name not in modules or (name in plan.out and not is_in_list(model, name)):
            raise ValueError(
                f"the plan leaves out {name}, which {type(model).__name__} does not have"
            )
    for name, values in plan.sizes.items():
        for attribute in values:
            if not has_size(modules.get(name), attribute):
                raise ValueError(
                    f"the plan sets {name}.{attribute}, which {type(model).__name__} does not have"
                )
    for name, values in plan.norms.items():
        for attribute in values:
            if not has_number(modules.get(name), attribute):
                raise ValueError(
                    f"the plan sets {name}.{attribute}, which {type(model).__name__} does not have"
                )
    shapes: dict[nn.Module, dict[str, tuple[int, ...]]] = {}
    kept: dict[nn.Module, dict[str, dict[int, tuple[int, ...]]]] = {}
    for name, dims in plan.kept.items():
        owner, _, leaf = name.rpartition(".")
        if ".parametrizations." in f".{owner}":  # the size is that of what is computed
            owner, _, leaf = owner.rpartition("parametrizations.")
        module = model.get_submodule(owner.rstrip("."))
        shapes.setdefault(module, {})[leaf] = tuple(getattr(module, leaf).shape)
        kept.setdefault(module, {}).setdefault(leaf, {}).update(dims)
    made: dict[int, Tensor] = {}
    for name, dims in plan.kept.items():
        owner, _, leaf = name.rpartition(".")
        old = tensors[name]
        if id(old) not in made:
            made[id(old)] = _sliced(old, dims)
        setattr(model.get_submodule(owner), leaf, made[id(old)])
    for module, before in shapes.items():
        _correct_sizes(module, before, kept[module])
    without_fast_path(model)
    for module in model.modules():
        if isinstance(module, nn.Transformer):
            module.d_model = _width(module)
    set_sizes(model, plan.sizes)
    for name, values in plan.norms.items():
        for attribute, value in values.items():
            setattr(modules[name], attribute, value)
    for name, places in plan.rerouted.items():
        reroute(modules[name], places)
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
    order = sorted(range(data.ndim), key=lambda dim: -tensor.stride(dim))  # such as channels last
    back = sorted(range(data.ndim), key=order.__getitem__)
    data = data.permute(order).contiguous().permute(back)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(data, requires_grad=tensor.requires_grad)
    return data


def _width(module: nn.Transformer) -> int:
    """What the size of its inputs is checked against."""
    norms = (inner for inner in module.modules() if isinstance(inner, nn.LayerNorm))
    return next((norm.normalized_shape[0] for norm in norms), module.d_model)


_GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}  # weight rows for each hidden unit


def _correct_sizes(
    module: nn.Module,
    before: dict[str, tuple[int, ...]],
    kept: dict[str, dict[int, tuple[int, ...]]],
) -> None:
    """Sizes that a module of torch.nn stores beside its tensors follow the tensors."""
    if isinstance(module, nn.MultiheadAttention):
        convert(module)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _ConvNd):
        rows, inside = module.weight.shape[:2]
        old_rows = before.get("weight", (rows,))[0]
        if "weight" in before:
            shrink_kernel(module, before["weight"][2:], kept["weight"])
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
        module.num_groups = max(module.num_groups * module.num_channels // old, 1)
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
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
