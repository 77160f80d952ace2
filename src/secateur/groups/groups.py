"""`Groups`: which parts of a model live and die together.

In: members (what must be zero for a group to be dead) and, where the model was traced, the coupling
(where each group sits in every tensor and operator). Out: norms, scaling, liveness, a summary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.groups.batched import MemberBatch
from secateur.groups.coupling import Coupling
from secateur.groups.layer import Layer, Names
from secateur.groups.member import Member
from secateur.groups.rebinding import fitting, refuse_misfit, refuse_split, tensors_of
from secateur.groups.sharded import shard_member
from secateur.utils.distributed import all_reduce_sum
from secateur.utils.forward import unwrapped
from secateur.utils.name_trees import Row, folded, reasons, table, tied_to, tree


def _joined(first: Coupling | None, second: Coupling | None, offset: int) -> Coupling | None:
    """The coupling of both, where a kind that was not traced has none."""
    if second is None:
        return first
    if first is None:
        return second.blank().join(second, offset)
    if not first.matches(second):
        raise ValueError(
            "these groups come from different models or example inputs; "
            "make both with the same model and the same example, then add them"
        )
    return first.join(second, offset)


def _refuse_twice(first: Coupling, second: Coupling) -> None:
    """A channel is in one group, also where other weights decide (filters and channels)."""
    for a, b in zip(first.slots, second.slots, strict=True):
        for mine, theirs in zip(a.entries, b.entries, strict=True):
            if mine is not None and theirs is not None and ((mine >= 0) & (theirs >= 0)).any():
                raise ValueError(
                    f"both kinds group the same channels of {a.names[0]}: a channel can be in one "
                    "group only; name the layer in ignore= of one of them"
                )


@dataclass(frozen=True, eq=False)
class Groups:
    """m disjoint groups of a model's parameters.

    Made by `filters`, `neurons`, `custom` and the other kinds; `a + b` is one Groups of both.

    Attributes:
        members: what must be zero for a group to be dead, one entry a parameter.
        layers: consecutive ranges of groups with their names, in the model's order.
        coupling: where each group sits in the model; None where it was not traced, and then the
            groups can be zeroed but not removed.
        refused: what can't be a group, with the reason: (name, channels, reason).
        example: the inputs that the model was traced on, or None.
        coarse: traced groups made of these finer ones, which are removed where all of it is zero.
        model: the model that was traced, so that a budget can try out what a smaller one takes.
        untried: tries the removal of traced groups out, which waits for values on the meta device.

    Example:
        >>> import secateur as sc
        >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> groups = sc.neurons(model, torch.ones(1, 4))
        >>> len(groups), groups.names[5], groups.norms().shape
        (6, '0[5]', torch.Size([6]))
    """

    members: tuple[Member, ...]
    layers: tuple[Layer, ...]
    coupling: Coupling | None = None
    refused: tuple[tuple[str, int, str], ...] = ()
    example: Any = field(default=None, repr=False)
    coarse: Groups | None = field(default=None, repr=False)
    model: nn.Module | None = field(default=None, repr=False)
    untried: Callable[[Groups, nn.Module], Groups] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        sharing: dict[int, list[Member]] = {}
        for member in self.members:
            sharing.setdefault(id(member.parameter), []).append(member)
        for members in sharing.values():
            if len(members) > 1:
                owned = [
                    (m.ids.cpu() >= 0).expand(m.shape or m.parameter.shape).reshape(-1)
                    for m in members
                ]
                if twice := int((torch.stack(owned).sum(0) > 1).sum()):
                    raise ValueError(
                        f"groups overlap in {members[0].name}: {twice} of its "
                        f"{members[0].parameter.numel()} elements would be in two groups; "
                        "an element can be in one group only"
                    )

    def __len__(self) -> int:
        return self.layers[-1].stop if self.layers else 0

    def __add__(self, other: Groups) -> Groups:
        if not isinstance(other, Groups):
            return NotImplemented
        offset = len(self)
        moved = tuple(member.moved(offset) for member in other.members)
        layers = tuple(
            replace(layer, start=layer.start + offset, stop=layer.stop + offset)
            for layer in other.layers
        )
        refused = tuple(dict.fromkeys((*self.refused, *other.refused)))
        coupling = _joined(self.coupling, other.coupling, offset)
        example = self.example if other.example is None else other.example
        coarse = self.coarse or other.coarse
        model = self.model if other.model is None else other.model
        both = Groups(
            self.members + moved,
            self.layers + layers,
            coupling,
            refused,
            example,
            coarse,
            model,
            self.untried or other.untried,
        )
        if self.coupling is not None and other.coupling is not None:
            _refuse_twice(self.coupling, other.coupling)
        return both

    # -- what groups know about themselves ---------------------------------------------------------

    @property
    def names(self) -> Sequence[str]:
        """One name a group: its layer and its position there, such as "conv1[3]"."""
        return Names(self.layers)

    @property
    def layer_ids(self) -> np.ndarray:
        """The number of the layer that each group belongs to, shape (m,)."""
        return np.repeat(np.arange(len(self.layers)), [len(layer) for layer in self.layers])

    @property
    def costs(self) -> Tensor:
        """How many parameters leave with each group when it leaves first, float64 of shape (m,).

        Where no trace says so, the group's own elements count.
        """
        total = np.zeros(len(self))
        for slot in self.coupling.slots if self.coupling else ():
            for entries in slot.entries:
                if slot.is_parameter and entries is not None:
                    spread = int(np.prod(slot.shape)) // len(entries)
                    found = entries[entries >= 0]
                    total += spread * np.bincount(found, minlength=len(self))
            alone = [together[0] for together in slot.within if len(together) == 1]
            if slot.is_parameter and alone:
                total[alone] += int(np.prod(slot.shape))
        own = np.zeros(len(self))
        for member in self.members if (total == 0).any() else ():
            spread = member.parameter.numel() // max(member.ids.numel(), 1)
            ids = member.ids.reshape(-1).cpu().numpy()
            own += spread * np.bincount(ids[ids >= 0], minlength=len(self))
        return torch.from_numpy(np.where(total > 0, total, own))

    # -- what happens to the parameters ------------------------------------------------------------

    def norms(self) -> Tensor:
        """The Euclidean norm of every group, shape (m,), float64 (float32 where that is all)."""
        return self.squares().sqrt_()

    def squares(self, tensors: Sequence[Tensor | None] | None = None) -> Tensor:
        """The sum of squares over every group, shape (m,), in the dtype of `norms`.

        Args:
            tensors: of what, one a member, as large as its parameter and split likewise, such as
                the gradients; None among them stands for zeros. By default the parameters.
        """
        total = self._zeros()
        left = self.together.add_squares_(total, tensors)
        chosen = {} if tensors is None else {at: tensors[at] for at in left}
        parts = (
            (member.parameter, partial(member.add_squares_, tensor=chosen.get(at)))
            for at, member in ((at, self.members[at]) for at in left)
        )
        return all_reduce_sum(parts, total)

    def products(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """The sum over every group of (parameter x tensor)^2, shape (m,), in the dtype of `norms`.

        Args:
            tensors: one a member, as large as its parameter and split likewise, such as the
                gradients; None among them stands for zeros.
        """
        total = self._zeros()
        left = self.together.add_products_(total, tensors)
        parts = (
            (member.parameter, partial(member.add_products_, tensor=tensor))
            for member, tensor in ((self.members[at], tensors[at]) for at in left)
            if tensor is not None
        )
        return all_reduce_sum(parts, total)

    def alive(self) -> Tensor:
        """Whether any element of the group is non-zero, bool of shape (m,)."""
        parts = ((member.parameter, member.raise_) for member in self.members)
        return all_reduce_sum(parts, self._zeros()) != 0

    def _zeros(self) -> Tensor:
        self._refuse_meta()
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        return torch.zeros(len(self), dtype=dtype, device=self.device)

    def _refuse_meta(self) -> None:
        if self.on_meta:
            raise ValueError(
                "these are groups of a model on the meta device, which has no values; take them to "
                "one that has: groups.on(model)"
            )

    @torch.no_grad()
    def scale_(self, factors: Tensor) -> Groups:
        """Multiply every group by its factor, in place.

        Args:
            factors: shape (m,); 1 leaves a group untouched, 0 kills it, whatever its values.

        Raises:
            ValueError: the shape is not (m,), or a factor is negative, infinite or no number.
        """
        if factors.shape != (len(self),):
            raise ValueError(
                f"scale_: expected one factor for each of {len(self)} groups, "
                f"shape ({len(self)},); got {tuple(factors.shape)}"
            )
        self._refuse_meta()
        if len(self):
            lowest, highest = map(float, factors.detach().aminmax())
            if not 0 <= lowest <= highest < math.inf:
                position = int((~((factors >= 0) & factors.isfinite())).nonzero()[0])
                raise ValueError(
                    f"scale_: the factor of {self.names[position]} is {float(factors[position])}; "
                    "expected finite numbers of 0 or more"
                )
        left = [self.members[position] for position in self.together.scale_(factors)]
        if any(member.has_gaps for member in left):
            factors = self.pad(factors)
        for member in left:
            member.scale_(factors)
        return self

    @cached_property
    def together(self) -> MemberBatch:
        """The members, for what is done to all of them at once."""
        return MemberBatch(self.members)

    def pad(self, factors: Tensor) -> Tensor:
        """`factors` with a 1 behind them: the factor of elements in no group (id -1)."""
        factors = factors.to(self.device)
        return torch.cat([factors, factors.new_ones(1)])

    @property
    def device(self) -> torch.device:
        return self.members[0].parameter.device if self.members else torch.device("cpu")

    def on(self, model: nn.Module, example: Any = None) -> Groups:
        """The same groups of another copy of the model (an average of its weights, a reloaded one).

        Groups that were found on the meta device are tried out when they meet a model with values.
        Of a model that is split over processes (FSDP, tensor parallel) they hold what is here, and
        `norms`, `alive` and `summary` are then called on every process.

        Args:
            model: the other copy, or the same model after it was split; of whatever the groups cut,
                it has the same shapes and ties.
            example: other example inputs, where the groups' own have no values (meta device).

        Raises:
            ValueError: a parameter or buffer is missing there, has another shape, or is tied to
                another; or what was found on the meta device can't be removed.
        """
        model = unwrapped(model)
        tensors = tensors_of(model)
        members = []
        for member in self.members:
            refuse_misfit(model, tensors, member.name, tuple(member.parameter.shape))
            same = tensors[member.name] is member.parameter
            members.append(member if same else shard_member(member.of(tensors[member.name])))
        groups = replace(
            self,
            members=tuple(members),
            coupling=None if self.coupling is None else fitting(self.coupling, model),
            coarse=None if self.coarse is None else self.coarse.on(model, example),
            example=self.example if example is None else example,
            model=model,
        )
        if self.untried is not None and self.on_meta and not groups.on_meta:
            refuse_split(groups.members)
            return self.untried(groups, model)
        return groups

    @property
    def on_meta(self) -> bool:
        """Whether these are groups of a model without values, on the meta device."""
        return any(member.parameter.is_meta for member in self.members)

    # -- reading -----------------------------------------------------------------------------------

    def rows(self) -> list[Row]:
        """A row a layer, or one for those of equal blocks.

        Its words are the kind and what is tied to the layer; its figures the groups that are alive
        (0 on the meta device) and the parameters that leave with the layer.
        """
        alive = np.zeros(len(self)) if self.on_meta else self.alive().cpu().numpy()
        costs = self.costs.numpy()
        rows = []
        for layer in self.layers:
            words = (layer.kind, tied_to(layer.name, layer.producers))
            figures = (int(alive[layer.span].sum()), int(costs[layer.span].sum()))
            rows.append(Row(layer.name, len(layer), words, figures))
        return folded(rows)

    def summary(self) -> str:
        """A table: one row a layer with its groups, those alive, and what is tied to it.

        Layers of equal blocks share a row; below stands what could not be grouped, and why.
        """
        cells: list[Sequence[str]] = [
            ("layer", "kind", "groups", "alive", "params", "together with")
        ]
        all_alive = 0
        for label, row in tree(self.rows()):
            if row is None:
                cells.append((label, "", "", "", "", ""))
                continue
            (kind, also), (alive, params) = row.words, row.figures
            all_alive += alive
            left = "–" if self.on_meta else f"{alive:,}"
            cells.append((label, kind, row.count, left, f"{params:,}", also))
        left = "–" if self.on_meta else f"{all_alive:,}"
        cells.append(("total", "", f"{len(self):,}", left, "", ""))
        lines = table(cells, right=(2, 3, 4))
        lines.insert(1, "-" * max(map(len, lines)))
        if any(layer.inexact for layer in self.layers):
            lines.append("removed by shrink(..., exact=False) only:")
            lines += reasons((x.name, len(x), x.inexact) for x in self.layers if x.inexact)
        if self.refused:
            lines.append("not grouped:")
            lines += reasons(self.refused)
        if self.on_meta:
            lines.append("on the meta device: removal not tried out; groups.on(model) does that")
        return "\n".join(lines)

    def __repr__(self) -> str:
        layers = ", ".join(f"{layer.name} {len(layer)}" for layer in self.layers[:4])
        more = f", and {len(self.layers) - 4} more layers" if len(self.layers) > 4 else ""
        return f"Groups({len(self)}: {layers}{more})"
