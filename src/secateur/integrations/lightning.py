"""Lightning: train any LightningModule to a budget, by one line and one callback.

In: the optimizer, groups and budget of a LightningModule. Out: the `Proximal` that its
`configure_optimizers` returns, with as many steps as the trainer is going to take.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from secateur.budget import Budget
from secateur.groups import Groups
from secateur.integrations.shared import (
    catch_up_,
    facts,
    missed,
    refuse_other_end,
    refuse_other_start,
)
from secateur.optim import Proximal

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.strategies import Strategy
except ImportError as error:
    raise ImportError(
        "secateur.integrations.lightning needs Lightning: pip install 'lightning>=2.2'"
    ) from error

# Strategies that replace the model's parameters or the optimizer, and what to use instead.
REFUSED = {
    "FSDPStrategy": "its flat parameters mix layers; use ModelParallelStrategy with fully_shard",
    "DeepSpeedStrategy": "DeepSpeed takes the optimizer's step itself; use DDPStrategy",
    "XLAStrategy": "it has not been tried; use DDPStrategy",
    "XLAFSDPStrategy": "its flat parameters mix layers; use DDPStrategy",
}

ASK = (
    "leave steps= to to_budget(), which asks the trainer (max_epochs, max_steps, "
    "limit_train_batches, accumulate_grad_batches)"
)


def to_budget(
    module: LightningModule,
    optimizer: Optimizer | Sequence[Optimizer],
    groups: Groups,
    budget: Budget | Sequence[Budget],
    **options: Any,
) -> Proximal:
    """Wrap the optimizer of `configure_optimizers`, for as many steps as the trainer will take.

    Args:
        module: the LightningModule, inside its `configure_optimizers`.
        optimizer: what `configure_optimizers` would return otherwise; several step as one.
        groups: of the module, or of a network inside of it.
        budget: what may be kept, or several budgets, descending.
        options: anything else that `Proximal` takes; a `schedule` must have the trainer's steps.

    Returns:
        What `configure_optimizers` returns, alone or beside an LR scheduler.

    Raises:
        ValueError: the trainer has no end, or the schedule another one than the trainer.
        RuntimeError: there is no trainer yet.

    Example:
        >>> import torch
        >>> import secateur as sc
        >>> class Net(LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         layers = torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
        ...         self.net = torch.nn.Sequential(*layers)
        ...
        ...     def training_step(self, batch):
        ...         return self.net(batch).square().mean()
        ...
        ...     def configure_optimizers(self):
        ...         groups = sc.neurons(self.net, torch.ones(1, 4, device=self.device))
        ...         adam = torch.optim.AdamW(self.parameters(), lr=0.01)
        ...         return to_budget(self, adam, groups, sc.Budget(groups=3))
        >>> quiet = dict.fromkeys(["logger", "enable_progress_bar", "enable_model_summary"], False)
        >>> quiet |= {"accelerator": "cpu", "enable_checkpointing": False}
        >>> trainer = Trainer(max_epochs=5, callbacks=BudgetCallback(), **quiet)
        >>> trainer.fit(Net(), torch.utils.data.DataLoader(torch.randn(8, 4), batch_size=4))
        >>> trainer.optimizers[0].steps_taken, trainer.optimizers[0].kept
        (10, 3)
    """
    steps = _steps(module.trainer)
    if options.get("schedule") is None:
        options.setdefault("steps", steps)
    found = Proximal(optimizer, groups, budget, **options)
    refuse_other_end(found, steps, ASK)
    return found


class BudgetCallback(Callback):
    """Show how training to a budget goes, and refuse at the door what would spoil it.

    Logged: `kept` and `hardness`, in the progress bar too, and `spent/...`, what the network costs
    now, for each measure of the budget. A step that the precision plugin leaves out (a GradScaler
    whose gradients overflowed) is counted, so that the groups are chosen at the announced step.

    Refused: no `Proximal`, or several optimizers; a schedule with another end than the trainer's;
    strategies that replace parameters or optimizer; a resumed optimizer that is not where the
    trainer is. At the end, a warning tells when the budget was not reached.

    Example:
        >>> trainer = Trainer(accelerator="cpu", logger=False, callbacks=BudgetCallback())
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            refuse_strategy(trainer.strategy)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        refuse_other_end(_proximal(trainer), _steps(trainer), ASK)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        refuse_other_start(_proximal(trainer), trainer.global_step, "pass fit(ckpt_path=...)")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        optimizer = _proximal(trainer)
        catch_up_(optimizer, trainer.global_step)
        for name, value in facts(optimizer).items():
            pl_module.log(name, value, prog_bar="/" not in name)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if reason := missed(_proximal(trainer)):
            warnings.warn(reason, stacklevel=2)


def refuse_strategy(strategy: Strategy) -> None:
    """Refuse, by name, what replaces the model's parameters or the optimizer.

    Raises:
        ValueError: a strategy of `REFUSED`, or one derived from it.
    """
    for name in (kind.__name__ for kind in type(strategy).__mro__):
        if name in REFUSED:
            raise ValueError(f"secateur does not train under {name}: {REFUSED[name]}")


def _proximal(trainer: Trainer) -> Proximal:
    """The trainer's only optimizer, itself and not the wrapper that `module.optimizers()` gives."""
    found = trainer.optimizers
    if len(found) != 1:
        raise ValueError(
            f"a budget is one optimizer's, and configure_optimizers returned {len(found)}; give "
            "all parameters to one (with param_groups of their own rates), let several step as one "
            "(to_budget(self, [first, second], ...)), or write the loop yourself"
        )
    if not isinstance(found[0], Proximal):
        raise ValueError(
            f"configure_optimizers returned {type(found[0]).__name__}, which knows of no budget; "
            "return to_budget(self, optimizer, groups, budget)"
        )
    return found[0]


def _steps(trainer: Trainer) -> int:
    """How many optimizer steps the trainer takes from its first to its last."""
    steps = trainer.estimated_stepping_batches
    if not (math.isfinite(steps) and steps > 0):
        raise ValueError(
            f"this trainer takes {steps} steps, and a budget is reached at the end of training: "
            "say Trainer(max_epochs=...), or max_steps= where the data has no length"
        )
    return int(steps)
