"""Peak memory against sums worked out by hand: weights, inputs and what is alive at once."""

import torch
from torch import nn

from secateur.measurement import count_bytes, measure_peak_memory

FLOAT = 4


class Chain(nn.Module):
    """Doubles its input a number of times; at any time two of the results are alive."""

    def forward(self, x):
        for _ in range(10):
            x = x * 2
        return x


class Keep(nn.Module):
    """Doubles its input and keeps every result until the end."""

    def forward(self, x):
        kept = [x]
        for _ in range(10):
            kept.append(kept[-1] * 2)
        return kept[-1]


def test_what_is_dropped_is_no_longer_counted():
    # the example itself stays; beside it one result and the next one
    assert measure_peak_memory(Chain(), torch.zeros(100)) == FLOAT * (100 + 2 * 100)


def test_what_is_kept_adds_up():
    assert measure_peak_memory(Keep(), torch.zeros(100)) == FLOAT * (100 + 10 * 100)


def test_weights_and_buffers_are_part_of_it():
    model = nn.Sequential(nn.Linear(10, 50), nn.BatchNorm1d(50))
    expected = count_bytes(model) + FLOAT * (2 * 10 + 2 * 50 + 2 * 50)
    # batch norm also returns two empty statistics, which weigh nothing
    assert measure_peak_memory(model, torch.zeros(2, 10)) == expected


def test_views_and_in_place_operators_take_no_memory():
    class InPlace(nn.Module):
        def forward(self, x):
            y = x + 1
            return y.view(10, 10).t().relu_()[:5]

    assert measure_peak_memory(InPlace(), torch.zeros(100)) == FLOAT * 200


def test_the_widest_moment_counts_not_the_last():
    class Hourglass(nn.Module):
        def forward(self, x):
            return x.expand(1000, 10).contiguous().sum()

    assert measure_peak_memory(Hourglass(), torch.zeros(1, 10)) == FLOAT * (10 + 10_000 + 1)


def test_attention_shows_its_tensors():
    """Off the fused path at least the projected queries, keys and values are seen."""
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    example = torch.zeros(1, 50, 16)
    floor = count_bytes(model) + FLOAT * example.numel() * (1 + 3)
    assert measure_peak_memory(model, example) > floor


def test_measuring_twice_gives_the_same():
    model, example = nn.Conv2d(3, 8, 3), torch.zeros(1, 3, 9, 9)
    assert measure_peak_memory(model, example) == measure_peak_memory(model, example)
