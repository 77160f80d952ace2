"""Relaxed and final choices: limits met, nothing that fits left out, the order respected."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import secateur as sc
import secateur.envelope.root as envelope_root
import secateur.kernels.cpu as cpu
from budget.cases import network, random_allowance
from secateur.budget import Allowance
from secateur.costs import Cost
from secateur.envelope import multipliers as convex_multipliers
from secateur.envelope.firm_operator import multipliers_at
from secateur.groups import Layer

SEEDS = st.integers(0, 10**6)
HARDNESS = st.sampled_from([1e-9, 0.01, 0.3, 0.7, 0.97, 0.9999])


def saliencies(seed: int, count: int, zeros: bool = True, ties: bool = True) -> np.ndarray:
    rng = np.random.default_rng(seed + 1)
    found = 10 ** rng.uniform(-3, 3, count)
    if zeros:
        found[rng.random(count) < 0.1] = 0
    if ties and count > 3:
        found[1] = found[2]
    return found


def size(allowance: Allowance) -> int:
    return allowance.layers[-1].stop


# -- relax -----------------------------------------------------------------------------------------


@given(SEEDS, HARDNESS, st.integers(1, 3), st.integers(1, 3))
def test_relaxed_multipliers_meet_the_tightest_limit(
    seed: int, hardness: float, measures: int, at_least: int
) -> None:
    allowance = random_allowance(seed, measures=measures, at_least=at_least)
    saliency = saliencies(seed, size(allowance))
    u, threshold = allowance.relax(saliency, hardness)
    floor = allowance.floor(saliency)
    assert ((u >= 0) & (u <= 1)).all()
    assert (u[floor] == 1).all()
    if threshold == 0:
        assert allowance.fits(u)
        np.testing.assert_array_equal(u, (saliency > 0) | floor)
    elif allowance.excess(floor.astype(float)) < 0:
        assert allowance.excess(u) == pytest.approx(0, abs=1e-9)
        free = ~floor
        expected = multipliers_at(saliency, threshold, hardness)
        np.testing.assert_array_equal(u[free], expected[free])


class Unknown(Cost):
    """A cost that isn't known to be linear."""

    linear = False  # pyright: ignore


@given(SEEDS, HARDNESS, st.integers(1, 3), st.integers(0, 2), st.sampled_from([None, 1e-9, 0.7]))
def test_linear_costs_are_solved_as_all_others(
    seed: int, hardness: float, measures: int, at_least: int, start: float | None
) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 12, rng.integers(1, 5))
    ends = np.cumsum(sizes)
    bounds = zip(ends - sizes, ends, strict=True)
    layers = tuple(Layer(f"l{i}", "neurons", int(a), int(b)) for i, (a, b) in enumerate(bounds))
    axes = [np.arange(layer.start, layer.stop) for layer in layers]
    names = [f"measure {i}" for i in range(measures)]
    terms = {n: [(float(rng.integers(1, 9)), (axis,)) for axis in axes] for n in names}
    whole = np.ones(ends[-1])
    limits = {n: rng.uniform(0.05, 1) * Cost.of(terms[n], ends[-1])(whole) for n in names}
    linear, other = (
        Allowance({n: kind.of(terms[n], ends[-1]) for n in names}, limits, layers, at_least)
        for kind in (Cost, Unknown)
    )
    assert linear.costs[names[0]].linear and not other.costs[names[0]].linear
    saliency = saliencies(seed, ends[-1])
    assume(linear.fits(linear.floor(saliency).astype(float)))
    found = linear.relax(saliency, hardness, start=start)[0]
    expected = other.relax(saliency, hardness, start=start)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 / (1 - hardness))


@pytest.mark.parametrize("limits", [{"params": 0.4}, {"memory": 0.6}, {"flops": 0.3, "bytes": 0.5}])
@pytest.mark.parametrize("code", ["as installed", "plain"])
def test_where_no_axes_meet_the_envelope_s_root_replaces_the_search(
    limits: dict[str, float], code: str, monkeypatch
) -> None:
    """On a model whose grouped layers do not follow one another, all budgets are sums."""
    model, roots = Parallel(), []
    allowance = sc.Budget(**limits).on(sc.neurons(model, torch.ones(2, 6)))
    assert all(cost.linear for cost in allowance.costs.values())
    if code == "plain":
        monkeypatch.setattr(cpu, "_library", None)
    found_by = envelope_root._newton if cpu._library is None else cpu.root
    where = (envelope_root, "_newton") if cpu._library is None else (cpu, "root")
    monkeypatch.setattr(*where, lambda *a, **k: roots.append(1) or found_by(*a, **k))
    saliency = np.random.default_rng(0).random(size(allowance)) + 0.1
    found, threshold = allowance.relax(saliency, 0.7)
    assert allowance.excess(found) == pytest.approx(0, abs=1e-12)
    assert 1 <= len(roots) <= 2 * len(limits)
    monkeypatch.setattr(Cost, "linear", False)
    searched, expected = allowance.relax(saliency, 0.7)
    assert 1 <= len(roots) <= 2 * len(limits)
    np.testing.assert_allclose(found, searched, rtol=0, atol=1e-9)
    assert threshold == pytest.approx(expected, rel=1e-9)


class Parallel(torch.nn.Module):
    """Two layers side by side: neurons of one never meet those of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = torch.nn.Linear(6, 40), torch.nn.Linear(6, 30)
        self.a, self.b = torch.nn.Linear(40, 3), torch.nn.Linear(30, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(self.left(x).relu()) + self.b(self.right(x).relu())


@given(SEEDS, HARDNESS)
def test_a_start_changes_the_time_only(seed: int, hardness: float) -> None:
    allowance = random_allowance(seed)
    saliency = saliencies(seed, size(allowance))
    cold, threshold = allowance.relax(saliency, hardness)
    for start in (threshold, threshold * 1.3, threshold / 50, 1e-200, 1e200):
        warm, _ = allowance.relax(saliency, hardness, start=start)
        np.testing.assert_allclose(warm, cold, atol=1e-9 / (1 - hardness))


@given(SEEDS, HARDNESS)
def test_less_allowed_means_a_higher_threshold(seed: int, hardness: float) -> None:
    loose, tight = random_allowance(seed, share=0.7), random_allowance(seed, share=0.3)
    saliency = saliencies(seed, size(loose))
    assume((loose.floor(saliency) == tight.floor(saliency)).all())  # the strongest are affordable
    more, low = loose.relax(saliency, hardness)
    fewer, high = tight.relax(saliency, hardness)
    assert high >= low * (1 - 1e-9)
    assert (fewer <= more + 1e-9 / (1 - hardness)).all()


def test_a_flat_cost_at_the_limit_is_a_root() -> None:
    """Between saliencies far apart many thresholds meet a count; the search may not leave them."""
    allowance = sc.Budget(groups=60).on(network("LeNet")[2])
    saliency = np.concatenate([np.full(60, 10.0), np.full(510, 1e-4)])
    threshold = None
    for _ in range(5):
        u, threshold = allowance.relax(saliency, 0.9, start=threshold)
        floor = allowance.floor(saliency)
        assert u.sum() == pytest.approx(60, abs=1e-9)
        assert (u[:60][~floor[:60]] > 0.9).all()


def test_one_layer_and_one_count_is_the_envelope_room_s_equation() -> None:
    """u = clip((s/T - r)/(1 - r), 0, 1) is clip(t a - step, 0, 1) with t = 1/(T(1-r))."""
    rng = np.random.default_rng(3)
    saliency, hardness, kept = rng.random(40) + 0.1, 0.6, 13
    layer = Layer("one", "neurons", 0, 40)
    count = Cost.of([(1.0, (np.arange(40),))], 40)
    u, _ = Allowance({"groups": count}, {"groups": kept}, (layer,), 1).relax(saliency, hardness)
    expected = convex_multipliers(torch.from_numpy(saliency), kept, step=hardness / (1 - hardness))
    np.testing.assert_allclose(u, expected.numpy(), atol=1e-9)


@given(st.sampled_from([np.nan, np.inf]))
def test_saliencies_that_are_no_numbers_are_refused(bad: float) -> None:
    allowance = random_allowance(0)
    saliency = np.ones(size(allowance))
    saliency[1] = bad
    with pytest.raises(ValueError, match=rf"saliency of 1 of {size(allowance)} groups is NaN or"):
        allowance.relax(saliency, 0.5)
    with pytest.raises(ValueError, match="NaN or inf; check the norms and weights"):
        allowance.choose(saliency)


# -- choose ----------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 3), st.integers(1, 3), st.sampled_from([0.0, 0.1, 0.4, 0.8, 1.0]))
def test_a_choice_fits_and_nothing_left_out_would(
    seed: int, measures: int, at_least: int, share: float
) -> None:
    allowance = random_allowance(seed, measures=measures, at_least=at_least, share=share)
    kept = allowance.choose(saliencies(seed, size(allowance)))
    spent = allowance.spent(kept.astype(float))
    assert all(spent[m] <= limit for m, limit in allowance.limits.items())
    for layer in allowance.layers:
        assert kept[layer.span].sum() >= min(at_least, len(layer))
    for group in np.flatnonzero(~kept):
        more = kept.astype(float)
        more[group] = 1
        over = allowance.spent(more)
        assert any(over[m] > limit for m, limit in allowance.limits.items()), group


@given(SEEDS, st.integers(1, 3))
def test_a_choice_is_the_longest_prefix_and_what_fits_behind_it(seed: int, measures: int) -> None:
    """Against a plain loop over the groups, one by one."""
    allowance = random_allowance(seed, measures=measures)
    saliency = saliencies(seed, size(allowance))
    expected = allowance.floor(saliency)
    for group in np.argsort(-saliency, kind="stable"):
        trial = expected.copy()
        trial[group] = True
        spent = allowance.spent(trial.astype(float))
        if all(spent[m] <= limit for m, limit in allowance.limits.items()):
            expected = trial
    np.testing.assert_array_equal(allowance.choose(saliency), expected)


@given(SEEDS)
def test_counts_are_nested(seed: int) -> None:
    """With one layer and equal costs, what a smaller budget keeps, a larger one keeps too."""
    saliency = saliencies(seed, 30)
    layer, count = Layer("one", "neurons", 0, 30), Cost.of([(1.0, (np.arange(30),))], 30)
    last = np.zeros(30, bool)
    for level in range(1, 31):
        kept = Allowance({"groups": count}, {"groups": level}, (layer,), 1).choose(saliency)
        assert kept.sum() == level
        assert (kept >= last).all()
        last = kept


def test_ties_go_to_the_first() -> None:
    layer, count = Layer("one", "neurons", 0, 6), Cost.of([(1.0, (np.arange(6),))], 6)
    allowance = Allowance({"groups": count}, {"groups": 3}, (layer,), 1)
    np.testing.assert_array_equal(allowance.choose(np.ones(6)), [1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(
        allowance.choose(np.array([1.0, 2, 1, 1, 2, 1])), [1, 1, 0, 0, 1, 0]
    )
    np.testing.assert_array_equal(allowance.choose(np.zeros(6)), [1, 1, 1, 0, 0, 0])


def test_costs_that_round_up_still_fit_their_limit() -> None:
    """Three tenths sum to 0.30000000000000004: a cost that is equal but for rounding fits."""
    layer, tenths = Layer("one", "neurons", 0, 5), Cost.of([(0.1, (np.arange(5),))] * 3, 5)
    allowance = Allowance({"flops": tenths}, {"flops": 0.9}, (layer,), 1)
    assert allowance.choose(np.arange(5.0)).sum() == 3


def test_an_expensive_floor_takes_the_cheapest_groups_where_it_must() -> None:
    layers = (Layer("a", "neurons", 0, 3), Layer("b", "neurons", 3, 6))
    price = np.array([9.0, 2, 1, 9, 1, 2])
    cost = Cost.of([(float(p), (np.array([i]),)) for i, p in enumerate(price)], 6)
    saliency = np.array([5.0, 4, 3, 5, 4, 3])
    for limit, expected in {
        25: [1, 1, 1, 1, 1, 1],
        18: [1, 0, 0, 1, 0, 0],
        10: [0, 0, 1, 1, 0, 0],
        4: [0, 1, 1, 0, 1, 0],
        2: [0, 0, 1, 0, 1, 0],
    }.items():
        allowance = Allowance({"params": cost}, {"params": limit}, layers, 1)
        np.testing.assert_array_equal(allowance.choose(saliency), expected, str(limit))
        u, _ = allowance.relax(saliency, 0.5)  # it does so before the freeze too
        assert allowance.excess(u) <= 1e-9
