"""Files are whole or not there at all."""

import os
import stat

import pytest

from secateur.utils.files import write_atomically


def test_folders_are_made_and_old_files_replaced(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_atomically(path, "one")
    assert write_atomically(path, "zwölf").read_bytes() == "zwölf".encode()
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_files_have_ordinary_permissions(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    written = write_atomically(tmp_path / "written", "")
    assert stat.S_IMODE(os.stat(written).st_mode) == stat.S_IMODE(os.stat(ordinary).st_mode)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write_atomically(tmp_path / "file", "old")
    with pytest.raises(TypeError):
        write_atomically(path, 3)  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
