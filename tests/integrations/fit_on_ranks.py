"""A fit by Lightning or transformers.Trainer on two processes; each writes what it ended with.

python fit_on_ranks.py lightning FOLDER      (Lightning starts the second process)
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


def by_lightning() -> tuple[int, nn.Module, sc.Proximal]:
    from lightning.pytorch import LightningModule, Trainer

    from secateur.integrations.lightning import BudgetCallback, to_budget

    class Net(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            groups = sc.neurons(self.net, IMAGES[:1])
            return to_budget(self, torch.optim.AdamW(self.parameters(), lr=0.01), groups, BUDGET)

    quiet = dict.fromkeys(
        ["logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"], False
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=5,
        callbacks=BudgetCallback(),
        **quiet,
    )
    net = Net()
    trainer.fit(net, DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8, shuffle=True))
    return trainer.global_rank, net.net, trainer.optimizers[0]


def by_transformers(folder: Path) -> tuple[int, nn.Module, sc.Proximal]:
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
    rank, model, optimizer = by_lightning() if kind == "lightning" else by_transformers(folder)
    ended = {
        "weights": model.state_dict(),
        "alive": optimizer.groups.alive(),
        "steps": optimizer.steps_taken,
        "settled": optimizer.settled,
    }
    torch.save(ended, folder / f"rank{rank}.pt")
