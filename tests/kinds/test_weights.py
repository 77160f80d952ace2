"""Single weights: every element of every weight, and nothing else."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

import networks
import secateur as sc


def test_groups_are_the_elements_of_weights_without_biases_and_norms():
    model = networks.ResNet()
    groups = sc.weights(model)
    wanted = {n: p for n, p in model.named_parameters() if p.ndim >= 2}
    assert [m.name for m in groups.members] == list(wanted)
    assert len(groups) == sum(p.numel() for p in wanted.values())
    flat = torch.cat([p.detach().reshape(-1).abs() for p in wanted.values()])
    torch.testing.assert_close(groups.norms(), flat.double())


def test_a_tied_weight_is_grouped_once_and_ignored_by_either_name():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False), nn.Linear(7, 3))
    model[1].weight = model[0].weight
    assert [m.name for m in sc.weights(model).members] == ["0.weight", "2.weight"]
    assert [m.name for m in sc.weights(model, ignore="1").members] == ["2.weight"]


def test_what_can_not_be_grouped_is_told_with_the_reason():
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    nn.utils.parametrizations.orthogonal(model[1])
    groups = sc.weights(model, ignore="3")
    assert [(name, count) for name, count, _ in groups.refused] == [
        ("0.weight", 24), ("1.parametrizations.weight.original", 36), ("3.weight", 4),
    ]  # fmt: skip
    for (_, _, reason), words in zip(
        groups.refused, ("frozen", "computed from it", "ignored ('3')"), strict=True
    ):
        assert words in reason
    with pytest.raises(ValueError, match=r"no weight whose weights .*(.|\n)*it is empty"):
        sc.weights(nn.Sequential(nn.Embedding(0, 2)))


def test_a_million_groups_are_light():
    model = nn.Linear(2000, 1000)
    start = time.perf_counter()
    groups = sc.weights(model)
    assert len(groups) == 2_000_000 and groups.names[1_999_999] == "weight[1999999]"
    assert time.perf_counter() - start < 0.2
    held = [v for v in vars(groups.members[0]).values() if isinstance(v, torch.Tensor)]
    assert held == [model.weight]  # no ids beside the parameter


def test_a_budget_on_what_nothing_is_removed_from_is_refused():
    groups = sc.weights(nn.Linear(8, 4))
    for measure in ("flops", "params", "bytes"):
        with pytest.raises(ValueError, match=rf"{measure} needs groups .*groups= only"):
            sc.Budget(**{measure: 0.5}).on(groups)
