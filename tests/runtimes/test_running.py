"""Every runtime runs the network that it was given, and leaves it as it was."""

import sys

import pytest
import torch
from torch import nn

from secateur.runtimes import EXPORTED, check_runtime, prepare, using_threads


class Named(nn.Module):
    """Two keyword inputs, which must not be confused."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.linear(left - right)


@pytest.mark.parametrize("runtime", ["torch", *EXPORTED])
def test_it_computes_what_the_network_computes(runtime: str) -> None:
    try:
        check_runtime(runtime)
    except ImportError as error:
        pytest.skip(str(error))
    model = Named()
    example = {"right": torch.randn(2, 3), "left": torch.randn(2, 3)}
    with torch.no_grad():
        expected = model(**example)
    found = prepare(model, example, runtime, threads=1)()
    found = torch.as_tensor(found[0]) if runtime in EXPORTED else found
    torch.testing.assert_close(found, expected)


def test_torch_compile_computes_it_too() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    example = torch.randn(2, 3)
    torch.testing.assert_close(prepare(model, example, "torch.compile")(), model(example))


def test_unknown_and_missing_runtimes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="runtime='tensorrt': known are torch"):
        prepare(nn.Linear(3, 2), torch.zeros(1, 3), "tensorrt")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"needs onnxscript: pip install secateur\[export\]"):
        check_runtime("onnxruntime")


def test_onnxruntime_is_for_the_cpu() -> None:
    model = nn.Linear(3, 2, device="meta")
    with pytest.raises(ValueError, match="runs on the CPU; the model is on meta"):
        prepare(model, torch.zeros(1, 3, device="meta"), "onnxruntime")


def test_what_cannot_be_translated_says_so() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if bool((x > 0).all()) else x

    with pytest.raises(RuntimeError, match="could not translate Branching for ONNX Runtime"):
        prepare(Branching(), torch.randn(2, 3), "onnxruntime")


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), using_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == before
