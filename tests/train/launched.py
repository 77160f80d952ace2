"""A user's module on several processes: each leaves its id and, at its end, its weights."""

import atexit
import os
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

RANK = os.environ.get("RANK", "0")
PAUSE = float(os.environ.get("PAUSE", "0"))  # seconds an image, for who has to be in time


class Digits(TensorDataset):
    """Images that may take their time."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        time.sleep(PAUSE)
        return super().__getitem__(index)


def make_data(batch_size: int = 64) -> tuple[DataLoader, DataLoader]:
    found = load_digits()
    images = torch.from_numpy(found.images).unsqueeze(1) / 16
    digits = Digits(images, torch.from_numpy(found.target).long())
    train, test = torch.utils.data.random_split(
        digits, [1297, 500], generator=torch.Generator().manual_seed(0)
    )
    return DataLoader(train, batch_size, shuffle=True, drop_last=True), DataLoader(test, 64)


def make_model() -> nn.Module:
    """In double precision, so that sums in another order make no other choice of groups."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten()),
        nn.Linear(256, 10),
    ).double()
    if "LAUNCHED" in os.environ:
        folder = Path(os.environ["LAUNCHED"])
        folder.mkdir(exist_ok=True)
        (folder / f"process-{RANK}").write_text(str(os.getpid()))
        atexit.register(lambda: torch.save(model.state_dict(), folder / f"weights-{RANK}.pt"))
    return model
