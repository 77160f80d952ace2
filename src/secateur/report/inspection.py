"""What can be removed from a model, what can't and why, and how small it can get.

A model, an example and its groups flow in; tables for the terminal flow out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import nn

from secateur.budget import Budget
from secateur.costs.measures import COUNTED
from secateur.groups import Groups
from secateur.measurement import format_measure
from secateur.report.tables import measure_name, plain_table
from secateur.tracing import Trace, trace
from secateur.utils.name_trees import Row, folded, names, tree


def inspect(model: nn.Module, example: Any, groups: Groups) -> list[Any]:
    """Tabulate a model's groups.

    Args:
        model: at full size.
        example: its inputs.
        groups: what was found in it.

    Returns:
        rich tables: the groups as a tree, the smallest reachable cost in each measure, and what
        isn't removed exactly or isn't grouped, with the reason; and lines on operators without a
        rule and on parameters that the example never reaches (where there are such).

    Raises:
        ImportError: rich is missing.
    """
    tables = [_layers(groups)]
    if all(layer.blocks is None for layer in groups.layers):  # else the kind itself is the budget
        tables.append(_reachable(groups))
    if inexact := [(x.name, len(x), x.inexact) for x in groups.layers if x.inexact]:
        tables.append(_because("Not removed exactly", "groups", inexact))
    if groups.refused:
        tables.append(_because("Not grouped", "channels", groups.refused))
    if example is not None:
        tables.extend(_remarks(trace(model, example)))
    return tables


def _layers(groups: Groups) -> Any:
    rows = []
    for label, row in tree(groups.rows()):
        if row is None:
            rows.append((label, "", "", "", ""))
        else:
            each = row.figures[1] / (row.size * row.times)
            rows.append((label, row.words[0], row.count, f"{each:,.0f}", row.words[1]))
    rows.append(("all", "", f"{len(groups):,}", "", ""))
    columns = ["layer", "kind", "groups", "parameters each", "together with"]
    return _with_words("What can be removed", columns, rows)


def _because(title: str, what: str, refused: Sequence[tuple[str, int, str]]) -> Any:
    rows = folded(Row(name, count, (reason,)) for name, count, reason in refused)
    cells = [
        (label, row.count if row else "", row.words[0] if row else "") for label, row in tree(rows)
    ]
    return _with_words(title, ["layer", what, "because"], cells)


def _with_words(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """A table in which some columns are words; the first, of names, is never broken."""
    table = plain_table(title, columns, rows)
    table.columns[0].no_wrap = True
    table.columns[0].overflow = "fold"
    for column, name in zip(table.columns, columns, strict=True):
        if name in ("kind", "together with", "because"):
            column.justify = "left"
    return table


def _remarks(found: Trace) -> Iterator[str]:
    if found.unknown:
        calls = found.unknown_words
        yield f"Operators without a rule, which protect whatever they touch: {calls}"
    if found.unreached:
        yield f"Parameters that the example never reaches: {names(found.unreached, 12)}"


def _reachable(groups: Groups) -> Any:
    """The full and the smallest cost in each measure that the groups can be budgeted by."""
    rows = []
    traced = groups.coupling is not None and groups.model is not None
    for measure in COUNTED if traced else ("groups",):
        everything: dict[str, Any] = {measure: 1.0}
        allowance = Budget(**everything).on(groups)
        full = allowance.spent(np.ones(len(groups)))[measure]
        least = allowance.spent(allowance.cheapest().astype(float))[measure]
        in_words = (format_measure(measure, value) for value in (full, least))
        rows.append((measure_name(measure), *in_words, f"{least / full:.2%}"))
    return plain_table("How small it can get", ["", "full size", "smallest", "of full"], rows)
