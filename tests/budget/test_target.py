"""What may be asked of a clock, and what is refused."""

import math
import sys
from dataclasses import replace

import pytest

from secateur.budget import Budget, LatencyTarget


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3ms", 0.003), ("800us", 8e-4), ("800 µs", 8e-4), ("1.5s", 1.5), ("40ns", 4e-8)],
)
def test_times_have_units(text: str, seconds: float) -> None:
    assert LatencyTarget(text).seconds == seconds
    assert LatencyTarget(text).share is None
    assert LatencyTarget(text).limit(full=99.0) == seconds


def test_a_fraction_is_of_the_full_network() -> None:
    assert LatencyTarget(0.25).limit(full=8.0) == 2.0


@pytest.mark.parametrize(
    ("amount", "told"),
    [
        (0, "of what"),
        (3, r"3 of what\? write a time with its unit, such as '3ms'"),
        (-0.5, r"a fraction lies in \(0, 1\]"),
        (1.7, r"a fraction lies in \(0, 1\]; a time is written with its unit"),
        (math.nan, "a fraction lies in"),
        (True, "got bool"),
        ("25", "write a time with its unit, such as '3ms'; units are s, ms"),
        ("3 hours", "units are"),
        ("0ms", "a time is above 0"),
        ("-3ms", "write a time with its unit"),
    ],
)
def test_bad_amounts_are_refused(amount: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Budget(latency=amount)  # pyright: ignore[reportArgumentType]


def test_unknown_runtimes_and_threads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"runtime='tensorrt': known are torch, torch\.compile"):
        LatencyTarget(0.5, runtime="tensorrt")
    with pytest.raises(ValueError, match=r"threads=0\): an integer of 1 or more"):
        LatencyTarget(0.5, threads=0)


def test_a_missing_runtime_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"needs onnxruntime: pip install secateur\[export\]"):
        LatencyTarget(0.5, runtime="onnxruntime")


def test_a_budget_says_the_runtime_of_its_latency() -> None:
    budget = Budget(latency="3ms", runtime="torch.export")
    assert budget == Budget(latency=LatencyTarget("3ms", runtime="torch.export"))
    assert replace(budget, flops=0.5).latency == budget.latency
    with pytest.raises(ValueError, match="it goes with latency="):
        Budget(flops=0.5, runtime="torch")
    with pytest.raises(ValueError, match="the LatencyTarget beside it says 'torch'"):
        Budget(latency=LatencyTarget(0.5, runtime="torch"), runtime="torch.export")
