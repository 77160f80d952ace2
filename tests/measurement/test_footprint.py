"""The figures side by side, their text and their ratios."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from secateur.measurement import Footprint, measure, measure_together


def test_every_figure_of_a_small_network():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    cost = measure(model, torch.zeros(2, 8), repeats=3, warmup=1)
    assert cost.params == 8 * 16 + 16 + 16 * 4 + 4
    assert cost.bytes == 4 * cost.params
    assert cost.flops == 2 * 2 * (8 * 16 + 16 * 4)
    assert cost.latency is not None
    assert 0 < cost.latency < 1
    assert cost.latency_spread is not None
    assert cost.peak_memory == cost.bytes + 4 * 2 * (8 + 16 + 16)


def test_without_latency_nothing_is_timed():
    cost = measure(nn.Linear(2, 2), torch.zeros(1, 2), latency=False)
    assert (cost.latency, cost.latency_spread, cost.energy) == (None, None, None)
    assert cost.peak_memory is not None


def test_on_the_meta_device_only_what_can_be_counted():
    with torch.device("meta"):
        cost = measure(nn.Linear(2, 3), torch.zeros(1, 2))
    assert cost == Footprint(params=9, flops=12, bytes=36)


class Telling(nn.Linear):
    """A layer that writes down whose turn it is."""

    def __init__(self, name: str, width: int, calls: list[str]) -> None:
        super().__init__(width, width)
        self.name, self.calls = name, calls

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(self.name)
        return super().forward(x)


@pytest.mark.filterwarnings("ignore:the device is busy")
def test_networks_are_timed_in_turns_and_left_as_they_were():
    calls: list[str] = []
    full, small = Telling("full", 64, calls).train(), Telling("small", 64, calls).eval()
    example = torch.zeros(2, 64)
    found = measure_together([full, small], example)
    for one, model in zip(found, (full, small), strict=True):
        assert dataclasses.replace(one, latency=None, latency_spread=None, energy=None) == measure(
            model, example, latency=False
        )
        assert one.latency is not None and 0 < one.latency < 1
    turns = [name for name, _ in itertools.groupby(calls)]
    assert len(turns) >= 24 and full.training and not small.training
    with torch.device("meta"):
        assert measure_together([nn.Linear(2, 3)], torch.zeros(1, 2))[0].latency is None


def test_the_text_says_what_is_unavailable():
    lines = str(Footprint(1, 2, 3, latency=0.002, latency_spread=0.0004)).splitlines()
    assert lines[3] == "latency      2 ms (quartiles 400 µs apart)"
    assert lines[5] == "energy       unavailable"


def test_ratios():
    small = Footprint(10, 100, 40, latency=1.0, latency_spread=0.1, peak_memory=80)
    full = Footprint(40, 1000, 160, latency=4.0, latency_spread=0.1, energy=1.0)
    assert small.ratio(full) == {
        "params": 0.25,
        "flops": 0.1,
        "bytes": 0.25,
        "latency": 0.25,
        "peak_memory": None,
        "energy": None,
    }
    assert Footprint(1, 1, 1).ratio(Footprint(1, 0, 1))["flops"] is None


def test_a_footprint_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Footprint(1, 2, 3).params = 0  # pyright: ignore[reportAttributeAccessIssue]
