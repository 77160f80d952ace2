"""What is written down of a training step: numbers by name, some of them less often than others.

In: the loss, and the optimizer after its step. Out: a record of the run's history.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from secateur.optim import Proximal
from secateur.report.run import labels

RECORDS = 400  # of training steps in a run's history, about
WIDTHS = 4  # records until the layers' widths are written down again
STATIONARITY = 200  # steps at least until it is measured again: it may cost as much as a step


def due(step: int, steps: int, *, each: int = 1, apart: int = 1) -> bool:
    """Whether a step is written down: one of about RECORDS in a run, or the last one.

    Args:
        step: from 1.
        steps: in the run.
        each: every so many records only.
        apart: and with so many steps in between.

    Example:
        >>> [step for step in range(1, 11) if due(step, 10, each=4)]
        [4, 8, 10]
        >>> due(1000, 4000), due(1001, 4000), due(90, 4000, apart=100)
        (True, False, False)
    """
    interval = max(1, steps // RECORDS)
    interval *= max(each, math.ceil(apart / interval))
    return step == steps or step % interval == 0


def record(optimizer: Optimizer, step: int, steps: int, loss: float) -> dict[str, Any]:
    """A step as the history has it.

    Args:
        optimizer: after its step, the gradients and the learning rate of which are in place.
        step: its number, from 1; `due` said that it is to be written down.
        steps: in the run.
        loss: the mean since the last record.

    Returns:
        "step", "loss", "lr"; and of a `Proximal` "kept" (groups), "hardness", "threshold", "asked"
        and "spent" (measure -> share of the full network's cost, if it were cut now), now and then
        "widths" (layer -> groups kept), and seldom "stationarity".
    """
    found: dict[str, Any] = {"step": step, "loss": loss}
    found["lr"] = float(optimizer.param_groups[0]["lr"])
    if not isinstance(optimizer, Proximal):
        return found
    found |= pressure(optimizer)
    if due(step, steps, each=WIDTHS):
        found["widths"] = widths(optimizer)
    if due(step, steps, apart=STATIONARITY) and _has_rates(optimizer):
        distance = optimizer.stationarity()
        if math.isfinite(distance):  # not after a step that a GradScaler skipped
            found["stationarity"] = distance
    return found


def pressure(optimizer: Proximal) -> dict[str, Any]:
    """How hard the budget presses and what it leaves: see `record`."""
    kept = optimizer.multipliers.numpy() > 0
    allowance = optimizer.allowance
    full, spent = allowance.spent(np.ones(len(kept))), allowance.spent(kept.astype(float))
    found = {
        "kept": int(kept.sum()),
        "hardness": optimizer.hardness,
        "asked": {name: allowance.limits[name] / cost for name, cost in full.items()},
        "spent": {name: spent[name] / cost for name, cost in full.items()},
    }
    threshold = optimizer.threshold
    return found if threshold is None else {**found, "threshold": float(threshold)}


def widths(optimizer: Proximal) -> dict[str, int]:
    """How many groups of each layer the last proximal step kept, by the layers' names."""
    kept, layers = optimizer.multipliers.numpy() > 0, optimizer.groups.layers
    counts = (int(kept[layer.span].sum()) for layer in layers)
    return dict(zip(labels(layers), counts, strict=True))


def _has_rates(optimizer: Proximal) -> bool:
    """Whether a learning rate is above 0, without which nothing is measured."""
    return any(float(group.get("lr") or 0) for group in optimizer.param_groups)


@torch.no_grad()
def baseline_loss(loss_of: Callable[[Any], Tensor], output: Any) -> float | None:
    """The loss of outputs that are all zero: of a network that knows nothing.

    Args:
        loss_of: the loss of an output on some batch.
        output: of the model on this batch, for its shape.

    Returns:
        The loss; None where the loss doesn't take such outputs, or isn't finite for them.

    Example:
        >>> loss_of = lambda output: torch.nn.functional.cross_entropy(output, torch.arange(8))
        >>> round(baseline_loss(loss_of, torch.randn(8, 10)), 4)
        2.3026
    """
    try:
        loss = float(loss_of(zeros_like(output)))
    except Exception:  # whatever a loss of the user's says to outputs it was not made for
        return None
    return loss if math.isfinite(loss) else None


def zeros_like(output: Any) -> Any:
    """An output of the same kind, whose floating-point tensors are all zero."""
    return tree_map(_zero, output)


def _zero(leaf: Any) -> Any:
    real = isinstance(leaf, Tensor) and leaf.is_floating_point()
    return torch.zeros_like(leaf) if real else leaf
