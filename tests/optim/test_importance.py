"""What each importance gives, against sums written out here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from optim.training import groups_of, loss_of, network
from secateur.optim.importance import Curvature, Fixed, Importance, importance_of


def test_a_fixed_importance_is_as_given() -> None:
    groups = groups_of(network())
    norms = groups.norms().numpy()
    np.testing.assert_array_equal(importance_of(2.5, groups)(norms), np.full(30, 2.5))
    given = torch.rand(30) + 0.1
    found = importance_of(given, groups)
    expected = given.double().numpy().copy()
    given.fill_(7)
    np.testing.assert_array_equal(found(norms), expected)  # later changes don't reach it


def test_layer_importance_makes_every_layer_s_mean_square_one() -> None:
    groups = groups_of(network())
    norms = groups.norms().numpy()
    norms[:6] = 0  # a layer of zeros has no scale to divide by
    weights = importance_of("layer", groups)(norms)
    squares = norms**2 * weights
    means = [squares[layer.span].mean() for layer in groups.layers]
    assert means == pytest.approx([0, 1, 1])
    np.testing.assert_array_equal(weights[:6], 1)


def test_auto_is_curvature_unless_there_is_one_already_or_a_lambda() -> None:
    groups = groups_of(network())
    assert isinstance(importance_of("auto", groups), Curvature)
    options: dict[str, Any]
    for options in ({"geometry": "optimizer"}, {"has_lambda": True}):
        plain = importance_of("auto", groups, **options)
        assert isinstance(plain, Fixed) and plain.values == 1


@pytest.mark.parametrize("every", [1, 3])
def test_curvature_is_the_running_mean_of_optimal_brain_damage(every: int) -> None:
    model = network()
    groups = groups_of(model)
    found = importance_of("curvature", groups)
    assert isinstance(found, Curvature)
    history = []
    for number in range(3):
        model.zero_grad()
        loss_of(model, number).backward()
        learn(found, groups, every)
        first, second = (m for m in model if isinstance(m, nn.Conv2d))
        parameters = (*first.parameters(), *second.parameters())
        products = [(p.detach().double() * p.grad).square() for p in parameters]  # pyright: ignore
        squares = [p.detach().double().square() for p in parameters]
        sums = [
            torch.cat([w1.sum((1, 2, 3)) + b1, w2.sum((1, 2, 3)) + b2])
            for w1, b1, w2, b2 in (products, squares)
        ]
        history.append(sums[0] / sums[1])
    powers = torch.tensor([0.98 ** (2 * every), 0.98**every, 1.0], dtype=torch.float64)
    expected = (torch.stack(history) * powers[:, None]).sum(0) / powers.sum()
    weights = found(groups.norms().numpy())
    assert weights.mean() == pytest.approx(1)
    ratios = expected / expected.max()
    np.testing.assert_allclose(weights[:14] / weights[:14].max(), ratios, rtol=1e-5, atol=1e-12)


def test_the_saliency_is_what_the_loss_rises_by_where_its_fisher_matrix_is_diagonal() -> None:
    """Independent inputs of zero mean at the optimum, in one layer: (x_i^2 E g_i^2) summed up."""
    torch.manual_seed(0)
    model = nn.Linear(6, 1, bias=False).double()
    scales = torch.tensor([3.0, 1, 0.3, 2, 0.1, 1], dtype=torch.float64)
    groups = sc.custom(model, {"weight": torch.tensor([[0, 0, 1, 1, 2, 2]])})
    found, norms = Curvature(groups, memory=0.999), groups.norms().numpy()
    truth = model.weight.detach().clone()
    for _ in range(3000):
        inputs = torch.randn(8, 6, dtype=torch.float64) * scales
        noise = torch.randn(8, 1, dtype=torch.float64)
        model.zero_grad()
        (model(inputs) - inputs @ truth.T - noise).square().mean().backward()
        learn(found, groups)
    saliency = norms**2 * found(norms)
    rises = (truth * scales).square().reshape(3, 2).sum(1).numpy()  # E (x . w)^2 of what goes
    np.testing.assert_allclose(saliency / saliency.sum(), rises / rises.sum(), rtol=0.1)


def test_a_group_without_a_gradient_keeps_a_tiny_weight() -> None:
    model = network()
    groups = groups_of(model)
    found = importance_of("curvature", groups)
    assert (found(groups.norms().numpy()) == 1).all()  # before anything was seen
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    model[0].weight.grad = model[0].bias.grad = None  # pyright: ignore
    learn(found, groups)
    weights = found(groups.norms().numpy())
    np.testing.assert_allclose(weights[6:], weights[6], rtol=1e-6)
    np.testing.assert_allclose(weights[:6] / weights[6], 1e-12, rtol=1e-6)


def test_groups_of_zeros_are_no_number_to_divide_by() -> None:
    model = network()
    groups = groups_of(model)
    loss_of(model, 0).backward()
    groups.scale_(torch.arange(30) >= 6)
    found = importance_of("curvature", groups)
    learn(found, groups)
    weights = found(groups.norms().numpy())
    assert np.isfinite(weights).all() and (weights[:6] < 1e-9 * weights.max()).all()


def test_what_was_learned_travels() -> None:
    model = network()
    groups = groups_of(model)
    one, other = importance_of("curvature", groups), importance_of("curvature", groups)
    loss_of(model, 0).backward()
    learn(one, groups)
    other.load_state_dict(one.state_dict())
    learn(one, groups)
    learn(other, groups)
    np.testing.assert_array_equal(one(np.ones(30)), other(np.ones(30)))


def learn(found: Importance, groups: sc.Groups, steps: int = 1) -> None:
    """Look at the gradients that are there, and learn from them."""
    seen = found.look(groups)
    assert seen is not None
    found.learn(seen, steps)


@pytest.mark.parametrize(
    ("importance", "message"),
    [
        ("fisher", r"importance='fisher': expected 'auto', 'layer' .*'curvature', a number"),
        (None, r"importance=NoneType: expected 'auto'"),
        (True, r"importance=bool: expected 'auto'"),
        ([1.0], r"importance=list: expected 'auto'"),
        (0.0, r"every number must be finite and above 0"),
        (-1, r"above 0"),
        (float("nan"), r"finite"),
        (float("inf"), r"finite"),
        (torch.ones(29), r"one for each of 30 groups, shape \(30,\); got \(29,\)"),
        (torch.ones(30, 1), r"shape \(30,\); got \(30, 1\)"),
        (torch.zeros(30), r"above 0"),
    ],
)
def test_a_bad_importance_is_refused(importance: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        importance_of(importance, groups_of(network()))
