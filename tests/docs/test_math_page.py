"""The page on the mathematics does what it shows; docstrings refer to sections that are there."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "math.md"


def test_every_example_of_the_page_runs():
    found = doctest.testfile(str(PAGE), module_relative=False)
    assert found.failed == 0 and found.attempted == 18


def test_docstrings_refer_to_sections_that_are_there():
    sections = set(re.findall(r"^## (\d)\.", PAGE.read_text(), re.MULTILINE))
    referring = [
        set(re.findall(r"\d", cited))
        for file in sorted((ROOT / "src").rglob("*.py"))
        for cited in re.findall(r"docs/math\.md,\s+sections? (\d(?: and \d)*)", file.read_text())
    ]
    assert len(referring) >= 8
    assert set().union(*referring) <= sections
