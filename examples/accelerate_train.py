"""Train a digit classifier with Accelerate in a loop of your own; get it at a quarter of its FLOPs.

    python examples/accelerate_train.py
    torchrun --nproc-per-node 2 examples/accelerate_train.py
    accelerate launch --multi_gpu --num_processes 2 examples/accelerate_train.py

On one process or several, on GPUs if there are any. What is not in an ordinary loop of Accelerate
is marked # 1 to # 4. (`secateur train` has all of this behind one command.)
"""

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import secateur as sc

EPOCHS = 15

accelerator = Accelerator(
    cpu=not torch.cuda.is_available(),
    # A batch of the loader is one for all processes together, so that steps don't depend on them.
    dataloader_config=DataLoaderConfiguration(split_batches=True),
    step_scheduler_with_optimizer=False,
)
torch.manual_seed(0)  # the same start everywhere: groups are found on the model's values

digits = load_digits()
images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
labels = torch.from_numpy(digits.target)
train, test = torch.randperm(len(labels)).tensor_split([1397])
loader = DataLoader(TensorDataset(images[train], labels[train]), 64, shuffle=True, drop_last=True)

model = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1, bias=False),
    nn.BatchNorm2d(32),
    nn.ReLU(),
    nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False),
    nn.BatchNorm2d(64),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(64 * 4 * 4, 10),
).to(accelerator.device)
example = images[:1].to(accelerator.device)

groups = sc.filters(model, example)  # 1: before prepare
budget = sc.Budget(flops=0.25)
steps = EPOCHS * len(loader)
sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
proximal = sc.Proximal(sgd, groups, budget, steps=steps)  # 2
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(proximal, steps)
model, optimizer, loader = accelerator.prepare(model, proximal, loader)

for _ in range(EPOCHS):
    for inputs, targets in loader:
        optimizer.zero_grad()
        accelerator.backward(nn.functional.cross_entropy(model(inputs), targets))
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if optimizer.step_was_skipped:  # 3: float16 only
            proximal.skip()
        scheduler.step()

if accelerator.is_main_process:
    small = sc.shrink(accelerator.unwrap_model(model, keep_fp32_wrapper=False), groups).eval()  # 4
    with torch.no_grad():
        right = small(images[test].to(accelerator.device)).argmax(1).cpu() == labels[test]
    print(small)
    print(budget.reached(small, example))
    print(f"{accelerator.num_processes} processes, test accuracy {right.float().mean():.1%}")
accelerator.end_training()
