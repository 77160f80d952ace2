"""Train a classifier that is split over processes (FSDP), save it, go on with more or fewer.

    torchrun --nproc-per-node 2 examples/fsdp.py --until 4
    torchrun --nproc-per-node 1 examples/fsdp.py

The first command stops after 4 of 12 epochs; the second finds the checkpoint in ./checkpoints and
ends the run. Each process has one GPU if there are any. What differs from ordinary FSDP is marked
# 1 to # 4.
"""

import argparse
import os
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard

import secateur as sc

EPOCHS = 12
FOLDER = Path("checkpoints")


def network() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(64, 256), nn.ReLU()),
        *(nn.Linear(256, 128), nn.ReLU()),
        nn.Linear(128, 10),
    )


def batches(epoch: int, count: int) -> list[Tensor]:
    """The rows of each batch of an epoch: the same ones however many processes share them."""
    return [*torch.randperm(count, generator=torch.Generator().manual_seed(epoch)).split(64)]


parser = argparse.ArgumentParser()
parser.add_argument("--until", type=int, default=EPOCHS, help="stop after so many epochs")
until = parser.parse_args().until

on_gpu = torch.cuda.is_available()
dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
rank, world = dist.get_rank(), dist.get_world_size()
device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")

digits = load_digits()
images = torch.from_numpy(digits.data).float() / 16
labels = torch.from_numpy(digits.target)
train, test = slice(0, 1400), slice(1400, None)
count = len(images[train])
steps = EPOCHS * len(batches(0, count))

torch.manual_seed(0)
model = network()
groups = sc.neurons(model, images[:1])  # 1: before the model is split ...
model.to(device)
for layer in model:
    if isinstance(layer, nn.Linear):
        fully_shard(layer)
fully_shard(model)
groups = groups.on(model)  # 2: ... and taken along afterwards
budget = sc.Budget(params=0.2)
adam = torch.optim.AdamW(model.parameters(), lr=0.003)
optimizer = sc.Proximal(adam, groups, budget, steps=steps)  # 3
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

first = 0
if saved := sorted(FOLDER.glob("*/.metadata")):  # what a checkpoint writes last
    state = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
        "scheduler": scheduler,
    }
    dcp.load(state, checkpoint_id=saved[-1].parent)
    set_model_state_dict(model, state["model"])
    set_optimizer_state_dict(model, optimizer, state["optimizer"])
    first = int(saved[-1].parent.name)

for epoch in range(first, until):
    for rows in batches(epoch, count):
        mine = rows.chunk(world)[rank]
        loss = nn.functional.cross_entropy(
            model(images[mine].to(device)), labels[mine].to(device), reduction="sum"
        )
        optimizer.zero_grad()
        (loss * world / len(rows)).backward()  # FSDP averages over processes
        optimizer.step()
        scheduler.step()
    state = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
        "scheduler": scheduler,
    }
    dcp.save(state, checkpoint_id=FOLDER / f"{epoch + 1:03}")

if until == EPOCHS:
    everything = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=everything)  # on rank 0; empty elsewhere
    if rank == 0:
        complete = network()
        complete.load_state_dict(weights)
        small = sc.shrink(complete, groups).eval()  # 4: on an ordinary copy
        accuracy = (small(images[test]).argmax(1) == labels[test]).float().mean()
        print(small)
        print(budget.reached(small, images[:1]))
        print(f"epochs {first + 1} to {EPOCHS} on {world} processes, test accuracy {accuracy:.1%}")
dist.barrier()  # gloo's threads still hold what was sent last, and must not outlive Python
dist.destroy_process_group()
