"""The network as a drawing: one bar a layer, the kept part filled.

Layers' widths flow in; SVG text flows out.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from secateur.report.run import Width
from secateur.report.svg import drawing, number, text

ROW, BAR = 26, 16  # pixels
LONGEST = 30  # letters of a layer's name


def widths_svg(layers: Sequence[Width], *, width: int = 760) -> str:
    """Draw the layers' widths before and after, bars to one scale.

    Args:
        layers: name, kept and full width of each, in the network's order.
        width: pixels.

    Returns:
        One <svg> element that follows the reader's light or dark mode, for a page or a file.

    Raises:
        ValueError: there is no layer.

    Example:
        >>> picture = widths_svg([Width("conv1", 6, 16), Width("conv2", 9, 32)])
        >>> picture.startswith("<svg"), "6 of 16" in picture
        (True, True)
    """
    if not layers:
        raise ValueError("widths_svg: no layer to draw")
    widest = max(layer.full for layer in layers)
    left = 16 + 7 * max(len(short(layer.name)) for layer in layers)
    scale = (width - left - 150) / widest
    body = []
    for row, layer in enumerate(layers):
        y = row * ROW + 4
        full, kept = layer.full * scale, layer.kept * scale
        share = layer.kept / layer.full
        body += [
            text(left - 10, y + 12.5, short(layer.name), "end"),
            f"<g><title>{escape(_words(layer))}</title>"
            + _bar(left, y, full, "full")
            + (_bar(left, y, kept, "kept") if layer.kept else "")
            + "</g>",
            text(left + full + 10, y + 12.5, f"{layer.kept:,} of {layer.full:,}"),
            text(width - 4, y + 12.5, f"{share:.0%}", "soft end"),
        ]
    kept, total = sum(layer.kept for layer in layers), sum(layer.full for layer in layers)
    title = f"{kept:,} of {total:,} groups kept in {len(layers)} layers"
    return drawing(width, len(layers) * ROW + 2, title, body)


def _bar(x: float, y: float, width: float, kind: str) -> str:
    return (
        f'<rect class="{kind}" x="{number(x)}" y="{y}" width="{number(max(width, 1.5))}" '
        f'height="{BAR}" rx="2"/>'
    )


def _words(layer: Width) -> str:
    return f"{layer.name}: {layer.kept} of {layer.full} {layer.kind} kept"


def short(name: str) -> str:
    """A long name without its middle: both ends tell layers apart.

    Example:
        >>> short("backbone.stages.3.blocks.11.attention.output.dense")
        'backbone.stage…n.output.dense'
    """
    if len(name) <= LONGEST:
        return name
    half = (LONGEST - 1) // 2
    return f"{name[:half]}…{name[-half:]}"
