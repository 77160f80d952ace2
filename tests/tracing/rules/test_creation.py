"""Zeros that a model starts from follow its axes, where the module really makes fewer of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import secateur as sc
from cuts import Apply, axes, cut_out, some_dead
from networks import images


@pytest.mark.parametrize("recurrent", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("both_ways", [False, True])
def test_hidden_units_of_recurrent_networks_leave_exactly(recurrent, both_ways):
    width = 16 if both_ways else 8
    model = Apply(
        lambda m, x: m.last(m.recurrent(x)[0]),
        recurrent=recurrent(3, 8, 2, batch_first=True, bidirectional=both_ways),
        last=nn.Linear(width, 2),
    )
    found = sc.neurons(model, (images(2, 5, 3),))
    assert len(found) == 8  # one unit of every layer and direction: they share their width
    for seed in range(2):
        removal, gap = cut_out(model, found, some_dead(found, seed))
        assert gap <= 1e-5
        assert removal.model.recurrent.hidden_size == 4


def test_units_whose_last_state_leaves_the_model_are_protected():
    model = nn.LSTM(3, 8)
    assert all("output" in reason for reason in axes(model, images(5, 2, 3))[1].values())


class Cell(nn.Module):
    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.cell, self.last = nn.GRUCell(3, 8), nn.Linear(8, 2)
        self.fixed = fixed

    def forward(self, x):
        state = x.new_zeros(len(x), 8 if self.fixed else self.cell.hidden_size)
        for _ in range(3):
            state = self.cell(x, state)
        return self.last(state)


def test_a_state_that_follows_its_cell_shrinks_and_one_of_fixed_size_refuses():
    found = sc.neurons(Cell(False), (images(2, 3),))
    assert len(found) == 8
    model = Cell(False)
    assert cut_out(model, found.on(model), some_dead(found, 0))[1] <= 1e-5
    with pytest.raises(ValueError, match="the smaller network does not run"):
        sc.neurons(Cell(True), (images(2, 3),))


def test_a_state_that_is_not_zero_is_nobody_s():
    def run(m, x):
        return m.last(torch.ones(2, 8) * 0.5 + m.first(x))

    model = Apply(run, first=nn.Linear(3, 8), last=nn.Linear(8, 2))
    assert axes(model, images(2, 3))[0] == {}
