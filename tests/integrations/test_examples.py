"""The examples run as they are and do what they say."""

import subprocess
import sys
from pathlib import Path

import pytest

from secateur.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"


def output_of(name: str, folder: Path) -> str:
    command = [sys.executable, str(EXAMPLES / name)]
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert told.returncode == 0 and told.stderr == "", told.stderr
    return told.stdout


@pytest.mark.slow
def test_quickstart(tmp_path):
    lines = output_of("quickstart.py", tmp_path).splitlines()
    _, full, asked, reached, _ = lines[-2].split()
    numbers = [int(number.replace(",", "")) for number in (full, asked, reached)]
    assert numbers[2] <= numbers[1] == numbers[0] // 4
    assert float(lines[-1].split()[-1].rstrip("%")) > 95


def test_resume(tmp_path):
    assert "the resumed run equals the uninterrupted one" in output_of("resume.py", tmp_path)


def test_own_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(EXAMPLES)
    words = "train --model own_data:make_model --data own_data:make_data --budget flops=30%"
    out = ["--epochs", "2", "--out", str(tmp_path / "run"), "--batch-size", "100", "--lr", "0.05"]
    assert main([*words.split(), *out]) == 0
    assert "Asked and reached" in capsys.readouterr().out
