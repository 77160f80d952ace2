"""transformers.Trainer: train any of its models to a budget, by one argument and one callback.

In: the arguments and data of a Trainer, groups of its model and a budget. Out: what the Trainer
takes as `optimizer_cls_and_kwargs`: a `Proximal` around the optimizer that it would have made.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
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
from secateur.optim.compatibility import check_parts

try:
    from transformers import Trainer, TrainerCallback, TrainingArguments
except ImportError as error:
    raise ImportError(
        "secateur.integrations.transformers needs the Trainer: "
        "pip install 'transformers>=4.50' 'accelerate>=1.0'"
    ) from error


class ProximalOver(Proximal):
    """A `Proximal` that makes the optimizer it wraps, from the param_groups that a Trainer gives.

    Args:
        params: parameters or param_groups, such as Trainer's two: with and without weight decay.
        optimizer: the class of the wrapped optimizer, and its keywords.
        groups, budget: as for `Proximal`.
        options: anything else that `Proximal` takes.

    Example:
        >>> import torch
        >>> import secateur as sc
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> groups, sgd = sc.neurons(net, torch.ones(1, 4)), (torch.optim.SGD, {"lr": 0.1})
        >>> made = ProximalOver(
        ...     net.parameters(), optimizer=sgd, groups=groups, budget=sc.Budget(groups=3), steps=9)
        >>> made.optimizer.defaults["lr"], made.kept
        (0.1, 8)
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        optimizer: tuple[type[Optimizer], Mapping[str, Any]],
        groups: Groups,
        budget: Budget | Sequence[Budget],
        **options: Any,
    ) -> None:
        kind, keywords = optimizer
        super().__init__(kind(params, **keywords), groups, budget, **options)


def to_budget(
    args: TrainingArguments,
    train_dataset: Any,
    groups: Groups,
    budget: Budget | Sequence[Budget],
    *,
    optimizer: tuple[type[Optimizer], Mapping[str, Any]] | None = None,
    **options: Any,
) -> tuple[type[Optimizer], dict[str, Any]]:
    """What a Trainer takes as `optimizer_cls_and_kwargs`, so that training ends on a budget.

    Args:
        args: the Trainer's arguments; `optim`, `learning_rate` and the like are followed.
        train_dataset: the Trainer's, whose length says how many steps it takes.
        groups: of the Trainer's model.
        budget: what may be kept, or several budgets, descending.
        optimizer: (class, keywords), instead of the optimizer that `args.optim` names.
        options: anything else that `Proximal` takes. With `steps=` or `schedule=` the dataset isn't
            asked for its length.

    Returns:
        (class, keywords); the Trainer adds the parameters, with and without weight decay.

    Raises:
        ValueError: FSDP or DeepSpeed, or a training without a known number of steps.
        TypeError: `args.optim` names something that makes no torch optimizer.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> import torch
        >>> import secateur as sc
        >>> sizes = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
        >>> config = BertConfig(vocab_size=9, num_hidden_layers=1, **sizes)
        >>> model, ids = BertForSequenceClassification(config), torch.tensor([[1, 2, 3]])
        >>> data = [{"input_ids": ids[0], "labels": 0}] * 10
        >>> args = TrainingArguments("out", use_cpu=True, report_to="none", num_train_epochs=5)
        >>> groups = sc.neurons(model, {"input_ids": ids})
        >>> kind, keywords = to_budget(args, data, groups, sc.Budget(groups=8))
        >>> kind.__name__, keywords["steps"]
        ('ProximalOver', 10)
    """
    if args.deepspeed or args.fsdp:
        raise ValueError(
            f"secateur does not train under Trainer with {'fsdp' if args.fsdp else 'deepspeed'}=, "
            "which replaces the parameters after the groups were made; use DDP (torchrun without "
            "these), or a loop of your own with fully_shard (docs/distributed.md)"
        )
    found = optimizer or Trainer.get_optimizer_cls_and_kwargs(args)
    if not (isinstance(found[0], type) and issubclass(found[0], Optimizer)):
        raise TypeError(
            f"optim={args.optim!r} makes no torch optimizer that could be wrapped; choose another, "
            "or pass optimizer=(class, keywords)"
        )
    if options.get("schedule") is None and options.get("steps") is None:
        options["steps"] = training_steps(args, train_dataset)
    return ProximalOver, {"optimizer": found, "groups": groups, "budget": budget, **options}


def training_steps(args: TrainingArguments, train_dataset: Any) -> int:
    """How many optimizer steps a Trainer takes: `max_steps`, or its epochs' worth.

    Args:
        args: the Trainer's arguments.
        train_dataset: anything with a length; None will do where `max_steps` is given.

    Raises:
        ValueError: neither says how long training is.

    Example:
        >>> args = TrainingArguments(
        ...     "out", use_cpu=True, num_train_epochs=3, gradient_accumulation_steps=2)
        >>> training_steps(args, range(81))  # 11 batches of 8, 6 steps an epoch
        18
    """
    if args.max_steps > 0:
        return args.max_steps
    try:
        examples = len(train_dataset)
    except TypeError:
        raise ValueError(
            "the training data has no length, so say how long training is: "
            "TrainingArguments(max_steps=...)"
        ) from None
    batch = args.train_batch_size * args.world_size
    batches = examples // batch if args.dataloader_drop_last else math.ceil(examples / batch)
    an_epoch = max(1, math.ceil(batches / args.gradient_accumulation_steps))
    return math.ceil(args.num_train_epochs * an_epoch)


class BudgetCallback(TrainerCallback):
    """Log how training to a budget goes, and refuse at the door what would spoil it.

    Logged beside the loss: `kept`, `hardness` and `spent/...`, what the network costs now, for
    each measure of the budget. A step that a GradScaler left out is counted, so that the groups are
    chosen at the announced step.

    Refused: an optimizer that is no `Proximal`; a schedule with another end than the Trainer's;
    parameters that were replaced since the groups were made; a resumed optimizer that is not where
    the Trainer is. At the end, a warning tells when the model is not at its budget.

    Callbacks of `report_to` come before this one and don't see what it adds to the logs; to have it
    there, pass them behind it: `report_to="none"` and
    `callbacks=[BudgetCallback(), TensorBoardCallback()]`.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: Any, control: Any, **found: Any
    ) -> None:
        optimizer = _proximal(found["optimizer"])
        check_parts(optimizer.optimizer, optimizer.groups, optimizer.budgets, optimizer.every)
        remedy = f"pass steps={state.max_steps} to to_budget()"
        refuse_other_end(optimizer, state.max_steps, remedy)
        refuse_other_start(optimizer, state.global_step, "pass resume_from_checkpoint=")

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **found: Any) -> None:
        catch_up_(_proximal(found["optimizer"]), state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **found: Any,
    ) -> None:
        if logs is None or "loss" not in logs:  # of an evaluation, or a summary
            return
        more = facts(_proximal(found["optimizer"]))
        logs.update(more)
        state.log_history[-1].update(more)

    def on_train_end(self, args: TrainingArguments, state: Any, control: Any, **found: Any) -> None:
        if reason := missed(_proximal(found["optimizer"])):
            warnings.warn(reason, stacklevel=2)


def _proximal(optimizer: Any) -> Proximal:
    """The `Proximal` inside of what Accelerate made of it."""
    while not isinstance(optimizer, Proximal):
        if not isinstance(getattr(optimizer, "optimizer", None), Optimizer):
            raise ValueError(
                f"the Trainer's optimizer is {type(optimizer).__name__}, which knows of no budget; "
                "pass Trainer(optimizer_cls_and_kwargs=to_budget(args, data, groups, budget))"
            )
        optimizer = optimizer.optimizer
    return optimizer
