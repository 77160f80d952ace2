"""docs/zoo.md from benchmarks/results/zoo.jsonl; no figure is typed by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import runs

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"


def verdict(line: dict[str, Any]) -> str:
    """One line for the terminal."""
    if "error" in line:
        return f"FAILED {line['error']}".splitlines()[0][:200]
    if "skipped" in line:
        return f"skipped: {line['skipped']}"
    if not line["budgets"]:
        return "nothing to remove: " + "; ".join(line["refused"]).replace("\n", " ")[:160]
    parts = [str(line["kinds"])]
    for budget in line["budgets"]:
        state = "exact" if budget["exact"] else "NOT EXACT"
        state = f"floor {state}" if budget["floor"] else state
        parts.append(
            f"{budget['asked']:.0%} -> {budget['reached']:.1%} {state} "
            f"{budget['difference']:.0e} {'loads' if budget['loads'] else 'DOES NOT LOAD'}"
            + (f" onnx {budget['onnx'][:60]}" if budget["onnx"] else "")
        )
    return " | ".join(parts)


TITLES = {
    "classics": "Plain and concatenating convolutions",
    "residual": "Residual networks",
    "mobile": "Networks for small devices",
    "pixels": "Images and maps as output",
    "sequences": "Signals, volumes, recurrent networks",
    "mixed": "Other kinds",
    "language": "Language (transformers)",
    "vision": "Vision (transformers)",
    "signals": "Speech, pictures with text (transformers)",
    "attentions": "Further language models (transformers)",
    "further": "Further vision, speech, time series (transformers)",
    "unusual": "Further kinds, written by hand",
    "pretrained": "Real weights",
}


def write(result: Path, page: Path = PAGE) -> None:
    """Write the page."""
    lines = runs.read(result)
    parts = [HEAD, summary(lines)]
    for family, title in TITLES.items():
        mine = [line for line in lines if line["family"] == family]
        if mine:
            parts += [f"## {title}", "\n".join([*COLUMNS, *map(row, mine)])]
    notes = [note for line in lines if (note := remark(line))]
    if notes:
        parts += ["## What is refused, and why", "\n".join(notes)]
    parts.append(f"{machine(lines[0])}. Written by `{lines[0]['command']}`.")
    page.parent.mkdir(exist_ok=True)
    page.write_text("\n\n".join(parts) + "\n")


HEAD = """# The zoo

Small architectures with random weights, each disturbed and trained for a few steps, so that no bias
or statistic is at its default. Random groups of every kind that applies are set to zero until 50 %
and 20 % of the FLOPs are left; then the network is shrunk, compared with the zeroed one (largest
difference of any output, relative to the output's scale, on the example and on random inputs of
another batch size), saved and loaded into a new full-size network, and (the smaller one) exported
to ONNX, where ONNX Runtime must compute the same within 1e-5.

Kinds that share parameters with another one (layers and the filters in them, the width of a
stream) can't be added:
they are counted, and half of their groups is removed in a run of its own. Real weights are left as
they are.

*Reached* is counted on the shrunk network by an independent counter. *Floor* marks a budget that
lies below the smallest network that keeps one group of each layer: that network was made. Seconds
are CPU seconds."""

COLUMNS = (
    "| architecture | groups | at 50 % | at 20 % | difference | grouping, shrinking s | loads "
    "| ONNX |",
    "|---|---|---:|---:|---:|---:|---|---|",
)


def is_right(line: dict[str, Any]) -> bool:
    """Whether an architecture shrank at both budgets, exactly, equal, and loads."""
    return (
        bool(line.get("budgets"))
        and all(
            b["exact"] and b["difference"] <= 1e-5 and b["loads"] and not b["stayed"]
            for b in line["budgets"]
        )
        and all(gap <= 1e-5 for gap in line.get("alone", {}).values())
    )


def summary(lines: list[dict[str, Any]]) -> str:
    """One sentence a fact, counted."""
    skipped = [line["name"] for line in lines if "skipped" in line]
    lines = [line for line in lines if "skipped" not in line]
    right = [line for line in lines if is_right(line)]
    refused = [line["name"] for line in lines if "budgets" in line and not line["budgets"]]
    wrong = [line["name"] for line in lines if line not in right and line["name"] not in refused]
    worst = max(b["difference"] for line in right for b in line["budgets"])
    onnx = sum(line["budgets"][-1]["onnx"].startswith("equal") for line in right)
    facts = [
        f"{len(right)} of {len(lines)} architectures shrink at both budgets: exact, equal "
        f"(worst difference {worst:.0e}), and the same after a round trip through a file.",
        f"{onnx} of them export to ONNX with equal output.",
    ]
    if refused:
        facts.append(f"Refused by name: {', '.join(refused)}.")
    if wrong:
        facts.append(f"Failed: {', '.join(wrong)}.")
    if skipped:
        facts.append(f"Skipped: {', '.join(skipped)}.")
    return " ".join(facts)


def row(line: dict[str, Any]) -> str:
    """One architecture."""
    if not line.get("budgets"):
        state = "failed" if "error" in line else "skipped" if "skipped" in line else "refused"
        return f"| {line['name']} | {state}, see below | | | | | | |"
    budgets = line["budgets"]
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in line["kinds"].items())
    shares = [f"{100 * b['reached']:.1f} %{' (floor)' if b['floor'] else ''}" for b in budgets]
    seconds = f"{line['grouping_seconds']:.1f}, {max(b['shrink_seconds'] for b in budgets):.1f}"
    loads = "yes" if all(b["loads"] for b in budgets) else "no"
    onnx = budgets[-1]["onnx"]
    onnx = onnx if onnx.startswith("equal") else "no, see below"
    gap = max(b["difference"] for b in budgets)
    cells = [line["name"], kinds, *shares, f"{gap:.0e}", seconds, loads, onnx]
    return f"| {' | '.join(cells)} |"


def remark(line: dict[str, Any]) -> str:
    """What is worth a line of its own: nothing removable, no export, a failure."""
    if "error" in line:
        return f"- **{line['name']}** failed: {_plain(line['error'])}"
    if "skipped" in line:
        return f"- **{line['name']}** was skipped: {_plain(line['skipped'])}"
    if not line["budgets"]:
        reasons = "; ".join(_plain(reason) for reason in line["refused"])
        return f"- **{line['name']}**: {reasons}"
    onnx = line["budgets"][-1]["onnx"]
    failed = onnx and not onnx.startswith("equal")
    return f"- **{line['name']}**, ONNX: {_plain(onnx)}" if failed else ""


def _plain(text: str) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)  # colours meant for a terminal
    return " ".join(text.split())[:700].replace("|", "/").replace("<", "&lt;")


def machine(line: dict[str, Any]) -> str:
    return (
        f"{line['processor']}, one thread, Python {line['python']}, torch {line['torch']}, "
        f"transformers {line['transformers']}"
    )
