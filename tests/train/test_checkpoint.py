"""Checkpoints: whole or refused."""

import hashlib
import io
import pickle
from functools import cache

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.train import Data, Loop, checkpoint
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


@pytest.mark.parametrize("content", [[1, 2], torch.ones(2), 3, "x", None])
def test_what_is_no_mapping_is_refused(content, path):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    whole = hashlib.sha256(buffer.getvalue()).hexdigest().encode() + b"\n" + buffer.getvalue()
    path.write_bytes(checkpoint.MAGIC + whole)
    with pytest.raises(CheckpointError, match=f"a {type(content).__name__}, not a checkpoint's"):
        read(path)


@pytest.mark.parametrize(
    "payload", [b"", b"PK\x03\x04", b"\x80\x02.", b"\x80\x02]q\x00.", b"x" * 99]
)
def test_whatever_has_a_valid_checksum_is_read_or_refused(payload, path):
    whole = hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload
    path.write_bytes(checkpoint.MAGIC + whole)
    with pytest.raises(CheckpointError):
        read(path)


@cache
def groups_beside():
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    return sc.neurons(model, torch.ones(1, 2))


def loop_beside(folder):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    batches = [(torch.randn(8, 2), torch.randint(2, (8,))) for _ in range(4)]
    sgd = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    optimizer = sc.Proximal(sgd, groups_beside().on(model), sc.Budget(flops=0.5), steps=8)
    rates = torch.optim.lr_scheduler.ExponentialLR(sgd, 0.9)
    data, file = Data(batches, batches), folder / "checkpoint"
    return Loop(model, optimizer, data, epochs=2, scheduler=rates, path=file, steps_between=6)


WRONG = [
    None,
    True,
    -1,
    1.5,
    "x",
    [],
    {},
    (),
    (0, 4, 4),
    [None],
    {"x": 1},
    [{}],
    torch.ones(2),
]


def test_whatever_a_field_holds_it_is_loaded_or_named(tmp_path):
    def stop(step, steps, words):
        if step == 6:
            raise KeyboardInterrupt

    loop = loop_beside(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        loop.watch = stop
        loop.run()
    loop.save()
    state, refused = read(loop.path), 0
    for name in (*checkpoint.FIELDS, "settings"):
        changed = [{key: value for key, value in state.items() if key != name}]
        changed += [{**state, name: wrong} for wrong in WRONG]
        if isinstance(state[name], (list, tuple)):
            kind = type(state[name])
            changed += [{**state, name: kind([wrong, *state[name][1:]])} for wrong in WRONG]
        else:
            changed += [
                {**state, name: {**state[name], key: w}} for key in state[name] for w in WRONG
            ]
        for content in changed:
            write(loop.path, content)
            try:
                loop_beside(tmp_path).resume()
            except CheckpointError as error:
                assert name in str(error) or "rng" in str(error), error
                refused += 1
    assert refused > 150


@pytest.mark.parametrize("place", [(0, 4), (3, 0, 12), (1, 5, 9), (1, 1, 4), (-1, 0, 0), (2, 1, 9)])
def test_a_place_outside_of_the_run_is_refused(place, tmp_path):
    loop = loop_beside(tmp_path)
    loop.save()
    write(loop.path, {**read(loop.path), "place": place})
    with pytest.raises(CheckpointError, match="its place can't be"):
        loop_beside(tmp_path).resume()
