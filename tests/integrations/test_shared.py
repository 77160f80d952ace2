"""A callback's questions to the optimizer, where no trainer of the other tests leads to."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.integrations.shared import facts, missed, refuse_other_end

INPUTS = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


def trained(taken: int, budget: Any, **options: Any) -> sc.Proximal:
    """An optimizer after some of its steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = sc.Proximal(sgd, sc.neurons(model, INPUTS), budget, **options)
    for _ in range(taken):
        optimizer.zero_grad()
        model(INPUTS).square().mean().backward()
        optimizer.step()
    return optimizer


def test_a_penalty_with_a_lambda_has_no_end_to_miss():
    convex = trained(3, sc.Budget(groups=4), penalty="envelope", lam=0.1)
    refuse_other_end(convex, 100, "never told")
    assert missed(convex) == ""


def test_a_run_of_several_budgets_ends_with_the_last():
    budgets = [sc.Budget(groups=6), sc.Budget(groups=3)]
    first = trained(20, budgets, steps=30)
    assert first.settled  # at its first budget, and not at its last
    assert "training ended after 20 of 30 steps" in missed(first)
    assert missed(trained(30, budgets, steps=30)) == ""


def test_facts_name_each_measure():
    found = facts(trained(10, sc.Budget(params=0.5, groups=6), steps=10))
    assert found.keys() == {"kept", "hardness", "spent/params", "spent/groups"}
    assert found["kept"] == found["spent/groups"] <= 6 and found["hardness"] == 1


@pytest.mark.parametrize("name", ["lightning", "transformers"])
def test_a_missing_package_is_named_with_what_to_install(name: str):
    program = f"import sys; sys.modules[{name!r}] = None; import secateur.integrations.{name}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"ImportError: secateur.integrations.{name} needs" in done.stderr
    assert f"pip install '{name}>=" in done.stderr
