"""Progress is for people: a terminal shows it, a file stays empty."""

import os
import pty
import select
import subprocess
import sys

import pytest

# The pauses give the terminal time to be drawn, which happens ten times a second.
SCRIPT = """
import time
from secateur.report.progress import Watcher
with Watcher() as watch:
    for step in range(5):
        watch("training", step + 1, 5, f"loss 0.{step}")
    time.sleep(0.3)
    watch("shrinking", 0, 0, "")
    time.sleep(0.3)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_terminal_shows_what_is_being_done():
    reader, writer = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", SCRIPT], stderr=writer, env=environment, check=True)
    shown = ""
    while select.select([reader], [], [], 0.1)[0]:
        shown += os.read(reader, 4096).decode(errors="replace")
    os.close(writer)
    os.close(reader)
    assert "training" in shown and "loss 0.4" in shown and "shrinking" in shown


def test_a_file_stays_empty():
    told = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)
    assert told.stderr == b"" == told.stdout


def test_a_warning_is_for_files_too():
    script = SCRIPT + '    watch("warning", 0, 0, "the loss [jumped]")\n'
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert told.stderr == b"secateur: warning: the loss [jumped]\n" and not told.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_warning_stays_above_the_bar():
    reader, writer = pty.openpty()
    script = SCRIPT + '    watch("warning", 0, 0, "the loss [jumped]")\n    time.sleep(0.3)\n'
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    subprocess.run([sys.executable, "-c", script], stderr=writer, env=environment, check=True)
    shown = ""
    while select.select([reader], [], [], 0.1)[0]:
        shown += os.read(reader, 4096).decode(errors="replace")
    os.close(writer)
    os.close(reader)
    assert shown.count("secateur: warning: the loss [jumped]") == 1
    assert shown.index("warning") < shown.rindex("shrinking")
