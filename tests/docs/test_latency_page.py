"""The page on memory and latency does what it shows, and describes every field of a table."""

from __future__ import annotations

import doctest
import re
from dataclasses import fields
from pathlib import Path

from secateur.costs.latency_table import LatencyTable, LayerTimes

PAGE = Path(__file__).parents[2] / "docs" / "latency-tables.md"


def test_every_example_of_the_page_runs():
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    found = doctest.testfile(str(PAGE), module_relative=False, optionflags=options)
    assert found.failed == 0 and found.attempted == 14


def test_the_schema_names_every_field():
    rows = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    described = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    written = {field.name for kind in (LatencyTable, LayerTimes) for field in fields(kind)}
    assert described == written - {"path"} | {"format", "version"}
