"""The page on speed does what it shows, and names the true bound on passes."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from secateur.envelope import implementation
from secateur.kernels import cpu, gpu

PAGE = Path(__file__).parents[2] / "docs" / "speed.md"


def test_every_example_of_the_page_runs():
    found = doctest.testfile(str(PAGE), module_relative=False)
    assert found.failed == 0 and found.attempted == 9


@pytest.mark.skipif(implementation() == "plain", reason="no compiled library")
def test_the_bound_on_passes_is_that_of_the_loop():
    assert f"takes more than {cpu._library.secateur_most_passes()}." in PAGE.read_text()


def test_the_sizes_on_a_gpu_are_those_of_the_kernels():
    text = PAGE.read_text()
    assert f"A row of up to {gpu.FEW:,} groups" in text and f"Up to {gpu.ALONE:,} groups" in text
