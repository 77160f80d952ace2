"""The clock measures the forward and nothing else."""

import itertools
import time

import pytest
import torch
from torch import nn

from secateur.measurement import latency, measure_latency, time_together


class Clock:
    """Time that passes only where a call says so, whatever else the machine is doing."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)
    return clock


class Sleep(nn.Module):
    """A forward that takes the given seconds, one after the other."""

    def __init__(self, *seconds, sleep=time.sleep):
        super().__init__()
        self.seconds = list(seconds)
        self.sleep = sleep
        self.calls = 0

    def forward(self, x):
        self.sleep(self.seconds[self.calls % len(self.seconds)])
        self.calls += 1
        return x


def test_the_median_ignores_the_warm_up_and_an_outlier():
    model = Sleep(0.2, 0.01, 0.01, 0.2, 0.01, 0.01)
    found = measure_latency(model, torch.zeros(1), repeats=5, warmup=1)
    assert model.calls == 6
    assert 0.01 <= found.median < 0.1


def test_the_spread_is_the_distance_of_the_quartiles(clock):
    model = Sleep(0.0, 0.02, 0.04, 0.06, 0.08, sleep=clock.spend)
    found = measure_latency(model, torch.zeros(1), repeats=5, warmup=0)
    assert found.spread == pytest.approx(0.04)


def test_one_repeat_has_no_spread():
    assert measure_latency(Sleep(0.0), torch.zeros(1), repeats=1).spread == 0.0


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        measure_latency(Sleep(0.0), torch.zeros(1), repeats=0)


def test_the_meta_device_has_no_time():
    with pytest.raises(ValueError, match="meta device"):
        measure_latency(nn.Linear(2, 2, device="meta"), torch.zeros(1, 2, device="meta"))


def test_calls_take_turns_and_keep_their_own_times(clock):
    order = []

    def call(name, seconds):
        order.append(name)
        clock.spend(seconds)

    one, two = time_together(
        [lambda: call("a", 0.001), lambda: call("b", 0.003)], rounds=3, seconds=0.004
    )
    assert (one.median, two.median) == pytest.approx((0.001, 0.003))
    assert "".join(order) == "aabb" + 3 * "aaaaabbbb"  # the first of a turn isn't timed


def test_a_busy_device_is_measured_longer_and_says_so(clock):
    times = itertools.cycle([0.0005, 0.02])
    calls = []

    def restless():
        calls.append(next(times))
        clock.spend(calls[-1])

    with pytest.warns(
        RuntimeWarning, match="the device is busy: quartiles lie .* measuring longer"
    ):
        (found,) = time_together([restless], rounds=2, patience=4)
    assert found.median == pytest.approx(0.0005)  # the calls that nothing interrupted
    assert len(calls) == 2 + 4 * 2 * 4  # four times two turns of a call and three that are timed


def test_a_steady_device_is_measured_once(clock, recwarn):
    calls = []

    def steady():
        calls.append(1)
        clock.spend(0.002)

    assert time_together([steady], rounds=2)[0].median == pytest.approx(0.002)
    assert len(calls) == 2 + 2 * 4 and not recwarn
