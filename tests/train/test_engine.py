"""A step on several batches is one on all their rows; clipping bounds it."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import secateur as sc
from secateur.train import Data, Interrupted, Loop
from secateur.train.engine import Engine
from train.test_loop import assert_same, make_loop, stop_at


def model_of(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def rows(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    inputs = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return inputs, torch.arange(count) % 2


def stepped(engine: Engine, window: list) -> tuple[float, torch.Tensor]:
    """The loss that a step tells, and how far it moves the weights at a learning rate of 1."""
    model = model_of()
    before = nn.utils.parameters_to_vector(model.parameters()).clone()
    engine.prepare(model, torch.optim.SGD(model.parameters(), 1.0))
    told = engine.step(window, loss)
    return told, (nn.utils.parameters_to_vector(model.parameters()) - before).detach()


def test_a_window_of_batches_is_one_batch():
    inputs, target = rows(12)
    parts = list(zip(inputs.split(4), target.split(4), strict=True))
    one, other = stepped(Engine(), [(inputs, target)]), stepped(Engine(), parts)
    assert one[0] == pytest.approx(other[0], rel=1e-12)
    torch.testing.assert_close(one[1], other[1], rtol=1e-10, atol=1e-14)


def test_clipping_bounds_the_gradients_of_all_batches_together():
    window = [rows(4), rows(6)]
    free = stepped(Engine(), window)[1].norm()
    moved = stepped(Engine(clip=float(free) / 3), window)[1].norm()
    assert float(moved) == pytest.approx(float(free) / 3, rel=1e-5)
    assert torch.equal(stepped(Engine(clip=1e6), window)[1], stepped(Engine(), window)[1])


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan])
def test_a_clip_that_bounds_nothing_is_refused(clip):
    with pytest.raises(ValueError, match="is above 0"):
        Engine(clip=clip)


def test_steps_are_counted_where_batches_are_accumulated():
    model = model_of().float()
    batches = [(inputs.float(), target) for inputs, target in map(rows, (8, 9, 10, 11, 12))]
    groups = sc.neurons(model, batches[0][0])
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    optimizer = sc.Proximal(sgd, groups, sc.Budget(groups=3), steps=6)
    loop = Loop(model, optimizer, Data(batches, batches), epochs=2, accumulate=2)
    loop.run()
    assert (loop.steps, loop.step, optimizer.steps_taken) == (6, 6, 6)  # 2 + 2 + 1 batches, twice
    assert optimizer.settled and int(groups.alive().sum()) == 3


def test_a_run_that_accumulates_resumes_bit_for_bit(tmp_path):
    whole = make_loop(accumulate=5, plain=True)  # 12 batches an epoch: steps of 5, 5 and 2
    whole.run()
    path = tmp_path / "checkpoint"
    with pytest.raises(Interrupted, match="stopped at step 5 of 12"):
        make_loop(path, accumulate=5, plain=True, watch=stop_at(5)).run()
    resumed = make_loop(path, accumulate=5, plain=True)
    resumed.resume()
    resumed.run()
    assert_same(resumed, whole)


def test_no_batch_at_a_time_is_refused():
    with pytest.raises(ValueError, match="accumulate=0: an integer of 1 or more"):
        make_loop(accumulate=0)
