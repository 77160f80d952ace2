"""What others offer to install: Torch-Pruning, and the proximal training of torchao.

In: a run. Out: a small network, cut by their own code; counted and trained on as all the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from accuracy.convex import levels
from accuracy.method import method
from accuracy.run import Collapsed, Run
from accuracy.task import Batch
from secateur.groups import Layer

PRUNING_STEPS = 200  # at most so many, each of the same number of channels
NEAR = 1.2  # times the budget: from there on every layer's removal is counted, not every step's

# -- Torch-Pruning ---------------------------------------------------------------------------------


@method(
    "Torch-Pruning",
    knobs=[
        {"normalizer": "max"},
        {"normalizer": "mean"},
        {"normalizer": "lamp"},
        {"normalizer": "mean", "isomorphic": True},
    ],
)
def torch_pruning(run: Run, **options: Any) -> nn.Module:
    """Train, prune by its group norms little by little until the budget holds, fine-tune."""
    run.begin("dense", run.optimizer())
    return _pruned(run, _pruner(run, **options))


@method(
    "Torch-Pruning, regularised",
    knobs=[{"reg": reg, "normalizer": "max"} for reg in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)],
)
def regularised(run: Run, *, reg: float, **options: Any) -> nn.Module:
    """The same after a training in which its penalty presses on the weaker groups."""
    pruner = _pruner(run, reg=reg, **options)

    def step(optimizer: Optimizer, model: nn.Module, batch: Batch) -> None:
        optimizer.zero_grad()
        run.task.loss(model, batch).backward()
        pruner.regularize(model)
        optimizer.step()

    run.begin(f"Torch-Pruning, {reg=}", run.optimizer(), step)
    return _pruned(run, _pruner(run, **options))


def _pruner(run: Run, *, normalizer: str, **options: Any) -> Any:
    """Its pruner of the layers that our groups are of; whole heads, where they are of heads."""
    import torch_pruning as tp

    producing = {name for part in run.groups.layers for name in _modules(part)}
    attentions = [part for part in run.groups.layers if part.kind == "heads"]
    heads = {
        run.model.get_submodule(name): len(part) for part in attentions for name in _modules(part)
    }
    ignored: list[nn.Module] = [
        module
        for name, module in run.model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and name not in producing
    ]
    choices: dict[str, Any] = {"global_pruning": True} | options
    return tp.GroupNormPruner(
        run.model,
        run.example,
        tp.importance.GroupMagnitudeImportance(p=2, normalizer=normalizer),
        pruning_ratio=1.0,
        head_pruning_ratio=1.0,
        iterative_steps=sum(map(len, attentions)) or min(len(run.groups), PRUNING_STEPS),
        iterative_pruning_ratio_scheduler=_ratios,
        ignored_layers=ignored,
        num_heads=heads,
        prune_num_heads=True,
        prune_head_dims=False,
        in_channel_groups={},
        out_channel_groups={},  # its default is one dictionary for all
        **choices,
    )


def _ratios(whole: float, steps: int) -> list[float]:
    """What is gone after each step; in the middle, so that it removes one head in each: not none,
    which it can't, where there are as many steps as heads.
    """
    return [0.0] + [whole * (step - 0.5) / steps for step in range(1, steps + 1)]


def _pruned(run: Run, pruner: Any) -> nn.Module:
    """Let it prune, layer by layer, until the budget holds; train what is left to the end."""
    for _ in range(pruner.iterative_steps):
        near = run.over(run.model) < NEAR
        for group in pruner.step(interactive=True):
            group.prune()
            if near and run.fits(run.model):
                break
        if run.fits(run.model):
            run.train(run.optimizer(), first=run.choice)
            return run.model
        for counts in (pruner.num_heads, pruner.out_channel_groups):
            counts |= {layer: max(1, count) for layer, count in counts.items()}  # it kept the last
    raise Collapsed


def _modules(part: Layer) -> list[str]:
    """The convolutions and linear layers whose rows make the groups of a layer."""
    return [name.removesuffix(".weight") for name in part.producers if name.endswith(".weight")]


# -- torchao ---------------------------------------------------------------------------------------


def _has_rows(run: Run) -> bool:
    """Whether every layer of groups is the rows of one weight, which is all that it can group."""
    return all(part.kind == "heads" or len(_modules(part)) == 1 for part in run.groups.layers)


@method(
    "torchao pat",
    knobs=[
        {"prox": "MinSparsityConstraint"},
        {"prox": "GlobalMinSparsityConstraint", "score": "rms"},
        {"prox": "GlobalMinSparsityConstraint", "score": "l2"},
        {"prox": "ProxGroupLasso", "lam": 1e-3},
    ],
    fits=_has_rows,
)
def pat(run: Run, *, prox: str, score: str = "rms", lam: float = 0.0) -> nn.Module:
    """Its wrapper of the optimizer until the cut: rows of a weight to zero, along its cubic ramp.

    It knows shares of groups, not FLOPs: those that the uniformly thinner network of the budget
    has, of each layer or (Global...) of all.
    """
    from torchao.prototype.pat.optim import PruneOptimizer

    base = run.task.optimizer(list(_param_groups(run, prox, score)))
    optimizer = PruneOptimizer(base, healing_start_step=run.choice, reg_lambda=lam)
    run.train(optimizer, last=run.choice)
    alive = [weight.detach().flatten(1).any(1) for weight in _weights(run)]
    shares = zip(run.groups.layers, alive, strict=True)
    run.keep(
        np.concatenate([rows.view(len(part), -1).any(1).cpu().numpy() for part, rows in shares])
    )
    return run.cut(run.choice)


def _weights(run: Run) -> list[Tensor]:
    """Of each layer of groups the weight to prune: a head's values, otherwise the only one."""
    return [
        run.model.get_submodule(_modules(part)[-1]).get_parameter("weight")
        for part in run.groups.layers
    ]


def _param_groups(run: Run, prox: str, score: str) -> Iterator[dict[str, Any]]:
    """The weights to prune, each layer (Global...: each kind) with its share; then the others."""
    allowance, share = levels(run)
    together: dict[str, dict[str, Any]] = {}
    for part, weight, level in zip(run.groups.layers, _weights(run), allowance.levels, strict=True):
        grouper = "AttentionHeadGrouperDim0" if part.kind == "heads" else "Dim0Grouper"
        zeros = len(part) - math.ceil(level - 1e-9)  # a little more than fits: the cut decides
        rows = {
            "params": [weight],
            "prox_type": prox,
            "group_type": grouper,
            "num_heads": len(part),
            "score_type": score,
            "min_sparsity": (zeros - 0.5) / len(part),  # it rounds up to whole rows
            "min_sparsity_schedule": True,
        }
        if prox.startswith("Global") and grouper in together:
            together[grouper]["params"].append(weight)
        else:
            together[grouper if prox.startswith("Global") else part.name] = rows
    for rows in together.values():
        yield rows | ({"min_sparsity": 1 - share} if prox.startswith("Global") else {})
    pruned = set(map(id, _weights(run)))
    yield {"params": [p for p in run.model.parameters() if id(p) not in pruned]}
