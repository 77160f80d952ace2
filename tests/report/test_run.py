"""A run's facts survive a file; foreign files are refused."""

import pytest

from report.facts import make_run
from secateur.report import Run


def test_what_is_written_is_read(tmp_path):
    run = make_run()
    assert Run.read(run.write(tmp_path / "run.json")) == run


@pytest.mark.parametrize("text", ["{}", "[1]", "not json", '{"secateur_run": 99}'])
def test_foreign_files_are_refused(text, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is not a run that secateur wrote"):
        Run.read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*run\.json"):
        Run.read(tmp_path / "run.json")
