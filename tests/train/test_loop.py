"""The training loop: it trains, records, stops where asked and goes on as if it had not."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

import secateur as sc
from secateur.train import CheckpointError, Data, Interrupted, Loop
from secateur.train import checkpoint as checkpoints
from secateur.train.loop import test as score
from secateur.utils.rng import seed_all
from train import mine


def make_loop(
    path: Path | None = None, *, plain: bool = False, workers: int = 0, **options
) -> Loop:
    seed_all(0, -1)
    model = mine.make_model()
    train, test = mine.make_data()
    if workers:
        train = torch.utils.data.DataLoader(
            train.dataset, 8, shuffle=True, num_workers=workers, generator=torch.Generator()
        )
    data = Data(train, test)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    if not plain:
        groups = sc.filters(model, data.example())
        optimizer = sc.Proximal(optimizer, groups, sc.Budget(flops=0.5), steps=48)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 48)
    return Loop(model, optimizer, data, epochs=4, scheduler=scheduler, path=path, **options)


def stop_at(step: int):
    def watch(now: int, steps: int, words: str) -> None:
        if now == step:
            os.kill(os.getpid(), signal.SIGINT)

    return watch


def weights(loop: Loop) -> dict[str, torch.Tensor]:
    return loop.model.state_dict()


def assert_same(one: Loop, other: Loop) -> None:
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name]), name
    assert one.history == other.history


@pytest.fixture(scope="module")
def whole() -> Loop:
    loop = make_loop()
    loop.run()
    return loop


def test_training_ends_on_the_budget_and_learns(whole):
    small = sc.shrink(whole.model, whole.optimizer.groups)
    reached = whole.optimizer.budget.reached(small, whole.data.example())
    assert reached.holds
    assert whole.history[-1]["accuracy"] > 0.8
    assert score(whole.model, whole.data)["accuracy"] == whole.history[-1]["accuracy"]


def test_history_has_every_step_and_every_epoch(whole):
    steps = [r["step"] for r in whole.history if "loss" in r]
    assert steps == list(range(1, 49))
    assert [r["epoch"] for r in whole.history if "epoch" in r] == [1, 2, 3, 4]
    costs = [r["spent"]["flops"] for r in whole.history if "loss" in r]
    assert costs[0] == 1.0 and costs[-1] <= 0.5


# Inside an epoch, at its last batch, at its first, and after the groups were chosen.
@pytest.mark.parametrize("step", [1, 12, 13, 17, 40])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(step, whole, tmp_path):
    path = tmp_path / "checkpoint"
    with pytest.raises(Interrupted, match=f"stopped at step {step} of 48; saved in") as caught:
        make_loop(path, watch=stop_at(step)).run()
    assert caught.value.number == signal.SIGINT
    torch.rand(7)  # whatever another process would have drawn
    resumed = make_loop(path)
    resumed.resume()
    resumed.run()
    assert_same(resumed, whole)


def test_a_run_may_be_interrupted_twice(whole, tmp_path):
    path = tmp_path / "checkpoint"
    with pytest.raises(Interrupted):
        make_loop(path, watch=stop_at(5)).run()
    again = make_loop(path, watch=stop_at(7))
    again.resume()
    with pytest.raises(Interrupted):
        again.run()
    resumed = make_loop(path)
    resumed.resume()
    resumed.run()
    assert_same(resumed, whole)


def test_workers_and_a_generator_of_the_loader_resume_too(tmp_path):
    straight = make_loop(workers=2)
    straight.run()
    path = tmp_path / "checkpoint"
    with pytest.raises(Interrupted):
        make_loop(path, workers=2, watch=stop_at(16)).run()
    resumed = make_loop(path, workers=2)
    resumed.resume()
    resumed.run()
    assert_same(resumed, straight)


def train_alone(path: Path) -> None:
    """What a process does that will be killed."""
    torch.set_num_threads(1)
    make_loop(path, steps_between=5).run()


@pytest.mark.parametrize("number", range(3))
def test_a_run_killed_at_a_random_step_loses_no_more_than_the_interval(number, whole, tmp_path):
    draw = random.Random(number)
    step, pause = draw.randrange(6, 46), draw.uniform(0, 0.01)
    path, lines = tmp_path / "checkpoint", tmp_path / "metrics.jsonl"

    def last_step() -> int:
        """By the whole lines of the history."""
        text = lines.read_text() if lines.exists() else ""
        return max((json.loads(line)["step"] for line in text.split("\n")[:-1]), default=0)

    process = multiprocessing.get_context("spawn").Process(target=train_alone, args=(path,))
    process.start()
    while last_step() < step and process.is_alive():
        time.sleep(0.0005)
    time.sleep(pause)
    process.kill()
    process.join()
    killed = last_step()
    assert process.exitcode == -signal.SIGKILL and killed >= step
    resumed = make_loop(path)
    resumed.resume()
    assert 0 <= killed - resumed.step <= 5
    resumed.run()
    assert_same(resumed, whole)


def test_checkpoints_are_written_while_training(tmp_path):
    path = tmp_path / "checkpoint"
    seen = []
    loop = make_loop(path, plain=True, steps_between=10)
    loop.watch = lambda step, steps, words: seen.append(path.exists())
    loop.run()
    assert seen[9] is False and seen[10] is True
    assert checkpoints.read(path)["place"] == (4, 0, 48)


def test_an_epoch_order_depends_on_seed_and_epoch_alone():
    loader = mine.make_data()[0]

    def order(seed: int, epoch: int) -> list[int]:
        seed_all(seed, epoch, loader)
        return [int(label) for _, labels in loader for label in labels]

    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4)
    assert order(0, 3) != order(1, 3)


def test_settings_must_be_the_same(tmp_path):
    path = tmp_path / "checkpoint"
    make_loop(path, plain=True, settings={"lr": 0.1, "seed": 0}).run()
    other = make_loop(path, plain=True, settings={"lr": 0.2, "seed": 0})
    with pytest.raises(CheckpointError, match=r"lr\s+then 0.1, now 0.2"):
        other.resume()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = tmp_path / "checkpoint"
    make_loop(path, plain=True).run()
    data = Data(*mine.make_data())
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 2))
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(CheckpointError, match="does not fit this Sequential"):
        Loop(model, sgd, data, epochs=4, path=path).resume()


def test_a_loader_that_lies_about_its_length_is_refused():
    class Lies(list):
        def __len__(self) -> int:
            return 9

    batches = Lies([(torch.randn(4, 2), torch.tensor([0, 1, 0, 1]))] * 3)
    model = torch.nn.Linear(2, 2)
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(RuntimeError, match="says that it has 9 batches and gave 3"):
        Loop(model, sgd, Data(batches, batches), epochs=1).run()


def test_signal_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    make_loop(plain=True).run()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
