"""docs/zoo.md from benchmarks/results/zoo.jsonl; no figure is typed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"


def verdict(line: dict[str, Any]) -> str:
    """One line for the terminal."""
    if "error" in line:
        return f"FAILED {line['error']}".splitlines()[0][:200]
    if not line["budgets"]:
        return "nothing to remove: " + "; ".join(line["refused"]).replace("\n", " ")[:160]
    parts = [str(line["kinds"])]
    for budget in line["budgets"]:
        state = "exact" if budget["exact"] else "NOT EXACT"
        state = f"floor {state}" if budget["floor"] else state
        parts.append(
            f"{budget['asked']:.0%} -> {budget['reached']:.1%} {state} "
            f"{budget['difference']:.0e} {'loads' if budget['loads'] else 'DOES NOT LOAD'} "
            f"onnx {budget['onnx'][:60]}"
        )
    return " | ".join(parts)


def write(result: Path, page: Path = PAGE) -> None:
    """Write the page."""
    raise NotImplementedError
