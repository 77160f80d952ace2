"""The accuracy benchmark is fair: the same batches for all, budgets held, knobs not by the test."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import data
import runs
import secateur as sc
from accuracy import images, kinds, penalties, widths
from accuracy.__main__ import Suite, fits
from accuracy.method import METHODS, method
from accuracy.run import Collapsed, Run
from accuracy.table import cut_later
from accuracy.task import TASKS, Split, Task

STEPS = 10  # two epochs of five batches
PACKAGES = {  # of other people's methods: pip install secateur[accuracy]
    "Torch-Pruning": "torch_pruning",
    "Torch-Pruning, regularised": "torch_pruning",
    "torchao pat": "torchao",
}


def small() -> nn.Module:
    """Filters and neurons enough to choose from."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 16), nn.ReLU(),
        nn.Linear(16, 10),
    )  # fmt: skip


def digits() -> Split:
    """A few of scikit-learn's digits."""
    given = data.digits()
    pixels, labels = given.train_images, given.train_labels
    parts = [(pixels[rows], labels[rows]) for rows in (slice(320), slice(320, 420))]
    return Split(*parts, (given.test_images[:100], given.test_labels[:100]))


@pytest.fixture(autouse=True)
def _task(monkeypatch: pytest.MonkeyPatch) -> None:
    about = Task(
        name="digits",
        load=digits,
        network=small,
        group=images.filters_and_neurons,
        optimizer=images.sgd(0.05),
        loss=images.cross_entropy,
        score=images.accuracy,
        measure="accuracy %",
        budgets={"12 groups": {"groups": 12}, "40% FLOPs": {"flops": 0.4}},
        study="12 groups",
        epochs=2,
        batch=64,
    )
    monkeypatch.setitem(TASKS, "digits", lambda: about)
    monkeypatch.setitem(TASKS, "digits-adam", lambda: replace(about, optimizer=adam))
    monkeypatch.setitem(
        TASKS, "digits-residual", lambda: replace(about, network=residual, group=sc.filters)
    )


def residual() -> nn.Module:
    """Its second convolution and its shortcut end in one sum."""
    return nn.Sequential(images.Block(1, 8, 1), nn.Flatten(), nn.Linear(512, 10))


def adam(parameters) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, 1e-3)


@pytest.mark.parametrize("budget", ["12 groups", "40% FLOPs"])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "dense"])
def test_every_method_ends_within_its_budget(name: str, budget: str) -> None:
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    task = "digits" if fits("digits", name) else "digits-adam"
    run = Run(task, budget, 0)
    network = METHODS[name].train(run, **METHODS[name].knobs[0])
    facts = run.facts(network)
    assert 0 < facts["reached"] <= facts["asked"] < facts["full"]
    assert facts["flops"] == sc.measure(network, run.example, latency=False).flops
    assert network(run.split.test[0]).shape == (100, 10)


def test_methods_see_the_same_batches_in_the_same_order() -> None:
    seen = {}
    for name in ("dense", "secateur", "train, prune, fine-tune", "HSPG"):
        run = Run("digits", "12 groups", 3)
        take, rows = run.batch, []

        def batch(step: int, take=take, rows=rows):
            rows.append((step, take(step)[0].sum().item()))
            return take(step)

        run.batch = batch  # pyright: ignore[reportAttributeAccessIssue]
        METHODS[name].train(run, **METHODS[name].knobs[0])
        seen[name] = rows
    assert [step for step, _ in seen["dense"]] == list(range(STEPS))
    assert all(rows == seen["dense"] for rows in seen.values())
    assert len({total for _, total in seen["dense"]}) == STEPS


def test_a_suite_goes_on_where_it_stopped(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    first = Suite(file).run("digits", "secateur", "12 groups", 0, {})
    assert Suite(file).run("digits", "secateur", "12 groups", 0, {}) == first
    Suite(file).run("digits", "secateur", "12 groups", 1, {})
    assert [line["seed"] for line in runs.read(file)] == [0, 1]
    with pytest.raises(TimeoutError):
        Suite(file, minutes=-1).run("digits", "secateur", "12 groups", 2, {})


def test_knobs_are_chosen_on_the_validation_rows(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    name, budget = "train, prune, fine-tune", "12 groups"
    better, worse = METHODS[name].knobs
    for knob, validation, test in ((better, 80.0, 10.0), (worse, 70.0, 99.0)):
        key = {"task": "digits", "method": name, "budget": budget, "seed": 0}
        line = key | {"knob": json.dumps(knob), "validation": validation, "score": test}
        runs.append(file, line)
    assert Suite(file, minutes=-1).knob("digits", METHODS[name], budget) == better


def test_methods_that_cut_at_once_can_be_told_when(tmp_path: Path) -> None:
    suite, choices = Suite(tmp_path / "runs.jsonl"), []
    make = suite.make
    suite.make = lambda *key: choices.append(make(*key)) or choices[-1]  # pyright: ignore
    for knob in ({"importance": 1.0}, {"importance": 1.0, "cut": 0.8}):
        suite.run("digits", "train, prune, fine-tune", "12 groups", 0, knob)
    assert [run.choice for run in choices] == [round(0.6 * STEPS), round(0.8 * STEPS)]
    usual, late = runs.read(suite.path)
    row = cut_later([usual, late]).splitlines()[-1]
    assert f"| {usual['score']:.2f} | {late['score']:.2f} at 80% |" in row


def test_a_method_says_what_it_cannot_express() -> None:
    assert fits("digits", "HSPG") and not fits("digits-adam", "HSPG")
    assert fits("digits-adam", "secateur, optimizer's geometry")
    assert not fits("digits", "secateur, optimizer's geometry")
    assert fits("digits", "torchao pat")
    assert not fits("digits-residual", "torchao pat")  # two weights make one filter


def test_a_collapsed_run_is_written_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @method("nothing left")
    def collapse(run: Run) -> nn.Module:
        raise Collapsed

    monkeypatch.setitem(METHODS, "nothing left", METHODS.pop("nothing left"))
    line = Suite(tmp_path / "runs.jsonl").run("digits", "nothing left", "12 groups", 0, {})
    assert line["collapsed"] and "reached" not in line


def test_a_diverged_network_has_collapsed() -> None:
    run = Run("digits", "12 groups", 0)
    run.model[0].weight.data.fill_(float("nan"))
    with pytest.raises(Collapsed):
        run.cut(run.choice)


def test_runs_that_begin_alike_end_as_if_each_had_trained_alone() -> None:
    begun: dict = {}
    for budget in ("12 groups", "40% FLOPs"):
        for name in ("train, prune, fine-tune", "group lasso"):
            knob = METHODS[name].knobs[0]
            alone, sharing = Run("digits", budget, 0), Run("digits", budget, 0, begun=begun)
            expected = METHODS[name].train(alone, **knob).state_dict()
            found = METHODS[name].train(sharing, **knob).state_dict()
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[key], expected[key]) for key in expected)
            assert (sharing.spared > 0) == (budget == "40% FLOPs")
    assert len(begun) == 2
    other = Run("digits", "12 groups", 1, begun=begun)
    other.begin("dense", other.optimizer())
    assert len(begun) == 1  # what another seed began with is of no use


@pytest.mark.parametrize(
    ("kind", "group", "amounts"),
    [
        ("filters", images.filters_and_neurons, {"params": 0.5}),
        ("single weights", lambda model, example: sc.weights(model), {"groups": 0.1}),
    ],
)
def test_kinds_of_groups_are_compared_by_what_is_left(
    kind: str, group, amounts: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(kinds.KINDS, "digits", {kind: kinds.Kind(group, {"some": amounts})})
    monkeypatch.setitem(TASKS, f"digits, {kind}", TASKS["digits"])  # so that it leaves again
    found = kinds.train("digits", kind, "some", 0)
    assert found["reached"] <= found["asked"] and found["measure"] in amounts
    cut = kind == "filters"
    assert (found["flops"] < 1) == (found["params"] < 1) == cut
    assert 1 / found["compression"] == pytest.approx(found["params"] if cut else 0.11, rel=0.05)
    assert set(found["latency"]) == set(kinds.RUNTIMES)
    key = {"task": "digits", "kind": kind, "budget": "some"}
    lines = [key | {"seed": seed} | found for seed in (0, 1)]
    row = kinds.table(lines).splitlines()[-1]
    assert row.startswith(f"| digits, {kind} | some | {found['score']:.2f} ± 0.00 |")
    assert f"{found['flops']:.0%}" in row


def test_networks_of_given_widths_are_trained_from_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert widths.ways()[0] == "2-2-11" and len(widths.ways()) == 55
    assert all(sum(map(int, way.split("-"))) == widths.GROUPS for way in widths.ways())
    monkeypatch.setattr(widths, "BUDGET", "12 groups")
    found = widths.train("digits", "5-7", 0)
    assert (found["asked"], found["reached"], found["steps"]) == (12, 12, STEPS)
    assert found["params"] == 5 * (9 + 1) + (5 * 36 + 1) * 7 + (7 + 1) * 10
    other = widths.train("digits", "5-7", 1)
    assert other["score"] != found["score"]


def test_widths_are_ranked_by_the_validation_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = tmp_path / "ours.jsonl"
    monkeypatch.setattr(widths, "METHODS_RESULT", ours)
    place = {"task": "digits", "method": "secateur", "budget": widths.BUDGET, "knob": "{}"}
    runs.append(ours, {**place, "score": 90.0, "validation": 80.0})
    lines = [
        {"task": "digits", "widths": way, "score": score, "validation": validation}
        for way, score, validation in (
            ("2-2-11", 70, 81), ("2-2-11", 72, 83), ("2-3-10", 99, 75), ("3-3-9", 60, 50),
        )
    ]  # fmt: skip
    row = widths.table(lines).splitlines()[-1]
    assert row == "| digits | 90.00 | 71.00 ± 1.41 | 2-2-11 | 99.00 | 1 of 3 |"


@pytest.mark.parametrize("penalty", penalties.PENALTIES)
def test_what_a_penalty_leaves_hangs_on_lambda(penalty: str) -> None:
    mild, strong = (penalties.train("digits", penalty, lam, 0) for lam in (0.0, 10.0))
    assert mild["m"] == mild["groups"] == 24 and mild["steps"] == STEPS
    assert 10 < mild["k"] <= 12  # of each layer a half, and no more than 12
    assert strong["groups"] < 24


def test_penalties_are_compared_by_what_they_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs.jsonl"
    monkeypatch.setattr(penalties, "METHODS_RESULT", theirs)
    place = {"task": "digits", "budget": "12 groups", "knob": "{}"}
    runs.append(theirs, {**place, "method": "secateur", "score": 90.0})
    runs.append(theirs, {**place, "method": "dense", "budget": "dense", "score": 95.0})
    lines = [
        {"task": "digits", "penalty": name, "lam": lam, "m": 24, "k": 12.0, "groups": groups}
        | {"score": score}
        for name, lam, groups, score in (
            ("WGSEF", 0.1, 11, 80), ("WGSEF", 0.1, 14, 82), ("Prox-SG", 0.3, 24, 70),
        )
    ]  # fmt: skip
    words, _, head, _, *rows = penalties.table(lines).splitlines()
    assert (
        "24, and accuracy %" in words and "k = 12; secateur at 12 groups: 90.00; dense: 95" in words
    )
    assert head == "| lambda | Prox-SG | WGSEF |"
    assert rows == ["| 0.1 |  | 12: 81.00 ± 1.41 |", "| 0.3 | 24: 70.00 |  |"]


def test_only_missing_runs_are_made_and_each_is_written_at_once(tmp_path: Path) -> None:
    file, made = tmp_path / "runs.jsonl", []

    def make(name: str, seed: int) -> runs.Line:
        made.append((name, seed))
        return {"score": 10.0 * seed}

    keys, wanted = ("name", "seed"), [("a", 0), ("a", 1), ("b", 1)]
    runs.append(file, {"name": "a", "seed": 0, "score": 5.0})
    next(runs.missing(file, keys, wanted, make))
    assert [line["score"] for line in runs.read(file)] == [5.0, 10.0]
    assert [line["name"] for line in runs.missing(file, keys, wanted, make)] == ["b"]
    assert made == [("a", 1), ("b", 1)]
    assert set(runs.grouped(runs.read(file), "name", "seed")) == set(wanted)
    assert "torch" in runs.those(runs.read(file), name="b")[0]
