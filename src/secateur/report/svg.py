"""The pieces that all drawings share: numbers on axes, escaped text, one look in light and dark.

Numbers and words flow in; SVG text flows out.
"""

from __future__ import annotations

import math
from html import escape

# Every drawing carries its own style, so that it also stands alone as an image.
STYLE = """
.sc{--ink:#1c2328;--soft:#5a666f;--line:#d9dfe3;--kept:#0f7350;--second:#a8500a;--third:#3d5fb8;
font:13px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
@media(prefers-color-scheme:dark){.sc{--ink:#e7ecef;--soft:#a3afb7;--line:#36424a;--kept:#45c08b;
--second:#f0a04b;--third:#8fa8f0}}
.sc text{fill:var(--ink);font-variant-numeric:tabular-nums}.sc .soft{fill:var(--soft)}
.sc .end{text-anchor:end}.sc .mid{text-anchor:middle}
.sc .full{fill:var(--line)}.sc .kept{fill:var(--kept)}
.sc .grid{stroke:var(--line);stroke-width:1}.sc .mark{stroke:var(--soft);stroke-dasharray:4 4}
.sc .curve{fill:none;stroke-width:2;stroke-linejoin:round}
.sc .c0{stroke:var(--kept)}.sc .c1{stroke:var(--second)}.sc .c2{stroke:var(--third)}
.sc .k0{fill:var(--kept)}.sc .k1{fill:var(--second)}.sc .k2{fill:var(--third)}
""".replace("\n", "")


def drawing(width: int, height: int, title: str, body: list[str]) -> str:
    """One SVG element of this size with an accessible title."""
    return (
        f'<svg class="sc" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>{''.join(body)}</svg>"
    )


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Words at a place; kind: "soft", "end" (right-aligned), "mid", or several."""
    shape = f' class="{kind}"' if kind else ""
    return f'<text x="{number(x)}" y="{number(y)}"{shape}>{escape(words)}</text>'


def number(value: float) -> str:
    """A coordinate, to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that cover [low, high], about `count` steps apart.

    Example:
        >>> ticks(0, 0.93)
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    size = max(abs(low), abs(high))
    span = max(high - low, 1e-9 * size)  # what is closer together looks the same
    span = span if span > 1e-290 else 1.0
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = 2 - math.floor(math.log10(step))
    return [round(i * step, digits) for i in range(first, max(last, first + 1) + 1)]
