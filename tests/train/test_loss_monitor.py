"""The early warning: silent on ordinary training, loud where the budget or the rate is too much."""

import math
import random

import pytest
import torch

import secateur as sc
from secateur.commands.digits import DigitNet
from secateur.train import Data, Loop
from secateur.train.monitor import RECENT, LossMonitor
from secateur.utils.rng import seed_all
from train import digits

BLANK = math.log(10)


def told(losses, *, freeze: int = 70, blank: float | None = BLANK) -> list[str]:
    alarm = LossMonitor(blank)
    hardness = [min(1.0, (step / freeze) ** 3) for step in range(1, len(losses) + 1)]
    seen = [alarm.see(i, loss, r) for i, (loss, r) in enumerate(zip(losses, hardness, strict=True))]
    return [words for words in seen if words]


def falling(number: int, noise: float, seed: int) -> list[float]:
    """A loss that falls from 2.3 to 0.05, with log-normal noise."""
    draw = random.Random(seed)
    curve = (0.05 + 2.25 * math.exp(-6 * step / number) for step in range(number))
    return [loss * math.exp(draw.gauss(0, noise)) for loss in curve]


@pytest.mark.parametrize("noise", [0.1, 0.3, 0.6])
def test_noise_alone_gives_no_alarm(noise):
    assert not [words for seed in range(200) for words in told(falling(100, noise, seed))]


def test_a_jump_while_hardness_rises_is_told_once():
    losses = falling(100, 0.1, 0)
    losses[40:] = [2.0] * 60
    (words,) = told(losses)
    assert words.startswith(f"step {40 + RECENT // 2}: the loss rose from 0.")
    assert 'importance="curvature"' in words and "Lower the learning rate" not in words


def test_worse_than_knowing_nothing_is_the_learning_rate_s_fault():
    losses = falling(100, 0.1, 0)
    losses[40:] = [30.0] * 60
    (words,) = told(losses)
    assert "Lower the learning rate" in words


def test_a_network_that_learns_nothing_is_told_when_the_budget_begins_to_press():
    (words,) = told([2.31] * 100)
    assert "no better than that of outputs of zero" in words and "Lower the learning rate" in words


def test_a_jump_at_the_choice_is_told():
    losses = falling(100, 0.1, 0)
    before = [f"{loss:.2g}" for loss in sorted(losses[69 - RECENT : 69])]
    losses[69:] = [0.6] * 31
    (words,) = told(losses)
    assert "from " + before[RECENT // 2] + " to 0.6 when the groups were chosen" in words


def test_a_passing_jump_before_the_budget_presses_is_left_alone():
    losses = falling(100, 0.1, 0)
    losses[5:15] = [4.0] * 10
    assert not told(losses)


def test_a_single_spike_is_left_alone():
    losses = falling(100, 0.1, 0)
    losses[40:43] = [50.0, math.nan, 50.0]
    assert not told(losses)


def test_a_jump_without_rising_hardness_is_left_alone():
    losses = falling(100, 0.1, 0)
    losses[90:] = [2.3] * 10
    assert not told(losses)


def test_every_stage_is_watched_anew():
    alarm, words = LossMonitor(BLANK), []
    for loss in (0.1, 2.0, 0.1, 2.0):  # the second and the fourth part end what the first begins
        for step in range(20):
            hardness = (step + 20 * (loss > 1)) / 40
            words.append(alarm.see(step, loss, hardness))
    assert len([found for found in words if found]) == 2


def test_the_first_loss_stands_in_for_an_unknown_scale():
    losses = [8.0, *[0.5] * 39, *[6.0] * 60]
    assert len(told(losses, blank=None)) == 1
    assert not told([80.0, *losses[1:]], blank=None)


# -- real runs ----------------------------------------------------------------------------------


def run(
    seed: int, rate: float, flops: float, make=digits.make_model, importance: str = "auto"
) -> tuple[list[str], float]:
    """Twelve epochs on the digits: the warnings and the accuracy."""
    seed_all(seed, -1)
    model, data = make(), Data(*digits.make_data())
    steps = 12 * len(data.train_loader)
    groups, heard = sc.filters(model, data.example()), []
    sgd = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    optimizer = sc.Proximal(sgd, groups, sc.Budget(flops=flops), steps=steps, importance=importance)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loop = Loop(
        model, optimizer, data, epochs=12, scheduler=scheduler, seed=seed, warn=heard.append
    )
    try:
        loop.run()
    except FloatingPointError:
        return heard, 0.0
    assert heard == [record["warning"] for record in loop.history if "warning" in record]
    return heard, loop.history[-1]["accuracy"]


def test_ordinary_runs_give_no_alarm():
    for seed in range(4):
        for rate in (0.02, 0.05, 0.1):
            heard, accuracy = run(seed, rate, 0.5)
            assert accuracy > 0.95
            assert not heard, (seed, rate)


def test_a_budget_that_is_too_hard_gives_an_alarm():
    for seed in range(2):
        heard, accuracy = run(seed, 0.05, 0.02, DigitNet, importance="layer")
        assert accuracy < 0.9
        assert len(heard) == 1 and 'importance="curvature"' in heard[0]


def test_a_learning_rate_that_is_too_high_gives_an_alarm():
    for seed in range(2):
        heard, accuracy = run(seed, 3.0, 0.25)
        assert accuracy < 0.9
        assert len(heard) == 1 and "Lower the learning rate" in heard[0]
