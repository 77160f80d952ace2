"""Train a digit classifier once; get it at a quarter of its FLOPs.

    python examples/quickstart.py

The lines marked with # 1 to # 4 are all that differs from ordinary training.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import secateur as sc

EPOCHS = 30

torch.manual_seed(0)
digits = load_digits()
images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
labels = torch.from_numpy(digits.target)
order = torch.randperm(len(labels))
train, test = order[400:], order[:400]

model = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1, bias=False),
    nn.BatchNorm2d(32),
    nn.ReLU(),
    nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False),
    nn.BatchNorm2d(64),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(64 * 4 * 4, 10),
)
example = images[:1]
steps = EPOCHS * len(train.split(64))

groups = sc.filters(model, example)  # 1: what may be removed
budget = sc.Budget(flops=0.25)  # 2: what you can afford
sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
optimizer = sc.Proximal(sgd, groups, budget, steps=steps)  # 3: your optimizer, wrapped
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

for _ in range(EPOCHS):
    for rows in train[torch.randperm(len(train))].split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
        scheduler.step()

small = sc.shrink(model, groups).eval()  # 4: a smaller nn.Module that computes the same

accuracy = (small(images[test]).argmax(1) == labels[test]).float().mean()
print(small)
print(budget.reached(small, example))
print(f"test accuracy {accuracy:.1%}")
