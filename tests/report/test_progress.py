"""Progress is for people: a terminal shows it, a file stays empty."""

import os
import pty
import subprocess
import sys

import pytest

SCRIPT = """
from secateur.report.progress import Watcher
with Watcher() as watch:
    for step in range(5):
        watch("training", step + 1, 5, f"loss 0.{step}")
    watch("shrinking", 0, 0, "")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_terminal_shows_what_is_being_done():
    reader, writer = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", SCRIPT], stderr=writer, env=environment, check=True)
    shown = os.read(reader, 100_000).decode()
    os.close(writer)
    os.close(reader)
    assert "training" in shown and "loss 0.4" in shown and "shrinking" in shown


def test_a_file_stays_empty():
    told = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)
    assert told.stderr == b"" == told.stdout
