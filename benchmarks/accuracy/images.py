"""The tasks on images: LeNet on MNIST and Fashion-MNIST, a residual network on CIFAR-10."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import data
import secateur as sc
from accuracy.task import Batch, Split, Task, task
from lenet_mnist import LeNet
from secateur.commands.digits import Block

GROUPS_AND_FLOPS = {
    "60 groups": {"groups": 60},
    "30 groups": {"groups": 30},
    "15 groups": {"groups": 15},
    "25% FLOPs": {"flops": 0.25},
    "10% FLOPs": {"flops": 0.10},
    "5% FLOPs": {"flops": 0.05},
}


def split(images: data.Images, training: int, validation: int) -> Split:
    """The first images to train on, the last of the training set to choose knobs on."""
    pixels, labels = images.train_images, images.train_labels
    return Split(
        (pixels[:training].clone(), labels[:training]),
        (pixels[-validation:].clone(), labels[-validation:]),
        (images.test_images, images.test_labels),
    )


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Of the logits."""
    return F.cross_entropy(model(batch[0]), batch[1])


def percent(logits: Tensor, labels: Tensor) -> float:
    """How many are right."""
    return 100 * (logits.argmax(1) == labels).float().mean().item()


def accuracy(model: nn.Module, batch: Batch) -> float:
    """Percent of the images."""
    return percent(model(batch[0]), batch[1])


def sgd(rate: float, decay: float = 5e-4):
    """SGD with momentum 0.9."""
    return lambda parameters: torch.optim.SGD(
        parameters, rate, momentum=0.9, weight_decay=decay, foreach=True
    )


def filters_and_neurons(model: nn.Module, example: Tensor) -> sc.Groups:
    """Of the hidden layers."""
    return sc.filters(model, example) + sc.neurons(model, example)


def _lenet(name: str, load) -> Task:
    return Task(
        name=name,
        load=lambda: split(load(), 20_000, 5_000),
        network=lambda: LeNet().to(memory_format=torch.channels_last),  # faster, nothing else
        group=filters_and_neurons,
        optimizer=sgd(0.05),
        loss=cross_entropy,
        score=accuracy,
        measure="accuracy %",
        budgets=GROUPS_AND_FLOPS,
        study="30 groups",
        epochs=4,
        batch=128,
    )


@task
def lenet_mnist() -> Task:
    """LeNet 20-50-500 on 20,000 images of MNIST."""
    return _lenet("lenet-mnist", data.mnist)


@task
def lenet_fashion() -> Task:
    """LeNet 20-50-500 on 20,000 images of Fashion-MNIST."""
    return _lenet("lenet-fashion", data.fashion_mnist)


class ResNet8(nn.Module):
    """A stem, which halves the resolution, and one block each of 1, 2 and 4 times its filters."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2)
        )
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def flip_and_crop(batch: Batch, generator: torch.Generator) -> Batch:
    """Mirror half of the images, move each by up to 4 pixels; channels first in memory.

    Channels last, narrow networks would be trained by wrong gradients, or crash, in strided 1x1
    convolutions of fewer than 8 inputs (AVX-512: 16): github.com/uxlfoundation/oneDNN/issues/6035.
    """
    images, labels = batch
    count, _, height, width = images.shape
    mirrored = (torch.rand(count, generator=generator) < 0.5).to(images.device)
    images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
    padded = F.pad(images, (4, 4, 4, 4))
    down, right = torch.randint(0, 9, (2, count, 1, 1), generator=generator).to(images.device)
    rows = down + torch.arange(height, device=images.device).view(1, -1, 1)
    columns = right + torch.arange(width, device=images.device).view(1, 1, -1)
    which = torch.arange(count, device=images.device).view(-1, 1, 1)
    moved = padded.permute(0, 2, 3, 1)[which, rows, columns].permute(0, 3, 1, 2)
    return moved.contiguous(), labels


@task
def resnet8_cifar() -> Task:
    """A residual network with batch normalisation on 20,000 photographs of CIFAR-10."""
    return Task(
        name="resnet8-cifar",
        load=lambda: split(data.cifar10(), 20_000, 20_000),
        network=ResNet8,
        group=sc.filters,
        optimizer=sgd(0.1, 3e-3),
        loss=cross_entropy,
        score=accuracy,
        measure="accuracy %",
        budgets={f"{share}% FLOPs": {"flops": share / 100} for share in (50, 30, 10)},
        study="30% FLOPs",
        epochs=6,
        batch=128,
        augment=flip_and_crop,
    )


@task
def resnet8_cifar_longer() -> Task:
    """The same for four times as long."""
    return replace(resnet8_cifar(), name="resnet8-cifar-longer", epochs=24)


@task
def resnet8_cifar_wide() -> Task:
    """Twice as wide: a quarter of it costs what the network of `resnet8_cifar` does whole."""
    return replace(
        resnet8_cifar(),
        name="resnet8-cifar-wide",
        network=partial(ResNet8, width=32),
        budgets={f"{share}% FLOPs": {"flops": share / 100} for share in (50, 25)},
        study="25% FLOPs",
    )
