"""Profiling: what is measured, and what a busy device does to it."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import networks
import secateur as sc
from costs.cases import wide
from secateur.costs import profile
from secateur.costs import timing as made
from secateur.measurement import latency

pytestmark = pytest.mark.filterwarnings("ignore:the device is busy", "ignore:the latency table of")


def test_a_table_tells_narrow_networks_from_wide_ones() -> None:
    groups = wide(hidden=512, rows=128)
    table = profile(groups)
    cost = table.cost(groups)
    assert cost(np.ones(512)) == pytest.approx(table.full)
    half = (np.arange(512) < 256).astype(float)
    assert 0.3 * table.full < cost(half) < 0.8 * table.full
    assert (cost.gradient(half) > 0).all()
    assert [(layer.name, layer.operator, layer.widths) for layer in table.layers] == [
        ("0", "addmm", (512,)),
        ("2", "addmm", (512,)),
    ]
    assert table.layers[0].points[0][0] == 1.0  # the full network comes first
    assert len(table.layers[0].points) == 1 + len(made.UNIFORM) + made.RANDOM + 4


def test_profiling_leaves_model_threads_and_random_numbers_alone() -> None:
    groups = wide()
    assert groups.model is not None
    groups.model.train()
    before = [parameter.clone() for parameter in groups.model.parameters()]
    random, threads = torch.get_rng_state(), torch.get_num_threads()
    profile(groups, threads=threads)
    assert groups.model.training and torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), random)
    assert all(map(torch.equal, before, groups.model.parameters()))


def test_depth_and_attention_can_be_profiled() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
    example = torch.randn(4, 32, 32)
    groups = sc.heads(model, example) + sc.neurons(model, example) + sc.depth(model, example)
    cost = profile(groups).cost(groups)
    everything = np.ones(len(groups))
    without_branches = everything.copy()
    without_branches[-2:] = 0  # no attention and no feed-forward network are left
    assert cost(without_branches) < 0.5 * cost(everything)


def test_widths_are_measured_in_multiples() -> None:
    model = networks.vgg()
    groups = sc.filters(model, networks.images(2, 3, 16, 16))
    table = profile(groups, multiple_of=4)
    for layer in table.layers:
        for point in layer.points:
            for share, width in zip(point[:-1], layer.widths, strict=True):
                assert round(share * width) % 4 == 0


def test_what_makes_nothing_faster_is_refused() -> None:
    with pytest.raises(ValueError, match="a latency table needs groups that were traced"):
        profile(sc.weights(nn.Linear(3, 2)))
    with pytest.raises(ValueError, match="known are torch"):
        profile(wide(), runtime="tflite")


class Restless(nn.Module):
    """A network that is interrupted at random: every other call waits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)
        self.draw = np.random.default_rng(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        import time

        end = time.perf_counter() + self.draw.exponential(2e-3)
        while time.perf_counter() < end:
            pass
        return self.second(self.first(x).relu())


def test_a_device_that_never_gets_quiet_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "STEADY", latency.STEADY)  # other tests bear with a busy machine
    patience = partial(latency.time_together, patience=4)
    monkeypatch.setattr(made, "time_together", patience)
    groups = sc.neurons(Restless(), torch.ones(2, 8))
    with (
        pytest.warns(RuntimeWarning, match="the device is busy: quartiles lie"),
        pytest.raises(RuntimeError, match="the device is too busy to be measured"),
    ):
        profile(groups)
