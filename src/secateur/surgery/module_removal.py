"""Modules that leave whole: out of their lists, or replaced by what gives zeros and runs nothing.

In: a model and, for each module that goes, what takes its place. Out: the same model without them.
Blocks that leave an nn.ModuleList or nn.Sequential make it shorter: the later blocks, their numbers
(layer_idx) and the depths that modules and configurations store move up, and names are translated
between the two.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from reprlib import repr as short
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from secateur.surgery.conv_kernels import padding
from secateur.tracing.size_attributes import NUMBERS
from secateur.utils.json import typed
from secateur.utils.name_trees import is_inside

DEPTHS = (  # how many blocks there are
    "num_layers", "num_hidden_layers", "n_layer", "n_layers", "depth", "num_blocks", "layers",
    "num_encoder_layers", "num_decoder_layers", "encoder_layers", "decoder_layers", "n_blocks",
    "encoder_num_layers", "decoder_num_layers", "encoder_num_hidden_layers", "nlayers",
    "decoder_num_hidden_layers", "encoder_depth", "decoder_depth",
)  # fmt: skip
PER_BLOCK = (  # lists with an entry for each block
    "layer_types", "mlp_layer_types", "layers_block_type", "no_rope_layers", "layer_rope_theta",
    "attention_layers", "per_layer_config", "num_key_value_heads_per_layer",
    "num_attention_heads_per_layer",
)  # fmt: skip


def is_in_list(model: nn.Module, name: str) -> bool:
    """Whether a module is an element of an nn.ModuleList or nn.Sequential."""
    owner = model.get_submodule(name.rpartition(".")[0]) if name else None
    return isinstance(owner, (nn.ModuleList, nn.Sequential))


def remove_from_lists(model: nn.Module, blocks: Collection[str]) -> None:
    """Take blocks out of their lists, in place; configurations are copied before they change."""
    if not blocks:
        return
    places = _by_list(blocks)
    lists = {name: module for name, module in model.named_modules() if _is_list(module)}
    before = {name: len(module._modules) for name, module in lists.items()}
    own_configurations(model)
    for name, gone in places.items():
        _shorten(lists[name], gone)
    done: set[int] = set()
    for name, module in model.named_modules():  # from the outside to the inside
        below = {path: n for path, n in before.items() if not name or is_inside(path, [name])}
        for holder in (module, vars(module).get("config")):
            if holder is not None and id(holder) not in done and places.keys() & below.keys():
                done.add(id(holder))
                _correct_depths(holder, below, places)


def name_before(name: str, blocks: Collection[str]) -> str:
    """What a module or parameter of the shorter model was called before `blocks` were taken out."""
    places = _by_list(blocks)
    old: list[str] = []
    for part in name.split("."):
        for gone in sorted(map(int, filter(str.isdigit, places.get(".".join(old), ())))):
            if part.isdigit() and gone <= int(part):
                part = str(int(part) + 1)
        old.append(part)
    return ".".join(old)


def name_after(name: str, blocks: Collection[str]) -> str | None:
    """What a module or parameter is called without `blocks`; None if it is inside one of them."""
    places = _by_list(blocks)
    old, new = [], []
    for part in name.split("."):
        gone = places.get(".".join(old), ())
        if part in gone:
            return None
        old.append(part)
        earlier = [n for n in gone if n.isdigit() and part.isdigit() and int(n) < int(part)]
        new.append(str(int(part) - len(earlier)) if earlier else part)
    return ".".join(new)


def _by_list(blocks: Collection[str]) -> dict[str, list[str]]:
    """The name of each list -> which of its elements are meant."""
    places: dict[str, list[str]] = {}
    for name in blocks:
        owner, _, leaf = name.rpartition(".")
        places.setdefault(owner, []).append(leaf)
    return places


def _shorten(blocks: nn.Module, gone: Collection[str]) -> None:
    """Later elements of a list move up; those that have names of their own keep them."""
    elements = dict(blocks._modules)
    numbered = [
        (inner, attribute, vars(inner)[attribute] - int(name), name)
        for name, element in elements.items()
        for inner in (element.modules() if element is not None and name.isdigit() else ())
        for attribute in NUMBERS
        if type(vars(inner).get(attribute)) is int
    ]
    kept = [name for name in elements if name not in gone]
    place = {name: position for position, name in enumerate(kept)}
    if len({offset for _, _, offset, _ in numbered}) == 1:  # else they count something else
        for inner, attribute, offset, name in numbered:
            if name in place:
                setattr(inner, attribute, offset + place[name])
    blocks._modules.clear()
    for name in kept:
        blocks._modules[str(place[name]) if name.isdigit() else name] = elements[name]


def _correct_depths(holder: Any, before: dict[str, int], places: dict[str, list[str]]) -> None:
    """The depths that a module or a configuration stores follow the lists that it is about."""
    values = dict(getattr(holder, "__dict__", {}))
    depths = {name: values[name] for name in DEPTHS if type(values.get(name)) is int}
    decoders = [name for name in depths if "decoder" in name]
    for name in (*decoders, *(name for name in depths if name not in decoders)):
        blocks = _counted(name, depths[name], before, places, has_decoder=bool(decoders))
        if blocks is not None:
            depth = depths[name] - len(places.get(blocks, ()))
            if "coder" not in name:  # the library makes caches for the decoder of this size, too
                depth = max([depth, *(getattr(holder, other) for other in decoders)])
            setattr(holder, name, depth)
    for name in PER_BLOCK:
        entries = values.get(name)
        if isinstance(entries, (list, tuple)):
            blocks = _counted(name, len(entries), before, places, has_decoder=bool(decoders))
            gone = places.get(blocks or "", ())
            kept = [entry for position, entry in enumerate(entries) if str(position) not in gone]
            setattr(holder, name, type(entries)(kept))


def _counted(
    attribute: str,
    depth: int,
    before: dict[str, int],
    places: dict[str, list[str]],
    *,
    has_decoder: bool,
) -> str | None:
    """The list that an attribute counts the elements of; None if it counts none or is in doubt."""
    found = [path for path, length in before.items() if length == depth]
    found = [path for path in found if not is_inside(path, before.keys() - {path})]
    if "decoder" in attribute:
        found = [path for path in found if "decoder" in path]
    elif has_decoder or "encoder" in attribute:
        found = [path for path in found if "decoder" not in path]
    agree = len({tuple(places.get(path, ())) for path in found}) == 1
    return found[0] if agree else None


def own_configurations(model: nn.Module) -> None:
    """Give a model copies of its configurations, which other models may have, too."""
    copies: dict[int, object] = {}
    for module in model.modules():
        if (config := vars(module).get("config")) is not None:
            module.config = copy.deepcopy(config, copies)  # pyright: ignore


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, (nn.ModuleList, nn.Sequential))


CROSS = ("key_value_states", "encoder_hidden_states")  # what attends to another sequence is given

# {"kind": "tensor", "tuple" or "list", "like": [[input, dimensions, sizes]]}: like that input but
# for the sizes of these dimensions (one of each, lists, or null), of which [stride, offset] stands
# for (size + offset) // stride; [input] alone is that input itself, and null is None. {"kind":
# "out"} is taken out of its list (module_removal.py).
Replacement = Mapping[str, Any]
_Size = int | tuple[int, int]
_Like = tuple[int] | tuple[int, int | list[int] | None, _Size | list[_Size] | None]


def check_replacements(absent: Mapping[str, Replacement]) -> None:
    """Refuse what a file says of modules that left, if it isn't in this form.

    Raises:
        ValueError: it names the module.
    """
    for name, recipe in absent.items():
        place = f"absent[{name!r}]"
        found = typed(recipe, dict[str, str | list[_Like | None]], place)
        zeros = found.get("kind") in ("tensor", "tuple", "list")
        if found.get("kind") != "out" and not (zeros and isinstance(found.get("like"), list)):
            raise ValueError(f"{place}: expected what takes its place, got {short(recipe)}")


class Placeholder(nn.Module):
    """Zeros in the shape that a removed module would have returned, or the input that it passed on.

    Example:
        >>> import torch
        >>> Placeholder({"kind": "tensor", "like": [[0, 1, 5]]})(torch.ones(2, 3))
        tensor([[0., 0., 0., 0., 0.],
                [0., 0., 0., 0., 0.]])
    """

    batch_first = False  # nn.TransformerEncoderLayer asks its attention before its fused path

    def __init__(self, recipe: Replacement, layer_idx: int | None = None) -> None:
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


def known_by_class(module: nn.Module) -> Replacement | None:
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


def _as_wide_as(module: nn.Module, recipe: Replacement) -> Replacement:
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


def leave_out(model: nn.Module, absent: Mapping[str, Replacement]) -> None:
    """Replace the modules named in `absent`, in place; inner ones before outer ones.

    Those that leave their lists stay for now: the names of the others would change.
    """
    replaced = [name for name, recipe in absent.items() if recipe["kind"] != "out"]
    for name in sorted(replaced, key=lambda name: -name.count(".")):
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(name)
        numbers = [vars(inner).get("layer_idx") for inner in module.modules()]
        number = next((number for number in numbers if type(number) is int), None)
        setattr(
            model.get_submodule(owner), leaf, Placeholder(_as_wide_as(module, absent[name]), number)
        )
    for module in model.modules():
        if any(isinstance(inner, Placeholder) for inner in module.modules()):
            if isinstance(module, nn.TransformerEncoderLayer):
                module.activation_relu_or_gelu = 0  # no fused path: it reads the weights itself
            elif isinstance(module, nn.TransformerEncoder):
                module.use_nested_tensor = False
