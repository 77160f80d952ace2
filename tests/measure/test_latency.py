"""The clock measures the forward and nothing else."""

import time

import pytest
import torch
from torch import nn

from secateur.measure import measure_latency, time_together


class Sleep(nn.Module):
    """A forward that takes the given seconds, one after the other."""

    def __init__(self, *seconds):
        super().__init__()
        self.seconds = list(seconds)
        self.calls = 0

    def forward(self, x):
        time.sleep(self.seconds[self.calls % len(self.seconds)])
        self.calls += 1
        return x


def test_the_median_ignores_the_warm_up_and_an_outlier():
    model = Sleep(0.2, 0.01, 0.01, 0.2, 0.01, 0.01)
    latency = measure_latency(model, torch.zeros(1), repeats=5, warmup=1)
    assert model.calls == 6
    assert 0.01 <= latency.median < 0.1


def test_the_spread_is_the_distance_of_the_quartiles():
    model = Sleep(0.0, 0.02, 0.04, 0.06, 0.08)
    latency = measure_latency(model, torch.zeros(1), repeats=5, warmup=0)
    assert latency.spread == pytest.approx(0.04, abs=0.02)


def test_one_repeat_has_no_spread():
    assert measure_latency(Sleep(0.0), torch.zeros(1), repeats=1).spread == 0.0


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        measure_latency(Sleep(0.0), torch.zeros(1), repeats=0)


def test_the_meta_device_has_no_time():
    with pytest.raises(ValueError, match="meta device"):
        measure_latency(nn.Linear(2, 2, device="meta"), torch.zeros(1, 2, device="meta"))


def spin(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@pytest.mark.filterwarnings("ignore:the device is busy")
def test_calls_take_turns_and_keep_their_own_times():
    order = []

    def call(name, seconds):
        order.append(name)
        spin(seconds)

    one, two = time_together(
        [lambda: call("a", 0.001), lambda: call("b", 0.004)], rounds=3, seconds=0.004, patience=1
    )
    assert 2.5 < two.median / one.median < 6
    assert "".join(order).count("ba") >= 3  # after b it is a's turn again


def test_a_busy_device_is_measured_longer_and_says_so():
    times = iter([0.0005, 0.02] * 2000)
    calls = []

    def restless():
        calls.append(1)
        spin(next(times))

    with pytest.warns(
        RuntimeWarning, match="the device is busy: quartiles lie .* measuring longer"
    ):
        (found,) = time_together([restless], rounds=2, patience=4)
    assert found.median < 0.002  # the calls that nothing interrupted
    assert len(calls) > 4 * 2 * 3  # four times as long as two rounds of at least three calls
