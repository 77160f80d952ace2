"""ONNX files are checked, replaced in one step and run elsewhere."""

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from onnx_models import MODELS, classifier, cnn, recurrent
from secateur.deploy import export, latencies, latency, run

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("make", MODELS)
def test_the_file_computes_what_the_model_computes(make, tmp_path):
    model, example = make()
    path = export(model, example, tmp_path / "small.onnx")
    inputs = example if isinstance(example, tuple) else (example,)
    doubled = [torch.cat([tensor, tensor]) for tensor in inputs]
    model.eval()
    for given in (inputs, doubled):
        expected = model(*given)
        expected = list(expected.values()) if isinstance(expected, dict) else [expected]
        for found, wanted in zip(run(path, *given), expected, strict=True):
            torch.testing.assert_close(found, wanted.detach(), rtol=1e-4, atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["small.onnx"]


def test_keyword_examples_are_fed_by_name(tmp_path):
    class Divide(nn.Module):
        def forward(self, top, bottom):
            return top / bottom

    top, bottom = torch.rand(2, 3) + 1, torch.rand(2, 3) + 1
    path = export(Divide(), {"bottom": bottom, "top": top}, tmp_path / "small.onnx")
    torch.testing.assert_close(run(path, top=top, bottom=bottom)[0], top / bottom)
    torch.testing.assert_close(run(path, bottom, top=top)[0], top / bottom)


def test_a_fixed_batch_is_kept(tmp_path):
    class Fixed(nn.Module):
        def forward(self, x):
            return x + torch.arange(2.0).unsqueeze(1)

    with pytest.raises(RuntimeError, match=r"dynamic=\(\)"):
        export(Fixed(), torch.zeros(2, 4), tmp_path / "small.onnx")
    path = export(Fixed(), torch.zeros(2, 4), tmp_path / "small.onnx", dynamic=())
    assert run(path, torch.zeros(2, 4))[0].shape == (2, 4)


def test_flags_become_part_of_the_file(tmp_path):
    class Signed(nn.Module):
        def forward(self, x, negate):
            return -x if negate else x

    path = export(Signed(), {"x": torch.ones(2, 3), "negate": True}, tmp_path / "small.onnx")
    assert run(path, torch.ones(1, 3))[0].tolist() == [[-1.0] * 3]
    assert latency(path, {"x": torch.ones(1, 3), "negate": True}, repeats=2).median > 0


def test_equal_infinities_are_no_difference(tmp_path):
    class Masked(nn.Module):
        def forward(self, x):
            return x.masked_fill(torch.tensor([True, False, False]), float("-inf"))

    path = export(Masked(), torch.randn(2, 3), tmp_path / "small.onnx")
    assert run(path, torch.zeros(1, 3))[0].tolist() == [[float("-inf"), 0.0, 0.0]]


def test_modes_and_gradients_are_as_before(tmp_path):
    model, example = cnn()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export(model, example, tmp_path / "small.onnx")
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 5
    assert all(torch.equal(state[name], model.state_dict()[name]) for name in state)


def test_a_recurrent_model_still_trains_after_its_export(tmp_path):
    model, example = recurrent()
    export(model, example, tmp_path / "small.onnx")
    model(example).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_mismatch_is_refused_with_its_size_and_the_old_file_stays(tmp_path):
    class Differs(nn.Module):
        """What is traced (under torch.export) is not what runs."""

        def forward(self, x):
            return x * 2 if torch.compiler.is_exporting() else x * 2.01

    path = tmp_path / "small.onnx"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match=r"difference: 0\.0049\d* of the output's scale"):
        export(Differs(), torch.randn(2, 3), path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["small.onnx"]
    export(Differs(), torch.randn(2, 3), path, tolerance=0.01)
    assert path.read_bytes() != b"old"


def test_a_model_that_cannot_be_exported_leaves_the_old_file(tmp_path):
    class Loops(nn.Module):
        def forward(self, x):
            while x.sum() < 100:
                x = x + 1
            return x

    path = tmp_path / "small.onnx"
    path.write_bytes(b"old")
    model = Loops()
    with pytest.raises(RuntimeError, match="could not translate Loops"):
        export(model, torch.zeros(2, 3), path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["small.onnx"]
    assert model.training


def test_weights_beyond_one_file_are_refused(tmp_path):
    model = nn.Linear(2**15, 2**14, device="meta")
    with pytest.raises(ValueError, match=r"2147549184 bytes; one ONNX file holds at most"):
        export(model, torch.zeros(1, 2**15, device="meta"), tmp_path / "small.onnx")


def test_nothing_is_printed_warned_or_logged(tmp_path, capfd, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(*recurrent(), tmp_path / "small.onnx")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.INFO] == []
    assert logging.root.manager.disable == logging.NOTSET


@pytest.mark.filterwarnings("ignore:the device is busy")
def test_latency_is_measured(tmp_path):
    small = export(nn.Linear(4, 4), torch.zeros(1, 4), tmp_path / "small.onnx")
    wide = nn.Sequential(nn.Linear(4, 2000), nn.Linear(2000, 2000))
    large = export(wide, torch.zeros(1, 4), tmp_path / "large.onnx")
    example = torch.zeros(64, 4)
    assert latency(large, example, repeats=5).median > latency(small, example, repeats=5).median > 0
    found = latencies([small, large], example)
    assert found[1].median > found[0].median > 0


def test_wrong_inputs_are_refused(tmp_path):
    path = export(*classifier(), tmp_path / "small.onnx", check=False)
    with pytest.raises(ValueError, match=r"takes: tokens, mask\n  given: 1 in order"):
        run(path, torch.zeros(2, 7, dtype=torch.int64))


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX's")
def test_a_disk_that_fills_up_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "small.onnx"
    code = f"""
import resource, torch, secateur as sc
model = torch.nn.Linear(300, 300)
sc.export(model, torch.ones(2, 300), {str(tmp_path / "first.onnx")!r})  # all is imported
resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, 10**5))
try:
    sc.export(model, torch.ones(2, 300), {str(path)!r})
except OSError as error:
    print(error.strerror, error.filename)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == f"File too large {path}\n", run.stderr
    assert list(path.parent.iterdir()) == []
