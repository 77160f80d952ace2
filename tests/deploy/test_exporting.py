"""Every runtime's file computes what the network does; what can't be is refused by name."""

from __future__ import annotations

import json
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from onnx_models import MODELS
from secateur.deploy import latencies, run
from secateur.deploy.onnx_file import facts
from secateur.runtimes import EXPORTED, runtime_of

RUNTIMES = [pytest.param(runtime, id=runtime.name) for runtime in EXPORTED.values()]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def needed(runtime) -> None:
    try:
        runtime.require()
    except ImportError as error:
        pytest.skip(str(error))


class Named(nn.Module):
    """Keyword inputs whose order must not be confused, and outputs with names."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"scores": self.linear(left - right), "gap": (left - right).abs().mean(1)}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("make", MODELS)
def test_a_file_computes_what_the_network_computes(make, runtime, tmp_path: Path) -> None:
    needed(runtime)
    model, example = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = sc.export(model, example, tmp_path / f"small{runtime.suffix}")
    inputs = example if isinstance(example, tuple) else (example,)
    assert model.training
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())
    expected = model.eval()(*inputs)
    expected = list(expected.values()) if isinstance(expected, dict) else [expected]
    for found, wanted in zip(run(path, *inputs), expected, strict=True):
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-4, atol=1e-5)
    written = [path.with_suffix(suffix).name for suffix in (runtime.suffix, *runtime.companions)]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(written)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_inputs_are_known_by_the_names_of_the_signature(runtime, tmp_path: Path) -> None:
    needed(runtime)
    model, left, right = Named().eval(), torch.randn(2, 3), torch.randn(2, 3)
    example = {"right": right, "left": left}
    path = sc.export(model, example, tmp_path / f"small{runtime.suffix}")
    for found, wanted in zip(run(path, **example), model(left, right).values(), strict=True):
        torch.testing.assert_close(found, wanted.detach())
    with pytest.raises(ValueError, match=r"takes: (left, right|right, left)\n  given: 1 in order"):
        run(path, left)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_nothing_is_printed_or_warned(runtime, tmp_path: Path, capfd) -> None:
    needed(runtime)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = sc.export(*MODELS[0](), tmp_path / f"small{runtime.suffix}")
        run(path, MODELS[0]()[1])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_cannot_be_translated_is_refused_in_plain_words(runtime, tmp_path: Path) -> None:
    needed(runtime)

    class Loops(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            while x.sum() < 100:
                x = x + 1
            return x

    path = tmp_path / f"small{runtime.suffix}"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match=f"translate Loops for {runtime.title}") as caught:
        sc.export(Loops(), torch.zeros(2, 3), path)
    assert "\x1b" not in str(caught.value)
    assert path.read_bytes() == b"old" and [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.filterwarnings("ignore:the device is busy")
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_files_are_timed_in_turns(runtime, tmp_path: Path) -> None:
    needed(runtime)
    example = torch.randn(64, 512)
    files = [
        sc.export(nn.Linear(512, width), example, tmp_path / f"{width}{runtime.suffix}")
        for width in (2048, 2)
    ]
    full, small = latencies(files, example)
    assert 0 < small.median < full.median


@pytest.mark.parametrize("name", ["small.bin", "small", "small.pt"])
def test_an_unknown_suffix_is_refused_with_those_that_are_known(name: str, tmp_path: Path) -> None:
    known = r"\.onnx \(ONNX Runtime\).*\.xml \(OpenVINO\).*\.tflite.*\.pte.*\.pt2"
    with pytest.raises(ValueError, match=known):
        sc.export(nn.Linear(3, 2), torch.ones(2, 3), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("runtime", [one for one in EXPORTED.values() if one.writers])
def test_a_missing_package_names_the_extra(runtime, tmp_path: Path, monkeypatch) -> None:
    for package in runtime.writers:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"pip install secateur\[{runtime.extra}\]"):
        sc.export(nn.Linear(3, 2), torch.ones(2, 3), tmp_path / f"small{runtime.suffix}")
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_an_oserror_of_that_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken.pt2").mkdir()
    for path in (tmp_path / "file" / "small.pt2", tmp_path / "taken.pt2"):
        with pytest.raises(OSError) as caught:
            sc.export(nn.Linear(3, 2), torch.ones(2, 3), path)
        assert caught.value.filename == os.fspath(path)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["file", "taken.pt2"]


# -- open sizes ------------------------------------------------------------------------------------


class Tagger(nn.Module):
    """Tokens in, scores for every token out, whatever their number."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.places = nn.Embedding(64, 16)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.encoder(self.embedding(tokens) + self.places(places)))


OPEN = [
    pytest.param(runtime, id=runtime.name) for runtime in EXPORTED.values() if runtime.open_sizes
]


@pytest.mark.parametrize("runtime", OPEN)
def test_sequences_of_any_length(runtime, tmp_path: Path) -> None:
    needed(runtime)
    model = Tagger().eval()
    path = tmp_path / f"small{runtime.suffix}"
    sc.export(model, torch.randint(20, (1, 7)), path, dynamic=("batch", "sequence"))
    tokens = torch.randint(20, (3, 11))
    torch.testing.assert_close(run(path, tokens)[0], model(tokens).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("runtime", OPEN)
def test_images_of_any_size(runtime, tmp_path: Path) -> None:
    needed(runtime)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1)).eval()
    path = tmp_path / f"small{runtime.suffix}"
    sc.export(model, torch.randn(1, 3, 12, 12), path, dynamic=("height", "width"))
    image = torch.randn(1, 3, 17, 30)
    torch.testing.assert_close(run(path, image)[0], model(image).detach(), rtol=1e-4, atol=1e-5)


def test_sides_that_must_be_multiples_are_open_in_multiples(tmp_path: Path) -> None:
    class Skips(nn.Module):
        """Down and up again: sides that are no multiples of 2 don't meet."""

        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Conv2d(3, 3, 2, stride=2)
            self.up = nn.ConvTranspose2d(3, 3, 2, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.up(self.down(x))

    model = Skips().eval()
    path = sc.export(model, torch.randn(1, 3, 8, 8), tmp_path / "s.onnx", dynamic=("height",))
    image = torch.randn(1, 3, 14, 8)
    torch.testing.assert_close(run(path, image)[0], model(image).detach())


def test_sizes_are_named_in_an_onnx_file_and_may_be_chosen_by_input(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    needed(EXPORTED["onnxruntime"])
    dynamic = {"left": {0: "rows"}, "right": {0: "rows"}}
    example = torch.randn(2, 3), torch.randn(2, 3)
    path = sc.export(Named(), example, tmp_path / "small.onnx", dynamic=dynamic)
    graph = onnx.load(path).graph
    dims = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input]
    assert dims == [["rows", 3], ["rows", 3]]
    assert [value.name for value in graph.input] == ["left", "right"]
    assert [value.name for value in graph.output] == ["scores", "gap"]


@pytest.mark.parametrize(
    ("dynamic", "words"),
    [
        (("length",), "known are batch, sequence, height, width"),
        (("height",), r"no input has a height; their shapes are \(2, 3\)"),
        ({"middle": {0: "rows"}}, "no input is called 'middle'; there are left, right"),
        ({"left": {2: "rows"}}, r"left has no dimension 2; its shape is \(2, 3\)"),
        ({"left": {0: "a", 1: "a"}}, "sizes that differ need names of their own"),
    ],
)
def test_sizes_that_are_not_there_are_refused(dynamic, words: str, tmp_path: Path) -> None:
    example = torch.randn(2, 3), torch.randn(2, 3)
    with pytest.raises(ValueError, match=words):
        sc.export(Named(), example, tmp_path / "small.pt2", dynamic=dynamic)
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_the_model_fixes_is_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(RuntimeError, match="open: width; if it is fixed"):
        sc.export(model, torch.randn(2, 3, 2, 2), tmp_path / "small.pt2", dynamic=("width",))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".tflite", ".pte"])
def test_runtimes_of_fixed_sizes_say_so(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"small{suffix}"
    needed(runtime_of(path))
    with pytest.raises(ValueError, match=r"all sizes in a file of .* are fixed"):
        sc.export(nn.Linear(3, 2), torch.ones(2, 3), path, dynamic=("batch",))


def test_outputs_in_a_dataclass(tmp_path: Path) -> None:
    @dataclass
    class Answer:
        scores: Tensor
        sums: Tensor

    class Answers(nn.Module):
        def forward(self, x: Tensor) -> Answer:
            return Answer(x * 2, x.sum(1))

    path = sc.export(Answers(), torch.ones(2, 3), tmp_path / "small.pt2")
    assert [x.shape for x in run(path, torch.ones(4, 3))] == [(4, 3), (4,)]


# -- what only ONNX files have ---------------------------------------------------------------------


@pytest.fixture
def onnxruntime() -> None:
    needed(EXPORTED["onnxruntime"])


def test_options_of_onnx_are_refused_elsewhere(tmp_path: Path) -> None:
    model, example = nn.Linear(3, 2), torch.ones(2, 3)
    for option in ({"opset": 18}, {"half": True}, {"int8": [example]}):
        with pytest.raises(ValueError, match=r"is for \.onnx files, not for small\.pt2"):
            sc.export(model, example, tmp_path / "small.pt2", **option)


@pytest.mark.usefixtures("onnxruntime")
def test_bfloat16_is_refused_with_what_is_lacking(tmp_path: Path) -> None:
    model, example = nn.Linear(3, 2).bfloat16(), torch.ones(2, 3).bfloat16()
    with pytest.raises(TypeError, match="no bfloat16 kernels for the CPU"):
        sc.export(model, example, tmp_path / "small.onnx")
    assert sc.export(model, example, tmp_path / "small.onnx", check=False).exists()


@pytest.mark.usefixtures("onnxruntime")
def test_notes_say_what_was_asked_and_reached(tmp_path: Path) -> None:
    import onnx

    model, example = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.ones(1, 4)
    groups = sc.neurons(model, example)
    small = sc.shrink(model, groups.scale_(torch.tensor([1.0] * 4 + [0.0] * 4)))
    reached = sc.Budget(params=0.6).reached(small, example)
    path = sc.export(small, example, tmp_path / "small.onnx", opset=19, reached=reached)
    notes = facts(path)
    assert float(notes["difference"]) < 1e-5 and notes["secateur"] == sc.__version__
    assert json.loads(notes["groups"]) == {"neurons": [4, 8]}
    assert json.loads(notes["plan"])["kept"]["0.weight"]["0"] == [0, 1, 2, 3]
    (line,) = json.loads(notes["budget"])
    assert (line["measure"], line["asked"], line["reached"]) == ("params", 34, 30)
    assert [entry.version for entry in onnx.load(path).opset_import if not entry.domain] == [19]


@pytest.mark.usefixtures("onnxruntime")
def test_float16_halves_the_file_and_keeps_inputs_and_outputs(tmp_path: Path) -> None:
    model, example = (
        nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 8)),
        torch.ones(1, 64),
    )
    full = sc.export(model, example, tmp_path / "full.onnx")
    half = sc.export(model, example, tmp_path / "half.onnx", half=True)
    assert half.stat().st_size < 0.6 * full.stat().st_size
    assert run(half, torch.randn(3, 64))[0].dtype == torch.float32
    assert 0 < float(facts(half)["difference"]) < 1e-2


@pytest.mark.usefixtures("onnxruntime")
def test_int8_is_a_quarter_and_near(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 36, 40))
    batches = [(torch.randn(8, 3, 8, 8), torch.zeros(8)) for _ in range(4)]
    example = batches[0][0][:1]
    full = sc.export(model, example, tmp_path / "full.onnx")
    int8 = sc.export(model, example, tmp_path / "int8.onnx", int8=batches)
    assert int8.stat().st_size < 0.3 * full.stat().st_size
    assert 0 < float(facts(int8)["difference"]) < 0.1
    assert run(int8, torch.randn(5, 3, 8, 8))[0].shape == (5, 40)


@pytest.mark.usefixtures("onnxruntime")
@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "int8= has no batch"),
        (
            [torch.ones(2, 4)],
            r"does not fit the input input:\n  takes: \['batch', 3\]\n  given: \[2, 4\]",
        ),
        ([{"other": torch.ones(2, 3)}], "given: nothing"),
    ],
)
def test_calibration_of_another_shape_is_refused(batches, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        sc.export(nn.Linear(3, 2), torch.ones(2, 3), tmp_path / "small.onnx", int8=batches)
    assert list(tmp_path.iterdir()) == []
