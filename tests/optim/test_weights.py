"""What each weighting gives, against sums written out here."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import secateur as sc
from optim.training import groups_of, loss_of, network
from secateur.optim.weights import Curvature, Fixed, Weighting, weighting


def test_fixed_weights_are_as_given() -> None:
    groups = groups_of(network())
    norms = groups.norms().numpy()
    np.testing.assert_array_equal(weighting(2.5, groups)(norms), np.full(30, 2.5))
    given = torch.rand(30) + 0.1
    found = weighting(given, groups)
    expected = given.double().numpy().copy()
    given.fill_(7)
    np.testing.assert_array_equal(found(norms), expected)  # later changes don't reach it


def test_layer_weights_make_every_layer_s_mean_square_one() -> None:
    groups = groups_of(network())
    norms = groups.norms().numpy()
    norms[:6] = 0  # a layer of zeros has no scale to divide by
    weights = weighting("layer", groups)(norms)
    squares = norms**2 * weights
    means = [squares[layer.start : layer.stop].mean() for layer in groups.layers]
    assert means == pytest.approx([0, 1, 1])
    np.testing.assert_array_equal(weights[:6], 1)


def test_auto_is_curvature_unless_there_is_one_already_or_a_lambda() -> None:
    groups = groups_of(network())
    assert isinstance(weighting("auto", groups), Curvature)
    for options in ({"metric": "optimizer"}, {"penalty": "lasso"}, {"penalty": "envelope"}):
        plain = weighting("auto", groups, **options)
        assert isinstance(plain, Fixed) and plain.weights == 1


@pytest.mark.parametrize("every", [1, 3])
def test_curvature_is_the_running_mean_of_squared_gradients_along_groups(every: int) -> None:
    model = network()
    groups = groups_of(model)
    found = weighting("curvature", groups)
    assert isinstance(found, Curvature)
    history = []
    for number in range(3):
        model.zero_grad()
        loss_of(model, number).backward()
        learn(found, groups, every)
        first, second = (m for m in model if isinstance(m, nn.Conv2d))
        pairs = [
            (p.detach().double(), p.grad.double())
            for p in (*first.parameters(), *second.parameters())
        ]
        w1, b1, w2, b2 = (p * g for p, g in pairs)
        dots = [w.sum((1, 2, 3)) + b for w, b in ((w1, b1), (w2, b2))]
        w1, b1, w2, b2 = (p.square() for p, _ in pairs)
        squares = [w.sum((1, 2, 3)) + b for w, b in ((w1, b1), (w2, b2))]
        history.append(torch.cat(dots) ** 2 / torch.cat(squares))
    powers = torch.tensor([0.98 ** (2 * every), 0.98**every, 1.0], dtype=torch.float64)
    expected = (torch.stack(history) * powers[:, None]).sum(0) / powers.sum()
    weights = found(groups.norms().numpy())
    assert weights.mean() == pytest.approx(1)
    ratios = expected / expected.max()
    np.testing.assert_allclose(weights[:14] / weights[:14].max(), ratios, rtol=1e-5, atol=1e-12)


def test_the_saliency_is_what_the_loss_changes_by_to_first_order() -> None:
    """Of one batch, and whatever the scale of a group: against each made a little smaller."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 3)).double()
    inputs = torch.randn(64, 5, dtype=torch.float64)
    groups = sc.neurons(model, inputs)
    groups.scale_(torch.linspace(0.1, 3, 12))
    loss = model(inputs).square().sum()
    loss.backward()
    found, norms = weighting("curvature", groups), groups.norms().numpy()
    learn(found, groups)
    changes = []
    for group in range(12):
        smaller = copy.deepcopy(model)
        factors = torch.ones(12, dtype=torch.float64)
        factors[group] -= 1e-6
        groups.on(smaller).scale_(factors)
        changes.append((smaller(inputs).square().sum() - loss).item() ** 2)
    saliency = norms**2 * found(norms)
    np.testing.assert_allclose(saliency / saliency.sum(), changes / np.sum(changes), rtol=1e-4)


def test_a_group_without_a_gradient_keeps_a_tiny_weight() -> None:
    model = network()
    groups = groups_of(model)
    found = weighting("curvature", groups)
    assert (found(groups.norms().numpy()) == 1).all()  # before anything was seen
    for p in model.parameters():
        p.grad = p.detach().clone()
    model[0].weight.grad = model[0].bias.grad = None  # pyright: ignore
    learn(found, groups)
    norms = groups.norms().numpy()
    weights = found(norms)
    np.testing.assert_allclose(weights[6:] / norms[6:] ** 2, weights[6] / norms[6] ** 2, rtol=1e-6)
    np.testing.assert_allclose(weights[:6] / weights.max(), 1e-12, rtol=1e-6)


def test_groups_of_zeros_are_no_number_to_divide_by() -> None:
    model = network()
    groups = groups_of(model)
    loss_of(model, 0).backward()
    groups.scale_(torch.arange(30) >= 6)
    found = weighting("curvature", groups)
    learn(found, groups)
    weights = found(groups.norms().numpy())
    assert np.isfinite(weights).all() and (weights[:6] < 1e-9 * weights.max()).all()


def test_what_was_learned_travels() -> None:
    model = network()
    groups = groups_of(model)
    one, other = weighting("curvature", groups), weighting("curvature", groups)
    loss_of(model, 0).backward()
    learn(one, groups)
    other.load_state_dict(one.state_dict())
    learn(one, groups)
    learn(other, groups)
    np.testing.assert_array_equal(one(np.ones(30)), other(np.ones(30)))


def learn(found: Weighting, groups: sc.Groups, steps: int = 1) -> None:
    """Look at the gradients that are there, and learn from them."""
    seen = found.look(groups)
    assert seen is not None
    found.learn(seen, groups.norms().numpy(), steps)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("fisher", r"weights='fisher': expected 'auto', 'layer' .*'curvature', a number"),
        (None, r"weights=NoneType: expected 'auto'"),
        (True, r"weights=bool: expected 'auto'"),
        ([1.0], r"weights=list: expected 'auto'"),
        (0.0, r"every weight must be finite and above 0"),
        (-1, r"above 0"),
        (float("nan"), r"finite"),
        (float("inf"), r"finite"),
        (torch.ones(29), r"one weight for each of 30 groups, shape \(30,\); got \(29,\)"),
        (torch.ones(30, 1), r"shape \(30,\); got \(30, 1\)"),
        (torch.zeros(30), r"above 0"),
    ],
)
def test_bad_weights_are_refused(weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weighting(weights, groups_of(network()))
