"""What can be removed from a model, what can't and why, and how small it can get.

A model, an example and a kind of groups flow in; tables for the terminal flow out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from secateur.budget import Budget
from secateur.budget.costs import COUNTED
from secateur.groups import Groups
from secateur.integrations.options import make_groups
from secateur.measure import format_measure
from secateur.report.tables import NAMES, plain_table


def inspect(
    model: nn.Module, example: Any, kinds: str = "filters", ignore: Sequence[str] = ()
) -> list[Any]:
    """Find a model's groups and tabulate them.

    Args:
        model: at full size.
        example: its inputs.
        kinds: such as "filters" or "filters,neurons".
        ignore: names of modules that stay.

    Returns:
        rich tables: the groups by layer, the smallest reachable cost in each measure, and what
        can't be removed, exactly or at all, with the reason (where there is such).

    Raises:
        ValueError: an unknown kind, or nothing can be removed.
        ImportError: rich is missing.
    """
    groups = make_groups(model, example, kinds, ignore)
    tables = [_layers(groups)]
    if all(layer.blocks is None for layer in groups.layers):  # else the kind itself is the budget
        tables.append(_reachable(groups))
    if inexact := [layer for layer in groups.layers if layer.inexact]:
        rows = [(layer.name, f"{len(layer):,}", layer.inexact) for layer in inexact]
        tables.append(plain_table("Not removed exactly", ["", "groups", "because"], rows))
    if groups.refused:
        rows = [(name, f"{count:,}", reason) for name, count, reason in groups.refused]
        tables.append(plain_table("Not removable", ["", "channels", "because"], rows))
    return tables


def _layers(groups: Groups) -> Any:
    costs = groups.costs.numpy()
    rows = []
    for layer in groups.layers:
        also = [name for name in layer.producers if not name.startswith(layer.name + ".")]
        more = f" and {len(also) - 2} more" if len(also) > 2 else ""
        each = costs[layer.start : layer.stop].mean()
        rows.append(
            (layer.name, layer.kind, f"{len(layer):,}", f"{each:,.0f}", ", ".join(also[:2]) + more)
        )
    rows.append(("all", "", f"{len(groups):,}", "", ""))
    columns = ["layer", "kind", "groups", "parameters each", "tied to"]
    return plain_table("What can be removed", columns, rows)


def _reachable(groups: Groups) -> Any:
    """The full and the smallest cost in each measure that the groups can be budgeted by."""
    rows = []
    for measure in COUNTED if groups.model is not None else ("groups",):
        everything: dict[str, Any] = {measure: 1.0}
        allowance = Budget(**everything).on(groups)
        full = allowance.spent(np.ones(len(groups)))[measure]
        least = allowance.spent(allowance.cheapest().astype(float))[measure]
        in_words = (format_measure(measure, value) for value in (full, least))
        rows.append((NAMES.get(measure, measure), *in_words, f"{least / full:.2%}"))
    return plain_table("How small it can get", ["", "full size", "smallest", "of full"], rows)
