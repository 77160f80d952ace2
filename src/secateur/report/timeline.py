"""The layers' widths over training as a drawing: one strip a layer, filled as high as it is kept.

Records of a history and the layers' full widths flow in; SVG text flows out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from secateur.report.run import Width, labels
from secateur.report.svg import drawing, number, text
from secateur.report.width_bars import ROW, short

STRIP, FOOT = 20, 26  # pixels


def timeline_svg(
    history: Sequence[Mapping[str, Any]],
    layers: Sequence[Width],
    *,
    at: tuple[str, float] | None = None,
    width: int = 760,
) -> str:
    """Draw how many groups of each layer were kept as training went on.

    Args:
        history: of a run; those of its records count that have "widths", layer -> groups kept.
        layers: name and full width of each, in the network's order.
        at: a dashed vertical line, (words, step).
        width: pixels.

    Returns:
        One <svg> element; "" where fewer than two records tell the widths of these layers.

    Example:
        >>> history = [{"step": 1, "widths": {"conv1": 16}}, {"step": 9, "widths": {"conv1": 4}}]
        >>> "4 of 16" in timeline_svg(history, [Width("conv1", 4, 16)])
        True
    """
    names = labels(layers)
    records = [r for r in history if set(names) <= set(r.get("widths", ()))]
    if len(records) < 2 or not layers:
        return ""
    first, last = records[0]["step"], records[-1]["step"]
    left = 16 + 7 * max(len(short(name)) for name in names)
    scale = (width - left - 110) / ((last - first) or 1)

    def place(step: float) -> float:
        return left + (step - first) * scale

    body, foot = [], len(layers) * ROW + 4
    for row, (name, layer) in enumerate(zip(names, layers, strict=True)):
        y = row * ROW + 4
        shares = [(place(r["step"]), r["widths"][name] / layer.full) for r in records]
        kept = records[-1]["widths"][name]
        body += [
            text(left - 10, y + 14.5, short(name), "end"),
            f"<g><title>{escape(name)}: {kept:,} of {layer.full:,} at the end</title>"
            f'<rect class="full" x="{left}" y="{y}" width="{number(place(last) - left)}" '
            f'height="{STRIP}"/>{_area(shares, y + STRIP)}</g>',
            text(place(last) + 10, y + 14.5, f"{kept:,} of {layer.full:,}"),
        ]
    body.append(text(left, foot + 14, f"step {first:,}", "soft"))
    body.append(text(place(last), foot + 14, f"{last:,}", "soft end"))
    if at is not None and first <= at[1] <= last:
        x = place(at[1])
        body.append(f'<path class="mark" d="M{number(x)} 0V{foot}"/>')
        body.append(text(x, foot + 14, at[0], "soft mid"))
    title = f"Groups kept in {len(layers)} layers over {last:,} steps of training"
    return drawing(width, foot + FOOT - 6, title, body)


def _area(shares: Sequence[tuple[float, float]], bottom: float) -> str:
    """The area under shares of the strip's height, as stairs: a width holds until the next one."""
    path = f"M{number(shares[0][0])} {number(bottom)}"
    for x, share in shares:
        path += f"H{number(x)}V{number(bottom - share * STRIP)}"
    return f'<path class="kept" d="{path}V{number(bottom)}Z"/>'
