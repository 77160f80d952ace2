"""A LightningModule is trained to its budget, interrupted or not, and misuse is refused."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import secateur as sc

pytest.importorskip("lightning")

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import FSDPStrategy

from secateur.integrations.lightning import BudgetCallback, refuse_strategy, to_budget

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

EPOCHS, BATCH, WIDTH, KEPT = 6, 32, 24, 6
BUDGET = sc.Budget(groups=KEPT)
DIGITS = load_digits()
IMAGES = torch.from_numpy(DIGITS.data[:192]).float() / 16
LABELS = torch.from_numpy(DIGITS.target[:192])
DATA = TensorDataset(IMAGES, LABELS)


class ByEpoch(RandomSampler):
    """An order that depends on the epoch alone, as a resumed run needs it."""

    def set_epoch(self, epoch: int) -> None:
        self.generator = torch.Generator().manual_seed(epoch)


class Net(LightningModule):
    """A small network whose layers are its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.last = nn.Linear(64, WIDTH), nn.Linear(WIDTH, 10)
        self.options = options

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.hidden(images).relu())

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def wrapped(self) -> sc.Proximal:
        groups = sc.neurons(self, IMAGES[:1])
        adam = torch.optim.AdamW(self.parameters(), lr=0.01)
        options = {"geometry": "optimizer", **self.options}
        return to_budget(self, adam, groups, BUDGET, **options)

    def configure_optimizers(self) -> Any:
        optimizer = self.wrapped()
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Stop(Callback):
    """An interruption at the end of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 == self.epoch


def loader() -> DataLoader:
    return DataLoader(DATA, BATCH, sampler=ByEpoch(DATA))


def trainer(*callbacks: Callback, budget: bool = True, **options: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    watch = [BudgetCallback()] if budget else []
    known = {"max_epochs": EPOCHS, "enable_checkpointing": saves, "accelerator": "cpu", **quiet}
    return Trainer(callbacks=[*watch, *callbacks], **{**known, **options})


def proximal(trainer: Trainer) -> sc.Proximal:
    (found,) = trainer.optimizers
    assert isinstance(found, sc.Proximal)
    return found


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_a_fit_ends_on_the_budget_and_can_be_shrunk():
    net, run = Net(), trainer()
    run.fit(net, loader())
    optimizer = proximal(run)
    assert optimizer.steps_taken == run.estimated_stepping_batches == 36
    assert optimizer.settled and int(optimizer.groups.alive().sum()) == KEPT
    small = sc.shrink(net, optimizer.groups)
    assert small.hidden.out_features == KEPT
    (full,) = trainer(budget=False).validate(net, loader(), verbose=False)
    (cut,) = trainer(budget=False).validate(small, loader(), verbose=False)
    assert cut["loss"] == pytest.approx(full["loss"], rel=1e-5)


def test_progress_and_loggers_show_how_it_goes(tmp_path: Path):
    run = trainer(logger=CSVLogger(tmp_path), log_every_n_steps=1)
    run.fit(Net(), loader())
    assert run.progress_bar_metrics.keys() == {"kept", "hardness"}
    header, *lines = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    hardness = [float(row["hardness"]) for row in rows]
    assert len(rows) == 36 and hardness == sorted(hardness) and hardness[-1] == 1
    assert float(rows[0]["kept"]) > float(rows[-1]["kept"]) == KEPT
    assert float(rows[-1]["spent/groups"]) == KEPT


@pytest.mark.parametrize("epoch", [2, 5])  # before the groups are chosen, and after
@pytest.mark.parametrize("importance", ["auto", "curvature"])
def test_a_resumed_fit_ends_like_the_uninterrupted_one(tmp_path: Path, epoch: int, importance: str):
    whole, run = Net(importance=importance), trainer()
    run.fit(whole, loader())

    save = ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=True)
    begun = Net(importance=importance)
    trainer(save, Stop(epoch)).fit(begun, loader())
    assert not same(begun, whole)

    resumed, rest = Net(importance=importance), trainer()
    rest.fit(resumed, loader(), ckpt_path=str(tmp_path / "last.ckpt"))
    assert same(resumed, whole)
    assert torch.equal(proximal(rest).multipliers, proximal(run).multipliers)


def test_accumulation_and_clipping_are_those_of_a_loop_by_hand():
    net, run = Net(), trainer(accumulate_grad_batches=2, gradient_clip_val=0.1)
    run.fit(net, loader())
    assert proximal(run).steps_taken == 18

    mine = Net()
    groups = sc.neurons(mine, IMAGES[:1])
    adam = torch.optim.AdamW(mine.parameters(), lr=0.01)
    optimizer = sc.Proximal(adam, groups, BUDGET, steps=18, geometry="optimizer")
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 18)
    clipped = 0
    for epoch in range(EPOCHS):
        batches = loader()
        batches.sampler.set_epoch(epoch)
        for number, batch in enumerate(batches):
            (mine.training_step(batch) / 2).backward()
            if number % 2:
                clipped += nn.utils.clip_grad_norm_(mine.parameters(), 0.1).item() > 0.1
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
    assert clipped > 0 and same(net, mine)


def test_bfloat16_autocast():
    net, run = Net(), trainer(precision="bf16-mixed")
    run.fit(net, loader())
    assert proximal(run).settled and int(proximal(run).groups.alive().sum()) == KEPT
    full, exact = Net(), trainer()
    exact.fit(full, loader())
    assert not same(net, full)  # it did compute in bfloat16


def test_steps_that_a_scaler_skips_are_counted():
    def overflowing() -> MixedPrecision:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
        return MixedPrecision("16-mixed", "cpu", scaler=scaler)

    run = trainer(plugins=[overflowing()])
    run.fit(Net(), loader())
    assert proximal(run).settled and int(proximal(run).groups.alive().sum()) == KEPT

    uncounted = trainer(budget=False, plugins=[overflowing()])
    uncounted.fit(Net(), loader())
    assert 10 < proximal(uncounted).steps_taken < 36 and not proximal(uncounted).settled


def test_a_schedule_with_another_end_is_refused():
    with pytest.raises(ValueError, match="has 100 steps and the trainer takes 36"):
        trainer().fit(Net(steps=100), loader())

    class ByHand(Net):
        def configure_optimizers(self) -> sc.Proximal:
            groups = sc.neurons(self, IMAGES[:1])
            return sc.Proximal(torch.optim.SGD(self.parameters(), 0.1), groups, BUDGET, steps=7)

    with pytest.raises(ValueError, match="has 7 steps and the trainer takes 12"):
        trainer(max_steps=12).fit(ByHand(), loader())


def test_a_training_without_an_end_is_refused():
    with pytest.raises(ValueError, match="takes inf steps"):
        trainer(max_epochs=-1).fit(Net(), loader())


def test_several_optimizers_step_as_one_and_are_resumed(tmp_path: Path):
    class Two(Net):
        def wrapped(self) -> sc.Proximal:
            vectors = torch.optim.SGD([self.hidden.bias, self.last.bias], lr=0.1, momentum=0.9)
            matrices = torch.optim.AdamW([self.hidden.weight, self.last.weight], lr=0.01)
            return to_budget(self, [vectors, matrices], sc.neurons(self, IMAGES[:1]), BUDGET)

    whole, run = Two(), trainer()
    run.fit(whole, loader())
    assert proximal(run).kept == KEPT and proximal(run).settled
    save = ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=True)
    trainer(save, Stop(5)).fit(Two(), loader())
    resumed = Two()
    trainer().fit(resumed, loader(), ckpt_path=str(tmp_path / "last.ckpt"))
    assert same(resumed, whole)


def test_other_optimizers_are_refused():
    class Plain(Net):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    with pytest.raises(ValueError, match="returned SGD, which knows of no budget"):
        trainer().fit(Plain(), loader())

    class Two(Net):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self) -> Any:
            return [self.wrapped(), torch.optim.SGD(self.last.parameters(), lr=0.1)]

    with pytest.raises(ValueError, match="one optimizer's, and configure_optimizers returned 2"):
        trainer().fit(Two(), loader())


def test_flat_parameters_are_refused_by_name():
    with pytest.raises(ValueError, match="under FSDPStrategy: its flat parameters mix layers"):
        refuse_strategy(FSDPStrategy())
    refuse_strategy(trainer().strategy)


def test_a_trainer_that_goes_on_with_a_new_optimizer_is_refused():
    net, run = Net(), trainer()
    run.fit(net, loader())
    run.fit_loop.max_epochs = 2 * EPOCHS
    with pytest.raises(ValueError, match="has taken 36 steps and the optimizer 0"):
        run.fit(net, loader())


def test_an_end_off_the_budget_is_told():
    with pytest.warns(UserWarning, match="training ended after 12 of 36 steps, before the groups"):
        trainer(Stop(2)).fit(Net(), loader())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", module="lightning")
        trainer(Stop(5)).fit(Net(), loader())


def test_averaged_weights_are_told_and_can_be_cut():
    net, run = Net(), trainer(EMAWeightAveraging(decay=0.9))
    with pytest.warns(UserWarning, match=f"{WIDTH - KEPT} groups are not zero"):
        run.fit(net, loader())
    optimizer = proximal(run)
    assert int(optimizer.groups.alive().sum()) == WIDTH
    optimizer.groups.scale_(optimizer.multipliers)
    assert sc.shrink(net, optimizer.groups).hidden.out_features == KEPT


def test_manual_optimization_with_one_optimizer():
    class Manual(Net):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: tuple[Tensor, Tensor]) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch))
            optimizer.step()

        def configure_optimizers(self) -> sc.Proximal:
            return self.wrapped()

    net, run = Manual(), trainer()
    run.fit(net, loader())
    assert proximal(run).settled and int(proximal(run).groups.alive().sum()) == KEPT
    seen = net.optimizers()
    assert (seen.kept, seen.hardness) == (KEPT, 1.0)  # Lightning's wrapper can be read


def test_several_budgets_in_one_fit():
    found = {}

    class Descending(Net):
        def wrapped(self) -> sc.Proximal:
            groups = sc.neurons(self, IMAGES[:1])
            sgd = torch.optim.SGD(self.parameters(), lr=0.1)
            return to_budget(self, sgd, groups, [sc.Budget(groups=12), sc.Budget(groups=6)])

        def on_train_batch_end(self, *given: Any) -> None:
            if proximal(self.trainer).settled:
                copied = copy.deepcopy(self)
                small = sc.shrink(copied, proximal(self.trainer).groups.on(copied))
                found[self.trainer.global_step] = small.hidden.out_features

    run = trainer()
    run.fit(Descending(), loader())
    assert found == {24: 12, 36: 6}


def test_the_example_ends_on_its_budget(tmp_path: Path):
    command = [sys.executable, str(ROOT / "examples/lightning_fit.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *_, table, last = done.stdout.splitlines()
    full, asked, reached = (int(word.replace(",", "")) for word in table.split()[1:4])
    assert reached <= asked == full // 4
    assert float(last.split()[-1].rstrip("%")) > 95
