"""Budgets: what is asked is refused clearly or met on the small network, counted anew."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import secateur as sc
from budget.cases import NETWORKS, network
from secateur.budget import Line, Reached
from secateur.measurement import count_bytes, count_flops, count_params

FRACTIONS = (0.75, 0.5, 0.25, 0.1, 0.05)


def trained_down(name: str, budget: sc.Budget, seed: int) -> tuple[torch.nn.Module, np.ndarray]:
    """The network shrunk to a budget with random saliencies, and what was kept."""
    model, _, groups = network(name)
    saliency = np.random.default_rng(seed).random(len(groups))
    kept = budget.on(groups).choose(saliency)
    zeroed = copy.deepcopy(model)
    mine = groups.on(zeroed)
    mine.scale_(torch.from_numpy(kept.astype(np.float32)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a group that had to stay would be a warning
        return sc.shrink(zeroed, mine), kept


@pytest.mark.parametrize("measure", ["flops", "params", "bytes", "groups"])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_asked_is_what_is_measured(name: str, measure: str) -> None:
    _, example, groups = network(name)
    allowed = 0
    for seed, fraction in enumerate(FRACTIONS):
        budget = sc.Budget(**{measure: fraction})
        try:
            allowance = budget.on(groups)
        except ValueError as refusal:
            assert "can't be reached" in str(refusal)
            continue
        allowed += 1
        small, kept = trained_down(name, budget, seed)
        line = budget.reached(small, example)[measure]
        cost, now = allowance.costs[measure], kept.astype(float)
        assert line.reached == cost(now)
        left_out = []
        for group in np.flatnonzero(~kept):
            now[group] = 1
            left_out.append(cost(now) - line.reached)
            now[group] = 0
        assert 0 <= line.asked - line.reached < min(left_out, default=1)
    assert allowed >= 2


def test_several_measures_hold_at_once() -> None:
    _, example, _ = network("LeNet")
    budget = sc.Budget(flops=0.3, params=0.2, groups=200)
    small, _ = trained_down("LeNet", budget, 0)
    reached = budget.reached(small, example)
    assert reached.holds
    assert reached["flops"].reached == count_flops(small, example) <= reached["flops"].asked
    assert reached["params"].reached == count_params(small) <= reached["params"].asked
    assert reached["groups"].reached <= 200


def test_at_least_is_kept_in_every_layer() -> None:
    _, _, groups = network("ResNet")
    _, kept = trained_down("ResNet", sc.Budget(groups=20, at_least=3), 1)
    assert kept.sum() == 20
    assert min(kept[layer.span].sum() for layer in groups.layers) >= 3


def test_the_whole_network_may_be_asked_for() -> None:
    for measure in ("flops", "params", "bytes", "groups"):
        for name in NETWORKS:
            groups = network(name)[2]
            assert sc.Budget(**{measure: 1.0}).on(groups).choose(np.ones(len(groups))).all()


def test_fractions_and_numbers_mean_the_same() -> None:
    model, example, groups = network("LeNet")
    full = count_params(model)
    quarter = full // 4
    for amount in (0.25, quarter, (0.25, quarter), (0.25, quarter + 1), np.int64(quarter)):
        allowance = sc.Budget(params=amount).on(groups)
        assert allowance.limits == {"params": quarter}
    assert sc.Budget(bytes=1.0).on(groups).limits == {"bytes": count_bytes(model)}
    assert sc.Budget(flops=1.0).on(groups).limits == {"flops": count_flops(model, example)}
    assert sc.Budget(groups=0.1).on(groups).limits == {"groups": 57}  # of 570: not 56.99999


# -- refusals --------------------------------------------------------------------------------------

BAD = {
    "a fraction lies in (0, 1]; for an absolute number of FLOPs pass an int": [
        *({"flops": bad} for bad in (0.0, -0.5, 1.7, float("nan"), float("inf"), -float("inf"))),
    ],
    "an absolute number of parameters is 1 or more": [{"params": 0}, {"params": -3}],
    "expected a fraction in (0, 1] or a whole number of groups, got": [
        *({"groups": bad} for bad in (True, [0.5], 1j)),
    ],
    "a pair holds a fraction and an absolute number, such as (0.25, 120_000)": [
        *({"bytes": bad} for bad in ((100, 0.5), (0.5,), (0.5, 0.5), (1, 2), (0.5, 1, 2), ())),
    ],
    "Budget(): say how much of which measure: groups, flops, params, bytes": [{}],
    "an integer of 1 or more; a layer without any group would cut the network in two": [
        *({"groups": 5, "at_least": bad} for bad in (0, -1, 1.5, True, None)),
    ],
}


@pytest.mark.parametrize(
    ("options", "message"), [(options, text) for text, many in BAD.items() for options in many]
)
def test_bad_input_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as refusal:
        sc.Budget(**options)
    assert message in str(refusal.value)
    if options:
        name, value = list(options.items())[-1]
        assert f"Budget({name}={value!r})" in str(refusal.value)


def test_amounts_in_words() -> None:
    words = sc.Budget(flops="25%", params="1.5M", bytes="2MiB", groups="60", memory=1.5e6)
    assert words == sc.Budget(
        flops=0.25, params=1_500_000, bytes=2 * 2**20, groups=60, memory=1_500_000
    )
    assert sc.Budget(flops=120e6) == sc.Budget(flops="120M") == sc.Budget(flops=120_000_000)
    assert sc.Budget(latency="50%") == sc.Budget(latency=0.5)
    assert sc.Budget(latency="3ms").latency == "3ms"
    for text, hint in {
        "25": "flops=25% for a share",
        "1.5Q": "unknown unit",
        "many": "can't",
    }.items():
        with pytest.raises(ValueError, match=rf"Budget\(flops='{text}'\): .*{hint}"):
            sc.Budget(flops=text)


def test_a_measure_that_is_not_known_says_which_is() -> None:
    for name, hint in {
        "macs": "flops=, two for a",
        "flop": "flops=",
        "size": "one of groups",
    }.items():
        with pytest.raises(TypeError, match=rf"Budget\({name}=\): no such .*{hint}"):
            sc.Budget(**{name: 0.5})
    assert copy.deepcopy(pickle.loads(pickle.dumps(BUDGET))) == BUDGET


BUDGET = sc.Budget(flops="25%", at_least=2)


def test_a_small_number_may_be_a_share() -> None:
    _, _, groups = network("LeNet")
    with pytest.raises(ValueError, match=r"a share of 25% is written flops='25%'"):
        sc.Budget(flops=25).on(groups)


def test_proximal_takes_budgets_in_words() -> None:
    model, _, groups = network("LeNet")
    for words, budgets in {
        "flops=25%,params=30%": [sc.Budget(flops=0.25, params=0.3)],
        "flops=50%,25%": [sc.Budget(flops=0.5), sc.Budget(flops=0.25)],
    }.items():
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        assert list(sc.Proximal(sgd, groups, words, steps=9).budgets) == budgets
    with pytest.raises(ValueError, match="budget 25: 25 of what"):
        sc.Proximal(torch.optim.SGD(model.parameters(), lr=0.1), groups, "25", steps=9)


def test_amounts_beyond_the_network_are_refused() -> None:
    _, _, groups = network("LeNet")
    with pytest.raises(ValueError, match=r"Budget\(groups=571\).*has only 570 groups; there is no"):
        sc.Budget(groups=571).on(groups)
    with pytest.raises(ValueError, match=r"0.25 of this network's 431,080 params is 107,770, not"):
        sc.Budget(params=(0.25, 100_000)).on(groups)


@pytest.mark.parametrize("measure", ["flops", "params", "bytes", "groups"])
def test_what_can_t_be_reached_is_refused_with_the_smallest_that_can(measure: str) -> None:
    for name in ("LeNet", "ResNet", "DenseNet", "MobileNet", "Sigmoids"):  # of several layers
        _, _, groups = network(name)
        with pytest.raises(ValueError, match="can't be reached") as refusal:
            sc.Budget(**{measure: 1}).on(groups)
        text = str(refusal.value)
        assert f"at_least=1 in each of {len(groups.layers)} layers" in text
        smallest = int(text.split("the smallest is ")[1].split()[0].replace(",", ""))
        fraction = float(text.rsplit(f"{measure}=", 1)[1].rstrip(")"))
        sc.Budget(**{measure: smallest}).on(groups)  # what the message offers works
        sc.Budget(**{measure: fraction}).on(groups)
        with pytest.raises(ValueError, match="can't be reached"):
            sc.Budget(**{measure: smallest - 1}).on(groups)


def test_untraced_groups_can_be_counted_only() -> None:
    model = torch.nn.Linear(6, 4)
    groups = sc.custom(model, {"weight": torch.arange(4).reshape(4, 1)})
    assert sc.Budget(groups=2).on(groups).limits == {"groups": 2}
    with pytest.raises(ValueError, match=r"budget on flops needs groups that were traced"):
        sc.Budget(flops=0.5).on(groups)


def test_a_share_of_an_unknown_whole_is_refused() -> None:
    model, example, groups = network("LeNet")
    budget = sc.Budget(flops=0.5)
    with pytest.raises(ValueError, match=r"a share of what\? pass groups= of the full network"):
        budget.reached(model, example)
    line = budget.reached(model, example, groups=groups)["flops"]
    assert (line.full, line.reached, line.holds) == (line.full, line.full, False)


# -- a budget is a value ---------------------------------------------------------------------------


def mlp(width: int) -> torch.nn.Sequential:
    layers = torch.nn.Linear(6, width), torch.nn.ReLU(), torch.nn.Linear(width, 3)
    return torch.nn.Sequential(*layers)


def thin(width: int, budget: sc.Budget) -> tuple[torch.nn.Module, torch.nn.Module, sc.Groups]:
    """A small network within a budget, the full one, and its groups."""
    model = mlp(width)
    groups = sc.neurons(model, torch.ones(2, 6))
    kept = budget.on(groups).choose(groups.norms().numpy())
    groups.scale_(torch.from_numpy(kept.astype(float)))
    return sc.shrink(model, groups), model, groups


def test_one_budget_serves_two_models() -> None:
    x = torch.ones(2, 6)
    budget = sc.Budget(params=0.5, memory=0.9)
    (first, large, groups), (second, other, _) = thin(40, budget), thin(12, budget)
    for small, model in ((first, large), (second, other)):
        line = budget.reached(small, x)["params"]
        assert (line.full, line.asked) == (count_params(model), count_params(model) // 2)
        assert line.reached == count_params(small) and line.holds
    line = budget.reached(large, x, groups=groups)["params"]
    assert (line.full, line.reached, line.holds) == (403, 403, False)


def test_a_budget_is_the_same_after_its_use() -> None:
    budget = sc.Budget(groups=0.6, memory=0.8, params=(0.7, 282))
    before, facts = pickle.dumps(budget), dict(vars(budget))
    small, _, _ = thin(40, budget)
    budget.reached(small, torch.ones(2, 6))
    assert vars(budget) == facts
    assert pickle.dumps(budget) == before == pickle.dumps(copy.deepcopy(budget))
    assert budget == pickle.loads(before) == copy.deepcopy(budget)
    assert hash(budget) == hash(pickle.loads(before))


def test_a_small_network_from_a_file_knows_the_full_one(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    budget = sc.Budget(groups=0.5, flops=0.5, params=0.5, bytes=0.6, memory=0.9)
    small, _, _ = thin(40, budget)
    sc.save(small, path)
    code = f"""
import torch, secateur as sc
layers = torch.nn.Linear(6, 40), torch.nn.ReLU(), torch.nn.Linear(40, 3)
small = sc.load({str(path)!r}, model=torch.nn.Sequential(*layers))
print(sc.{budget!r}.reached(small, torch.ones(2, 6)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.rstrip("\n") == str(budget.reached(small, torch.ones(2, 6)))
    assert budget.reached(small, torch.ones(2, 6)).holds


def test_a_share_is_of_the_network_that_the_last_cut_was_made_in() -> None:
    small, _, _ = thin(40, sc.Budget(groups=0.5))
    x = torch.ones(2, 6)
    groups = sc.neurons(small, x)
    again = sc.shrink(small, groups)  # nothing is dead
    assert sc.Budget(groups=0.5).reached(again, x)["groups"].full == 40
    smaller = sc.shrink(small, groups.scale_(torch.arange(20) % 2.0))
    line = sc.Budget(groups=0.5).reached(smaller, x)["groups"]
    assert (line.full, line.asked, line.reached) == (20, 10, 10)


def test_a_number_can_be_asked_of_a_network_from_elsewhere() -> None:
    reached = sc.Budget(params=500, memory=10_000).reached(mlp(40), torch.ones(2, 6))
    assert reached["params"].reached == 403 and reached.holds
    assert math.isnan(reached["params"].full) and "unavailable" in str(reached)
    with pytest.raises(ValueError, match=r"which groups of this Sequential\? pass groups="):
        sc.Budget(groups=20).reached(mlp(40), torch.ones(2, 6))


@pytest.mark.filterwarnings("ignore:the device is busy")
def test_a_time_can_be_asked_of_a_network_from_elsewhere_but_no_share() -> None:
    line = sc.Budget(latency="10s").reached(mlp(40), torch.ones(2, 6))["latency"]
    assert 0 < line.reached < line.asked == 10 and line.holds
    for latency in (0.5, sc.LatencyTarget("3ms", table="phone.json")):
        with pytest.raises(ValueError, match=r"the latency of what\? pass groups="):
            sc.Budget(latency=latency).reached(mlp(40), torch.ones(2, 6))


# -- how it reads ----------------------------------------------------------------------------------


def test_it_prints_what_was_asked() -> None:
    assert repr(sc.Budget(flops=0.25, groups=60)) == "Budget(groups=60, flops=0.25)"
    assert repr(sc.Budget(params=(0.1, 43_108), at_least=2)) == (
        "Budget(params=(0.1, 43108), at_least=2)"
    )
    assert sc.Budget(flops=0.25) == sc.Budget(flops=0.25) != sc.Budget(flops=0.5)


def test_the_table_of_what_was_reached() -> None:
    reached = Reached((Line("flops", 1000, 990, 4000), Line("groups", 60, 61, 570)))
    assert str(reached).splitlines() == [
        "         full  asked  reached  of asked",
        "flops   4,000  1,000      990    99.00%",
        "groups    570     60       61   101.67%  binds  above",
    ]
    assert not reached.holds
    assert [line.holds for line in reached] == [True, False]
    with pytest.raises(KeyError):
        reached["watts"]


def test_a_measure_that_does_not_hold_says_why() -> None:
    x = torch.ones(2, 6)
    model = mlp(40)
    groups, budget = sc.neurons(model, x), sc.Budget(params=0.25)
    nothing = budget.reached(model, x, groups=groups)
    assert nothing.reason.startswith("nothing was cut out of this network")
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    optimizer = sc.Proximal(sgd, groups, budget, steps=10)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    partial = sc.shrink(model, groups, partial=True)
    for found in (
        budget.reached(model, x, groups=groups),
        budget.reached(partial, x, groups=groups),
        sc.Budget(params=100).reached(model, x),
    ):
        assert "  above" in str(found)
        assert str(found).endswith("\nnot met: the groups have not been chosen yet, step 2 of 10")
    optimizer.freeze_()
    assert sc.Budget(params=100).reached(model, x).reason == nothing.reason
    small = sc.shrink(model, groups)
    assert "not met" not in str(budget.reached(small, x)) and not budget.reached(small, x).reason
    kept = optimizer.kept
    assert str(sc.Budget(groups=1).reached(small, x)).endswith(
        f"not met: {kept} of 40 groups stayed: cut before the choice (partial=True), to another "
        "budget, or with a lambda that is too small"
    )
