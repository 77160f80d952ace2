"""Train a digit classifier on several processes (DDP); get it at a quarter of its FLOPs.

    torchrun --nproc-per-node 2 examples/ddp.py

Each process has one GPU if there are any. What differs from ordinary DDP is marked # 1 to # 3:
the same as on one process, for every process comes to the same choice by itself.
"""

import os

import torch
from sklearn.datasets import load_digits
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import secateur as sc

EPOCHS = 15

on_gpu = torch.cuda.is_available()
dist.init_process_group("nccl" if on_gpu else "gloo")
rank, world = dist.get_rank(), dist.get_world_size()
device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
torch.manual_seed(0)  # the same start everywhere: groups are found on the model's values

digits = load_digits()
images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
data = TensorDataset(images, torch.from_numpy(digits.target))
order = torch.randperm(len(data)).tolist()
train, test = (torch.utils.data.Subset(data, part) for part in (order[400:], order[:400]))
sampler = DistributedSampler(train, drop_last=True)
loader = DataLoader(train, batch_size=64 // world, sampler=sampler, drop_last=True)

model = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1, bias=False),
    nn.BatchNorm2d(32),
    nn.ReLU(),
    nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False),
    nn.BatchNorm2d(64),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(64 * 4 * 4, 10),
).to(device)
model = DistributedDataParallel(model)
example = images[:1].to(device)

groups = sc.filters(model, example)  # 1
budget = sc.Budget(flops=0.25)
sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
optimizer = sc.Proximal(sgd, groups, budget, steps=EPOCHS * len(loader))  # 2

for epoch in range(EPOCHS):
    sampler.set_epoch(epoch)
    for inputs, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs.to(device)), labels.to(device)).backward()
        optimizer.step()

if rank == 0:
    small = sc.shrink(model, groups).eval()  # 3: outside of DDP, an ordinary module
    inputs, labels = (torch.stack(part) for part in zip(*map(tuple, test), strict=True))
    with torch.no_grad():
        accuracy = (small(inputs.to(device)).argmax(1).cpu() == labels).float().mean()
    print(small)
    print(budget.reached(small, example))
    print(f"{world} processes, test accuracy {accuracy:.1%}")
dist.destroy_process_group()
