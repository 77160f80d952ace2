"""The page on trainers does what it shows, and points to examples that exist."""

from __future__ import annotations

import doctest
import os
import re
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("lightning")
pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "integrations.md"


def test_every_example_of_the_page_runs():
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    found = doctest.testfile(str(PAGE), module_relative=False, optionflags=options)
    assert found.failed == 0 and found.attempted >= 38


def test_the_examples_are_there():
    named = re.findall(r"`python (examples/\w+\.py)`", PAGE.read_text())
    assert len(named) == 2 and all((ROOT / name).is_file() for name in named)
