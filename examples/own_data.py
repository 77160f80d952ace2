"""A model and data of your own, for `secateur train`.

    cd examples
    secateur train --model own_data:make_model --data own_data:make_data \\
        --budget flops=30%,params=40% --epochs 15 --lr 0.05 --out run

Stop it with Ctrl-C whenever you like; add --resume to the same command to go on.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Digits(Dataset):
    """Images of digits; in training each is shifted by up to a pixel, at random."""

    def __init__(self, first: int, last: int, *, shifted: bool) -> None:
        digits = load_digits()
        self.images = torch.from_numpy(digits.images[first:last]).float().unsqueeze(1) / 16
        self.labels = torch.from_numpy(digits.target[first:last])
        self.shifted = shifted

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        if self.shifted:
            down, right = torch.randint(-1, 2, (2,)).tolist()
            image = image.roll((down, right), (1, 2))
        return image, self.labels[index]


class Data:
    """What `secateur train` reads: two loaders and, if the defaults don't suit, loss and metric."""

    def __init__(self, batch_size: int = 64) -> None:
        self.train_loader = DataLoader(Digits(0, 1400, shifted=True), batch_size, shuffle=True)
        self.test_loader = DataLoader(Digits(1400, 1797, shifted=False), batch_size)

    @staticmethod
    def loss(output: Tensor, target: Tensor) -> Tensor:
        """Cross entropy that doesn't insist on certainty."""
        return nn.functional.cross_entropy(output, target, label_smoothing=0.1)


make_data = Data


def make_model() -> nn.Module:
    """The full-size network: called without arguments, like every model factory."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(32 * 4 * 4, 10),
    )
