"""One run a folder: a file that says who works there, on network folders too.

A folder flows in; it is this process's until the end of a `with`, or refused with who has it.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType

LOCK = "lock"
BEAT = 5.0  # seconds between two signs of life
PATIENCE = 90.0  # seconds without one after which a process on another machine is taken for dead


class FolderInUse(ValueError):
    """Another process works in the folder, or has taken it over."""


class Lock:
    """Holds a folder, as a context; made at its beginning and gone at its end.

    The file is created as no other process can at the same time, and touched every few seconds. A
    process of this machine that is dead has lost its lock at once. Of one on another machine, or in
    another container, one waits for a sign of life: some seconds if there is one, or `PATIENCE`.

    It relies on a folder where one of several processes creates a file (O_EXCL), a rename replaces
    in one step, and a changed time is seen elsewhere within `PATIENCE`; clocks needn't agree. Local
    disks and NFS from version 3 on are such; what syncs copies later is not. Whoever was cut off
    for longer notices at its next `check`, and may have written before.

    Args:
        folder: made if missing.

    Raises:
        FolderInUse: on entering, where another process that is alive holds the folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Lock(folder):
        ...         print(os.listdir(folder))
        ...     print(os.listdir(folder))
        ['lock']
        []
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / LOCK
        self._mine: dict[str, str | int] = {}
        self._ended = threading.Event()

    def __enter__(self) -> Lock:
        self._made = not self.path.parent.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._mine = {**_place(), "pid": os.getpid(), "began": _began(os.getpid()) or ""}
        self._mine["id"] = uuid.uuid4().hex
        while not (self._create(self.path) or self._take_over()):
            pass  # the one before ended, or another one was faster
        self._ended.clear()
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def check(self) -> None:
        """Refuse to go on where another process has taken the folder for abandoned.

        Raises:
            FolderInUse: it is another's, or the lock was deleted.
        """
        found = _read(self.path)
        if found != self._mine:
            raise FolderInUse(
                f"{self.path.parent} is not this run's any more: "
                + (f"{_words(found)} took it over" if found else f"{self.path.name} was deleted")
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._mine.get("pid") == os.getpid() and _read(self.path) == self._mine:
            self.path.unlink(missing_ok=True)
            if self._made:
                with suppress(OSError):  # something was written
                    self.path.parent.rmdir()

    def _create(self, path: Path) -> bool:
        try:
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(file, "w", encoding="utf-8") as text:
            text.write(json.dumps(self._mine))
        return True

    def _take_over(self) -> bool:
        """Put this process in the place of one that is dead; refuse where it is alive."""
        found = _read(self.path)
        if found is None:
            return False
        if not _is_dead(found) and self._is_alive(found):
            raise FolderInUse(
                f"{self.path.parent} is in use by {_words(found)}: wait for its end, or choose "
                f"another --out. If that process is gone, delete {self.path}"
            )
        # Of all who found this one dead, one makes its heir's file, and no one else moves the lock.
        name = hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]
        heir = self.path.with_name(f".{LOCK}.{name}")
        if not self._create(heir):
            self._wait_for(heir)
            return False
        if _read(self.path) != found:
            heir.unlink()
            return False
        os.replace(heir, self.path)
        return True

    def _wait_for(self, heir: Path) -> None:
        for _ in range(100):
            if not heir.exists():
                return
            time.sleep(0.05)
        raise FolderInUse(f"{heir.parent} is being taken over; if by no one, delete {heir}")

    def _is_alive(self, found: dict[str, str | int]) -> bool:
        """Whether a process is there, or, on another machine, gives a sign of life in time."""
        if _same_machine(found):
            return not _is_dead(found)
        first, until = _touched(self.path), time.monotonic() + PATIENCE
        while time.monotonic() < until:
            time.sleep(min(BEAT, PATIENCE) / 10)
            if _touched(self.path) != first:
                return True
        return False

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with suppress(OSError):  # a network folder may be away for a while
                if _read(self.path) == self._mine:
                    os.utime(self.path)


def _place() -> dict[str, str | int]:
    """In which processes are numbered: the machine since it was started, and its container."""
    found: dict[str, str | int] = {"host": socket.gethostname(), "boot": "", "numbers": ""}
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        found |= {"boot": boot, "numbers": os.readlink("/proc/self/ns/pid")}
    return found


def _same_machine(found: dict[str, str | int]) -> bool:
    here = _place()
    return bool(here["boot"]) and all(found.get(name) == value for name, value in here.items())


def _is_dead(found: dict[str, str | int]) -> bool:
    """Whether a process of this machine is no more; its number may be another's by now."""
    return _same_machine(found) and _began(found.get("pid")) != found.get("began")


def _began(process: object) -> str | None:
    """When a process of this machine began, in ticks since the machine did; None if it is over."""
    try:
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] in "ZX" else words[19]


def _read(path: Path) -> dict[str, str | int] | None:
    """Who holds a lock; {} where it doesn't say, None where there is none."""
    found = ""
    for _ in range(5):
        try:
            found = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        if found.endswith("}"):
            break
        time.sleep(0.02)  # it may be just being written
    with suppress(ValueError, RecursionError):
        facts = json.loads(found)
        return facts if isinstance(facts, dict) else {}
    return {}


def _touched(path: Path) -> int:
    """When a lock was last touched, by the clock of where it lies; 0 where there is none."""
    try:
        with open(path, "rb") as file:  # opening it makes a network folder look again
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return 0


def _words(found: dict[str, str | int]) -> str:
    return f"process {found.get('pid', '?')} on {found.get('host', 'an unknown machine')}"
