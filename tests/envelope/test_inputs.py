"""What is refused, and that the refusal says what was given, what was expected, what to do."""

from __future__ import annotations

import math

import pytest
import torch

from secateur.envelope import conjugate, firm, multipliers, prox, prox_, value

FUNCTIONS = {
    "value": value,
    "conjugate": conjugate,
    "multipliers": lambda *a, **k: multipliers(*a, **{"step": 0.1, **k}),
    "prox": lambda *a, **k: prox(*a, **{"step": 0.1, **k}),
    "firm": lambda *a, **k: firm(*a, **{"hardness": 0.5, **k}),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 0}, r"\(level=0\): expected level above 0"),
        ({"level": -2.5}, r"\(level=-2.5\): expected level above 0"),
        ({"level": math.nan}, r"\(level=nan\)"),
        ({"level": torch.tensor([1.0, 0.0])}, r"\(level=0\): expected level above 0"),
        ({"level": torch.ones(3)}, r"level has shape \(3,\),\n.*norms has shape \(2, 3\)"),
        ({"norms": torch.tensor([[1.0, -4.0]])}, r"\(norms=-4\): expected norms 0 or more"),
        ({"weights": -1.0}, r"\(weights=-1\): expected weights above 0"),
        ({"weights": torch.tensor([1.0, 0.0, 1.0])}, r"\(weights=0\): expected weights above 0"),
        ({"costs": 0}, r"\(costs=0\): expected costs above 0"),
        ({"costs": torch.tensor([1.0, -2.0, 1.0])}, r"\(costs=-2\): expected costs above 0"),
        ({"weights": torch.ones(4)}, r"weights has shape \(4,\),\n.*norms has shape \(2, 3\)"),
        ({"costs": torch.ones(2, 1, 3)}, r"costs has shape \(2, 1, 3\)"),
        ({"costs": 1e308}, r"\(costs.sum\(\)=inf\): expected costs.sum\(\) to be finite: divide"),
        ({"costs": torch.full((3,), 1e308, dtype=torch.float64)}, r"\(costs.sum\(\)=inf\)"),
        ({"costs": torch.full((2, 1), 1e308, dtype=torch.float64)}, r"\(costs.sum\(\)=inf\)"),
        ({"costs": math.inf}, r"\(costs=inf\): expected a finite number"),
        ({"weights": 10**400}, r"\(weights=inf\): expected a finite number"),
        ({"norms": torch.tensor(1.0)}, r"norms of shape \(\)\): expected \(..., m\)"),
    ],
)
def test_shared_arguments(name: str, arguments: dict, message: str) -> None:
    given = {"norms": torch.rand(2, 3), "level": 1.0, **arguments}
    with pytest.raises(ValueError, match=rf"{name}.*{message}"):
        FUNCTIONS[name](given.pop("norms"), given.pop("level"), **given)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_norms_that_are_no_floating_tensor(name: str) -> None:
    with pytest.raises(TypeError, match=r"torch.int64.*norms.float\(\)"):
        FUNCTIONS[name](torch.ones(3, dtype=torch.long), 1)
    with pytest.raises(TypeError, match=rf"{name}\(norms: list\)"):
        FUNCTIONS[name]([1.0, 2.0], 1)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("argument", ["level", "weights", "costs"])
@pytest.mark.parametrize("wrong", [True, torch.tensor(False), torch.ones(3) > 0, "1", None, 1j])
def test_what_is_no_number(name: str, argument: str, wrong: object) -> None:
    given = {"level": 1.0, argument: wrong}
    with pytest.raises(TypeError, match=rf"{name}\({argument}=.*convert it first, e.g. float"):
        FUNCTIONS[name](torch.rand(3), given.pop("level"), **given)


@pytest.mark.parametrize("level", [math.inf, 10**400, 1e308])
def test_any_level_above_what_there_is_keeps_everything(level: float) -> None:
    assert firm(torch.rand(3) + 1, level, hardness=0.5).tolist() == [1, 1, 1]
    assert multipliers(torch.rand(3) + 1, level, step=0.1).tolist() == [1, 1, 1]


def test_steps_and_hardness_that_are_no_number() -> None:
    for wrong in (True, torch.tensor(True), "1"):
        with pytest.raises(TypeError, match=r"prox\(step="):
            prox(torch.rand(3), 1, step=wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"firm\(hardness="):
            firm(torch.rand(3), 1, hardness=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "step",
    [
        math.inf,
        10**400,
        torch.tensor([1, math.inf]),
        -0.1,
        torch.tensor([0.1, -0.1]),
        math.nan,
        torch.ones(3),
    ],
)
@pytest.mark.parametrize("function", [prox, multipliers])
def test_step(function, step) -> None:
    with pytest.raises(ValueError, match="step"):
        function(torch.rand(2, 3), 1, step=step)


@pytest.mark.parametrize(
    "given",
    [
        {"step": 1e10, "weights": 1e308},
        {"step": 1e10, "weights": torch.tensor([1.0, 1.0, 1e308], dtype=torch.float64)},
        {"step": torch.tensor([1.0, 1e300], dtype=torch.float64), "weights": 1e10},
        {"step": 1e10, "costs": 1e300},
        {"step": 1e308},
    ],
)
@pytest.mark.parametrize("function", [prox, multipliers])
def test_products_that_overflow(function, given) -> None:
    with pytest.raises(ValueError, match=r"\(sum of step \* weights \* costs=inf\): expected"):
        function(torch.rand(2, 3).double(), 1, **{"step": 0.1, **given})
    with pytest.raises(ValueError, match="sum of step"):
        prox_(torch.rand(2, 3, 1).double(), 1, **{"step": 0.1, **given})


@pytest.mark.parametrize("hardness", [-0.1, 1.5, torch.tensor([0.5, 1.1]), math.nan, torch.ones(3)])
def test_hardness(hardness) -> None:
    with pytest.raises(ValueError, match="hardness"):
        firm(torch.rand(2, 3), 1, hardness=hardness)


def test_a_nan_in_a_tensor_is_answered_by_nan_in_its_row() -> None:
    norms, nan = torch.rand(2, 3), torch.tensor([0.5, math.nan])
    ones = torch.ones(2, 3)
    ones[1, 0] = math.nan
    for found in (
        prox(norms, nan, step=0.1),
        prox(norms, 1, step=nan),
        firm(norms, 1, hardness=nan),
        prox(norms, 1, step=0.1, weights=ones),
        prox(norms, 1, step=0.1, costs=ones),
        firm(norms, 1, hardness=1, costs=ones),
    ):
        assert found.isnan().all(-1).tolist() == [False, True]
        assert not found[0].isnan().any()


def test_nothing_waits_for_values_on_another_device() -> None:
    """A meta tensor has no values, so any look at one raises: the calls below must not look."""
    norms = torch.rand(2, 5000, device="meta", requires_grad=True)
    rows, groups = torch.rand(2, device="meta"), torch.rand(5000, device="meta")
    for found in (
        prox(norms, 3, step=0.1),
        prox(norms, rows, step=rows, weights=groups, costs=groups),
        firm(norms, 3, hardness=0.5),
        firm(norms, 3, hardness=1),
        firm(norms, rows, hardness=rows, costs=groups),
    ):
        assert found.shape == (2, 5000) and found.device.type == "meta"
    assert conjugate(norms, 3).shape == (2,)
    value(norms, rows).sum().backward()
    assert norms.grad is not None and norms.grad.shape == norms.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_agrees_with_the_cpu_without_synchronising() -> None:
    norms = torch.rand(3, 5000, dtype=torch.float64)
    there = norms.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = (
            prox(there, 40, step=0.1),
            firm(there, 40, hardness=0.5),
            firm(there, 40, hardness=1),
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = prox(norms, 40, step=0.1), firm(norms, 40, hardness=0.5), firm(norms, 40, hardness=1)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-12, atol=1e-12)
    assert firm(-there, 40, hardness=0.5).isnan().all()
