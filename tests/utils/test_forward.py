"""A measured model is called as the example says and left as it was."""

import pytest
import torch
from torch import nn

from devices import DEVICE
from secateur.measurement import (
    count_flops,
    measure,
    measure_energy,
    measure_latency,
    measure_peak_memory,
)
from secateur.utils.forward import full_precision


class Scaled(nn.Module):
    """A linear layer whose output is multiplied by a keyword argument."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x, scale):
        return self.linear(x) * scale


class Broken(nn.Module):
    """A model that fails as soon as it runs."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout()
        self.frozen = nn.Dropout().eval()

    def forward(self, x):
        raise ArithmeticError("broken")


MEASURES = [count_flops, measure_latency, measure_peak_memory, measure]


@pytest.mark.parametrize(
    "example",
    [
        (torch.randn(3, 4), torch.tensor(2.0)),
        [(torch.randn(3, 4), torch.tensor(2.0)), (torch.randn(9, 4), torch.tensor(1.0))],
        {"scale": torch.tensor(2.0), "x": torch.randn(3, 4)},
    ],
)
def test_examples_are_positional_or_keyword_arguments(example):
    assert count_flops(Scaled(), example) == 2 * 3 * 4 * 2


def test_another_kind_of_example_is_refused():
    with pytest.raises(TypeError, match=r"example is a int; expected a tensor, a tuple"):
        measure(nn.Linear(2, 2), 3)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("function", MEASURES)
def test_training_flags_are_restored_after_an_error(function):
    model = Broken()
    with pytest.raises(ArithmeticError):
        function(model, torch.zeros(1))
    assert (model.training, model.dropout.training, model.frozen.training) == (True, True, False)


@pytest.mark.parametrize("function", MEASURES)
def test_the_model_runs_in_eval_mode_without_gradients_and_is_left_as_it_was(function):
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x):
            seen.append((self.training, self.norm.training, torch.is_grad_enabled()))
            return self.norm(x)

    model = Spy()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    function(model, torch.randn(4, 2))
    assert set(seen) == {(False, False, False)}
    assert model.training
    assert model.norm.training
    assert all(torch.equal(before[name], model.state_dict()[name]) for name in before)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("function", [*MEASURES, measure_energy])
def test_an_example_on_another_device_is_refused(function):
    with pytest.raises(ValueError, match=r"model: +cpu\n +example: meta"):
        function(nn.Linear(2, 2), torch.zeros(1, 2, device="meta"))


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_comparisons_are_in_full_precision_and_leave_the_user_s_choice(precision):
    enabled = torch.backends.cudnn.enabled
    torch.set_float32_matmul_precision(precision)
    try:
        with full_precision():
            a, b = torch.randn(2, 64, 64, device=DEVICE)
            assert torch.allclose(a @ b, (a.double() @ b.double()).float(), atol=1e-4)
            assert not torch.backends.cudnn.enabled
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.backends.cudnn.enabled == enabled


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9"
)
def test_settings_by_backend_are_left_too():
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, convolution.fp32_precision
    matmul.fp32_precision, convolution.fp32_precision = "tf32", "ieee"
    try:
        with pytest.raises(ZeroDivisionError), full_precision():
            assert matmul.fp32_precision == "ieee"
            raise ZeroDivisionError
        assert (matmul.fp32_precision, convolution.fp32_precision) == ("tf32", "ieee")
    finally:
        matmul.fp32_precision, convolution.fp32_precision = before
