"""transformers.Trainer trains to a budget, interrupted or not, and misuse is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import secateur as sc

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from secateur.integrations.transformers import (
    BudgetCallback,
    ProximalOver,
    to_budget,
    training_steps,
)

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 24
BUDGET = sc.Budget(flops=0.4)
DIGITS = load_digits()
DATA = [  # an image is a sentence of 64 words, each a shade of 17
    {"input_ids": torch.from_numpy(image).long(), "labels": int(label % 2)}
    for image, label in zip(DIGITS.data[:64], DIGITS.target[:64], strict=True)
]
EXAMPLE = {"input_ids": DATA[0]["input_ids"][None]}


def network() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=17,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=64,
        num_labels=2,
    )
    return BertForSequenceClassification(config)


def groups_of(model: torch.nn.Module) -> sc.groups.Groups:
    return sc.heads(model, EXAMPLE) + sc.neurons(model, EXAMPLE)


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    usual = {
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "per_device_train_batch_size": 8,
        "num_train_epochs": 3,
        "learning_rate": 1e-2,
        "warmup_steps": 4,
        "weight_decay": 0.01,
    }
    return TrainingArguments(str(folder), **{**usual, **options})


def trainer(
    args: TrainingArguments, *callbacks: TrainerCallback, data: Any = DATA, **options: Any
) -> Trainer:
    model = network()
    return Trainer(
        model,
        args,
        train_dataset=data,
        eval_dataset=data,
        optimizer_cls_and_kwargs=to_budget(args, data, groups_of(model), BUDGET, **options),
        callbacks=[BudgetCallback(), *callbacks],
    )


def proximal(trainer: Trainer) -> sc.Proximal:
    found = trainer.optimizer.optimizer
    assert isinstance(found, sc.Proximal)
    return found


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


class Stop(TrainerCallback):
    """An interruption after some steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        control.should_training_stop = state.global_step == self.step


def test_training_ends_on_the_budget_and_the_small_model_is_evaluated_and_kept(tmp_path: Path):
    run = trainer(arguments(tmp_path))
    run.train()
    optimizer, model = proximal(run), run.model
    assert optimizer.steps_taken == STEPS and optimizer.settled
    full = run.evaluate()["eval_loss"]

    small = sc.shrink(model, optimizer.groups)
    run.model = run.model_wrapped = small
    assert run.evaluate()["eval_loss"] == pytest.approx(full, rel=1e-5)
    reached = BUDGET.reached(small, EXAMPLE)
    assert "flops" in str(reached)

    sc.save(small, tmp_path / "small.safetensors")
    loaded = sc.load(tmp_path / "small.safetensors", model=network()).eval()
    with torch.no_grad():
        assert torch.equal(loaded(**EXAMPLE).logits, small.eval()(**EXAMPLE).logits)


def test_weight_decay_warm_up_accumulation_and_clipping_are_the_trainers(tmp_path: Path):
    args = arguments(tmp_path, gradient_accumulation_steps=2, max_grad_norm=0.1)
    plain = Trainer(network(), args, train_dataset=DATA)
    plain.train()
    run = trainer(args, schedule=sc.Homotopy(12, power=1e3))  # no pressure before the freeze
    run.train()
    decays = [group["weight_decay"] for group in run.optimizer.param_groups]
    sizes = [len(group["params"]) for group in run.optimizer.param_groups]
    assert decays == [0.01, 0.0]
    assert sizes == [len(group["params"]) for group in plain.optimizer.param_groups]

    def logged(run: Trainer, name: str) -> list[float]:
        return [entry[name] for entry in run.state.log_history if name in entry]

    assert logged(run, "learning_rate") == logged(plain, "learning_rate")
    assert max(logged(run, "learning_rate")) == 0.01 > logged(run, "learning_rate")[0]
    # while nothing presses, losses and norms are those of the plain optimizer
    assert logged(run, "loss")[:8] == logged(plain, "loss")[:8]
    assert logged(run, "grad_norm")[:8] == logged(plain, "grad_norm")[:8]
    assert max(logged(plain, "grad_norm")[:8]) > 0.1
    assert proximal(run).steps_taken == 12 and proximal(run).settled


@pytest.mark.parametrize("step", [7, 20])  # amid an epoch: before the groups are chosen, and after
@pytest.mark.parametrize(
    "options", [{"geometry": "optimizer"}, {"importance": "curvature"}], ids=str
)
def test_a_resumed_training_ends_like_the_uninterrupted_one(
    tmp_path: Path, step: int, options: dict[str, str]
):
    args = arguments(tmp_path, save_strategy="steps", save_steps=step)
    whole = trainer(args, **options)
    whole.train()
    begun = trainer(args, Stop(step), **options)
    begun.train()
    assert not same(begun.model, whole.model)
    resumed = trainer(args, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert same(resumed.model, whole.model)
    assert proximal(resumed).hardness == 1
    assert torch.equal(proximal(resumed).multipliers, proximal(whole).multipliers)
    one, other = (proximal(run).state_dict()["proximal"] for run in (resumed, whole))
    assert one["threshold"] == other["threshold"]
    for name, mine in one["learned"].items():
        assert torch.equal(torch.as_tensor(mine), torch.as_tensor(other["learned"][name]))


def test_the_logs_show_how_it_goes(tmp_path: Path):
    run = trainer(arguments(tmp_path))
    run.train()
    run.evaluate()
    rows = [entry for entry in run.state.log_history if "loss" in entry]
    hardness = [row["hardness"] for row in rows]
    assert len(rows) == STEPS and hardness == sorted(hardness) and hardness[-1] == 1
    assert rows[-1]["kept"] == proximal(run).kept < rows[0]["kept"]
    assert rows[-1]["spent/flops"] <= proximal(run).allowance.limits["flops"]
    assert not any("kept" in entry for entry in run.state.log_history if "eval_loss" in entry)
    json.dumps(rows)  # the Trainer writes them to trainer_state.json


def test_reports_behind_the_callback_see_what_it_adds(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    board = TensorBoardCallback(SummaryWriter(tmp_path / "board"))
    run = trainer(arguments(tmp_path), board)
    run.train()
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert {"train/kept", "train/hardness", "train/spent/flops"} <= set(events.Tags()["scalars"])


def test_the_optimizer_is_the_one_that_the_arguments_name(tmp_path: Path):
    args = arguments(tmp_path, optim="sgd")
    kind, keywords = to_budget(args, DATA, groups_of(network()), BUDGET)
    assert kind is ProximalOver and keywords["optimizer"][0] is torch.optim.SGD
    other = (torch.optim.RMSprop, {"lr": 0.1})
    run = trainer(arguments(tmp_path), optimizer=other)
    made = run.create_optimizer()
    assert isinstance(made.optimizer, torch.optim.RMSprop) and made.defaults["lr"] == 0.1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 3},
        {"num_train_epochs": 1.3, "per_device_train_batch_size": 5},
        {"dataloader_drop_last": True, "per_device_train_batch_size": 7},
        {"max_steps": 5},
        {"gradient_accumulation_steps": 30},
    ],
    ids=str,
)
def test_the_steps_are_those_that_the_trainer_takes(tmp_path: Path, options: dict[str, Any]):
    run = trainer(arguments(tmp_path, **options))
    run.train()  # refuses another number than its own
    assert run.state.global_step == training_steps(run.args, DATA) == proximal(run).steps_taken


def test_bfloat16_autocast(tmp_path: Path):
    run = trainer(arguments(tmp_path, bf16=True))
    run.train()
    assert proximal(run).settled
    assert int(proximal(run).groups.alive().sum()) == proximal(run).kept


def test_steps_that_a_scaler_skips_are_counted(tmp_path: Path):
    run = trainer(arguments(tmp_path, max_grad_norm=0))
    run.model.classifier.weight.data.mul_(1e4)  # large gradients, and a scale that is too large
    scale = {"init_scale": 2.0**127, "backoff_factor": 2.0**-30}
    run.accelerator.scaler = torch.amp.GradScaler("cpu", **scale)
    steps = []

    class Count(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **found: Any) -> None:
            steps.append(found["optimizer"].step_was_skipped)

    run.add_callback(Count())
    run.train()
    assert 0 < sum(steps) < STEPS
    assert proximal(run).settled and proximal(run).steps_taken == STEPS


def test_another_number_of_steps_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"has 9 steps and the trainer takes 24; pass steps=24"):
        trainer(arguments(tmp_path), steps=9).train()


def test_data_without_a_length_needs_max_steps(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no length, so say how long.*max_steps"):
        to_budget(arguments(tmp_path), iter(DATA), groups_of(network()), BUDGET)


def test_an_optimizer_without_a_budget_is_refused(tmp_path: Path):
    args = arguments(tmp_path)
    run = Trainer(network(), args, train_dataset=DATA, callbacks=[BudgetCallback()])
    with pytest.raises(ValueError, match="AdamW, which knows of no budget"):
        run.train()


def test_groups_of_another_model_are_refused(tmp_path: Path):
    args = arguments(tmp_path)
    pair = to_budget(args, DATA, groups_of(network()), BUDGET)
    run = Trainer(network(), args, train_dataset=DATA, optimizer_cls_and_kwargs=pair)
    with pytest.raises(ValueError, match="grouped but not in the optimizer"):
        run.train()


def test_a_second_training_with_the_same_optimizer_is_refused(tmp_path: Path):
    run = trainer(arguments(tmp_path))
    run.train()
    with pytest.raises(ValueError, match="has taken 0 steps and the optimizer 24"):
        run.train()


def test_sharding_trainers_are_refused_by_name(tmp_path: Path):
    args = arguments(tmp_path)
    args.fsdp = ["full_shard"]
    with pytest.raises(ValueError, match="under Trainer with fsdp="):
        to_budget(args, DATA, groups_of(network()), BUDGET)


def test_an_end_off_the_budget_is_told(tmp_path: Path):
    with pytest.warns(UserWarning, match="training ended after 5 of 24 steps"):
        trainer(arguments(tmp_path), Stop(5)).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trainer(arguments(tmp_path), Stop(20)).train()


def test_a_best_model_from_before_the_freeze_is_told(tmp_path: Path):
    saving = {
        "save_strategy": "steps",
        "eval_strategy": "steps",
        "save_steps": 6,
        "eval_steps": 6,
        "load_best_model_at_end": True,
        "metric_for_best_model": "worst",
    }

    class Worse(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **found: Any) -> None:
            found["metrics"]["eval_worst"] = -state.global_step

    run = trainer(arguments(tmp_path, **saving), Worse())
    with pytest.warns(UserWarning, match="groups are not zero that were given up"):
        run.train()


def test_the_example_ends_on_its_budget(tmp_path: Path):
    command = [sys.executable, str(ROOT / "examples/hf_trainer.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *_, table, last = done.stdout.splitlines()
    full, asked, reached = (int(word.replace(",", "")) for word in table.split()[1:4])
    assert reached <= asked == full // 2
    assert float(last.split()[-1].rstrip("%")) > 75
