"""Reshapes that follow the width of the heads, and leave all others alone."""

from __future__ import annotations

import inspect

import pytest
import torch

from cuts import Apply
from networks import images
from secateur.surgery.forward_wrappers import follow, only_needed


def followed(run, head_size: int = 4) -> Apply:
    model = Apply(run)
    follow(model, head_size)
    return model


@pytest.mark.parametrize("shape", [(2, 5, 16), (2, 5, -1), (10, 8), (2, 5, 4, 4), (2, 5, 4, 3)])
def test_a_reshape_that_does_not_fit_takes_what_there_is(shape):
    x = images(2, 5, 8)
    expected = {
        (2, 5, 16): (2, 5, 8), (2, 5, -1): (2, 5, 8), (10, 8): (10, 8),
        (2, 5, 4, 4): (2, 5, 2, 4),  # the last is the size of a head: the heads are fewer
        (2, 5, 4, 3): (2, 5, 4, 2),
    }[shape]  # fmt: skip
    for run in (
        lambda m, y: y.reshape(*shape),
        lambda m, y: y.view(shape),
        lambda m, y: torch.reshape(y, shape),
    ):
        found = followed(run)(x)
        assert found.shape == expected and torch.equal(found.flatten(), x.flatten())


def test_other_calls_are_what_they_were():
    x = images(2, 6)
    model = followed(
        lambda m, y: (y.view(torch.int32), y.view(size=(3, 4)), y.sum(), y.reshape(12))
    )
    bits, named, total, flat = model(x)
    assert bits.dtype == torch.int32 and named.shape == (3, 4) and flat.shape == (12,)
    assert total == x.sum() and not model.forward.corrected
    with pytest.raises(RuntimeError, match="invalid"):
        followed(lambda m, y: y.reshape(7, 5))(x)


def test_only_modules_that_needed_it_stay_corrected():
    used, unused = Apply(lambda m, y: y.reshape(2, 16)), Apply(lambda m, y: y + 1)
    model = Apply(lambda m, y: m.unused(m.used(y)), used=used, unused=unused)
    for module in (used, unused):
        follow(module, 4)
    model(images(2, 8))
    assert only_needed(model, {"used": 4, "unused": 4, "gone": 4}) == {"used": 4}
    assert "forward" in vars(used) and "forward" not in vars(unused)
    assert list(inspect.signature(used.forward).parameters) == ["args"]
