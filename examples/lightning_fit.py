"""Train a LightningModule to a quarter of its FLOPs; stop it, and go on where it was.

    python examples/lightning_fit.py            # runs for 10 epochs, stops, and goes on to 30

What differs from ordinary Lightning is marked with # 1 to # 4.
"""

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import secateur as sc
from secateur.integrations.lightning import BudgetCallback, to_budget

EPOCHS = 30
digits = load_digits()
images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
data = TensorDataset(images, torch.from_numpy(digits.target))
train, test = torch.utils.data.random_split(
    data, [1397, 400], generator=torch.Generator().manual_seed(0)
)
budget = sc.Budget(flops=0.25)  # 1: what you can afford


class Digits(LightningModule):
    """A convolutional network that reads digits."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, 10),
        )

    def training_step(self, batch):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch):
        self.log("accuracy", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        sgd = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        groups = sc.filters(self.net, images[:1].to(self.device))  # 2: what may be removed
        optimizer = to_budget(self, sgd, groups, budget)  # 3: your optimizer, wrapped
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Stop(Callback):
    """An interruption, as it may come at any time."""

    def on_train_epoch_end(self, trainer, module) -> None:
        trainer.should_stop = trainer.current_epoch + 1 == 10


def fit(*callbacks: Callback, ckpt_path: str | None = None) -> tuple[Digits, Trainer]:
    """The same call, whether training begins or goes on."""
    seed_everything(0, verbose=False)
    module = Digits()
    checkpoints = ModelCheckpoint("checkpoints", save_last=True, save_on_train_epoch_end=True)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        logger=False,
        enable_progress_bar=False,  # on, it shows what is kept and how hard the budget presses
        enable_model_summary=False,
        callbacks=[BudgetCallback(), checkpoints, *callbacks],
    )
    trainer.fit(module, DataLoader(train, 64, shuffle=True), ckpt_path=ckpt_path)
    return module, trainer


if __name__ == "__main__":
    fit(Stop())
    module, trainer = fit(ckpt_path="checkpoints/last.ckpt")
    module.net = sc.shrink(module.net, trainer.optimizers[0].groups)  # 4: smaller, and the same
    (found,) = trainer.validate(module, DataLoader(test, 400), verbose=False)
    print(module.net)
    print(budget.reached(module.net, images[:1]))
    print(f"test accuracy {found['accuracy']:.1%}")
