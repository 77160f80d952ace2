"""Which tests are slow, by CPU time: those in slow.txt, written by `pytest -n 2 --write-slow`.

In: a run of the whole suite. Out: the names of tests that took more than `SECONDS`, which
`-m "not slow"` leaves out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

SECONDS = 0.25  # of this process and of those that it started and that have ended
LIST = Path(__file__).with_name("slow.txt")

_measured: dict[str, float] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-slow", action="store_true", help=f"write {LIST.name} from this run")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = set(LIST.read_text(encoding="utf-8").splitlines())
    for item in items:
        if item.nodeid in slow:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    item.stash[_START] = sum(os.times()[:4])
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    result = yield
    item.user_properties.append(("CPU time", sum(os.times()[:4]) - item.stash[_START]))
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Of every worker's tests, in the process that gathers them."""
    if report.when == "teardown":
        _measured[report.nodeid] = dict(report.user_properties)["CPU time"]  # pyright: ignore


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--write-slow") and not hasattr(session.config, "workerinput"):
        slow = sorted(name for name, seconds in _measured.items() if seconds > SECONDS)
        LIST.write_text("".join(f"{name}\n" for name in slow), encoding="utf-8")


_START = pytest.StashKey[float]()
