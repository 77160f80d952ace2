"""Real processes, stopped by real signals, go on to exactly the same weights."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

TESTS = Path(__file__).parents[1]
WORDS = "train --model train.mine:make_model --data train.mine:make_data "
WORDS += "--budget params=50% --epochs 20 --lr 0.02 --checkpoint-every 5 --threads 1 --no-export"


def start(folder: Path, *more: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "secateur.commands.main",
        *WORDS.split(),
        "--out",
        str(folder),
        *more,
    ]
    return subprocess.Popen(
        command, cwd=TESTS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def stop(process: subprocess.Popen, folder: Path, number: int) -> str:
    """Send a signal as soon as there is a checkpoint; returns what the process said."""
    deadline = time.monotonic() + 60
    while not (folder / "checkpoint").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, number)
    return process.communicate(timeout=60)[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder)
    assert process.communicate(timeout=120)[1] == "" and process.returncode == 0
    return folder


def assert_goes_on_to_the_same(folder: Path, whole: Path) -> None:
    process = start(folder, "--resume")
    assert process.communicate(timeout=120)[1] == "" and process.returncode == 0
    one, other = (load_file(f / "small.safetensors") for f in (folder, whole))
    assert one.keys() == other.keys()
    assert all(bool((one[name] == other[name]).all()) for name in one)
    assert (folder / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_after_a_signal_it_says_how_to_go_on_and_does(number, whole, tmp_path):
    process = start(tmp_path)
    told = stop(process, tmp_path, number)
    assert process.returncode == 128 + number, told
    assert "stopped at step" in told and "Traceback" not in told
    assert f"to go on:  secateur {WORDS} --out {tmp_path} --resume" in told
    assert not (tmp_path / "small.safetensors").exists()
    assert_goes_on_to_the_same(tmp_path, whole)


def test_after_a_kill_it_goes_on_from_the_last_checkpoint(whole, tmp_path):
    process = start(tmp_path)
    stop(process, tmp_path, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "small.safetensors").exists()
    assert_goes_on_to_the_same(tmp_path, whole)
