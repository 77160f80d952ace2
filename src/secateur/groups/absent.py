"""What stands where a dead branch was: a module that gives zeros or its input, and runs nothing.

In: a model and, for each module that goes, what takes its place. Out: the same model without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from secateur.groups.kernels import padding

CROSS = ("key_value_states", "encoder_hidden_states")  # what attends to another sequence is given

# {"kind": "tensor", "tuple" or "list", "like": [[input, dimensions, sizes]]}: like that input but
# for the sizes of these dimensions (one of each, lists, or null), of which [stride, offset] stands
# for (size + offset) // stride; [input] alone is that input itself, and null is None. {"kind":
# "out"} is taken out of its list (depth.py).
Recipe = Mapping[str, Any]


class Absent(nn.Module):
    """Zeros in the shape that a removed module would have returned, or the input that it passed on.

    Example:
        >>> import torch
        >>> Absent({"kind": "tensor", "like": [[0, 1, 5]]})(torch.ones(2, 3))
        tensor([[0., 0., 0., 0., 0.],
                [0., 0., 0., 0., 0.]])
    """

    batch_first = False  # nn.TransformerEncoderLayer asks its attention before its fused path

    def __init__(self, recipe: Recipe, layer_idx: int | None = None) -> None:
        super().__init__()
        self.recipe = recipe
        self.layer_idx = layer_idx

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        inputs = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        if self.layer_idx is not None:
            self._keep_time(inputs[0], args, kwargs)
        items = [None if like is None else _made(inputs, like) for like in self.recipe["like"]]
        if self.recipe["kind"] == "tensor":
            return items[0]
        return tuple(items) if self.recipe["kind"] == "tuple" else items

    def _keep_time(self, x: Tensor, args: Any, kwargs: dict[str, Any]) -> None:
        """A cache of keys and values counts the tokens that a missing attention has seen, too."""
        if any(kwargs.get(name) is not None for name in CROSS):
            return
        for cache in (*args, *kwargs.values()):
            cache = getattr(cache, "self_attention_cache", cache)
            if hasattr(cache, "get_seq_length") and hasattr(cache, "update"):
                nothing = x.new_zeros(x.shape[0], 1, x.shape[1], 1)
                cache.update(nothing, nothing, self.layer_idx)


def is_inside(name: str, modules: Iterable[str]) -> bool:
    """Whether a module is one of `modules` or inside one of them."""
    return any(f"{name}.".startswith(f"{outer}.") for outer in modules)


def known_by_class(module: nn.Module) -> Recipe | None:
    """How the zeros of a convolution look, whatever the size of the picture."""
    if not isinstance(module, _ConvNd) or module.transposed:
        return None
    dims: list[int] = [1]
    sizes: list[Any] = [module.out_channels]
    sides = zip(padding(module), module.kernel_size, module.stride, module.dilation, strict=True)
    for dim, ((before, behind), kernel, stride, dilation) in enumerate(sides, start=2):
        dims.append(dim)
        sizes.append([stride, before + behind - dilation * (kernel - 1) - 1 + stride])
    return {"kind": "tensor", "like": [[0, dims, sizes]]}


def _as_wide_as(module: nn.Module, recipe: Recipe) -> Recipe:
    """A layer may have lost channels besides: its zeros are as wide as it is."""
    if isinstance(module, nn.Linear):
        position = recipe["like"][0][0]
        return {**recipe, "like": [[position, -1, module.out_features]]}
    return known_by_class(module) or recipe


def _made(inputs: list[Tensor], like: list[Any]) -> Tensor:
    if len(like) == 1:
        return inputs[like[0]]
    position, dims, sizes = like
    if not isinstance(dims, list):
        dims, sizes = ([], []) if dims is None else ([dims], [sizes])
    shape = list(inputs[position].shape)
    for dim, size in zip(dims, sizes, strict=True):
        shape[dim] = size if isinstance(size, int) else (shape[dim] + size[1]) // size[0]
    return inputs[position].new_zeros(shape)


def leave_out(model: nn.Module, absent: Mapping[str, Recipe]) -> None:
    """Replace the modules named in `absent`, in place; inner ones before outer ones.

    Those that leave their lists stay for now: the names of the others would change (depth.py).
    """
    replaced = [name for name, recipe in absent.items() if recipe["kind"] != "out"]
    for name in sorted(replaced, key=lambda name: -name.count(".")):
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(name)
        numbers = [vars(inner).get("layer_idx") for inner in module.modules()]
        number = next((number for number in numbers if type(number) is int), None)
        setattr(model.get_submodule(owner), leaf, Absent(_as_wide_as(module, absent[name]), number))
    for module in model.modules():
        if any(isinstance(inner, Absent) for inner in module.modules()):
            if isinstance(module, nn.TransformerEncoderLayer):
                module.activation_relu_or_gelu = 0  # no fused path: it reads the weights itself
            elif isinstance(module, nn.TransformerEncoder):
                module.use_nested_tensor = False
