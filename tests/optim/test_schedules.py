"""When the hardness reaches 1, and what no schedule accepts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import secateur as sc
from secateur.optim.schedules import CLOSING, closing_power


@given(
    st.integers(1, 10**5),
    st.floats(0.001, 1),
    st.none() | st.floats(0.1, 10),
    st.none() | st.floats(0, 1),
)
def test_the_hardness_rises_to_one_and_stays(
    steps: int, freeze: float, power: float | None, share: float | None
) -> None:
    schedule = sc.Homotopy(steps, freeze, power, share=share)
    at = schedule.freeze_steps[0]
    assert freeze * steps <= at < freeze * steps + 1 or at == 1
    assert at <= steps
    values = [schedule(step) for step in (0, at // 3, at // 2, at - 1, at, at + 1, 2 * steps)]
    assert values == sorted(values)
    assert values[0] == 0
    assert values[3] < 1
    assert values[4:] == [1, 1, 1]


def test_the_formula() -> None:
    schedule = sc.Homotopy(200, freeze=0.5, power=2)
    assert [schedule(step) for step in (0, 10, 50, 100)] == pytest.approx([0, 0.01, 0.25, 1])


def test_the_default_s_formula() -> None:
    closing = 0.8 ** closing_power(1_000)
    for share, wear in ((None, 4.0), (0.2125, 2.0), (0.4, 0.0)):
        schedule = sc.Homotopy(2_000, freeze=0.5, share=share)
        worn = math.exp(-3 * wear * 0.8**2 / 1_000)
        assert schedule(800) == pytest.approx(1 - worn * (1 - closing))


@pytest.mark.parametrize(
    ("share", "freeze"),
    [(None, 600), (0.0, 600), (0.1, 600), (0.2125, 700), (0.3, 800), (1.0, 800)],
)
def test_a_tight_budget_is_met_early_and_a_mild_one_late(share: float | None, freeze: int) -> None:
    assert sc.Homotopy(1_000, share=share).freeze_steps == (freeze,)


@pytest.mark.parametrize(
    ("neurons", "budgets", "freezes"),
    [
        (120, (3,), (60,)),
        (120, (15,), (60,)),
        (120, (60,), (80,)),
        (120, (60, 3), (40, 80)),  # the last one counts
        (120, (60, 30), (50, 83)),
        (24, (12,), (60,)),  # a few large groups
    ],
)
def test_the_budget_says_when(
    neurons: int, budgets: tuple[int, ...], freezes: tuple[int, ...]
) -> None:
    model = nn.Sequential(nn.Linear(1, neurons), nn.ReLU(), nn.Linear(neurons, 1))
    groups = sc.neurons(model, torch.ones(1, 1))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = sc.Proximal(sgd, groups, [sc.Budget(groups=n) for n in budgets], steps=100)
    assert isinstance(optimizer.schedule, sc.Homotopy)
    assert optimizer.schedule.freeze_steps == freezes


@pytest.mark.parametrize("steps", [500, 1_000, 20_000, 500_000])
def test_by_default_the_pressure_is_felt_at_the_same_part_of_any_run(steps: int) -> None:
    schedule = sc.Homotopy(steps)
    for part, closed in ((0.2, 0.0), (0.5, 0.0), (CLOSING, 1.0)):
        felt = round(part * schedule.freeze_steps[0])
        whole = sum(map(schedule, range(felt + 1)))
        assert whole == pytest.approx(4 * part**3 + closed, rel=0.1)


def test_each_stage_closes_as_suits_its_own_steps() -> None:
    schedule = sc.Homotopy(1_000, stages=3)
    assert schedule.freeze_steps == (300, 600, 850)
    assert [schedule(step) for step in (125, 550)] == [
        sc.Homotopy(300, freeze=1)(125),
        sc.Homotopy(100, freeze=1)(50),
    ]


def test_very_short_runs_close_in_a_line() -> None:
    assert [closing_power(steps) for steps in (1, 2, 3)] == [1, 1, 1]


def test_the_paper_s_schedule_does_not_change() -> None:
    assert {sc.Constant(0.3)(step) for step in (0, 7, 10**6)} == {0.3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, r"Homotopy\(steps=0\): an integer of 1 or more"),
        ({"steps": 10.0}, r"Homotopy\(steps=10.0\): an integer"),
        ({"steps": True}, r"Homotopy\(steps=True\): an integer"),
        ({"steps": 9, "freeze": 0.0}, r"Homotopy\(freeze=0.0\): a share of the run in \(0, 1\]"),
        ({"steps": 9, "freeze": 1.1}, r"Homotopy\(freeze=1.1\)"),
        ({"steps": 9, "freeze": float("nan")}, r"Homotopy\(freeze=nan\)"),
        ({"steps": 9, "power": 0.0}, r"Homotopy\(power=0.0\): a number above 0"),
        ({"steps": 9, "power": float("inf")}, r"Homotopy\(power=inf\)"),
        ({"steps": 9, "share": -0.1}, r"Homotopy\(share=-0.1\): a share of the network"),
        ({"steps": 9, "share": float("nan")}, r"Homotopy\(share=nan\)"),
    ],
)
def test_values_out_of_bounds_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sc.Homotopy(**options)


@pytest.mark.parametrize("lam", [-0.1, float("nan"), float("inf"), "1", None])
def test_lambdas_out_of_bounds_are_refused(lam: Any) -> None:
    with pytest.raises(ValueError, match=r"Constant\(lam=.*\): a finite number, 0 or more"):
        sc.Constant(lam)


def test_each_stage_rises_and_freezes_on_its_own() -> None:
    schedule = sc.Homotopy(100, freeze=0.6, power=1, stages=3)
    assert schedule.ends == (50, 75, 100)
    assert schedule.freeze_steps == (30, 60, 85)
    assert [schedule.stage(step) for step in (1, 50, 51, 75, 76, 100, 200)] == [0, 0, 1, 1, 2, 2, 2]
    assert [schedule(step) for step in (0, 30, 50, 51, 60, 75, 76, 85, 100, 200)] == [
        *(0, 1, 1, 1 / 10, 1, 1, 1 / 10, 1, 1, 1)
    ]


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7, 64, 1001])
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_every_stage_freezes_before_it_ends(steps: int, stages: int) -> None:
    if steps < stages + 1 and stages > 1:
        with pytest.raises(ValueError, match=f"too few for {stages} stages"):
            sc.Homotopy(steps, stages=stages)
        return
    schedule = sc.Homotopy(steps, stages=stages)
    assert len(set(schedule.ends)) == stages
    assert schedule.ends[-1] == steps
    starts = (0, *schedule.ends)
    for start, freeze, end in zip(starts, schedule.freeze_steps, schedule.ends, strict=False):
        assert start < freeze <= end
        assert schedule(freeze) == 1
