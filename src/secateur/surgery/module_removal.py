"""Shorter lists: blocks leave their nn.ModuleList or nn.Sequential, and what counts them follows.

In: a model and the names of blocks that do nothing any more. Out: the same model with shorter
lists, in which the later blocks, their numbers (layer_idx) and the depths that modules and
configurations store have moved up; and names translated between the two.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

from torch import nn

from secateur.groups.absent import is_inside

NUMBERS = ("layer_idx", "layer_id", "layer_number", "layer_index", "block_idx")  # of a block
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


def take_out(model: nn.Module, blocks: Collection[str]) -> None:
    """Take blocks out of their lists, in place; configurations are copied before they change."""
    if not blocks:
        return
    places = _by_list(blocks)
    lists = {name: module for name, module in model.named_modules() if _is_list(module)}
    before = {name: len(module._modules) for name, module in lists.items()}
    _own_configurations(model)
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


def _own_configurations(model: nn.Module) -> None:
    """Give a model copies of its configurations, which other models may have, too."""
    copies: dict[int, object] = {}
    for module in model.modules():
        if (config := vars(module).get("config")) is not None:
            module.config = copy.deepcopy(config, copies)  # pyright: ignore


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, (nn.ModuleList, nn.Sequential))
