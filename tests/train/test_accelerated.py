"""Under a launcher every process does its part, and all come to the network of one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import secateur as sc
from secateur.commands.main import main
from secateur.train import Interrupted
from secateur.train.accelerated import Accelerated, Share, _check_shareable
from secateur.train.data import cross_entropy
from secateur.train.run import train
from secateur.train.settings import Settings
from secateur.utils.rng import seed_all
from train import launched
from train.mine import make_data
from train.test_loop import assert_same, make_loop, stop_at

TESTS = Path(__file__).parents[1]
WORDS = "-m secateur train --model train.launched:make_model --lr 0.2 --device cpu "
WORDS += (
    "--data train.launched:make_data --budget flops=40% --epochs 3 --checkpoint-every 5 --no-export"
)
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ABORTED = "terminate called without an active exception"  # gloo's threads, when all is done

needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch has no gloo here"
)


# -- several processes -----------------------------------------------------------------------------


def start(folder: Path, *more: str, launcher: list[str] = TORCHRUN) -> subprocess.Popen:
    environment = {
        **os.environ,
        "LAUNCHED": str(folder / "ranks"),
        "GLOO_SOCKET_IFNAME": "lo",
        "CUDA_VISIBLE_DEVICES": "",
    }
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, *launcher, *WORDS.split(), "--out", str(folder / "run"), *more],
        cwd=TESTS,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(folder: Path, *more: str, launcher: list[str] = TORCHRUN) -> str:
    """What a run says that is let alone."""
    for again in ([], ["--resume"], ["--resume"]):
        process = start(folder, *(more or again), launcher=launcher)
        out, err = process.communicate(timeout=120)
        if ABORTED not in err:
            break
    assert process.returncode == 0, err
    return out


def weights(folder: Path, rank: int) -> dict[str, torch.Tensor]:
    return torch.load(folder / "ranks" / f"weights-{rank}.pt")


def history(folder: Path) -> list[dict]:
    return [
        json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().split("\n")[:-1]
    ]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("two")
    return folder, ended(folder)


@needs_gloo
def test_two_processes_end_on_the_budget_with_one_network(two):
    folder, told = two
    assert told.count("Asked and reached") == 1  # the first process speaks
    first, second = weights(folder, 0), weights(folder, 1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    facts = json.loads((folder / "run" / "run.json").read_text())
    (line,) = facts["asked"]
    assert line["reached"] <= line["asked"] == int(0.4 * line["full"])
    assert facts["settings"]["processes"] == "2" and facts["checks"][0]["holds"]
    small = sc.load(folder / "run" / "small.safetensors", model=launched.make_model())
    example = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    assert sc.measure(small, example, latency=False).flops == line["reached"]
    alive = first["0.weight"].flatten(1).any(1)
    assert small[0].weight.shape[0] == int(alive.sum()) < 16
    assert torch.equal(small[0].weight, second["0.weight"][alive])


@needs_gloo
def test_two_processes_are_as_good_as_one(two, tmp_path):
    folder, _ = two
    ended(tmp_path, launcher=[])
    one, other = history(folder), history(tmp_path)
    assert [r["step"] for r in one] == [r["step"] for r in other]
    for key in ("loss", "held_out_loss", "accuracy", "lr"):
        assert [r[key] for r in one if key in r] == pytest.approx(
            [r[key] for r in other if key in r], rel=1e-6
        )
    for name, value in weights(tmp_path, 0).items():
        torch.testing.assert_close(weights(folder, 1)[name], value, rtol=1e-6, atol=1e-9)


@needs_gloo
def test_a_killed_process_ends_the_other_and_both_go_on(two, tmp_path):
    launcher = start(tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "checkpoint").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    ids = [int((tmp_path / "ranks" / f"process-{rank}").read_text()) for rank in (0, 1)]
    os.kill(ids[1], signal.SIGKILL)
    launcher.communicate(timeout=60)  # no hang
    assert launcher.returncode != 0
    assert not any(Path(f"/proc/{number}").exists() for number in ids)
    assert not (tmp_path / "run" / "small.safetensors").exists()
    ended(tmp_path, "--resume")
    for name, value in weights(two[0], 0).items():
        assert torch.equal(weights(tmp_path, 0)[name], value)
    assert history(tmp_path) == history(two[0])


@needs_gloo
def test_a_launcher_that_is_stopped_leaves_a_checkpoint_for_one_process_too(
    two, tmp_path, monkeypatch
):
    monkeypatch.setenv("PAUSE", "0.002")  # seconds are left when the signal is sent, not an instant
    launcher = start(tmp_path, "--checkpoint-every", "1h")
    monkeypatch.delenv("PAUSE")
    lines = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 240  # a busy machine takes its time to start processes
    while not (lines.exists() and lines.read_text()) and time.monotonic() < deadline:
        time.sleep(0.005)
    launcher.terminate()
    told = launcher.communicate(timeout=60)[1]
    assert told.count("stopped at step") == 1 and launcher.returncode != 0
    ended(tmp_path, "--resume", launcher=[])
    for name, value in weights(two[0], 0).items():
        torch.testing.assert_close(weights(tmp_path, 0)[name], value, rtol=1e-6, atol=1e-9)


# -- the parts of the data -------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_parts_make_up_every_batch_and_are_equally_long(world):
    batches = [list(range(8)), list(range(8, 14)), [14]]
    shares = [Share(batches, rank, world) for rank in range(world)]
    for batch in batches:
        parts = [share.part(batch) for share in shares]
        assert {len(part) for part in parts} == {-(-len(batch) // world)}
        rows = [row for part in parts for row in part]
        assert rows[: len(batch)] == batch  # and then the first ones again
        assert rows[len(batch) :] == (batch * world)[: len(rows) - len(batch)]
    assert {len(share) for share in shares} == {3}


def test_processes_agree_on_the_order_and_on_nothing_else():
    drawn, noise = [], []
    for rank in (0, 1):
        loader = make_data()[0]
        seed_all(0, 2, loader)
        drawn += [list(Share(loader.batch_sampler, rank, 2))]
        noise += [torch.rand(3)]
    for ours, theirs in zip(*drawn, strict=True):
        assert not set(ours) & set(theirs)
    assert sorted(row for part in drawn for batch in part for row in batch) == list(range(96))
    assert not torch.equal(*noise)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda data: [data[0:4]], "it is a list"),
        (lambda data: DataLoader(data, batch_size=None), "without a batch sampler"),
        (
            lambda data: DataLoader(data, 4, sampler=DistributedSampler(data, 2, 0)),
            "write shuffle=True",
        ),
    ],
)
def test_what_cannot_be_shared_out_is_refused(make, words):
    with pytest.raises(TypeError, match=words):
        _check_shareable(make(TensorDataset(torch.ones(8, 2))))


# -- one process -----------------------------------------------------------------------------------


def test_one_process_is_the_plain_loop_bit_for_bit():
    plain = make_loop()
    plain.run()
    with Accelerated("cpu") as engine:
        other = make_loop(engine=engine)
        other.run()
    assert_same(other, plain)


def test_skipped_steps_are_counted_and_the_scale_is_resumed(tmp_path):
    """With a GradScaler on the CPU, as Accelerate has one on GPUs, that begins far too large."""

    def run(path: Path, *, resume: bool = False, **options):
        with Accelerated("cpu") as engine:
            engine.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
            loop = make_loop(path, engine=engine, **options)
            loop.data = replace(loop.data, loss=lambda *both: 10 * cross_entropy(*both))
            if resume:
                loop.resume()
            loop.run()
            return loop, engine.accelerator.scaler.get_scale()

    with pytest.warns(UserWarning, match=r"lr_scheduler\.step"):  # before any step of SGD's
        whole, scale = run(tmp_path / "whole")
    assert scale < 2.0**127  # so steps were skipped
    assert whole.optimizer.settled and whole.step == whole.optimizer.steps_taken == 48
    small = sc.shrink(whole.model, whole.optimizer.groups)
    assert whole.optimizer.budget.reached(small, whole.data.example()).holds
    with pytest.raises(Interrupted), pytest.warns(UserWarning):
        run(tmp_path / "part", watch=stop_at(20))
    resumed, again = run(tmp_path / "part", resume=True)
    assert again == scale
    assert_same(resumed, whole)


def test_mixed_precision_runs_the_model_in_it_and_leaves_the_weights():
    seen = set()

    def loss(output, target):
        seen.add(output.dtype)
        return cross_entropy(output, target)

    with Accelerated("cpu", precision="bf16") as engine:
        loop = make_loop(engine=engine)
        loop.data = replace(loop.data, loss=loss)
        loop.run()
    assert seen == {torch.bfloat16}
    assert {value.dtype for value in loop.model.parameters()} == {torch.float32}
    assert loop.optimizer.settled


def test_options_of_the_command_reach_the_run(tmp_path):
    settings = Settings(
        *("train.mine:make_model", "train.mine:make_data", ("flops=50%",)),
        epochs=2,
        lr=0.05,
    )
    words = "train --model train.mine:make_model --data train.mine:make_data "
    words += "--budget flops=50% --epochs 2 --lr 0.05 --precision bf16 --accumulate 3 --clip 0.5"
    words += " --no-export"
    assert main([*words.split(), "--out", str(tmp_path / "command")]) == 0
    run = train(
        replace(settings, precision="bf16", accumulate=3, clip=0.5),
        tmp_path / "call",
        to_onnx=False,
    )
    assert run is not None and run.asked[0].holds
    steps = [record["step"] for record in run.history if "loss" in record]
    assert steps == list(range(1, 9))  # two epochs of 12 batches, 3 a step
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("command", "call")]
    assert lines[0] == lines[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "fp8"}, "known are no, bf16, fp16"),
        ({"precision": "fp16"}, "needs a GPU; on a CPU write --precision bf16"),
        ({"device": "meta"}, "leave the choice to it"),
    ],
)
def test_what_it_cannot_do_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Accelerated(**{"device": "cpu", **options})
    with Accelerated("cpu") as engine:  # nothing of the attempt is left
        assert engine.accelerator.mixed_precision == "no"


def test_launchers_options_that_would_be_left_out_are_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(ValueError, match="write --accumulate 4"):
        Accelerated("cpu")
