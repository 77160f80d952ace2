"""Stop a training run and go on as if nothing had happened.

    python examples/resume.py

`Proximal.state_dict()` carries the budget's state beside the wrapped optimizer's, so the usual
three state_dicts are all there is to save. (`secateur train` also saves the generators' states.)
"""

import copy

import torch
from torch import nn

import secateur as sc

STEPS = 60
inputs, targets = torch.randn(STEPS, 32, 10), torch.randn(STEPS, 32, 3)
start = nn.Sequential(nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, 3))


def prepare() -> tuple[nn.Module, sc.Proximal, torch.optim.lr_scheduler.CosineAnnealingLR]:
    """The same start for every run."""
    model = copy.deepcopy(start)
    groups = sc.neurons(model, inputs[0])
    adam = torch.optim.AdamW(model.parameters(), lr=0.01)
    optimizer = sc.Proximal(adam, groups, sc.Budget(params=0.3), steps=STEPS)
    return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)


def train(model, optimizer, scheduler, steps: range) -> None:
    """An ordinary loop over some of the steps."""
    for step in steps:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs[step]), targets[step]).backward()
        optimizer.step()
        scheduler.step()


whole = prepare()
train(*whole, range(STEPS))

first = prepare()
train(*first, range(25))
torch.save([part.state_dict() for part in first], "checkpoint.pt")

second = prepare()
for part, state in zip(second, torch.load("checkpoint.pt"), strict=True):
    part.load_state_dict(state)
train(*second, range(25, STEPS))

pairs = zip(whole[0].parameters(), second[0].parameters(), strict=True)
same = all(torch.equal(one, other) for one, other in pairs)
print(f"kept {second[1].kept} of {len(second[1].groups)} neurons")
print("the resumed run equals the uninterrupted one" if same else "the runs differ")
