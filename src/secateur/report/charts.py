"""Curves over training and bars to compare: the report's charts.

Series and figures flow in; SVG text flows out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from secateur.report.svg import drawing, number, text, ticks

LEFT, RIGHT, TOP, BOTTOM = 56, 14, 48, 40  # pixels around the plot
FAR = 1e300  # beyond this an axis can't be divided into steps


@dataclass(frozen=True)
class Series:
    """One curve: a name and its points (x, y)."""

    name: str
    points: Sequence[tuple[float, float]]


def curves(
    series: Sequence[Series],
    title: str,
    *,
    x_name: str = "step",
    show: Callable[[float], str] = "{:g}".format,
    from_zero: bool = True,
    level: tuple[str, float] | None = None,
    at: tuple[str, float] | None = None,
    dots: Sequence[tuple[float, float]] = (),
    size: tuple[int, int] = (372, 262),
) -> str:
    """Draw curves over one x axis; points that are not finite are left out, and counted below it.

    Args:
        series: up to three curves.
        title: what the drawing says to those who can't see it.
        x_name: the x axis.
        show: how numbers on the y axis are written.
        from_zero: whether the y axis starts at 0.
        level: a dashed horizontal line, (words, y).
        at: a dashed vertical line, (words, x).
        dots: single points (x, y), beside the curves.
        size: pixels.

    Returns:
        One <svg> element.

    Raises:
        ValueError: no points.
    """
    given = [point for one in series for point in one.points] + list(dots)
    if not given:
        raise ValueError(f"curves({title!r}): no points to draw")
    series = [Series(one.name, finite(one.points)) for one in series]
    dots, places = finite(dots), finite(given)
    if left_out := len(given) - len(places):
        x_name += f" ({left_out:,} of {len(given):,} points are not finite)"
    level = level if level and abs(level[1]) < FAR else None
    xs = [x for x, _ in places] or [0.0]
    ys = [y for _, y in places] + ([level[1]] if level else []) or [0.0]
    width, height = size
    y_ticks = ticks(0.0 if from_zero else min(ys), max(ys))
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)

    def place_x(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (width - LEFT - RIGHT)

    def place_y(y: float) -> float:
        share = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return height - BOTTOM - share * (height - TOP - BOTTOM)

    body: list[str] = []
    for value in y_ticks:
        y = number(place_y(value))
        body.append(f'<path class="grid" d="M{LEFT} {y}H{width - RIGHT}"/>')
        body.append(text(LEFT - 8, place_y(value) + 4, show(value), "soft end"))
    for value in [x for x in ticks(x_low, x_high, 5) if x_low <= x <= x_high]:
        body.append(text(place_x(value), height - BOTTOM + 18, f"{value:,g}", "soft mid"))
    body.append(text((LEFT + width - RIGHT) / 2, height - 6, x_name, "soft mid"))
    if level is not None:
        y = number(place_y(level[1]))
        body.append(f'<path class="mark" d="M{LEFT} {y}H{width - RIGHT}"/>')
        body.append(text(LEFT + 6, place_y(level[1]) - 6, level[0], "soft"))
    if at is not None and x_low <= at[1] <= x_high:
        x = place_x(at[1])
        body.append(f'<path class="mark" d="M{number(x)} {TOP}V{height - BOTTOM}"/>')
        body.append(text(x, TOP - 7, at[0], "soft mid"))
    for i, one in enumerate(series):
        path = "L".join(f"{number(place_x(x))} {number(place_y(y))}" for x, y in one.points)
        if not path:
            continue
        body.append(f'<path class="curve c{i}" d="M{path}"/>')
    for x, y in dots:
        place = f'cx="{number(place_x(x))}" cy="{number(place_y(y))}"'
        body.append(f'<circle class="k1" {place} r="3.5"/>')
    return drawing(width, height, title, [*_legend(series), *body])


def finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that have a place on paper."""
    return [(x, y) for x, y in points if abs(x) < FAR and abs(y) < FAR]


def _legend(series: Sequence[Series]) -> list[str]:
    """A coloured square and a name for each curve, in one row above the plot."""
    body, x = [], float(LEFT)
    for i, one in enumerate(series):
        body.append(f'<rect class="k{i}" x="{number(x)}" y="6" width="10" height="10" rx="2"/>')
        body.append(text(x + 15, 15, one.name))
        x += 15 + 7.2 * len(one.name) + 16
    return body


def bars(
    rows: Sequence[tuple[str, float]],
    title: str,
    *,
    show: Callable[[float], str],
    width: int = 372,
) -> str:
    """Draw one horizontal bar a row, the last one (the small network) in colour.

    Args:
        rows: (name, value), values 0 or more; others are left out.
        title: what the drawing says to those who can't see it.
        show: how a value is written behind its bar.
        width: pixels.

    Returns:
        One <svg> element.
    """
    rows = [(name, value) for name, value in rows if 0 <= value < FAR]
    most = max((value for _, value in rows), default=0) or 1.0
    left = 16 + 7 * max((len(name) for name, _ in rows), default=0)
    body = []
    for i, (name, value) in enumerate(rows):
        y, length = 4 + i * 30, value / most * (width - left - 88)
        kind = "kept" if i == len(rows) - 1 else "full"
        body += [
            text(left - 10, y + 15, name, "end"),
            f'<rect class="{kind}" x="{left}" y="{y}" width="{number(max(length, 1.5))}" '
            'height="20" rx="2"/>',
            text(left + length + 8, y + 15, show(value)),
        ]
    return drawing(width, 4 + 30 * len(rows), title, body)
