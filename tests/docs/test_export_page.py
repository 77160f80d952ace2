"""The page on export does what it shows, and lists the runtimes that there are."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from secateur.runtimes import EXPORTED

PAGE = Path(__file__).parents[2] / "docs" / "export.md"


def test_every_example_of_the_page_runs() -> None:
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    found = doctest.testfile(str(PAGE), module_relative=False, optionflags=options)
    assert found.failed == 0 and found.attempted == 18


def test_every_suffix_is_listed_with_its_extra() -> None:
    rows = re.findall(r"^\| `(\.\w+)`.*\| `?([\w\[\]]+)`? \| (yes|no) \|$", PAGE.read_text(), re.M)
    wanted = [
        (
            runtime.suffix,
            f"secateur[{runtime.extra}]" if runtime.writers else "secateur",
            "yes" if runtime.open_sizes else "no",
        )
        for runtime in EXPORTED.values()
    ]
    assert rows == wanted
