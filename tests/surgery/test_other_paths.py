"""Code that one run on one example does not reach: heads of training, flags, sizes, early exits."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import secateur as sc
from secateur.utils.forward import arguments, calling

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 8)
        self.last = nn.Linear(8, 3)


class Auxiliary(Body):
    """A head that only training has."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Any:
        h = self.first(x).relu()
        y = self.last(self.second(h).relu())
        return (y, self.auxiliary(h)) if self.training else y


class Tasks(Body):
    """A head a task."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(8, 5)

    def forward(self, x: Tensor, task: str = "a") -> Tensor:
        h = self.second(self.first(x).relu()).relu()
        return self.last(h) if task == "a" else self.other(h)


class Exit(Body):
    """An early exit."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Linear(12, 3)

    def forward(self, x: Tensor, early: bool = False) -> Tensor:
        h = self.first(x).relu()
        return self.early(h) if early else self.last(self.second(h).relu())


class Long(Body):
    """Another layer for long inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        if len(x) > 8:
            h = self.pool(h).relu()
        return self.last(self.second(h).relu())


class Halves(Body):
    """Slices, means and bare normalisation of a hidden layer, in training only."""

    def forward(self, x: Tensor) -> Any:
        h = self.first(x).relu()
        y = self.last(self.second(h).relu())
        if not self.training:
            return y
        return y, h[:, 3:9], h.mean(1), functional.group_norm(h, 3)


class Flagged(Body):
    """The same behind a flag."""

    def forward(self, x: Tensor, features: bool = False) -> Tensor:
        h = self.first(x).relu()
        return functional.layer_norm(h, h.shape[1:]) if features else self.last(self.second(h))


class Projected(Body):
    """A method beside forward."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(8, 8)

    def embed(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu()).relu()

    def project(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        return scale * self.projection(self.embed(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.embed(x))


class Averaged(Body):
    """Training writes a moving average into parameters that nothing trains."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = nn.Linear(12, 8).requires_grad_(False)

    def forward(self, x: Tensor) -> Any:
        h = self.first(x).relu()
        if self.training:
            with torch.no_grad():
                self.slow.weight.lerp_(self.second.weight, 0.5)
            return self.last(self.second(h).relu()), self.slow(h)
        return self.last(self.second(h).relu())


CASES: dict[str, tuple[Callable[[], nn.Module], list[Any]]] = {
    "tasks": (Tasks, [X, {"x": X, "task": "b"}]),
    "early exit": (Exit, [(X,), (X, True)]),
    "size": (Long, [X, torch.randn(9, 6, generator=torch.Generator().manual_seed(2))]),
    "method": (Projected, [X, sc.method("project", X, scale=2.0)]),
    "flag": (Flagged, [X, (X, True)]),
}


def half_dead(model: nn.Module, example: Any) -> sc.Groups:
    """Groups of which every other is zero."""
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -1, 1)
    groups = sc.neurons(model, example)
    groups.scale_((torch.arange(len(groups)) % 2).double())
    return groups


def outputs(model: nn.Module, example: Any) -> list[Tensor]:
    args, kwargs = arguments(example)
    with calling(model, example):
        found = model(*args, **kwargs)
    return list(found) if isinstance(found, tuple) else [found]


def same(model: nn.Module, small: nn.Module, example: Any) -> bool:
    pairs = zip(outputs(model, example), outputs(small, example), strict=True)
    return all(a.shape == b.shape and torch.allclose(a, b, atol=1e-5) for a, b in pairs)


@pytest.mark.parametrize("case", CASES)
def test_what_several_examples_reach_is_cut_with_the_rest(case: str) -> None:
    make, examples = CASES[case]
    model = make().eval()
    groups = half_dead(model, examples)
    small = sc.shrink(model, groups)
    assert all(same(model, small, example) for example in examples)
    assert small.second.out_features == 4  # pyright: ignore


@pytest.mark.parametrize("make", [Auxiliary, Halves])
def test_what_only_training_reaches_is_cut_with_the_rest(make: Callable[[], nn.Module]) -> None:
    model = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        groups = half_dead(model, X)
        small = sc.shrink(model, groups)
    for training in (True, False):
        assert same(model.train(training), small.train(training), X)


@pytest.mark.parametrize(
    ("case", "name"),
    [("tasks", "other"), ("early exit", "early"), ("size", "pool"), ("method", "projection")],
)
def test_what_no_run_reaches_is_named(case: str, name: str) -> None:
    make, examples = CASES[case]
    words = rf"no run on the example reaches {name}, which .*secateur.method"
    with pytest.warns(UserWarning, match=words):
        sc.neurons(make(), examples[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sc.neurons(make(), examples[0], ignore=name)


class Targeted(Body):
    """Training wants targets."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        if self.training and y is None:
            raise ValueError("targets!")
        found = self.last(self.second(self.first(x).relu()).relu())
        return found if y is None else functional.cross_entropy(found, y)


def test_a_model_that_does_not_train_on_the_example_is_grouped_in_eval_mode() -> None:
    assert len(sc.neurons(Targeted(), X)) == 20
    assert len(sc.neurons(Targeted(), [X, (X, torch.tensor([0, 1, 2]))])) == 20


def test_tracing_train_mode_leaves_nothing_behind() -> None:
    model = Averaged()
    before = copy.deepcopy(model.state_dict())
    sc.neurons(model, X)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training


def test_a_method_alone_has_no_costs() -> None:
    for example in (sc.method("project", X), [sc.method("project", X), X]):
        with pytest.raises(ValueError, match="write one of forward first"):
            sc.neurons(Projected(), example)
    with pytest.raises(RuntimeError, match="no attribute 'projekt'"):
        sc.neurons(Projected(), [X, sc.method("projekt", X)])


def test_costs_are_those_of_the_first_example() -> None:
    one = sc.neurons(Tasks(), [X, {"x": X, "task": "b"}])
    with pytest.warns(UserWarning, match="no run"):
        other = sc.neurons(Tasks(), X)
    assert one.coupling is not None and other.coupling is not None
    flops = [[x.flops for x in groups.coupling.operations] for groups in (one, other)]
    assert flops[0] == flops[1]


def test_a_list_without_examples_is_refused() -> None:
    with pytest.raises(ValueError, match=r"example=\[\] holds no example"):
        sc.neurons(Tasks(), [])
