"""A fit by Lightning or transformers.Trainer on two processes; each writes what it ended with.

python fit_on_ranks.py lightning FOLDER      (Lightning starts the second process)
python fit_on_ranks.py fsdp2 FOLDER
torchrun --nproc-per-node 2 fit_on_ranks.py transformers FOLDER
"""

import logging
import sys
import warnings
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import secateur as sc

BUDGET = sc.Budget(groups=6)
DIGITS = load_digits()
IMAGES = torch.from_numpy(DIGITS.data[:96]).float() / 16
LABELS = torch.from_numpy(DIGITS.target[:96])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


def by_lightning(strategy, *callbacks, split=False, ckpt_path=None):
    from lightning.pytorch import LightningModule, Trainer
    from torch.distributed.fsdp import fully_shard

    from secateur.integrations.lightning import BudgetCallback, to_budget

    class Net(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()
            self.groups = sc.neurons(self.net, IMAGES[:1])  # while the model is whole

        def configure_model(self):
            if split:
                for layer in (self.net[0], self.net[2], self.net):
                    fully_shard(layer, mesh=self.device_mesh["data_parallel"])

        def training_step(self, batch):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            adam = torch.optim.AdamW(self.parameters(), lr=0.01)
            return to_budget(self, adam, self.groups.on(self.net), BUDGET)

    quiet = dict.fromkeys(["logger", "enable_progress_bar", "enable_model_summary"], False)
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_epochs=5,
        callbacks=[BudgetCallback(), *callbacks],
        enable_checkpointing=bool(callbacks),
        **quiet,
    )
    net = Net()
    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8)
    trainer.fit(net, loader, ckpt_path=ckpt_path)
    return trainer.global_rank, net.net, trainer.optimizers[0]


def by_lightning_resumed(folder: Path):
    """A fit that is split by FSDP2, stopped after two epochs, and gone on with."""
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint
    from lightning.pytorch.strategies import ModelParallelStrategy

    class Stop(Callback):
        def on_train_epoch_end(self, trainer, module) -> None:
            trainer.should_stop = trainer.current_epoch == 1

    def fit(*callbacks, ckpt_path=None):
        strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
        return by_lightning(strategy, *callbacks, split=True, ckpt_path=ckpt_path)

    whole = fit()[1]
    fit(ModelCheckpoint(folder, save_last=True, save_on_train_epoch_end=True), Stop())
    rank, resumed, optimizer = fit(ckpt_path=str(folder / "last.ckpt"))
    pairs = zip(whole.parameters(), resumed.parameters(), strict=True)
    assert all(torch.equal(one.to_local(), other.to_local()) for one, other in pairs)
    return rank, resumed, optimizer


def by_transformers(folder: Path):
    from transformers import Trainer, TrainingArguments

    from secateur.integrations.transformers import BudgetCallback, to_budget

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, images, labels):
            logits = self.net(images)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    data = [{"images": x, "labels": y} for x, y in zip(IMAGES, LABELS, strict=True)]
    model = Classifier()
    args = TrainingArguments(
        str(folder / "out"),
        use_cpu=True,
        ddp_backend="gloo",
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        num_train_epochs=5,
        learning_rate=0.01,
        per_device_train_batch_size=8,
    )
    groups = sc.neurons(model.net, IMAGES[:1])
    trainer = Trainer(
        model,
        args,
        train_dataset=data,
        optimizer_cls_and_kwargs=to_budget(args, data, groups, BUDGET),
        callbacks=[BudgetCallback()],
    )
    trainer.train()
    return args.process_index, model.net, trainer.optimizer.optimizer


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    kind, folder = sys.argv[1], Path(sys.argv[2])
    if kind == "lightning":
        rank, model, optimizer = by_lightning("ddp")
    elif kind == "fsdp2":
        rank, model, optimizer = by_lightning_resumed(folder)
    else:
        rank, model, optimizer = by_transformers(folder)
    alive = optimizer.groups.alive()
    weights = {} if kind == "fsdp2" else model.state_dict()  # split: each process has its own
    ended = {"weights": weights, "alive": alive, "steps": optimizer.steps_taken}
    torch.save({**ended, "settled": optimizer.settled}, folder / f"rank{rank}.pt")
