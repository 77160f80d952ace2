"""What came out of the runs: one table a task, one of the settings tried, one curve over lambda.

In: the lines of benchmarks/results/accuracy.jsonl. Out: text for docs/accuracy.md, and a picture.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping
from typing import Any

from accuracy.method import METHODS
from accuracy.task import TASKS, Task
from runs import Line, those
from secateur.report.charts import Series, curves

OURS, USUAL = "secateur", "train, prune, fine-tune"


def chosen(lines: list[Line], task: Task) -> dict[tuple[str, str], str]:
    """(method, budget) -> the knob that is best on the validation rows with seed 0."""
    best: dict[tuple[str, str], Line] = {}
    for line in those(lines, seed=0):
        key = line["method"], line["budget"]
        if key[0] == OURS and line["knob"] != "{}":  # it has none; studies turn some
            continue
        gain = _sign(task) * (line["validation"] - best.get(key, line)["validation"])
        if key not in best or gain > 0:
            best[key] = line
    return {key: line["knob"] for key, line in best.items()}


def compared(lines: list[Line]) -> str:
    """One table a task: a row a method, a column a budget, mean and deviation over seeds.

    A task appears as soon as its dense network and another have been trained.
    """
    ready = [name for name in TASKS if those(lines, task=name, method="dense")]
    found = [_task(lines, TASKS[name]()) for name in ready]
    return "\n\n".join(found)


def _task(lines: list[Line], task: Task) -> str:
    lines = those(lines, task=task.name)
    scores = _scores(lines, task)
    tried = {method for method, _ in scores}
    methods = [m for m in METHODS if m in tried and m != "dense" and not m.startswith("idea")]
    budgets = [b for b in task.budgets if any((m, b) in scores for m in methods)]
    rows = [
        f"**{task.name}**: {task.measure}, dense {cell(scores['dense', 'dense'])}.",
        "",
        f"| | {' | '.join(budgets)} |",
        "|---|" + "---:|" * len(budgets),
    ]
    for method in methods:
        cells = []
        for budget in budgets:
            here = {m: scores[m, budget] for m in methods if (m, budget) in scores}
            text = cell(here.get(method, []))
            cells.append(f"**{text}**" if method in _best(here, task) else text)
        rows.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join([*rows, "", _kept_to(lines)])


def summary(lines: list[Line]) -> str:
    """One row a task and budget: dense, ours, the usual way, and the best of all the others.

    Then in how many of them ours is the best, or within a deviation of it, and who comes next.
    """
    shown, best_in, tried_in = 0, Counter[str](), Counter[str]()
    rows = [
        f"| | dense | {OURS} | {USUAL} | best other | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name in TASKS:
        task, mine = TASKS[name](), those(lines, task=name)
        scores = _scores(mine, task)
        for budget in task.budgets:
            here = {m: found for (m, b), found in scores.items() if b == budget}
            if not {OURS, USUAL} <= set(here) or ("dense", "dense") not in scores:
                continue
            here = {m: found for m, found in here.items() if not m.startswith("idea")}
            shown += 1
            tried_in.update(here.keys())
            best_in.update(_best(here, task))
            others = [m for m in here if not m.startswith((OURS, USUAL))]
            best = max(others, key=lambda m: _sign(task) * statistics.mean(here[m]), default="")
            cells = [scores["dense", "dense"], here[OURS], here[USUAL], here.get(best, [])]
            words = f"{name} ({task.measure}), {budget}"
            rows.append(f"| {words} | {' | '.join(map(cell, cells))} | {best} |")
    others = [m for m in tried_in if m != OURS]
    second = max(others, key=lambda m: best_in[m] / tried_in[m], default="")
    standing = (
        f"{OURS} is the best, or within a deviation of the best, in {best_in[OURS]} of these "
        f"{shown} rows; next comes {second}, in {best_in[second]} of the "
        f"{tried_in[second]} that it ran on."
    )
    return "\n".join([*rows, "", standing])


def _scores(lines: list[Line], task: Task) -> dict[tuple[str, str], list[float]]:
    """(method, budget) -> its scores with the knob that is best there."""
    return {
        (method, budget): [
            line["score"] for line in those(lines, method=method, budget=budget, knob=knob)
        ]
        for (method, budget), knob in chosen(lines, task).items()
    }


def _kept_to(lines: list[Line]) -> str:
    """How many of the networks are within what was asked, counted on themselves."""
    asked = [line for line in lines if "asked" in line]
    met = sum(line["reached"] <= line["asked"] for line in asked)
    collapsed = sum(line.get("collapsed", False) for line in lines)
    words = f"{met} of {len(asked)} networks are within their budget"
    if collapsed:
        runs = "1 run" if collapsed == 1 else f"{collapsed} runs"
        words += f"; {runs} ended with a layer that was all zero"
    return f"{words}."


def studied(lines: list[Line]) -> str:
    """One table a task: a row a setting of ours or an idea, a column a budget.

    The gain is of the validation score over the default's with the same seed; where less is better,
    a gain is below 0.
    """
    lines = [line for line in lines if line["method"].startswith((OURS, "idea"))]
    found = (_gains(those(lines, task=name), make()) for name, make in TASKS.items())
    return "\n\n".join(table for table in found if table)


def cut_later(lines: list[Line]) -> str:
    """One row a method and budget that was also cut at another time: the scores of equal seeds."""
    later: dict[tuple[str, ...], list[Line]] = {}
    for line in lines:
        knob = json.loads(line["knob"])
        if "cut" in knob:
            cut = f"{knob.pop('cut'):.0%}"
            key = line["task"], line["budget"], line["method"], cut, json.dumps(knob)
            later.setdefault(key, []).append(line)
    rows = ["| | | cut at 60% | later |", "|---|---|---:|---:|"]
    for (task, budget, method, cut, knob), mine in later.items():
        usual = those(lines, task=task, budget=budget, method=method, knob=knob)
        seeds = {line["seed"] for line in mine}
        before, after = (
            score_cell([line for line in found if line["seed"] in seeds]) for found in (usual, mine)
        )
        rows.append(f"| {task}, {budget} | {method} | {before} | {after} at {cut} |")
    return "\n".join(rows)


def _gains(lines: list[Line], task: Task) -> str:
    """The table of one task; empty where nothing but the default was tried."""
    usual = {
        (line["budget"], line["seed"]): line["validation"]
        for line in those(lines, method=OURS, knob="{}")
    }
    gains: dict[str, dict[str, list[float]]] = {}
    for line in lines:
        place = line["budget"], line["seed"]
        words = _setting(line)
        if words and place in usual:
            mine = gains.setdefault(words, {}).setdefault(line["budget"], [])
            mine.append(line["validation"] - usual[place])
    columns = [b for b in task.budgets if any(b in cells for cells in gains.values())]
    rows = [f"| {task.name} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for words, cells in sorted(gains.items()):
        values = (cell(cells.get(budget, []), "+.2f") for budget in columns)
        rows.append(f"| {words} | {' | '.join(values)} |")
    return "\n".join(rows) if gains else ""


def _setting(line: Line) -> str:
    """The idea and the values that were set; empty for the default."""
    values = _words(json.loads(line["knob"]))
    return ", ".join(filter(None, (line["method"].removeprefix(OURS).strip(), values)))


def sensitivity(lines: list[Line], name: str = "lenet-mnist") -> str:
    """How the score of the penalties with a lambda hangs on it, beside ours, which has none."""
    task = TASKS[name]()
    lines = those(lines, task=name, budget=task.study)
    series, dots = [], []
    for method in ("WGSEF, convex", "group lasso"):
        mine = those(lines, method=method)
        knobs = sorted({json.loads(line["knob"])["lam"] for line in mine})
        scores = {
            lam: [line["score"] for line in those(mine, knob=json.dumps({"lam": lam}))]
            for lam in knobs
        }
        dots += [(math.log10(lam), score) for lam, found in scores.items() for score in found]
        points = [(math.log10(lam), statistics.mean(found)) for lam, found in scores.items()]
        series.append(Series(method, points))
    ours = statistics.mean(line["score"] for line in those(lines, method=OURS, knob="{}"))
    return curves(
        series,
        f"{name}, {task.study}: {task.measure} over lambda",
        x_name="log10 of lambda (WGSEF: lambda m / k)",
        show="{:.0f}%".format,
        from_zero=False,
        level=("secateur, no lambda", ours),
        dots=dots,
    )


def cell(values: list[float], form: str = ".2f") -> str:
    """Mean and standard deviation; a single value as it is."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:{form}}"
    return f"{statistics.mean(values):{form}} ± {statistics.stdev(values):.2f}"


def score_cell(lines: list[Line]) -> str:
    """The mean score of runs and its deviation, as `cell` writes them."""
    return cell([line["score"] for line in lines])


def _best(scores: Mapping[str, list[float]], task: Task) -> set[str]:
    """The method of the best mean over seeds, and those that are better than a deviation below it.

    One seed sets no measure, unless no method has more.
    """
    means = {name: _sign(task) * statistics.mean(values) for name, values in scores.items()}
    several = {name: values for name, values in scores.items() if len(values) > 1}
    top = max(several or scores, key=means.__getitem__)
    spread = statistics.stdev(scores[top]) if top in several else 0.0
    return {name for name in means if means[name] >= means[top] - spread}


def _sign(task: Task) -> int:
    return -1 if task.lower else 1


def _words(knob: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in knob.items())
