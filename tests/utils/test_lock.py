"""One process a folder: refused while it lives, taken from the dead at once."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from secateur.utils import lock
from secateur.utils.lock import FolderInUse, Lock

HOLD = "import sys, time; from secateur.utils.lock import Lock; lock = Lock(sys.argv[1]); "
HOLD += "lock.__enter__(); print('held', flush=True); time.sleep(60)"


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_in_use_is_refused_with_who_uses_it(tmp_path: Path, holder) -> None:
    with pytest.raises(FolderInUse, match=f"in use by process {holder.pid} on .*delete .*lock"):
        Lock(tmp_path).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize("reaped", [False, True])
def test_what_a_killed_process_held_is_free_at_once(tmp_path: Path, holder, reaped) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    if reaped:
        holder.wait()
    else:
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the table
    start = time.monotonic()
    with Lock(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert time.monotonic() - start < 2
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_is_another_process_s_by_now_is_no_owner(tmp_path: Path, holder) -> None:
    facts = json.loads((tmp_path / "lock").read_text())
    (tmp_path / "lock").write_text(json.dumps({**facts, "began": "1"}))
    with Lock(tmp_path):
        pass


@pytest.mark.parametrize("other", [{"host": "far"}, {"boot": "before"}, {"numbers": "pid:[1]"}])
@pytest.mark.parametrize("alive", [True, False])
def test_another_machine_is_waited_for(tmp_path: Path, other, alive, monkeypatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.1)
    monkeypatch.setattr(lock, "PATIENCE", 0.4)
    held, there = Lock(tmp_path), lock._place() | other
    with monkeypatch.context() as far:
        far.setattr(lock, "_place", lambda: there)
        held.__enter__()
    if alive:
        with pytest.raises(FolderInUse, match=f"process {os.getpid()} on {there['host']}"):
            Lock(tmp_path).__enter__()
        held.check()
    else:
        held._ended.set()
        with Lock(tmp_path) as taken:
            with pytest.raises(FolderInUse, match=r"not this run's any more: process \d+ .* took"):
                held.check()
            held.__exit__(None, None, None)
            taken.check()
    held.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[]", "{", '{"host": 3}', "\0"])
def test_a_lock_that_tells_nothing_is_waited_for(tmp_path: Path, content, monkeypatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    (tmp_path / "lock").write_text(content)
    with Lock(tmp_path) as held:
        held.check()


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_at_once_one_gets_the_folder(tmp_path: Path, stale) -> None:
    if stale:
        facts = {**lock._place(), "pid": 2**30, "began": "1"}
        (tmp_path / "lock").write_text(json.dumps(facts))
    together, outcomes = threading.Barrier(8), []

    def enter() -> None:
        together.wait()
        try:
            outcomes.append(Lock(tmp_path).__enter__())
        except FolderInUse:
            outcomes.append(None)

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [one for one in outcomes if one is not None]
    winner.check()
    winner.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


def test_a_deleted_lock_is_noticed_and_an_empty_folder_not_left(tmp_path: Path) -> None:
    with Lock(tmp_path / "new") as held:
        held.path.unlink()
        with pytest.raises(FolderInUse, match="lock was deleted"):
            held.check()
        held._create(held.path)
    assert not (tmp_path / "new").exists()
