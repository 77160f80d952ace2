"""What can't be grouped is refused by name, and says what to do; shells are taken off."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import networks
import secateur as sc
from cuts import Apply
from networks import images
from secateur.tracing.model_checks import check_model
from secateur.tracing.tracer import trace

X = images(2, 3, 8, 8)


def network() -> nn.Sequential:
    return nn.Sequential(
        *[nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU()],
        *[nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)],
    )


def with_part(index: int, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    model = network().eval()
    model[index] = change(model[index])
    return model


def quantized(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear})[0]


def made_in(context: Callable[[], object]) -> nn.Module:
    with context():  # pyright: ignore[reportGeneralTypeIssues]
        return network()


class Wrapped(Tensor):
    """A tensor made of others, as sharded and quantized ones are."""

    @staticmethod
    def __new__(cls, inner: Tensor):
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __tensor_flatten__(self):
        return ["inner"], None

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return Wrapped(args[0].inner)
        raise NotImplementedError(func)


def sharded() -> nn.Module:
    model = network()
    model[7].weight = nn.Parameter(Wrapped(model[7].weight.detach()))
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "scripted": (lambda: torch.jit.script(network()), "it is TorchScript"),
    "jit-traced": (lambda: torch.jit.trace(network().eval(), X), "it is TorchScript"),
    "a scripted part": (lambda: with_part(3, torch.jit.script), "its module 3 is TorchScript"),
    "a quantized part": (lambda: with_part(7, quantized), r"its module 7 is quantized \(Linear\)"),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), "0.weight has no shape yet"),
    "inference": (lambda: made_in(torch.inference_mode), "0.weight was made in torch.inference_mo"),
    "fake": (lambda: made_in(FakeTensorMode), "0.weight is a fake tensor. Use the meta device"),
    "sharded": (sharded, "7.weight is a Wrapped of torch.float32; groups need plain tensors"),
    "partly on meta": (
        lambda: with_part(3, lambda m: m.to("meta")),
        r"a part of it is on the meta device \(3.weight, 3.bias\)",
    ),
    "a class": (lambda: nn.Linear, "expected a model .* got the class Linear"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize(
    "kind",
    [
        lambda model: trace(model, X),
        lambda model: sc.filters(model, X),
        lambda model: sc.weights(model),
        lambda model: sc.custom(model, {"0.weight": torch.zeros(1, dtype=torch.int64)}),
    ],
    ids=["trace", "filters", "weights", "custom"],
)
def test_it_is_refused_by_name(what, kind):
    make, message = REFUSED[what]
    model = make()
    with pytest.raises((TypeError, ValueError), match=message):
        kind(model)


@pytest.mark.parametrize(
    "kind", ["channels", "shapes", "depth", "experts", "heads", "neurons", "width"]
)
def test_every_kind_asks_at_the_door(kind):
    with pytest.raises(TypeError, match="it is TorchScript"):
        getattr(sc, kind)(torch.jit.script(network()), X)


def test_a_lazy_model_is_grouped_once_it_has_run():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.LazyConv2d(2, 3))
    model(X)
    assert len(sc.filters(model, X)) == 4


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize(
    "shell",
    [compiled, nn.DataParallel, lambda model: nn.DataParallel(compiled(model))],
    ids=["compiled", "parallel", "both"],
)
@pytest.mark.parametrize("kind", ["filters", "channels", "shapes", "weights"])
def test_shells_are_taken_off(shell, kind):
    model = network()
    given = () if kind == "weights" else (X,)
    groups = getattr(sc, kind)(shell(model), *given)
    assert groups.names[0] == getattr(sc, kind)(model, *given).names[0]
    assert {id(m.parameter) for m in groups.members} <= {id(p) for p in model.parameters()}
    assert check_model(shell(model)) is model


def test_a_compiled_model_shrinks_to_a_plain_one():
    model = network().eval()
    shell = compiled(model)
    expected = shell(X)
    groups = sc.filters(shell, X)
    assert torch.equal(shell(X), expected)
    groups.scale_((torch.arange(len(groups)) % 2).double())
    small = sc.shrink(shell, groups)
    assert type(small) is nn.Sequential and small[0].out_channels == 4
    torch.testing.assert_close(small(X), model(X))
    assert type(groups.on(shell).members[0].parameter) is nn.Parameter


def test_what_is_compiled_inside_runs_as_python_while_it_is_traced():
    compilations = []

    def backend(graph: nn.Module, _: object) -> Callable[..., object]:
        compilations.append(graph)
        return graph.forward

    model = network()
    model[3].compile(backend=backend)
    model[0] = torch.compile(model[0], backend=backend)
    groups = sc.filters(model, X)
    assert not compilations
    assert [layer.name for layer in groups.layers] == ["0._orig_mod", "3"]


def test_inference_mode_around_the_call_changes_nothing():
    model = network()
    expected = str(trace(model, X))
    with torch.inference_mode():
        assert str(trace(model, X)) == expected
        groups = sc.filters(model, X)
        groups.scale_((torch.arange(len(groups)) % 2).double())
        small = sc.shrink(model, groups)
    assert not any(p.is_inference() for p in small.parameters())
    small(X).sum().backward()  # it can be trained on


def test_an_example_from_inference_mode_is_fine():
    with torch.inference_mode():
        x = images(2, 3, 8, 8)
    groups = sc.filters(network(), x)
    assert len(groups) == 14 and not groups.example.is_inference()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_around_the_call_is_followed_and_remembers_nothing(dtype):
    model = network()
    expected = [layer.name for layer in sc.filters(model, X).layers]
    with torch.autocast("cpu", dtype=dtype):
        for _ in range(2):  # a cast that was kept would hide the weights from the second run
            assert [layer.name for layer in sc.filters(model, X).layers] == expected
        assert torch.is_autocast_cache_enabled()
        model(X).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_examples_on_another_device_are_named():
    with pytest.raises(ValueError, match=r"different devices:\n  model:   cpu\n  example: meta"):
        sc.filters(networks.ResNet(), X.to("meta"))


def test_a_model_that_moves_its_inputs_itself_is_no_trouble():
    model = Apply(lambda m, x: m.b(m.a(torch.zeros_like(x, device="cpu")).relu()),
                  a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 2, 1))  # fmt: skip
    assert len(trace(model, X.to("meta")).axes) == 2


def test_tracing_leaves_buffers_modes_and_random_numbers_alone():
    model = network().train()
    model[1].eval()
    state, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    before = torch.get_rng_state()
    sc.filters(model, X)
    assert torch.equal(torch.get_rng_state(), before)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
