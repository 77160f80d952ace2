"""Checkpoints: whole or refused."""

import pickle

import pytest
import torch

from secateur.train.checkpoint import CheckpointError, clear_up, read, write


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "checkpoint", {"weights": torch.arange(5.0), "place": (1, 2, 3)})


def test_what_is_written_is_read(path):
    content = read(path)
    assert torch.equal(content["weights"], torch.arange(5.0))
    assert content["place"] == (1, 2, 3)


def test_every_flipped_byte_is_noticed(path):
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=r"damaged|not a checkpoint"):
            read(path)


def test_a_cut_file_is_noticed(path):
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="damaged"):
        read(path)


def test_a_foreign_file_is_refused(path):
    torch.save({"model": 1}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of secateur"):
        read(path)


def test_no_code_of_a_file_is_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("evil").touch, ())

    path = write(tmp_path / "checkpoint", {"evil": Evil()})
    with pytest.raises(CheckpointError, match="other than tensors"):
        read(path)
    assert not (tmp_path / "evil").exists()


def test_what_a_killed_process_left_is_cleared_up_and_nothing_else(path):
    half = path.parent / ".checkpoint.x1y2"
    half.mkdir()
    (half / "checkpoint").write_bytes(path.read_bytes()[:20])
    (path.parent / "notes").touch()
    clear_up(path)
    assert sorted(p.name for p in path.parent.iterdir()) == ["checkpoint", "notes"]
    assert read(path)["place"] == (1, 2, 3)


def test_a_failed_write_leaves_the_old_file(path):
    before = path.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        write(path, {"unpicklable": lambda: None})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
