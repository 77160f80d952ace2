"""A run's facts survive a file; foreign files are refused."""

import math

import pytest

from hostile import hostile
from report.facts import SMALL, make_run
from secateur.budget.budget import Line
from secateur.report import Network, Point, Run


def test_what_is_written_is_read(tmp_path):
    run = make_run()
    assert Run.read(run.write(tmp_path / "run.json")) == run


@pytest.mark.parametrize("text", ["{}", "[1]", "not json", '{"secateur_run": 99}'])
def test_foreign_files_are_refused(text, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is not a run that secateur wrote"):
        Run.read(path)


def test_whatever_stands_in_a_run_it_is_read_or_refused(tmp_path):
    point = Point((Line("flops", 3, 2, 9),), 0.5)
    run = make_run(frontier=(point,), history=make_run().history[:1])
    path, refused = run.write(tmp_path / "run.json"), 0
    for where, text in hostile(path.read_text()):
        path.write_text(text)
        try:
            Run.read(path)
        except ValueError as error:
            assert "is not a run that secateur wrote: " in str(error), where
            refused += 1
    assert refused > 300


def test_a_wrong_value_is_named_with_its_place(tmp_path):
    path = make_run().write(tmp_path / "run.json")
    path.write_text(path.read_text().replace('"params": 300', '"params": true'))
    with pytest.raises(ValueError, match=r"networks\[1\]\.footprint\.params: expected an integer"):
        Run.read(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"networks": ()},
        {"asked": (Line("flops", 0, 2, 9),)},
        {"asked": (Line("flops", 3, 2, 0),)},
        {"asked": (Line("flops", 3, math.nan, 9),)},
        {"frontier": (Point((), 0.5),)},
    ],
)
def test_what_no_report_can_be_made_of_is_refused(changes, tmp_path):
    path = make_run(**changes).write(tmp_path / "run.json")
    with pytest.raises(ValueError, match="is not a run that secateur wrote"):
        Run.read(path)


def test_a_run_that_diverged_is_read(tmp_path):
    networks = (*make_run().networks[:1], Network("small", SMALL, None, math.nan))
    history = ({"step": 1, "loss": math.inf},)
    read = Run.read(make_run(networks=networks, history=history).write(tmp_path / "run.json"))
    assert read.history == history and math.isnan(read.networks[-1].score or 0)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*run\.json"):
        Run.read(tmp_path / "run.json")
