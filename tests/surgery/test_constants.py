"""What a dead channel leaves behind is the same on all inputs, or the channel stays."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from cuts import Apply, cut_out, some_dead
from networks import images
from random_networks import outcome
from secateur.surgery.equivalence import difference
from secateur.surgery.rounding import rounding_explains

X = images(4, 10, 3).clamp(-1, 1)
ALL = torch.ones(4, 10, dtype=torch.bool)
KINDS = torch.zeros(4, 10, dtype=torch.int64)


@pytest.mark.parametrize("seed", range(60))
def test_random_networks_are_never_silently_wrong(seed):
    assert outcome(seed)["difference"] <= 1e-5


def wide(run, **more: nn.Module) -> nn.Module:
    return Apply(run, a=nn.Linear(3, 8), b=nn.Linear(8, 2), **more)


def fresh_zeros(m, x):
    out = torch.zeros(*x.shape[:2], 8)
    out[:, 1:] = m.a(x).sigmoid()[:, 1:]
    return m.b(out.mean(1))


UNSAFE = {
    "a sum over positions": (lambda m, x: m.b(m.a(x).sigmoid().sum(1)), (X,)),
    "a mask": (lambda m, x, k: m.b((m.a(x).sigmoid() * k[..., None]).sum(1)), (X, ALL)),
    "a fill by values": (
        lambda m, x: m.b(m.a(x).relu().masked_fill(x.amax(-1, keepdim=True) > 4, 0.5)),
        (X,),
    ),
    "where": (
        lambda m, x: m.b(torch.where(x[..., :1] > 4, 0.5, m.a(x).relu())),
        (X,),
    ),
    "an embedding as a gate": (
        lambda m, x, k: m.b(m.a(x).sigmoid() * m.e(k).sigmoid()),
        (X, KINDS),
    ),
    "an integer": (lambda m, x, n: m.b(m.a(x).sigmoid() * n), (X, 3)),
    "a tensor of integers": (lambda m, x, k: m.b(m.a(x).sigmoid() + k[..., None]), (X, KINDS)),
    "a size": (lambda m, x: m.b(m.a(x).sigmoid().mean(1) * x.shape[1]), (X,)),
    "a number read from the input": (
        lambda m, x: m.b(m.a(x).sigmoid() * float(x.max())),
        (X,),
    ),
    "padding": (
        lambda m, x: m.b(F.avg_pool1d(m.a(x).sigmoid().mT, 3, 1, 1).mean(-1)),
        (X,),
    ),
    "what was written into": (fresh_zeros, (X,)),
    "a view of the input": (lambda m, x: m.b(m.a(x).sigmoid() * (x.data[..., :1] < 9)), (X,)),
    "a cumulative sum": (lambda m, x: m.b(m.a(x).sigmoid().cumsum(1)[:, -1]), (X,)),
    "a product with positions": (
        lambda m, x: m.b(torch.ones(1, x.shape[1]) @ m.a(x).sigmoid()),
        (X,),
    ),
    "a weight that is used as a function": (
        lambda m, x: F.linear(
            m.a(x).relu().masked_fill(x.amax(-1, keepdim=True) > 4, 0.5), m.b.weight
        ),
        (X,),
    ),
    "a sum over the channels": (
        lambda m, x: m.a(x).relu().masked_fill(x.amax(-1, keepdim=True) > 4, 0.5).sum(-1),
        (X,),
    ),
    "bare batch norm": (lambda m, x: m.b(m.n(m.a(x).mT).mT.sigmoid()), (X,)),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_what_depends_on_more_than_the_parameters_is_refused_by_name(name):
    run, example = UNSAFE[name]
    model = wide(run, e=nn.Embedding(5, 1), n=nn.BatchNorm1d(8, affine=False))
    with pytest.raises(ValueError, match=r"  a \(8\): (what it leaves|b reads a value|removal ch)"):
        sc.neurons(model, example)


SAFE = {
    "a mean over positions": (lambda m, x: m.b(m.a(x).sigmoid().mean(1)), (X,)),
    "a mask that meets zeros": (
        lambda m, x, k: m.b((m.a(x).relu() * k[..., None]).sum(1)),
        (X, ALL),
    ),
    "a fill of zeros": (
        lambda m, x, k: m.b(m.a(x).tanh().masked_fill(~k[..., None], 0.0).sum(1)),
        (X, ALL),
    ),
    "a gate": (lambda m, x: m.b(m.a(x) * m.g(x).sigmoid()), (X,)),
    "a gate by the channels": (
        lambda m, x: m.b(m.a(x).relu() * m.h(m.a(x).relu()).sigmoid()),
        (X,),
    ),
    "attention over positions": (
        lambda m, x: m.b((F.gelu(m.a(x)) * m.g(x).mean(-1, keepdim=True).softmax(1)).sum(1)),
        (X,),
    ),
    "batch norm": (lambda m, x: m.b(m.n(m.a(x).mT).mT.sigmoid()), (X,)),
    "padding of zeros": (lambda m, x: m.b(F.avg_pool1d(m.a(x).relu().mT, 3, 1, 1).mT), (X,)),
    "a parameter": (lambda m, x: m.b(m.a(x).sigmoid() * m.n.weight[:1].cos()), (X,)),
    "rows that an index chooses": (lambda m, x, k: m.b(m.a(x).relu().flatten(0, 1)[k]), (X, KINDS)),
    "rows that are scattered": (
        lambda m, x, k: m.b(torch.zeros_like(m.a(x)).index_add(1, k[0], m.a(x).relu())),
        (X, KINDS),
    ),
    "memory that is filled piece by piece": (
        lambda m, x: m.b(torch.cat([m.a(x).relu()[:, :4], m.a(x).relu()[:, 4:]], 1)),
        (X,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SAFE)
def test_zeros_and_constants_of_the_parameters_leave_exactly(name):
    run, example = SAFE[name]
    gates = {"g": nn.Linear(3, 8), "h": nn.Linear(8, 8)}
    model = wide(run, n=nn.BatchNorm1d(8), **gates).eval()
    groups = sc.neurons(model, example)
    assert groups.layers[0].name == "a"
    removal, gap = cut_out(model, groups, some_dead(groups, 0))
    assert removal.refused == () and gap <= 1e-5


def test_other_values_and_train_mode_are_compared():
    def rare(m: nn.Module, x: Tensor) -> Tensor:
        return x if x.abs().max() < 5 else 2 * x

    def mode(m: nn.Module, x: Tensor) -> Tensor:
        return 2 * x if m.training else x

    same = Apply(lambda m, x: x)
    for other in (rare, mode, lambda m, x: x * (1 + (x.shape[1] == 5))):
        assert difference(same, Apply(other), X) == 0
        assert difference(same, Apply(other), X, thorough=True) > 0.1


def test_dropout_is_no_difference_in_train_mode():
    drops = Apply(lambda m, x: m.d(F.dropout(x, 0.3, m.training)), d=nn.Dropout())
    assert difference(drops, Apply(lambda m, x: x), X, thorough=True) <= 1e-6


class Deep(nn.Module):
    """Sixty layers of random weights amplify the last digit of float32."""

    def __init__(self, depth: int = 60) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12), nn.SiLU())
                for _ in range(depth)
            )
        )
        self.stem, self.head = nn.Conv2d(3, 12, 1), nn.Linear(12, 4)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, std=4.0)
                nn.init.normal_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.stem(x)).mean((2, 3)))


def test_rounding_is_not_called_a_difference():
    torch.manual_seed(0)
    model, x = Deep().eval(), images(2, 3, 8, 8)
    groups = sc.filters(model, x)
    assert len(groups) == 61 * 12
    zeroed = copy.deepcopy(model)
    mine = groups.on(zeroed)
    mine.scale_(torch.from_numpy(1.0 - some_dead(groups, 0)))
    sc.shrink(zeroed, mine)


def test_a_mistake_is_no_rounding():
    model = wide(lambda m, x: m.b(m.a(x).relu()) * (1 + m.a.weight.shape[0] * 1e-4))
    x = images(4, 3)
    groups = sc.filters(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)), images(1, 3, 2, 2))
    with pytest.raises(ValueError, match="removal changes the output by"):
        sc.neurons(model, x)
    dead = some_dead(groups, 0)
    assert not rounding_explains(groups.model, groups, dead, 0.5)  # pyright: ignore
