"""A table is a readable file, gives the times it says, and is refused where it does not belong."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from hostile import hostile
from secateur.budget import Budget, LatencyTarget
from secateur.costs import LatencyTable
from secateur.costs.latency_table import LayerTimes, NetworkTime
from secateur.groups import Groups
from secateur.measurement import machine


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))


def grouped() -> Groups:
    return sc.neurons(model(), torch.ones(3, 4))


def by_hand() -> LatencyTable:
    """Three layers whose times anyone can add up."""
    return LatencyTable(
        model="Sequential",
        example=("float32 3x4",),
        runtime="torch",
        threads=1,
        multiple_of=1,
        machine=machine(),
        layers=(
            LayerTimes("0", "addmm", (6,), (0.1, 0.6), ()),
            LayerTimes("2", "addmm", (5, 6), (0.1, 0.0, 0.0, 3.0), ()),
            LayerTimes("4", "addmm", (5,), (0.0, 0.5), ()),
        ),
        offset=0.3,
        scales={"": 1.0, "addmm": 2.0},
        networks=(NetworkTime(8.7, 0.1),),
        error=0.02,
    )


def axes_of(groups: Groups) -> list[tuple[int, ...]]:
    from secateur.costs.latency_table import cut_axes

    assert groups.coupling is not None
    return [tuple(len(axis) for axis in cut_axes(op)) for op in groups.coupling.operations]


def fitting(groups: Groups) -> LatencyTable:
    """The table with the axes of each layer in the order in which the operator has them."""
    table = by_hand()
    layers = tuple(
        replace(layer, widths=widths)
        for layer, widths in zip(table.layers, axes_of(groups), strict=True)
    )
    return replace(table, layers=layers)


def test_the_cost_is_the_sum_that_the_table_says() -> None:
    groups = grouped()
    cost = fitting(groups).cost(groups)
    assert cost(np.ones(11)) == pytest.approx(0.3 + 0.2 + 2 * (0.6 + 3.0 + 0.5))
    half = np.array([1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0])  # 3 of 6, 2 of 5
    assert cost(half) == pytest.approx(0.3 + 0.2 + 2 * (0.3 + 3.0 * 0.5 * 0.4 + 0.5 * 0.4))


def test_a_table_comes_back_from_its_file(tmp_path: Path) -> None:
    table = fitting(grouped())
    path = table.save(tmp_path / "phone.json")
    assert LatencyTable.load(path) == table
    assert json.loads(path.read_text())["format"] == "secateur latency table"
    assert [file.name for file in tmp_path.iterdir()] == ["phone.json"]


def damaged(facts: dict) -> dict[str, dict]:
    layers = facts["layers"]
    negative = [{**layers[0], "seconds": [0.1, -1.0]}, *layers[1:]]
    short = [{**layers[0], "seconds": [0.1]}, *layers[1:]]
    boolean = [{**layers[0], "seconds": [0.1, True]}, *layers[1:]]
    no_offset = {name: value for name, value in facts.items() if name != "offset"}
    return {
        "is not a latency table": {**facts, "format": "something else"},
        "has version 7; this secateur reads 1": {**facts, "version": 7},
        "a number is negative": {**facts, "layers": negative},
        "has 1 widths and 1 numbers of seconds, not 2": {**facts, "layers": short},
        "there is no scale for addmm": {**facts, "scales": {"": 1.0}},
        "damaged latency table: networks": {k: v for k, v in facts.items() if k != "networks"},
        "damaged latency table: the field 'offset' is missing": no_offset,
        r"layers\[0\].seconds\[1\]: expected a number, got True": {**facts, "layers": boolean},
        "says nothing about the full network": {**facts, "networks": []},
        "damaged latency table: unknown field 'unknown'": {**facts, "unknown": 3},
    }


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    path = fitting(grouped()).save(tmp_path / "table.json")
    facts = json.loads(path.read_text())
    for told, wrong in damaged(facts).items():
        path.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=told):
            LatencyTable.load(path)
    for garbage in ("", "[1, 2]", json.dumps(facts)[:200]):
        path.write_text(garbage)
        with pytest.raises(ValueError, match="is not a latency table, or it is damaged"):
            LatencyTable.load(path)
    with pytest.raises(FileNotFoundError):
        LatencyTable.load(tmp_path / "nowhere.json")


def test_whatever_stands_in_a_table_it_is_read_or_refused(tmp_path: Path) -> None:
    path = fitting(grouped()).save(tmp_path / "table.json")
    refused = 0
    for where, text in hostile(path.read_text()):
        path.write_text(text)
        try:
            str(LatencyTable.load(path))
        except ValueError as error:
            assert str(error).startswith(f"{path} "), where
            refused += 1
    assert refused > 300


def test_a_table_from_before_by_table_was_dropped_is_read(tmp_path: Path) -> None:
    table = fitting(grouped())
    path = table.save(tmp_path / "table.json")
    facts = json.loads(path.read_text())
    facts["networks"][0]["by_table"] = 8.7
    path.write_text(json.dumps(facts))
    assert LatencyTable.load(path) == table


def test_a_table_of_another_network_says_what_differs(tmp_path: Path) -> None:
    table = fitting(grouped())
    other = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 2))
    with pytest.raises(ValueError, match=r"0: addmm \(6,\) / addmm \(9,\)"):
        table.cost(sc.neurons(other, torch.ones(3, 4)))
    with pytest.raises(ValueError, match="inputs: float32 3x4 / float32 8x4"):
        table.cost(sc.neurons(model(), torch.ones(8, 4)))
    shallow = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with pytest.raises(ValueError, match="operators: 3 / 2"):
        table.cost(sc.neurons(shallow, torch.ones(3, 4)))
    with pytest.raises(ValueError, match="model: Other / Sequential"):
        replace(table, model="Other").cost(grouped())


def test_groups_that_make_nothing_faster_are_refused() -> None:
    with pytest.raises(ValueError, match="a budget on latency needs groups that were traced"):
        by_hand().cost(sc.weights(model()))


# -- by which clock ------------------------------------------------------------------------------


def elsewhere(tmp_path: Path, groups: Groups) -> Path:
    phone = {**machine(), "processor": "A Phone, 8 cores"}
    return replace(fitting(groups), machine=phone).save(tmp_path / "phone.json")


def test_the_table_of_another_machine_decides_alone(tmp_path: Path) -> None:
    groups = grouped()
    budget = Budget(latency=LatencyTarget("4s", table=elsewhere(tmp_path, groups)))
    allowance = budget.on(groups)
    kept = allowance.choose(groups.norms().numpy())
    cost = allowance.costs["latency"]
    assert cost(kept.astype(float)) <= 4.0
    for group in np.flatnonzero(~kept):  # and none that was left out would fit
        assert cost(np.where(np.arange(11) == group, 1.0, kept)) > 4.0
    groups.scale_(torch.from_numpy(kept.astype(float)))
    assert groups.model is not None
    small = sc.shrink(groups.model, groups)
    line = budget.reached(small, groups.example, groups=groups)["latency"]
    assert line.reached == pytest.approx(cost(kept.astype(float)))
    assert line.asked == 4.0 and line.full == 8.7 and line.holds
    assert line.note == "by the table of A Phone, 8 cores"
    assert line.note in str(budget.reached(small, groups.example, groups=groups))


def test_it_is_refused_where_this_machine_was_to_measure(tmp_path: Path) -> None:
    groups = grouped()
    budget = Budget(latency=LatencyTarget(0.5, table=elsewhere(tmp_path, groups), measured=True))
    with pytest.raises(ValueError, match=r"of another machine.*\n.*A Phone, 8 cores / "):
        budget.on(groups)


def test_other_settings_than_the_tables_are_refused(tmp_path: Path) -> None:
    groups = grouped()
    path = elsewhere(tmp_path, groups)
    with pytest.raises(ValueError, match=r"is for runtime='torch', not 'torch\.compile'"):
        Budget(latency=LatencyTarget(0.5, runtime="torch.compile", table=path)).on(groups)
    with pytest.raises(ValueError, match="is for threads=1, not 2"):
        Budget(latency=LatencyTarget(0.5, threads=2, table=path)).on(groups)
    with pytest.raises(ValueError, match="goes by a table alone; say which, table=FILE"):
        Budget(latency=LatencyTarget(0.5, measured=False)).on(groups)


def test_what_no_network_can_reach_is_refused_in_words(tmp_path: Path) -> None:
    groups = grouped()
    path = elsewhere(tmp_path, groups)
    with pytest.raises(ValueError, match=r"500 ms of latency can't be reached; .* smallest is "):
        Budget(latency=LatencyTarget("500ms", table=path)).on(groups)
    with pytest.raises(ValueError, match=r"the whole network has only 8\.7 s of latency"):
        Budget(latency=LatencyTarget("9s", table=path)).on(groups)
