"""The examples run as they are and do what they say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import distributed as dist

from secateur.commands.main import main

EXAMPLES = Path(__file__).parents[2] / "examples"
ABORTED = "terminate called without an active exception"  # gloo's threads, when all is done


def output_of(name: str, folder: Path) -> str:
    command = [sys.executable, str(EXAMPLES / name)]
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert told.returncode == 0 and told.stderr == "", told.stderr
    return told.stdout


def test_quickstart(tmp_path):
    lines = output_of("quickstart.py", tmp_path).splitlines()
    _, full, asked, reached, _ = lines[-2].split()
    numbers = [int(number.replace(",", "")) for number in (full, asked, reached)]
    assert numbers[2] <= numbers[1] == numbers[0] // 4
    assert float(lines[-1].split()[-1].rstrip("%")) > 95


def test_resume(tmp_path):
    assert "the resumed run equals the uninterrupted one" in output_of("resume.py", tmp_path)


def test_accelerate_in_one_process(tmp_path):
    check_accelerated(output_of("accelerate_train.py", tmp_path), 1)


@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch has no gloo here")
@pytest.mark.parametrize(
    "launcher",
    [
        *("torch.distributed.run --standalone --nproc-per-node 2",),
        *("accelerate.commands.launch --multi_gpu --num_processes 2 --main_process_port 0",),
    ],
)
def test_accelerate_in_two_processes(launcher, tmp_path):
    command = [sys.executable, "-m", *launcher.split(), str(EXAMPLES / "accelerate_train.py")]
    cpus = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    for _ in range(3):
        told = subprocess.run(command, cwd=tmp_path, env=cpus, capture_output=True, text=True)
        if ABORTED not in told.stderr:
            break
    assert told.returncode == 0, told.stderr
    check_accelerated(told.stdout, 2)


def check_accelerated(told: str, processes: int) -> None:
    *_, table, last = told.splitlines()
    full, asked, reached = (int(word.replace(",", "")) for word in table.split()[1:4])
    assert reached <= asked == full // 4
    count, _, _, _, accuracy = last.split()
    assert int(count) == processes and float(accuracy.rstrip("%")) > 95


def test_own_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(EXAMPLES)
    words = "train --model own_data:make_model --data own_data:make_data --budget flops=30%"
    out = ["--epochs", "2", "--out", str(tmp_path / "run"), "--batch-size", "100", "--lr", "0.05"]
    assert main([*words.split(), *out]) == 0
    assert "Asked and reached" in capsys.readouterr().out
