"""Groups of a model on the meta device: found without memory, checked when values are there."""

from __future__ import annotations

import copy
import tracemalloc

import pytest
import torch
from torch import Tensor, nn

import networks
import secateur as sc
from cuts import Apply
from networks import images
from secateur.tracing.tracer import trace

CASES = {
    "resnet": (networks.ResNet, images(2, 3, 16, 16)),
    "dense": (networks.DenseNet, images(2, 3, 8, 8)),
    "mobile": (networks.MobileNet, images(2, 3, 16, 16)),
    "transformer": (networks.Transformer, images(2, 5, 8)),
    "shuffle": (networks.Shuffle, images(2, 3, 8, 8)),
    "U-Net": (networks.UNet, images(2, 3, 8, 8)),
    "mixer": (networks.Mixer, images(2, 3, 16, 16)),
    "gated": (networks.Gated, images(2, 6)),
    "lstm": (lambda: nn.LSTM(4, 6, batch_first=True), images(2, 5, 4)),
}


def on_meta(make) -> nn.Module:
    with torch.device("meta"):
        return make()


@pytest.mark.parametrize("name", CASES)
def test_the_trace_is_that_of_the_model_with_values(name):
    make, x = CASES[name]
    assert str(trace(on_meta(make), x)) == str(trace(make(), x))
    assert str(trace(on_meta(make), x.to("meta"))) == str(trace(make(), x))


def grouped(make, x: Tensor) -> sc.Groups:
    with pytest.warns(UserWarning, match="on the meta device, so the removal .* not tried out"):
        return sc.filters(on_meta(make), x)


def test_groups_and_budgets_of_a_model_that_is_not_there():
    make, x = CASES["resnet"]
    groups, real = grouped(make, x), sc.filters(make(), x)
    assert groups.layers == real.layers and groups.on_meta and not real.on_meta
    for measure in ("flops", "params", "bytes"):
        budget = sc.Budget(**{measure: 0.5})
        assert budget.on(groups).limits == budget.on(real).limits
    assert groups.costs.tolist() == real.costs.tolist()
    assert "stem" in groups.summary()


def test_the_same_groups_train_and_shrink_the_real_model():
    make, x = CASES["resnet"]
    model = make()
    groups = grouped(make, x).on(model)
    optimizer = sc.Proximal(
        torch.optim.SGD(model.parameters(), lr=0.01), groups, sc.Budget(flops=0.5), steps=4
    )
    for _ in range(4):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    small = sc.shrink(model, groups)
    assert sc.Budget(flops=0.5).reached(small, x, groups=groups).holds


def test_a_budget_counts_the_biases_that_removal_adds():
    make, x = networks.Sigmoids, images(2, 3, 16, 16)
    groups, real = grouped(make, x), sc.filters(make(), x)
    assert groups.coupling is not None and real.coupling is not None
    assert not groups.coupling.added and real.coupling.added
    assert groups.on(make()).coupling.added == real.coupling.added


def test_what_can_not_be_removed_is_found_out_when_values_are_there():
    def run(m: nn.Module, x: Tensor) -> Tensor:
        h = m.up(x).relu()
        if h.shape[1] != 8:
            raise RuntimeError("this width is written in the code")
        return m.last(h)

    def make() -> nn.Module:
        return Apply(run, up=nn.Linear(3, 8), last=nn.Linear(8, 1))

    with pytest.warns(UserWarning, match="not tried out"):
        groups = sc.neurons(on_meta(make), images(4, 3))
    with pytest.raises(
        ValueError, match=r"up: .* does not run: this width(.|\n)*again with ignore=\['up'\]"
    ):
        groups.on(make())


def test_examples_without_values_are_asked_for():
    make, x = CASES["resnet"]
    groups = grouped(make, x.to("meta"))
    with pytest.raises(ValueError, match=r"give inputs with values: groups.on\(model, example\)"):
        groups.on(make())
    real = groups.on(make(), x)
    assert torch.equal(real.example, x) and real.alive().all()


@pytest.mark.parametrize("act", ["norms", "alive"])
def test_there_are_no_norms_without_values(act):
    groups = grouped(*CASES["resnet"])
    with pytest.raises(ValueError, match=r"which has no values; .* groups.on\(model\)"):
        getattr(groups, act)()
    with pytest.raises(ValueError, match="which has no values"):
        groups.scale_(torch.ones(len(groups)))


@pytest.mark.parametrize(
    ("kind", "given"),
    [("weights", ()), ("blocks", ((4, 4),)), ("n_of_m", (2, 4)), ("shapes", (None,))],
)
def test_kinds_that_leave_zeros_need_no_values_either(kind, given):
    make = networks.LeNet
    groups = getattr(sc, kind)(on_meta(make), *given)
    model = make()
    real = getattr(sc, kind)(model, *given)
    assert groups.layers == real.layers
    assert torch.equal(groups.on(model).norms(), real.norms())
    ids = torch.arange(500)[:, None]
    custom = sc.custom(on_meta(make), {"fc1.weight": ids}).on(model)
    assert torch.equal(custom.norms(), sc.custom(model, {"fc1.weight": ids}).norms())


def test_moving_the_model_to_meta_leaves_the_groups_with_the_old_parameters():
    model, x = networks.LeNet(), images(2, 1, 28, 28)
    groups = sc.filters(model, x)
    gone = copy.deepcopy(model).to("meta")
    with pytest.raises(ValueError, match="which has no values"):
        groups.on(gone).norms()


def test_a_large_model_costs_no_memory():
    """27 billion parameters: a hundred gigabytes, if they were there."""

    def make() -> nn.Module:
        sizes = [(60_000, 150_000), (150_000, 60_000), (60_000, 150_000)]
        layers = [layer for a, b in sizes for layer in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers)

    model = on_meta(make)
    tracemalloc.start()
    with pytest.warns(UserWarning, match="not tried out"):
        groups = sc.neurons(model, torch.empty(1, 60_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(groups) == 210_000
    assert peak < 1e9


class Asking(nn.Module):
    """Its code asks for values: of positions, of a mask, of a constant; none is a parameter's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.up = nn.Embedding(10, 6), nn.Linear(6, 8)
        self.down, self.head = nn.Linear(8, 6), nn.Linear(6, 3)
        self.register_buffer("order", torch.tensor([1, 0, 3, 2]))

    def forward(self, words: Tensor) -> Tensor:
        x = self.embedding(words)
        positions = torch.arange(words.shape[1], device=x.device)
        if int(positions[-1]) != words.shape[1] - 1 or bool((words < 0).any()):
            raise RuntimeError("a wrong answer")
        mask = torch.full((words.shape[1],), 1.0, device=x.device).to(x.dtype)
        x = x.index_select(1, positions.flip(0)) * mask[None, :, None]
        state = torch.zeros(words.shape[0], 6)
        state += self.down(self.up(x).relu()).sum(1)
        return self.head(state)


def test_code_may_ask_for_values_that_are_no_parameter_s():
    words = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    found = str(trace(on_meta(Asking), words))
    assert found == str(trace(Asking(), words))
    assert "3 coupled axes, 20 channels" in found


def test_code_that_asks_a_parameter_for_its_value_is_refused():
    model = on_meta(
        lambda: Apply(lambda m, x: m.a(x) * float(m.a.weight.mean()), a=nn.Linear(3, 2))
    )
    with pytest.raises(
        RuntimeError, match=r"_local_scalar_dense(.|\n)*group a model that has some"
    ):
        trace(model, images(2, 3))


def test_indices_in_buffers_are_lost_and_protect_what_they_choose_from():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(3, 8), nn.Linear(8, 2)
            self.other, self.last = nn.Linear(2, 5), nn.Linear(5, 2)
            self.register_buffer("order", torch.arange(8).flip(0))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.other(self.down(self.up(x)[:, self.order])).relu())

    with pytest.warns(UserWarning, match="not tried out"):
        groups = sc.neurons(on_meta(Model), images(2, 3))
    names = [layer.name for layer in groups.layers]
    assert "other" in names and "up" not in names
    assert {name for name, _, _ in groups.refused} >= {"up", "last"}


@pytest.mark.parametrize("kind", ["depth", "experts"])
def test_kinds_that_must_see_values_say_so(kind):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return x + sum(block(x) for block in self.blocks)

    with pytest.raises(ValueError, match=f"so {kind} are grouped on a model that has some"):
        getattr(sc, kind)(on_meta(Model), images(2, 4))
