"""Experts that are multiplied in one operator lose the same hidden units."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import secateur as sc
from cuts import counted, cut_out, predicted, some_dead
from networks import images
from secateur.tracing.tracer import trace

grouped_mm = getattr(torch, "_grouped_mm", None)


class Experts(nn.Module):
    def __init__(self, count: int = 3) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(count, 8, 32) / 3)
        self.down = nn.Parameter(torch.randn(count, 32, 8) / 5)

    def forward(self, x):
        ends = torch.tensor([2, 5, 6], dtype=torch.int32)
        hidden = torch._grouped_mm(x, self.up, offs=ends).relu()
        return torch._grouped_mm(hidden, self.down, offs=ends)


@pytest.mark.skipif(grouped_mm is None, reason="this torch has no grouped product")
def test_all_experts_lose_the_same_units():
    model, x = Experts(), images(6, 8)
    axis = next(axis for axis in trace(model, (x,)).axes if not axis.protected)
    assert len(axis) == 32
    assert axis.producers == ("up",)


@pytest.mark.skipif(grouped_mm is None, reason="this torch has no grouped product")
def test_a_kernel_that_wants_multiples_is_found_out_before_training():
    try:
        model = Experts()
        model(images(6, 8))
        narrow = Experts()
        narrow.up = nn.Parameter(torch.randn(3, 8, 15))
        narrow.down = nn.Parameter(torch.randn(3, 15, 8))
        narrow(images(6, 8))
    except RuntimeError:
        with pytest.raises(ValueError, match="the smaller network does not run"):
            sc.neurons(model, (images(6, 8),))
    else:
        found = sc.neurons(model, (images(6, 8),))
        dead = some_dead(found, 0)
        removal, gap = cut_out(model, found, dead)
        assert gap <= 1e-5
        assert counted(removal.model, images(6, 8))[1] == predicted(found, dead)[1]
