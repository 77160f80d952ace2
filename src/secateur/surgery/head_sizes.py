"""Numbers that modules store beside their tensors and that heads change: one table for all.

In: a model, its coupling and which heads are dead. Out: for each module the attributes that have
another value afterwards. What a table can't know, the trial removal refuses.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
from torch import nn

from secateur.groups.coupling import Coupling
from secateur.groups.layer import Layer

Sizes = dict[str, dict[str, int]]  # module -> attribute, or "config.attribute" -> value

COUNTS = (  # of heads: they shrink as the groups do
    "num_heads", "n_heads", "num_attention_heads", "n_head", "nhead", "nheads", "n_attn_heads",
    "heads", "h", "num_head", "encoder_attention_heads", "decoder_attention_heads",
    "num_key_value_heads", "n_kv_heads", "num_kv_heads", "n_kv_head", "kv_heads",
    "num_query_heads", "n_local_heads", "n_local_kv_heads",
)  # fmt: skip
REPEATS = (  # query heads of each key/value head: they shrink where query heads leave alone
    "num_key_value_groups", "num_queries_per_kv", "n_rep", "q_per_kv",
)  # fmt: skip
INSIDE = {  # a head: they stay as they are
    "head_dim", "head_size", "attention_head_size", "d_kv", "key_value_proj_dim", "dim_head",
    "d_head", "d_k", "d_v", "d_qk", "dim_key", "head_width", "size_per_head",
}  # fmt: skip
WIDTHS = (  # heads x head size
    "all_head_size", "inner_dim", "split_size", "attn_dim", "attention_dim", "q_size", "kv_size",
    "q_dim", "kv_dim", "qkv_dim", "proj_dim", "projection_size", "attention_inner_dim",
)  # fmt: skip
STREAMS = (  # the model's width, which some attention modules also use for heads x head size
    "embed_dim", "hidden_size", "dim", "d_model", "n_embd", "width", "emb_dim", "embedding_dim",
    "model_dim", "dim_model", "hidden_dim", "channels", "in_dim", "out_dim", "d_out", "emb_size",
)  # fmt: skip


def ways(
    model: nn.Module, coupling: Coupling, layers: Sequence[Layer], dead: np.ndarray, found: Sizes
) -> Iterator[tuple[Sizes, dict[str, int]]]:
    """What may make the modules around attention run with fewer heads, the likeliest way first.

    Yields sizes, and the modules whose code is to follow the width of its heads, with the size of a
    head (forward_wrappers.py). `found` are sizes that were traced: one may hold a number of
    heads by coincidence. Nothing is yielded where no head leaves.
    """
    leaving = [x for x in layers if x.kind == "heads" and dead[x.span].any()]
    if not leaving:
        return
    follow: dict[str, int] = {}
    for layer in leaving:
        follow |= dict.fromkeys(computing(coupling, layer), head_size(coupling, layer))
    elsewhere = {name: values for name, values in found.items() if name not in follow}
    for names in ({}, follow):
        known = head_sizes(model, coupling, layers, dead, streams=bool(names))
        yield both_sizes(_unexplained(model, found, known), known), names
        yield both_sizes(elsewhere, known), names


def _unexplained(model: nn.Module, found: Sizes, known: Sizes) -> Sizes:
    """What is left of `found` without numbers that only happen to equal one of `known`.

    A rotation of 32 dimensions is no number of heads because there are 32 of these.
    """
    modules = dict(model.named_modules())
    left = {}
    for name, values in found.items():
        table = known.get(name, {})
        taken = {vars(modules[name]).get(attribute) for attribute in table}
        kept = {
            attribute: value
            for attribute, value in values.items()
            if attribute in table or vars(modules[name]).get(attribute) not in taken
        }
        if kept:
            left[name] = kept
    return left


def head_sizes(
    model: nn.Module,
    coupling: Coupling,
    layers: Sequence[Layer],
    dead: np.ndarray,
    *,
    streams: bool = False,
) -> Sizes:
    """The attributes that must change in the modules around each attention that loses heads.

    Only modules that hold a single set of coupled heads can say one number for them.

    Args:
        model: at full size.
        coupling: where each group sits in it.
        layers: of all groups; those of the kind "heads" count.
        dead: which groups leave, bool of shape (m,).
        streams: whether to change the model's width too, in the modules that compute attention.
    """
    places = _places(coupling, layers)
    modules = dict(model.named_modules())
    found: Sizes = {}
    for name, heads in places.items():
        if len(heads) > 1 or name not in modules:
            continue
        ((number, entries),) = heads.items()
        layer = layers[number]
        alive = int((~dead[layer.span]).sum())
        if alive == len(layer):
            continue
        share = Fraction(alive, len(layer))
        computes = streams and name in computing(coupling, layer)
        changed = dict(_changed(modules[name], share, entries, len(layer), computes))
        if changed:
            found[name] = changed
    return found


def computing(coupling: Coupling, layer: Layer) -> list[str]:
    """The modules whose code is likely to compute the attention of one layer of heads."""
    owners = _owners(coupling, layer)
    parents = {owner.rpartition(".")[0] for owner in owners} | set(owners)
    common: list[str] = []
    for parts in zip(*(owner.split(".") for owner in owners), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return sorted({*parents, ".".join(common)})


def head_size(coupling: Coupling, layer: Layer) -> int:
    """The size of one head: the least number of indices that one group has along any axis."""
    counts = [
        np.count_nonzero(entries == layer.start)
        for slot in coupling.slots
        for entries in slot.entries
        if entries is not None
    ]
    return int(min((count for count in counts if count > 1), default=1))


def both_sizes(first: Sizes, second: Sizes) -> Sizes:
    """The attributes that either changes, head sizes aside; the second one's value holds."""
    both = {name: first.get(name, {}) | second.get(name, {}) for name in {**first, **second}}
    kept = {
        name: {key: value for key, value in values.items() if key not in INSIDE}
        for name, values in both.items()
    }
    return {name: values for name, values in kept.items() if values}


def has_size(module: nn.Module | None, path: str) -> bool:
    """Whether a module has this attribute (or its configuration has), and it is a number."""
    holder, _, attribute = path.rpartition(".")
    found = getattr(module, holder, None) if holder else module
    return type(getattr(found, attribute, None)) is int


def set_sizes(model: nn.Module, sizes: Sizes) -> None:
    """Give modules their new numbers; a configuration that others share is copied first."""
    for name, changed in sizes.items():
        module = model.get_submodule(name)
        for path, value in changed.items():
            holder, _, attribute = path.rpartition(".")
            if holder and getattr(module, f"_own_{holder}", None) is None:
                setattr(module, holder, copy.copy(getattr(module, holder)))
                setattr(module, f"_own_{holder}", True)
            setattr(getattr(module, holder) if holder else module, attribute, value)


def _owners(coupling: Coupling, layer: Layer) -> list[str]:
    names = [
        name.rpartition(".")[0]
        for slot in coupling.slots
        for entries in slot.entries
        if entries is not None and ((entries >= layer.start) & (entries < layer.stop)).any()
        for name in slot.names
    ]
    return list(dict.fromkeys(names))


def _places(coupling: Coupling, layers: Sequence[Layer]) -> dict[str, dict[int, list[np.ndarray]]]:
    """Every module at or above tensors that heads cut -> layer -> the entries of those tensors."""
    places: dict[str, dict[int, list[np.ndarray]]] = {}
    layer_of = np.full(layers[-1].stop + 1, -1)
    for number, layer in enumerate(layers):
        if layer.kind == "heads":
            layer_of[layer.span] = number
    for slot in coupling.slots:
        for entries in slot.entries:
            numbers = np.array([-1]) if entries is None else layer_of[entries]
            for number in np.unique(numbers[numbers >= 0]).tolist():
                mine = numbers[numbers == number]
                for name in slot.names:
                    while name:
                        name = name.rpartition(".")[0]
                        places.setdefault(name, {}).setdefault(number, []).append(mine)
    return places


def _changed(
    module: nn.Module, share: Fraction, entries: list[np.ndarray], total: int, computes: bool
) -> Iterator[tuple[str, int]]:
    """The attributes of one module that hold a number of heads or their width."""
    widths = {len(found) // pieces for found in entries for pieces in (1, 2, 3)}
    alone = len({len(found) for found in entries if len(found) > total}) == 1
    names = [*COUNTS, *WIDTHS, *(STREAMS if computes else ())]
    for name in names:
        value = vars(module).get(name)
        if type(value) is not int or value <= 1:
            continue
        fits = value % total == 0 if name in COUNTS else value in widths
        if fits and (value * share).denominator == 1:
            yield name, int(value * share)
    for name in REPEATS:
        if vars(module).get(name) == total and alone:
            yield name, int(total * share)
    yield from _changed_config(module, share, total)


def _changed_config(module: nn.Module, share: Fraction, total: int) -> Iterator[tuple[str, int]]:
    """Counts that the module's own code reads from a configuration while it runs."""
    code = getattr(type(module).forward, "__code__", None)
    config = vars(module).get("config")
    if code is None or config is None or "config" not in code.co_names:
        return
    for name in COUNTS:
        value = getattr(config, name, 0) if name in code.co_names else 0
        if type(value) is int and value > 1 and value % total == 0:
            yield f"config.{name}", int(value * share)
