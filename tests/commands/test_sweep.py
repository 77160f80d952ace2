"""Sweeps on a real, local Ray: equal to plain training, resumable, not stopped by failures."""

import importlib.util
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

from secateur.commands.main import main
from secateur.report.sweep import Sweep, SweepTrial, rows
from secateur.train.loop import Interrupted
from secateur.train.run import train
from secateur.train.settings import Settings
from secateur.train.spec import parse_seeds
from secateur.train.sweep import sweep

TESTS = Path(__file__).parents[1]
SETTINGS = Settings(
    model="train.digits:make_model",
    data="train.digits:make_data",
    budget=(),
    epochs=2,
    lr=0.05,
)
WORDS = "sweep --model train.digits:make_model --data train.digits:make_data "
WORDS += "--epochs 40 --lr 0.05 --budgets flops=50% flops=25%,params=40% --seeds 0,1"
HALF, QUARTER = "flops-50pct_seed-{}", "flops-25pct-params-40pct_seed-{}"

on_ray = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra sweep"),
]


def swept(folder: Path) -> tuple[Sweep, list[str]]:
    """Two budgets, two seeds; returns the facts and which runs were trained."""
    ended: list[SweepTrial] = []
    budgets = ["flops=50%", "flops=25%,params=40%"]
    found = sweep(
        SETTINGS, folder, budgets=budgets, seeds=[0, 1], to_onnx=False, ended=ended.append
    )
    return found, sorted(Path(trial.folder).name for trial in ended)


def contents(run: Path) -> tuple[str, ...]:
    """What a run must have the same, bit for bit: its network and its history."""
    tensors = load_file(run / "small.safetensors")
    words = [f"{name} {tensors[name].numpy().tobytes().hex()}" for name in sorted(tensors)]
    return (*words, (run / "metrics.jsonl").read_text())


def interrupt(folder: Path, settings: Settings) -> None:
    """Train, stop half-way as Ctrl-C does."""

    def watch(what: str, done: int, total: int, words: str) -> None:
        if total and done == total // 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train(settings, folder, to_onnx=False, watch=watch)


class TestOnRay:
    pytestmark = on_ray

    def test_runs_equal_plain_training_and_only_what_is_missing_is_run_again(self, tmp_path):
        folder, runs = tmp_path / "sweep", tmp_path / "sweep" / "runs"
        found, trained = swept(folder)
        names = sorted(form.format(seed) for form in (HALF, QUARTER) for seed in (0, 1))
        assert trained == names and not found.failed
        check_results(folder, found)

        plain = replace(SETTINGS, budget=("flops=25%,params=40%",), seed=1)
        train(plain, tmp_path / "plain", to_onnx=False)
        whole = {name: contents(runs / name) for name in names}
        assert contents(tmp_path / "plain") == whole[QUARTER.format(1)]
        assert len(set(whole.values())) == 4  # seeds and budgets make a difference

        shutil.rmtree(runs / QUARTER.format(1))
        interrupt(runs / QUARTER.format(1), plain)
        (runs / HALF.format(1) / "run.json").unlink()
        (runs / HALF.format(1) / "checkpoint").write_bytes(b"half a file")
        again, trained = swept(folder)
        assert trained == sorted([HALF.format(1), QUARTER.format(1)])
        assert {name: contents(runs / name) for name in names} == whole
        (failed,) = again.failed  # so checkpoints are read, and a failure stops no other run
        assert (failed.budget, failed.seed) == ("flops=50%", 1)
        assert "is not a checkpoint of secateur train" in failed.failure
        assert "Traceback" in (runs / HALF.format(1) / "error.txt").read_text()
        assert json.loads((folder / "results.jsonl").read_text().splitlines()[1])["failed"]
        assert "is not a checkpoint" in (folder / "report.html").read_text()

    def test_after_a_signal_it_says_how_to_go_on_and_leaves_checkpoints(self, tmp_path):
        words = [*WORDS.split(), "--epochs", "20000"]  # so that none has ended by then
        words += ["--checkpoint-every", "1", "--out", str(tmp_path)]
        process = subprocess.Popen(
            [sys.executable, "-m", "secateur.commands.main", *words],
            cwd=TESTS,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_IGN),  # as a shell's & does
        )
        deadline = time.monotonic() + 180
        while not list(tmp_path.glob("runs/*/checkpoint")) and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to Ray's processes, too
        told = process.communicate(timeout=180)[1]
        assert process.returncode == 128 + signal.SIGINT, told
        assert "stopped with 4 runs missing" in told and "Traceback" not in told
        assert f"to go on:  secateur {' '.join(words)}" in told
        assert list(tmp_path.glob("runs/*/checkpoint"))
        assert not list(tmp_path.glob("runs/*/run.json"))

    def test_more_than_this_machine_has_is_refused(self, tmp_path, capsys):
        assert main([*WORDS.split(), "--out", str(tmp_path / "out"), "--cpus", "100000"]) == 2
        assert "--cpus 100000 for each run: this machine has" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def check_results(folder: Path, found: Sweep) -> None:
    """The lines, the table and the page tell what the runs came to."""
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [(line["budget"], line["seed"]) for line in lines] == [
        (budget, seed) for budget in ("flops=50%", "flops=25%,params=40%") for seed in (0, 1)
    ]
    for line in lines:
        facts = json.loads((folder / line["folder"] / "run.json").read_text())
        assert line["score"] == facts["networks"][-1]["score"] and line["asked"] == facts["asked"]
        assert all(asked["reached"] <= asked["asked"] for asked in line["asked"])
    scores = [line["score"] for line in lines[:2]]
    expected = f"{statistics.mean(scores):.2%} ± {statistics.stdev(scores):.2%}"
    assert rows(found)[0][2] == expected
    page = (folder / "report.html").read_text()
    assert expected in page and page.count("<circle") == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--budgets", "flops=50%", "25"], "25 of what? write MEASURE=AMOUNT"),
        (["--budgets", "flops=50%", "flops=0.5"], "flops=50% and flops=0.5 are the same budget"),
        (["--budgets", "flops=50%,25%"], "write --budgets flops=50% flops=25%"),
        (["--budgets", "flops=50%", "params=0%"], "above 0% and up to 100%"),
        (["--seeds", "0,one"], "integers with commas"),
        (["--seeds", "3,3"], "--seeds 3: integers of 0 or more, each once"),
        (["--cpus", "0"], "cores of each run, 1 or more"),
        (["--gpus", "1"], "give both (--gpus 1 --device cuda) or neither"),
        (["--device", "cuda"], "--gpus 0 with --device cuda"),
        (["--checkpoint-every", "soon"], "30s, 5m or 1h"),
        (["--model", "nowhere:Net"], "no module 'nowhere'"),
        (["--data", "train.digits:nothing"], "has no 'nothing'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(change, words, tmp_path, capsys):
    command = [*WORDS.split(), "--out", str(tmp_path / "out"), *change]
    if change[0] == "--budgets":
        start = command.index("--budgets")
        del command[start : start + 3]
    assert main(command) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra sweep")
@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "no Ray cluster there"),
        ("ray://127.0.0.1:1", "no Ray cluster there"),
        ("127.0.0.1:70000", "no Ray cluster there"),
        ("somewhere", "write auto, HOST:PORT or ray://HOST:PORT"),
    ],
)
def test_an_address_without_a_cluster_is_refused_soon(address, words, tmp_path, capsys):
    start = time.monotonic()
    assert main([*WORDS.split(), "--out", str(tmp_path / "out"), "--address", address]) == 2
    assert time.monotonic() - start < 20
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_ray_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it now fails
    assert main([*WORDS.split(), "--out", str(tmp_path / "out")]) == 2
    assert "pip install secateur[sweep]" in capsys.readouterr().err


def test_a_folder_of_something_else_is_refused(tmp_path, capsys):
    words = [*WORDS.split(), "--out", str(tmp_path)]
    (tmp_path / "checkpoint").touch()
    assert main(words) == 2
    assert "holds a run of secateur train" in capsys.readouterr().err
    (tmp_path / "checkpoint").unlink()
    (tmp_path / "sweep.json").write_text('{"epochs": 7}')
    assert main(words) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "holds another sweep" in told and "epochs then 7, now 40" in told
    for damaged in ('{"epochs"', "[7]", "7", '{"epochs": ' + "[" * 5_000 + "]" * 5_000 + "}"):
        (tmp_path / "sweep.json").write_text(damaged)
        assert main(words) == 2
        assert "is not what a sweep writes" in capsys.readouterr().err


def test_budgets_are_not_taken_for_train_s(capsys):
    words = WORDS.replace("--budgets", "--budget").split()
    with pytest.raises(SystemExit):
        main([*words, "--out", "nowhere"])
    assert "required: --budgets" in capsys.readouterr().err


def test_seeds_are_read():
    assert parse_seeds("0") == (0,) and parse_seeds("3,1,20") == (3, 1, 20)
