"""The whole line on models that are unusual in one way each: right, or refused with the reason.

Trace, group, train a few proximal steps to a budget, shrink, save, load and compare.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import secateur as sc
from cuts import Apply
from networks import Functional, ResNet, Transformer, Twice, images
from secateur.surgery.equivalence import agree, difference
from secateur.utils.contexts import tensors_in
from secateur.utils.forward import arguments

Make = Callable[[], nn.Module]


def train(model: nn.Module, groups: sc.Groups, budget: sc.Budget, x: Any, steps: int = 5) -> None:
    sgd = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    optimizer = sc.Proximal(sgd, groups, budget, steps=steps)
    args, kwargs = arguments(x)
    for _ in range(steps):
        optimizer.zero_grad()
        outputs = [t for t in tensors_in(model(*args, **kwargs)) if t.requires_grad]
        torch.stack([t.float().square().mean() for t in outputs]).sum().backward()
        optimizer.step()


def line(
    make: Make, x: Any, tmp_path: Path, *kinds: str, export: bool = True, **amounts: float
) -> tuple[nn.Module, sc.Groups]:
    """Walk the whole line; returns the small model and the groups."""
    torch.manual_seed(0)
    model = make()
    model = model.train()
    groups = getattr(sc, kinds[0])(model, x)
    for kind in kinds[1:]:
        groups = groups + getattr(sc, kind)(model, x)
    budget = sc.Budget(**(amounts or {"flops": 0.5}))
    train(model, groups, budget, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # every dead group leaves
        small = sc.shrink(model, groups)
    assert budget.reached(small, x, groups=groups).holds
    assert agree(model, difference(model, small, x), x)
    file = sc.save(small, tmp_path / "small.safetensors")
    loaded = sc.load(file, model=make())
    assert difference(small, loaded, x) == 0
    if export:
        sc.export(small.eval(), x, tmp_path / "small.onnx")
    return small, groups


def kept(groups: sc.Groups) -> dict[str, int]:
    return {layer.name: len(layer) for layer in groups.layers}


def why(groups: sc.Groups) -> dict[str, str]:
    return {name: reason for name, _, reason in groups.refused}


def module(run: Callable[..., Any], **parts: Any) -> Make:
    """A maker of models whose parts are copied, so that each is a new one."""

    def make() -> nn.Module:
        copied = copy.deepcopy(parts)
        return Apply(run, **copied)

    return make


# -- weights that are shared, computed, or outside of modules --------------------------------------


class Tied(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        x = self.embedding(words)
        return self.head(x + self.down(self.up(x).relu()))


def test_tied_embeddings_stay_tied_and_lose_the_same_columns(tmp_path):
    words = torch.arange(15).reshape(3, 5)
    small, groups = line(Tied, words, tmp_path, "neurons", flops=0.3)
    assert kept(groups) == {"up": 16, "down": 8}
    assert small.head.weight is small.embedding.weight
    assert small.head.weight.shape == (20, small.down.out_features)
    assert small.embedding.embedding_dim == small.down.out_features < 8
    assert why(groups)["embedding"] == "is a vocabulary"


def test_a_module_called_twice_and_a_weight_in_two_layers(tmp_path):
    small, groups = line(Twice, images(4, 3, 8, 8), tmp_path, "filters", "neurons")
    assert kept(groups) == {"stem": 8, "left": 6}
    assert small.left.weight is small.right.weight
    assert small.again.in_channels == small.again.out_channels == small.stem.out_channels


def test_a_parameter_under_two_names_is_one(tmp_path):
    def make() -> nn.Module:
        weight = nn.Parameter(torch.randn(8, 5))
        run = lambda m, x: m.head(F.linear(x, m.one).relu() + F.linear(x.sin(), m.two))  # noqa: E731
        return Apply(run, one=weight, two=weight, head=nn.Linear(8, 3))

    small, groups = line(make, images(4, 5), tmp_path, "neurons", export=False)
    assert small.one is small.two and len(small.one) < 8 == len(groups)


def test_a_weight_used_both_ways_round(tmp_path):
    """An autoencoder: the code shrinks, and with it the rows that read and those that write."""
    make = module(
        lambda m, x: m.head(F.linear(m.code(x).relu(), m.code.weight.t())),
        code=nn.Linear(6, 10, bias=False),
        head=nn.Linear(6, 3),
    )
    small, groups = line(make, images(4, 6), tmp_path, "neurons", export=False)
    assert kept(groups) == {"code": 10} and small.code.in_features == 6


def test_a_square_weight_used_both_ways_round_makes_one_of_its_axes(tmp_path):
    def run(m: nn.Module, x: Tensor) -> Tensor:
        x = m.middle(m.first(x).relu()).relu()
        return m.head(F.linear(x, m.middle.weight.t()).relu())

    make = module(run, first=nn.Linear(5, 8), middle=nn.Linear(8, 8), head=nn.Linear(8, 3))
    _, groups = line(make, images(4, 5), tmp_path, "neurons", export=False)
    assert kept(groups) == {"middle": 8}
    assert why(groups)["first"] == "middle.weight also makes dimension 0 of itself"


def test_parameters_outside_of_modules(tmp_path):
    x = {"image": images(2, 3, 8, 8), "shift": images(2, 8)}
    small, groups = line(Functional, x, tmp_path, "neurons", export=False, groups=0.5)
    assert kept(groups) == {"mix": 12} and small.head.in_features == small.mix.out_features


class Listed(nn.Module):
    """Weights in a ParameterList and a ParameterDict."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(8, 5) * 0.3, torch.randn(9, 8) * 0.3])
        self.rest = nn.ParameterDict({"out": torch.randn(3, 9), "bias": torch.randn(9)})

    def forward(self, x: Tensor) -> Tensor:
        for i, weight in enumerate(self.weights):
            x = F.linear(x, weight, self.rest["bias"] if i else None).relu()
        return F.linear(x, self.rest["out"])


def test_parameter_lists_and_dicts(tmp_path):
    small, groups = line(Listed, images(4, 5), tmp_path, "neurons")
    assert len(groups) == 17
    assert small.weights[1].shape == (small.rest["bias"].numel(), len(small.weights[0]))


class Masked(nn.Module):
    """Buffers as masks, of a weight and of its units."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
        self.register_buffer("mask", (torch.arange(40).reshape(8, 5) % 3 > 0).float())
        self.register_buffer("units", torch.arange(8) % 4 > 0)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.first.weight * self.mask
        return self.last(F.linear(x, weight, self.first.bias).relu() * self.units)


def test_masks_in_buffers_are_cut_with_what_they_mask(tmp_path):
    small, _ = line(Masked, images(4, 5), tmp_path, "neurons")
    assert small.mask.shape == small.first.weight.shape and len(small.units) < 8


def test_torch_s_own_masks_are_buffers_too(tmp_path):
    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
        prune.l1_unstructured(model[0], "weight", 0.3)
        return model

    small, _ = line(make, images(4, 5), tmp_path, "neurons")
    assert small[0].weight_mask.shape == small[0].weight_orig.shape == (small[2].in_features, 5)


def chain(wrap: Callable[[nn.Module], nn.Module]) -> Make:
    def make() -> nn.Module:
        first, second = wrap(nn.Conv2d(3, 8, 3)), wrap(nn.Conv2d(8, 6, 3))
        return nn.Sequential(
            *[first, nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
            nn.Linear(6, 3),
        )

    return make


def test_weight_norm(tmp_path):
    make = chain(parametrizations.weight_norm)
    small, groups = line(make, images(4, 3, 8, 8), tmp_path, "filters")
    assert kept(groups) == {"0": 8, "2": 6}
    assert small[2].weight.shape[1] == small[0].out_channels


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("wrap", [weight_norm, spectral_norm, parametrizations.spectral_norm])
def test_weights_that_depend_on_all_of_another_are_right_or_refused(wrap, tmp_path):
    """The norm of a whole weight may change when a part of it that isn't zero leaves."""
    make, x = chain(wrap), images(4, 3, 8, 8)
    try:
        groups = sc.filters(make(), x)
    except ValueError as error:
        assert "0 (8): " in str(error) and "2 (6): " in str(error)
        return
    line(make, x, tmp_path, "filters", flops=0.8)
    assert set(kept(groups)) | set(why(groups)) >= {"0", "2"}


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).t()


def test_computed_weights_whose_zeros_are_not_zeros_are_refused():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    parametrize.register_parametrization(model[2], "weight", Symmetric())
    with pytest.raises(ValueError, match=r"is moved by tri[ul] between fixed positions"):
        sc.neurons(model, images(4, 6))
    model = nn.Sequential(parametrizations.orthogonal(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"0 \(8\): "):
        sc.neurons(model, images(4, 6))


def test_weights_that_another_network_makes_are_protected():
    run = lambda m, x, z: m.head(torch.bmm(m.make(z).view(-1, 8, 5), x[..., None])[..., 0])  # noqa: E731
    model = Apply(run, make=nn.Linear(4, 40), head=nn.Linear(8, 3))
    with pytest.raises(ValueError, match="no removable neurons"):
        sc.neurons(model, (images(4, 5), images(4, 4)))


class Adapted(nn.Module):
    """A frozen linear layer with a trainable update of low rank."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def test_adapters_lose_rank_and_their_frozen_base_stays(tmp_path):
    def make() -> nn.Module:
        return nn.Sequential(Adapted(nn.Linear(6, 16)), nn.ReLU(), Adapted(nn.Linear(16, 3)))

    small, groups = line(make, images(4, 6), tmp_path, "neurons", params=0.8)
    assert kept(groups) == {"0.down": 4, "2.down": 4}
    assert why(groups)["0.base"] == "its parameter 0.base.weight is frozen (requires_grad=False)"
    assert small[0].base.out_features == 16 and not small[0].base.weight.requires_grad
    assert small[0].down.out_features + small[2].down.out_features < 8


# -- frozen, replaced and moved parameters ---------------------------------------------------------


def convolutions() -> nn.Sequential:
    return nn.Sequential(
        *[nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()],
        *[nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU()],
        *[nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)],
    )


X = images(4, 3, 8, 8)
HALF = sc.Budget(flops=0.5)


def proximal(model: nn.Module, groups: sc.Groups) -> sc.Proximal:
    return sc.Proximal(torch.optim.SGD(model.parameters(), lr=0.01), groups, HALF, steps=4)


def test_a_group_with_a_frozen_part_is_left_out_by_name():
    model = convolutions()
    model[1].bias.requires_grad_(False)
    groups = sc.filters(model, X)
    assert kept(groups) == {"3": 12}
    assert why(groups)["0"] == "its parameter 1.bias is frozen (requires_grad=False)"
    assert "1.bias is frozen" in groups.summary()


def test_what_is_frozen_after_grouping_is_refused_before_it_fades():
    model = convolutions()
    groups = sc.filters(model, X)
    model[0].requires_grad_(False)
    with pytest.raises(ValueError, match=r"0.weight, 0.bias are grouped but frozen .* anew"):
        proximal(model, groups)
    assert groups.alive().all()
    proximal(model, sc.filters(model, X))


def test_custom_groups_of_frozen_parameters_are_refused_in_training():
    model = convolutions().requires_grad_(False)
    groups = sc.custom(model, {"0.weight": torch.arange(8).view(8, 1, 1, 1)})
    with pytest.raises(ValueError, match=r"0.weight is grouped but frozen"):
        sc.Proximal(torch.optim.SGD(model.parameters(), lr=0.01), groups, sc.Budget(groups=4),
                    steps=4)  # fmt: skip


def test_replaced_parameters_are_noticed_by_the_optimizer():
    model = convolutions()
    groups = sc.filters(model, X)
    model.load_state_dict(convolutions().state_dict(), assign=True)
    with pytest.raises(ValueError, match=r"not in the optimizer(.|\n)*groups = groups.on\(model\)"):
        proximal(model, groups)
    proximal(model, groups.on(model))


def test_replaced_parameters_are_noticed_when_nothing_shrinks():
    model = convolutions()
    groups = sc.filters(model, X)
    optimizer = proximal(model, groups)
    model.load_state_dict(convolutions().state_dict(), assign=True)
    for parameter in groups.members:
        parameter.parameter.grad = torch.ones_like(parameter.parameter)
    for _ in range(4):
        optimizer.step()
    with pytest.warns(UserWarning, match="0.weight is another object in this model"):
        with pytest.raises(sc.ShrinkError, match="groups that were not chosen are not zero"):
            sc.shrink(model, groups)
        small = sc.shrink(model, groups, partial=True)
    assert small[0].out_channels == 8


def test_an_average_of_weights_shrinks_without_a_word():
    """Groups of one copy, zeros in another: that is no mistake."""
    model = convolutions()
    groups, other = sc.filters(model, X), copy.deepcopy(model)
    groups.on(other).scale_((torch.arange(20) % 2).double())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sc.shrink(other, groups)[0].out_channels == 4


# -- what runs around and inside the model ---------------------------------------------------------


class Stochastic(nn.Module):
    """Dropout, BatchNorm and stochastic depth, in train mode throughout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.branch = nn.Sequential(
            *[nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.3)],
            *[nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)],
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        if not self.training or torch.rand(()) > 0.3:
            x = x + self.branch(x)
        return self.head(F.dropout(x.mean((2, 3)), 0.3, self.training))


def test_train_mode_dropout_and_stochastic_depth(tmp_path):
    small, groups = line(Stochastic, X, tmp_path, "filters")
    assert kept(groups) == {"stem": 8, "branch.0": 8}
    assert small.branch[1].num_features == small.branch[0].out_channels


def test_each_module_keeps_its_own_mode():
    model = Stochastic().train()
    model.branch[1].eval()
    modes = [module.training for module in model.modules()]
    groups = sc.filters(model, X)
    small = sc.shrink(model, groups.scale_((torch.arange(len(groups)) % 2).double()))
    assert [module.training for module in model.modules()] == modes
    assert [module.training for module in small.modules()] == modes


def doubled(_: nn.Module, __: Any, output: Tensor) -> Tensor:
    return 2 * output


def shifted(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0] * 0.5,)


def test_hooks_run_in_the_small_model_too(tmp_path):
    def make() -> nn.Module:
        model = convolutions()
        model[0].register_forward_hook(doubled)
        model[3].register_forward_pre_hook(shifted)
        return model

    small, _ = line(make, X, tmp_path, "filters")
    plain = copy.deepcopy(small)
    for part in plain.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    assert not torch.allclose(plain.eval()(X), small.eval()(X))


class Scaled(torch.autograd.Function):
    """x w, with a backward of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore
        x, w = ctx.saved_tensors
        return g * w, (g * x).sum((0, 2, 3), keepdim=True)


def test_autograd_functions_show_what_they_compute(tmp_path):
    make = module(
        lambda m, x: m.last(Scaled.apply(m.first(x), m.scale).relu()).mean((2, 3)),
        first=nn.Conv2d(3, 8, 3),
        last=nn.Conv2d(8, 4, 3),
        scale=nn.Parameter(torch.ones(1, 8, 1, 1)),
    )
    small, groups = line(make, X, tmp_path, "filters", export=False)
    assert small.scale.shape == (1, small.first.out_channels, 1, 1)
    assert "scale" in {member.name for member in groups.members}


def test_what_leaves_torch_is_protected():
    """Through numpy no label can follow; what meets the result there must stay."""

    def run(m: nn.Module, x: Tensor) -> Tensor:
        h = m.first(x).relu()
        return m.last(h + torch.from_numpy(h.detach().numpy().copy()))

    model = Apply(run, first=nn.Linear(5, 8), last=nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"first \(8\): is combined by add with a tensor that no"):
        sc.neurons(model, images(4, 5))


def two_paths(least: float) -> nn.Module:
    def run(m: nn.Module, x: Tensor) -> Tensor:
        h = m.first(x).relu()
        return m.last((m.left if x.mean() > least else m.right)(h).relu())

    parts = {"first": nn.Linear(5, 8), "left": nn.Linear(8, 6), "right": nn.Linear(8, 6)}
    return Apply(run, **parts, last=nn.Linear(6, 3))


def test_a_path_that_the_example_does_not_take_is_found_by_random_inputs():
    model, x = two_paths(0.0), images(4, 5).abs()
    assert sc.trace(model, x).unreached == ("right.weight", "right.bias")
    with pytest.raises(ValueError, match=r"first \(8\): the smaller network does not run"):
        sc.neurons(model, x)


def test_a_path_that_is_never_taken_is_named_and_can_not_be_silently_wrong():
    model, x = two_paths(-10.0), images(4, 5).abs()
    groups = sc.neurons(model, x)
    small = sc.shrink(model, groups.scale_((torch.arange(len(groups)) % 2).double()))
    assert difference(model, small, x) <= 1e-5
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        small(x - 20)


@dataclasses.dataclass
class Answer:
    logits: Tensor
    count: int = 3


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: {"logits": y, "count": 3, "note": "text", "none": None},
        lambda y: Answer(y),
        lambda y: (y, [y.mean()], None),
        lambda y: (y.sum(), float(y.detach().mean())),
    ],
    ids=["dict", "data class", "nested", "a number beside it"],
)
def test_outputs_of_any_kind(wrap, tmp_path):
    make = module(
        lambda m, x: wrap(m.last(m.first(x).relu())), first=nn.Linear(5, 8), last=nn.Linear(8, 3)
    )
    small, groups = line(make, images(4, 5), tmp_path, "neurons", export=False)
    assert kept(groups) == {"first": 8} and small.last.out_features == 3


def test_complex_parameters_are_refused_by_name():
    model = nn.Sequential(
        nn.Linear(5, 8, dtype=torch.complex64), nn.Linear(8, 2, dtype=torch.complex64)
    )
    x = images(2, 5).cfloat()
    with pytest.raises(ValueError, match=r"0 \(8\): its parameter 0.weight holds torch.complex64"):
        sc.neurons(model, x)
    with pytest.raises(ValueError, match=r"0.weight \(40\): it holds torch.complex64"):
        sc.weights(model)
    with pytest.raises(ValueError, match=r"custom: 0.weight holds torch.complex64"):
        sc.custom(model, {"0.weight": torch.arange(8)[:, None]})


# -- number types and memory formats ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["resnet", "transformer"])
def test_other_number_types(name, dtype, tmp_path):
    make, x, kinds = {
        "resnet": (ResNet, images(4, 3, 16, 16), ["filters"]),
        "transformer": (Transformer, images(3, 5, 8), ["neurons", "heads"]),
    }[name]
    small, _ = line(lambda: make().to(dtype), x.to(dtype), tmp_path, *kinds, export=False)
    assert {p.dtype for p in small.parameters()} == {dtype}


def test_mixed_number_types_stay_where_they_are(tmp_path):
    make = module(
        lambda m, x: m.c(m.b(m.a(x).relu().half()).relu().float()),
        a=nn.Linear(5, 8),
        b=nn.Linear(8, 9).half(),
        c=nn.Linear(9, 3),
    )
    small, groups = line(make, images(4, 5), tmp_path, "neurons", export=False)
    assert kept(groups) == {"a": 8, "b": 9}
    assert [m.weight.dtype for m in (small.a, small.b, small.c)] == [
        torch.float32, torch.float16, torch.float32,
    ]  # fmt: skip


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Transformer()

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.inner(x).float()


def test_models_that_autocast_inside(tmp_path):
    small, groups = line(Autocast, images(3, 5, 8), tmp_path, "neurons", "heads", export=False)
    assert len(groups) == 52
    assert {p.dtype for p in small.parameters()} == {torch.float32}


def test_the_whole_line_inside_autocast(tmp_path):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        small, _ = line(convolutions, X, tmp_path, "filters", export=False)
    assert {p.dtype for p in small.parameters()} == {torch.float32}


def test_integer_inputs(tmp_path):
    make = module(
        lambda m, x: m.last(m.first(x.float() / 255).relu()).mean((2, 3)),
        first=nn.Conv2d(3, 8, 3),
        last=nn.Conv2d(8, 4, 3),
    )
    x = torch.arange(2 * 3 * 64, dtype=torch.uint8).reshape(2, 3, 8, 8)
    small, _ = line(make, x, tmp_path, "filters", export=False)
    assert small.first.out_channels < 8


def test_memory_formats_are_kept_in_training_and_in_the_small_model():
    model = convolutions().to(memory_format=torch.channels_last)
    model[8].weight = nn.Parameter(torch.randn(12, 5).t())  # transposed in memory
    groups = sc.filters(model, X)
    train(model, groups, HALF, X)
    for network in (model, sc.shrink(model, groups)):
        for layer in (network[0], network[3]):
            assert layer.weight.is_contiguous(memory_format=torch.channels_last)
            assert not layer.weight.is_contiguous()
        assert network[8].weight.t().is_contiguous()
