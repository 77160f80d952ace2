"""The operators in place: factors times values, the compiled way and the plain way."""

from __future__ import annotations

import pytest
import torch

import secateur.kernels.cpu as cpu
from secateur.envelope import firm, firm_, prox, prox_


@pytest.mark.parametrize("code", ["as installed", "plain"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 9, 64])
def test_rows_in_place_equal_factors_times_values(code, size: int, dtype, monkeypatch) -> None:
    if code == "plain":
        monkeypatch.setattr(cpu, "_library", None)
    torch.manual_seed(0)
    values = torch.randn(500, size).to(dtype)
    norms = values.double().norm(dim=1)
    close = 1e-12 if dtype == torch.float64 else 1e-6
    tolerance = {"rtol": max(close, torch.finfo(dtype).eps), "atol": close}
    for in_place, factors in [
        (lambda x: prox_(x, 50, step=0.3, weights=2.0), prox(norms, 50, step=0.3, weights=2.0)),
        (lambda x: firm_(x, 50, hardness=0.6), firm(norms, 50, hardness=0.6)),
    ]:
        given = values.clone()
        found = in_place(given)
        assert found is given
        expected = (values.double() * factors.unsqueeze(1)).to(dtype)
        torch.testing.assert_close(found, expected, **tolerance)


@pytest.mark.parametrize("code", ["as installed", "plain"])
def test_groups_that_are_kept_whole_stay_bit_for_bit_and_others_are_zero(code, monkeypatch) -> None:
    if code == "plain":
        monkeypatch.setattr(cpu, "_library", None)
    values = torch.randn(3, 40, 5)
    kept = values.norm(dim=-1) >= values.norm(dim=-1).topk(10, dim=-1).values[:, -1:]
    found = firm_(values.clone(), 10, hardness=1.0)
    assert torch.equal(found, values * kept.unsqueeze(-1))


def test_strided_values_and_transposes_are_groups_too() -> None:
    values = torch.randn(6, 7, 8).transpose(0, 2)
    expected = prox_(values.contiguous(), 20, step=0.5)
    torch.testing.assert_close(prox_(values, 20, step=0.5), expected)


@pytest.mark.parametrize(
    "values, error", [(torch.rand(3), ValueError), (torch.ones(3, 2).long(), TypeError)]
)
def test_values_without_rows_are_refused(values: torch.Tensor, error) -> None:
    with pytest.raises(error, match=r"values.unsqueeze\(-1\)"):
        prox_(values, 1, step=0.1)
