"""The report's HTML: one look, and the few pieces that its pages are made of.

Words flow in, escaped on the way; markup flows out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

STYLE = """
:root{color-scheme:light dark;--page:#f6f8f7;--card:#fff;--ink:#1c2328;--soft:#5a666f;
--line:#d9dfe3;--kept:#0f7350;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--page:#11171a;--card:#192126;--ink:#e7ecef;--soft:#a3afb7;
--line:#36424a;--kept:#45c08b;--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);line-height:1.5;
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:880px;margin:0 auto;padding:40px 20px 64px}
h1{font-size:30px;line-height:1.2;margin:0 0 6px;letter-spacing:-.01em}
a{color:var(--kept)}
h2{font-size:19px;margin:0 0 4px}
.lead{color:var(--soft);margin:0 0 28px}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:22px 24px;margin:0 0 20px}
section>p{color:var(--soft);margin:0 0 14px;font-size:15px}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;
margin:0 0 20px}
.fact{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 18px}
.fact b{display:block;font-size:26px;line-height:1.2;color:var(--kept);
font-variant-numeric:tabular-nums}
.fact span{color:var(--soft);font-size:14px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:15px;font-variant-numeric:tabular-nums}
th,td{padding:7px 10px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--soft);font-weight:600}tbody th{color:var(--ink);font-weight:400}
th:first-child,td:first-child{text-align:left;padding-left:0}
tr:last-child>*{border-bottom:0}
.words td{text-align:left;white-space:normal;vertical-align:top}
.words td:first-child{min-width:116px}
.wide svg{max-width:none;width:100%;min-width:600px}
.good{color:var(--kept);font-weight:600}.bad{color:var(--bad);font-weight:600}
figure{margin:0}figcaption{font-weight:600;font-size:15px;margin:0 0 6px}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(320px,1fr));gap:26px}
svg{max-width:100%;height:auto;display:block}
footer{color:var(--soft);font-size:14px}
"""


def page(title: str, lead: str, body: str) -> str:
    """A whole page."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>{body}'
        "<footer>Made by secateur. One file, no network needed.</footer></main></body></html>\n"
    )


def section(title: str, lead: str, body: str) -> str:
    """A card with a heading and a sentence; the body is markup."""
    return f"<section><h2>{escape(title)}</h2><p>{escape(lead)}</p>{body}</section>"


class Markup(str):
    """Text that is HTML already."""


def cell(words: str) -> str:
    """Text as it stands in HTML: escaped, but for what is `Markup`."""
    return words if isinstance(words, Markup) else escape(words)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of text or `Markup`; a row's first cell is its name."""
    top = "".join(f'<th scope="col">{cell(words)}</th>' for words in head)
    body = ""
    for row in rows:
        cells = "".join(f"<td>{cell(words)}</td>" for words in row[1:])
        body += f'<tr><th scope="row">{cell(row[0])}</th>{cells}</tr>'
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def good(words: str, holds: bool) -> Markup:
    """Words in green with a tick, or in red with a cross."""
    kind, sign = ("good", "✓") if holds else ("bad", "✗")
    return Markup(f'<span class="{kind}">{sign} {escape(words)}</span>')


def figure(caption: str, picture: str) -> str:
    """A drawing under its caption."""
    return f"<figure><figcaption>{escape(caption)}</figcaption>{picture}</figure>"


def definitions(title: str, facts: Mapping[str, str], lead: str) -> str:
    """A section of names and what they stand for; nothing where there are none."""
    return section(title, lead, words_table(list(facts.items()))) if facts else ""


def words_table(rows: Sequence[tuple[str, str]]) -> str:
    """A table of text or `Markup` in two columns that may wrap, without a head."""
    body = "".join(f"<tr><td>{cell(one)}</td><td>{cell(other)}</td></tr>" for one, other in rows)
    return f'<div class="scroll"><table class="words"><tbody>{body}</tbody></table></div>'
