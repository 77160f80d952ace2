"""Write the pages' tables and picture from benchmarks/results: no figure is typed by hand.

python benchmarks/readme.py            # rewrites README.md, docs/*.md and their pictures
python benchmarks/readme.py --check    # fails if they don't match the results
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import runs
import runtimes
import transfer
from accuracy import kinds, known, penalties, widths  # noqa: F401
from accuracy.table import cell, compared, cut_later, sensitivity, studied, summary
from gpu.accuracy import budget_tables, known_on_gpu, penalty_table
from secateur.report import Width, widths_svg
from speed import product

ROOT = Path(__file__).parents[1]
LARGE = 10_000_000  # values: from there on a GPU has more to do than to start kernels
FULL_WIDTHS = {"conv1": 20, "conv2": 50, "fc1": 500}


def accuracy_table(lines: list[dict[str, Any]]) -> str:
    """One row a budget: asked, reached, and the accuracy over seeds."""
    rows = [
        "| budget | asked | reached | parameters | FLOPs | accuracy % | against dense |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    by_budget = runs.grouped(lines, "budget")
    dense = statistics.mean(line["accuracy"] for line in by_budget["dense"])
    full = by_budget["dense"][0]
    for budget, runs_ in by_budget.items():
        asked = f"{runs_[0]['asked']:,}" if "asked" in runs_[0] else ""
        reached = _range([line["reached"] for line in runs_ if "reached" in line])
        mean = statistics.mean(line["accuracy"] for line in runs_)
        rows.append(
            f"| {budget} | {asked} | {reached} "
            f"| {_share([line['params'] for line in runs_], full['params'])} "
            f"| {_share([line['flops'] for line in runs_], full['flops'])} "
            f"| {_accuracy(runs_)} | {mean - dense:+.2f} |"
        )
    seeds = sorted({line["seed"] for line in lines})
    return "\n".join([*rows, "", f"Seeds {', '.join(map(str, seeds))}; {_machine(full)}."])


def _accuracy(lines: list[runs.Line]) -> str:
    return cell([line["accuracy"] for line in lines])


def latency_table(lines: list[dict[str, Any]]) -> str:
    """One row a runtime and batch size."""
    rows = [
        "| runtime | batch | dense ms | small ms | small / dense |",
        "|---|---:|---:|---:|---:|",
    ]
    rows += [
        f"| {line['runtime']} | {line['batch']} | {1e3 * line['dense_seconds']:.3f} "
        f"| {1e3 * line['small_seconds']:.3f} | {line['ratio']:.2f} |"
        for line in lines
    ]
    return "\n".join(rows)


def frontier_table(lines: list[dict[str, Any]]) -> str:
    """One row a network: its accuracy out of one run for all, and out of a run of its own."""
    rows = ["| groups kept | one run for all | a run for each |", "|---:|---:|---:|"]
    alone = runs.grouped(runs.read(runs.RESULTS / "lenet-mnist.jsonl"), "budget")
    for kept, mine in runs.grouped(lines, "kept").items():
        rows.append(f"| {kept} | {_accuracy(mine)} | {_accuracy(alone[f'{kept} groups'])} |")
    return "\n".join(rows)


def exactness_table(lines: list[dict[str, Any]]) -> str:
    """One row a measure: how many cases were met, and the largest gap in cheapest units."""
    rows = [
        "| networks | budgets asked | met | below the smallest network, refused | largest gap |",
        "|---:|---:|---:|---:|---:|",
    ]
    tried = [line for line in lines if line["cases"]]
    asked = sum(line["cases"] - line["refused"] for line in tried)
    met = sum(line["met"] for line in tried)
    refused = sum(line["refused"] for line in tried)
    worst = max((line for line in tried if line["worst"]), key=lambda line: line["worst"]["gap"])
    networks = len({line["name"] for line in tried})
    rows.append(
        f"| {networks} | {asked:,} | {met:,} ({met / asked:.2%}) | {refused:,} "
        f"| {worst['worst']['gap']:.2f} units: {worst['name']}, {worst['worst']['budget']} |"
    )
    counted = [line["onnx"] for line in tried if line["onnx"]]
    same = sum(words == "equal" for words in counted)
    fewer = sum(words.startswith("torch ") for words in counted)
    words = (
        f"FLOPs on the exported ONNX graph are torch's for {same} of {len(counted)} networks and "
        f"fewer for {fewer}, whose exporter drops what is constant, such as an attention over the "
        f"zeros that removed projections leave; {len(counted) - same - fewer} could not be counted "
        "there. Each is named in the results."
    )
    return "\n".join([*rows, "", words])


def memory_table(lines: list[dict[str, Any]]) -> str:
    """One row a size: prox_ over its bound, single weights and groups."""
    mine = [line for line in lines if line["what"] == "memory" and line["call"] == "prox_"]
    facts = mine[0]["machine"]
    words = f"{facts['processor']}, torch {facts['torch']}, one thread."
    return "\n".join([*_against_bound(mine), "", words])


def _against_bound(lines: list[dict[str, Any]]) -> list[str]:
    """One row a number of values, one column a size of groups."""
    groups = sorted({line["group"] for line in lines})
    names = ["single weights" if group == 1 else f"groups of {group}" for group in groups]
    rows = [
        f"| values | bound ms | {' | '.join(names)} |",
        "|---:|---:" + "|---:" * len(groups) + "|",
    ]
    for n in sorted({line["values"] for line in lines}):
        here = {line["group"]: line for line in lines if line["values"] == n}
        bound = 1e3 * statistics.median(line["bound"] for line in here.values())
        taken = {g: line["seconds"] for g, line in here.items()}
        cells = [f"{1e3 * taken[g]:.2f} ms, {taken[g] / here[g]['bound']:.1f}x" for g in groups]
        rows.append(f"| {n:,} | {bound:.2f} | {' | '.join(cells)} |")
    return rows


def others_table(lines: list[dict[str, Any]]) -> str:
    """One row a program: its milliseconds, and how many times ours that is."""
    mine = [line for line in lines if line["what"] == "others"]
    sizes = sorted({line["values"] for line in mine})
    rows = [f"| | {' | '.join(f'{n:,} groups' for n in sizes)} |", "|---|" + "---:|" * len(sizes)]
    for name in dict.fromkeys(line["call"] for line in mine):
        here = {line["values"]: line for line in mine if line["call"] == name}
        cells = [
            f"{1e3 * here[n]['seconds']:.2f} ms, {here[n]['over_ours']:.1f}x" if n in here else ""
            for n in sizes
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def summaries(lines: list[dict[str, Any]]) -> str:
    """The networks trained on a CPU, then those trained on a GPU."""
    return summary([*lines, *known_on_gpu(runs.read(runs.RESULTS / "gpu-accuracy-20.jsonl"))])


def gpu_tables(lines: list[dict[str, Any]]) -> str:
    """The prox replayed from a graph against the memory's speed, and the step beside AdamW's."""
    memory = [line for line in lines if line["what"] == "memory" and line["values"] >= LARGE]
    bounds: dict[int, float] = {}  # a copy takes longer now and then, never less
    for line in memory:
        bounds[line["values"]] = min(line["bound"], bounds.get(line["values"], line["bound"]))
    mine = [
        line | {"bound": bounds[line["values"]]}
        for line in memory
        if (line["mode"], line["call"]) == ("graph", "prox_")
    ]
    rows = _against_bound(mine)
    rows += ["", "| | groups | | AdamW, fused | Proximal around it |", "|---|---:|---|---:|---:|"]
    rows += [
        f"| {line['network']} | {line['groups']:,} | {line['phase']} "
        f"| {1e3 * line['adamw']:.1f} ms | {1e3 * line['proximal']:.1f} ms |"
        for line in lines
        if line["what"] == "step"
    ]
    facts = lines[0]["machine"]
    return "\n".join([*rows, "", f"{facts['accelerator']}, torch {facts['torch']}."])


def _range(values: list[int]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _share(values: list[int], full: int) -> str:
    return f"{100 * statistics.mean(values) / full:.1f}%"


def _machine(line: dict[str, Any]) -> str:
    return f"{line['processor']}, torch {line['torch']}, one thread"


def speed_tables(lines: list[dict[str, Any]]) -> str:
    """The prox against the memory's speed, and against other programs."""
    return f"{memory_table(lines)}\n\n{others_table(lines)}"


def interruption_table(lines: list[dict[str, Any]]) -> str:
    """One row a kind of moment: how many kills, what they cost, and whether they left a trace."""
    rows = [
        "| killed | times | steps lost, mean | at most | between checkpoints | bit for bit alike |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    moments = {"within a step": False, "within the writing of a checkpoint": True}
    for name, inside in moments.items():
        mine = [line for line in lines if line["inside_a_write"] == inside]
        lost = [line["lost"] for line in mine]
        alike = sum(all(line["same"].values()) for line in mine)
        rows.append(
            f"| {name} | {len(mine)} | {statistics.mean(lost):.1f} | {max(lost)} "
            f"| {mine[0]['interval']} | {alike} of {len(mine)} |"
        )
    return "\n".join(rows)


TABLES: dict[str, dict[str, Callable[[list[dict[str, Any]]], str]]] = {
    "README.md": {
        "lenet-mnist": accuracy_table,
        "lenet-mnist-latency": latency_table,
        "accuracy:summary": summaries,
    },
    "docs/budgets.md": {"exactness": exactness_table, "frontier": frontier_table},
    "docs/speed.md": {
        "speed-prox": speed_tables,
        "speed-product": product.table,
        "gpu-prox": gpu_tables,
    },
    "docs/accuracy.md": {
        "accuracy": compared,
        "accuracy:cut": cut_later,
        "accuracy:study": studied,
        "accuracy-kinds": kinds.table,
        "accuracy-penalties": penalties.table,
        "accuracy-widths": widths.table,
        "gpu-accuracy-20:budgets": budget_tables,
        "gpu-accuracy-20:penalties": penalty_table,
    },
    "docs/export.md": {"runtimes": runtimes.table},
    "docs/training.md": {"transfer": transfer.table, "interruption": interruption_table},
}


def picture() -> str:
    """Widths before and after, from the first run at 10% of the FLOPs."""
    lines = runs.read(runs.RESULTS / "lenet-mnist.jsonl")
    line = next(line for line in lines if line["budget"] == "10% FLOPs")
    widths = zip(FULL_WIDTHS.items(), line["widths"], strict=True)
    return widths_svg([Width(name, kept, full) for (name, full), kept in widths])


def main() -> None:
    times = product.figure(runs.read(product.RESULT))
    over_lambda = sensitivity(runs.read(runs.RESULTS / "accuracy.jsonl"))
    pictures = {"widths": picture(), "speed": times, "lambda": over_lambda}
    files = {ROOT / "docs" / f"{name}.svg": drawn for name, drawn in pictures.items()}
    for page, tables in TABLES.items():
        words = (ROOT / page).read_text()
        for name, table in tables.items():
            begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
            head, rest = words.split(begin)
            _, tail = rest.split(end)
            results, _, _ = name.partition(":")  # several tables may come from one file
            body = table(runs.read(runs.RESULTS / f"{results}.jsonl"))
            words = f"{head}{begin}\n{body}\n{end}{tail}"
        files[ROOT / page] = words
    if "--check" in sys.argv:
        stale = [path.name for path, content in files.items() if path.read_text() != content]
        if stale:
            sys.exit(f"{', '.join(stale)} not as benchmarks/readme.py writes it; run it")
        return
    for path, content in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)


if __name__ == "__main__":
    main()
