"""Gradients are refused by name only where they really hold NaN or inf."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur.optim.gradients import refuse_bad


def parameters(*gradients: torch.Tensor) -> list[dict[str, list[torch.Tensor]]]:
    """One parameter group a gradient."""
    found = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(gradient.shape, dtype=gradient.dtype))
        parameter.grad = gradient
        found.append({"params": [parameter]})
    return found


def test_good_gradients_pass() -> None:
    huge = torch.full((10,), 1e30)  # its norm overflows in float32, no entry does
    half = torch.full((10,), 6e4, dtype=torch.float16)
    sparse = torch.sparse_coo_tensor([[0, 0]], [1.0, 2.0], (3,), check_invariants=True)
    refuse_bad(parameters(huge, half, sparse, torch.zeros(0), torch.ones(())), (), "step 1")
    refuse_bad([{"params": [nn.Parameter(torch.ones(3))]}], (), "step 1")
    refuse_bad([], (), "step 1")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_gradients_are_named(bad: float) -> None:
    gradients = [torch.tensor([1.0, bad])] * 4 + [torch.ones(3)]
    groups = parameters(
        *gradients, torch.sparse_coo_tensor([[1]], [bad], (7,), check_invariants=True)
    )
    names = [("conv.weight", groups[0]["params"][0]), ("fine", groups[4]["params"][0])]
    with pytest.raises(FloatingPointError) as refusal:
        refuse_bad(groups, names, "step 7")
    assert str(refusal.value).startswith(
        "step 7: NaN or inf in the gradient of conv.weight, a parameter of shape (2,), "
        "a parameter of shape (2,) and 2 more. Lower the learning rate"
    )
    with pytest.raises(FloatingPointError, match=r"of a parameter of shape \(7,\)\. Lower"):
        refuse_bad(groups[5:], names, "step 7")
