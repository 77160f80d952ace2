"""save and load: the same small network again in any process, or the old state of affairs."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

import secateur as sc
from deploy.saved import Tied
from hostile import hostile
from networks import DenseNet, LeNet, MobileNet, ResNet, Sigmoids, Transformer, warm
from secateur.deploy import FileError, load, save
from secateur.groups import Groups
from secateur.shrinking import shrink

HERE = Path(__file__).parent
Maker = Callable[[], nn.Module]


def both(model: nn.Module, x: Tensor) -> Groups:
    return sc.filters(model, x) + sc.neurons(model, x)


CASES: dict[str, tuple[Maker, tuple[int, ...], Callable[..., Groups]]] = {
    "LeNet": (LeNet, (1, 28, 28), both),
    "ResNet": (ResNet, (3, 16, 16), sc.filters),
    "DenseNet": (DenseNet, (3, 8, 8), sc.filters),
    "MobileNet": (MobileNet, (3, 16, 16), sc.filters),
    "Sigmoids": (Sigmoids, (3, 8, 8), both),
    "Transformer": (Transformer, (5, 8), sc.neurons),
}


def small_of(make: Maker, shape: tuple[int, ...], kind: Callable[..., Groups] = both) -> nn.Module:
    """A warm network without every third of its groups, in eval mode."""
    torch.manual_seed(0)
    x = torch.randn(2, *shape)
    model = warm(make(), x)
    groups = kind(model, x)
    return shrink(model, groups.scale_((torch.arange(len(groups)) % 3 > 0).double()))


def small_mlp() -> nn.Module:
    return small_of(mlp, (4,), sc.neurons)


def mlp(hidden: int = 6) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 2))


def assert_same(model: nn.Module, other: nn.Module) -> None:
    one, two = model.state_dict(), other.state_dict()
    assert list(one) == list(two)
    for name, tensor in one.items():
        assert tensor.dtype == two[name].dtype, name
        assert torch.equal(tensor, two[name]), name


def snapshot(model: nn.Module) -> list[Any]:
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    return [
        {name: (id(t), t.requires_grad, tuple(t.shape)) for name, t in named},
        {name: module.extra_repr() for name, module in model.named_modules()},
        {name: sorted(vars(module)) for name, module in model.named_modules()},
        {name: module.training for name, module in model.named_modules()},
        {name: t.detach().clone() for name, t in named},
    ]


def assert_unchanged(model: nn.Module, before: list[Any]) -> None:
    after = snapshot(model)
    assert after[:-1] == before[:-1]
    assert all(torch.equal(tensor, after[-1][name]) for name, tensor in before[-1].items())


def in_a_new_process(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    paths = [str(HERE.parent), *sys.path]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def result_of(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    return out


# -- what goes in comes out ------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_round_trip(name: str, tmp_path: Path) -> None:
    make, shape, kind = CASES[name]
    small = small_of(make, shape, kind)
    path = save(small, tmp_path / "small.safetensors")
    torch.manual_seed(1)
    model = make().eval()
    loaded = load(path, model=model)
    assert loaded is model
    assert_same(small, loaded)
    assert repr(loaded) == repr(small)
    assert loaded.secateur == small.secateur
    x = torch.randn(3, *shape)
    assert torch.equal(loaded(x), small(x))
    assert path.stat().st_size < save(make(), tmp_path / "full").stat().st_size


def test_another_process_computes_the_same(tmp_path: Path) -> None:
    small = small_of(Tied, (2, 6, 6))
    x = torch.randn(3, 2, 6, 6)
    path = save(small, tmp_path / "small.safetensors")
    save_file({"x": x, "y": small(x).detach()}, tmp_path / "expected")
    code = """
        import sys, torch, secateur as sc
        from safetensors.torch import load_file
        from deploy.saved import Tied
        data = load_file(sys.argv[2])
        small = sc.load(sys.argv[1], model=Tied().eval())
        print(torch.equal(small(data["x"]), data["y"]), small.up.weight is small.down.weight)
    """
    assert result_of(in_a_new_process(code, path, tmp_path / "expected")) == "True True\n"


def test_ties_new_biases_and_buffers(tmp_path: Path) -> None:
    small = small_of(Tied, (2, 6, 6))
    path = save(small, tmp_path / "small.safetensors")
    stored = load_file(path)
    assert "up.weight" in stored
    assert not {"down.weight", "gain"} & stored.keys()
    loaded = load(path, model=Tied())
    assert loaded.up.weight is loaded.down.weight
    assert len(list(loaded.parameters())) == len(list(small.parameters()))
    assert torch.equal(loaded.read.bias, small.read.bias)
    for name in ("gain", "shift", "norm.running_mean", "norm.num_batches_tracked"):
        assert torch.equal(loaded.get_buffer(name), small.get_buffer(name)), name
    assert "gain" not in loaded.state_dict()


def test_ties_come_back_as_they_were_saved(tmp_path: Path) -> None:
    untied = Tied()
    untied.down.weight = nn.Parameter(untied.up.weight.detach().clone() + 1)
    loaded = load(save(untied, tmp_path / "untied"), model=Tied())
    assert_same(untied, loaded)
    assert loaded.up.weight is not loaded.down.weight


def test_views_of_one_memory_are_saved_apart(tmp_path: Path) -> None:
    model = nn.Module()
    model.all = nn.Buffer(torch.arange(6.0))
    model.part = nn.Buffer(model.all[2:4])
    other = nn.Module()
    other.all, other.part = nn.Buffer(torch.zeros(6)), nn.Buffer(torch.zeros(2))
    assert_same(model, load(save(model, tmp_path / "views"), model=other))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_number_types_are_the_files(dtype: torch.dtype, tmp_path: Path) -> None:
    small = small_of(ResNet, (3, 16, 16), sc.filters).to(dtype)
    loaded = load(save(small, tmp_path / "small"), model=ResNet())
    assert_same(small, loaded)
    assert loaded.bn.num_batches_tracked.dtype is torch.int64


def test_any_memory_layout(tmp_path: Path) -> None:
    small = small_of(ResNet, (3, 16, 16), sc.filters).to(memory_format=torch.channels_last)
    assert_same(small, load(save(small, tmp_path / "small"), model=ResNet()))


def test_a_model_on_the_meta_device_is_filled_on_the_cpu(tmp_path: Path) -> None:
    small = small_of(ResNet, (3, 16, 16), sc.filters)
    with torch.device("meta"):
        model = ResNet().eval()
    loaded = load(save(small, tmp_path / "small"), model=model)
    assert_same(small, loaded)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded(x), small(x))
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_loading_into_the_meta_device_takes_the_memory_of_the_small_network(tmp_path: Path) -> None:
    big = nn.Sequential(nn.Linear(2048, 4096), nn.ReLU(), nn.Linear(4096, 16))  # 34 MB
    path = save(big, tmp_path / "big")
    code = """
        import resource, sys, torch
        from torch import nn
        from secateur import load  # and all that it imports
        with torch.device("meta"):
            model = nn.Sequential(nn.Linear(2048, 4096), nn.ReLU(), nn.Linear(4096, 16))
        with open("/proc/self/status") as status:
            before = next(int(s.split()[1]) for s in status if s.startswith("RssAnon"))
        load(sys.argv[1], model=model)
        with open("/proc/self/status") as status:
            print(next(int(s.split()[1]) for s in status if s.startswith("RssAnon")) - before)
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("memory in use is read from /proc")
    assert int(result_of(in_a_new_process(code, path))) * 1024 < 1.2 * 4 * 2048 * 4096


def test_modes_are_the_file_s_and_requires_grad_is_the_model_s(tmp_path: Path) -> None:
    small = small_of(ResNet, (3, 16, 16), sc.filters).train()
    small.get_submodule("bn").eval()
    path = save(small, tmp_path / "small")
    model = ResNet().eval()
    model.stem.weight.requires_grad_(False)
    loaded = load(path, model=model)
    assert loaded.training
    assert not loaded.bn.training
    assert [n for n, p in loaded.named_parameters() if not p.requires_grad] == ["stem.weight"]


class Referring(nn.Module):
    """Other references to parameters and buffers: a list, a view, a partial."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        self.scale = nn.Parameter(torch.rand(4))
        self.register_buffer("table", torch.rand(2, 4))
        self.parts, self.row = [self.scale], self.get_buffer("table")[1]
        self.add = partial(torch.add, self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.add(self.last(self.first(x * self.parts[0] + self.row).relu()))


def test_what_refers_to_tensors_a_second_time_has_the_file_s_values(tmp_path: Path) -> None:
    model, x = Referring(), torch.rand(3, 4)
    groups = sc.neurons(model, x).scale_(torch.tensor([1.0, 0, 1, 0, 1, 1]))
    small = sc.shrink(model, groups)
    loaded = load(save(small, tmp_path / "small"), model=Referring())
    torch.testing.assert_close(loaded(x), model(x))


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        AveragedModel,
        lambda net: torch.compile(net, backend="eager"),
        lambda net: setattr(net, "stem", torch.compile(net.stem, backend="eager")) or net,
    ],
    ids=["DataParallel", "AveragedModel", "compiled", "one compiled layer"],
)
def test_shells_are_left_out_of_the_file(wrap: Any, tmp_path: Path) -> None:
    small = small_of(ResNet, (3, 16, 16), sc.filters)
    wrapped = wrap(copy.deepcopy(small))
    assert_same(small, load(save(wrapped, tmp_path / "small"), model=ResNet()))


def quantized() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4))
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def masked() -> nn.Module:
    model = small_mlp()
    prune.l1_unstructured(model.get_submodule("0"), "weight", 0.5)
    return model


def fused() -> nn.Module:
    small = small_of(ResNet, (3, 16, 16), sc.filters).eval()
    return torch.ao.quantization.fuse_modules(small, [["stem", "bn"]])


def with_buffer(tensor: Tensor) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4))
    model.register_buffer("extra", tensor)
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (quantized, "before it is quantized"),
        (masked, r"0.weight was cut by shrink .*prune\.remove makes a mask permanent"),
        (fused, r"was cut by shrink and is no longer there"),
        (lambda: with_buffer(torch.eye(3).to_sparse()), "extra in the state_dict is torch.sparse"),
        (lambda: with_buffer(torch.ones(3, device="meta")), "extra .* meta device"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), "0.weight .* run the network once"),
    ],
    ids=["quantized", "masked", "fused", "sparse", "meta", "lazy"],
)
def test_what_a_file_cannot_hold_is_refused_by_name(
    make: Maker, words: str, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match=words):
        save(make(), tmp_path / "small")
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("modes", ["{}", "[1]", "[true, 2]", "[" * 100_000, "nothing"])
def test_damaged_modes(modes: str, tmp_path: Path) -> None:
    path = rewritten(save(nn.Linear(2, 2), tmp_path / "small"), modes=modes)
    with pytest.raises(FileError, match="modes"):
        load(path, model=nn.Linear(2, 2))


def test_a_module_that_was_never_shrunk(tmp_path: Path) -> None:
    model = ResNet()
    loaded = load(save(model, tmp_path / "full"), model=ResNet())
    assert_same(model, loaded)
    assert loaded.secateur.kept == {}
    assert_same(model, load(tmp_path / "full", model=loaded))  # nothing was cut: once more is fine


def test_a_loaded_network_trains_shrinks_saves_and_exports(tmp_path: Path) -> None:
    x = torch.randn(4, 3, 8, 8)
    small = small_of(Sigmoids, (3, 8, 8))
    loaded = load(save(small, tmp_path / "first"), model=Sigmoids())
    groups = both(loaded, x)
    sgd = torch.optim.SGD(loaded.parameters(), lr=0.1)
    optimizer = sc.Proximal(sgd, groups, sc.Budget(groups=0.6), steps=8)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = (loaded(x) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    smaller = shrink(loaded, groups).eval()
    again = load(save(smaller, tmp_path / "second"), model=Sigmoids().eval())
    assert_same(smaller, again)
    assert torch.equal(again(x), smaller(x))
    total = sum(p.numel() for p in again.parameters())
    assert total < sum(p.numel() for p in small.parameters())


def test_a_loaded_network_exports_to_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    loaded = load(HERE / "data/format1.safetensors", model=Tied().eval())
    path = sc.export(loaded, torch.randn(2, 2, 6, 6), tmp_path / "small.onnx")  # checks itself
    assert path.stat().st_size > 0


# -- the file --------------------------------------------------------------------------------------


def test_format_1_stays_readable() -> None:
    small = load(HERE / "data/format1.safetensors", model=Tied().eval())
    expected = torch.tensor(
        [
            [0.3121797740459442, 0.19413471221923828, 0.19792476296424866],
            [0.3126246929168701, 0.1816575527191162, 0.17752617597579956],
        ]
    )
    found = small(torch.linspace(-1, 1, 144).reshape(2, 2, 6, 6))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert small.secateur.groups == {"filters": (4, 6), "neurons": (9, 13)}
    assert small.secateur.biases == ("read.bias",)
    assert small.secateur.full == {}  # written before this was


def test_other_readers_of_safetensors_understand_the_file(tmp_path: Path) -> None:
    small = small_of(Tied, (2, 6, 6))
    with safe_open(save(small, tmp_path / "small"), framework="pt") as file:
        metadata = file.metadata()
        shape = tuple(file.get_slice("conv.weight").get_shape())
    assert metadata.keys() == {"format", "secateur", "class", "modes", "plan"}
    assert metadata["format"] == "pt"
    assert metadata["secateur"] == "1"
    assert metadata["class"].endswith("saved.Tied")
    plan = json.loads(metadata["plan"])
    assert plan["aliases"] == {"down.weight": "up.weight"}
    assert plan["kept"]["conv.weight"] == {"0": [1, 2, 4, 5]}
    assert plan["biases"] == ["read.bias"]
    assert plan["groups"] == {"filters": [4, 6], "neurons": [8, 13]}
    assert plan["full"] == small.secateur.full
    assert plan["full"].keys() == {"groups", "flops", "params", "bytes", "memory"}
    assert shape == (4, 2, 3, 3)


def test_missing_folders_are_made_and_permissions_are_the_usual_ones(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "small.safetensors"
    before = os.umask(0o027)
    try:
        assert save(small_mlp(), str(path)) == path
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows locks open files")
def test_a_new_file_takes_the_place_of_an_old_one_that_someone_reads(tmp_path: Path) -> None:
    path = save(small_mlp(), tmp_path / "small")
    before = path.read_bytes()
    with open(path, "rb") as reader:
        save(mlp(), path)
        assert reader.read() == before
    assert path.read_bytes() != before


def test_a_loaded_network_does_not_need_its_file_any_more(tmp_path: Path) -> None:
    small = small_mlp()
    path = save(small, tmp_path / "small")
    loaded = load(path, model=mlp())
    path.write_bytes(bytes(path.stat().st_size))
    assert_same(small, loaded)


# -- refusals on reading: the model stays as it was ------------------------------------------------


def refuses(path: Path, message: str, model: nn.Module | None = None) -> None:
    model = mlp() if model is None else model
    before = snapshot(model)
    with pytest.raises(FileError, match=message):
        load(path, model=model)
    assert_unchanged(model, before)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        load(tmp_path / "none.safetensors", model=mlp())


@pytest.mark.parametrize("length", [0, 4, 100, 0.5, 0.99])
def test_a_truncated_file(length: float, tmp_path: Path) -> None:
    path = save(small_mlp(), tmp_path / "small")
    data = path.read_bytes()
    path.write_bytes(data[: length if isinstance(length, int) else int(length * len(data))])
    refuses(path, "small is not a readable safetensors file: ")


def test_random_bytes(tmp_path: Path) -> None:
    path = tmp_path / "noise"
    path.write_bytes(torch.randint(256, (999,), generator=torch.Generator()).byte().numpy().data)
    refuses(path, "noise is not a readable safetensors file: ")


def test_a_file_of_someone_else(tmp_path: Path) -> None:
    save_file(mlp().state_dict(), tmp_path / "foreign", {"format": "pt"})
    refuses(tmp_path / "foreign", r"was not written by secateur\.save: its metadata has no plan")


def rewritten(path: Path, **metadata: str) -> Path:
    with safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), **metadata}
    save_file(load_file(path), path, metadata)
    return path


def test_a_format_of_another_version(tmp_path: Path) -> None:
    path = rewritten(save(small_mlp(), tmp_path / "new"), secateur="2")
    refuses(path, "new has format '2'; this version of secateur reads format '1'")


GOOD = {"kept": {}, "biases": [], "groups": {}, "aliases": {}}


@pytest.mark.parametrize(
    "plan",
    [
        "{",
        "[]",
        "{}",
        json.dumps({**GOOD, "kept": []}),
        json.dumps({**GOOD, "kept": {"0.weight": [0, 1]}}),
        json.dumps({**GOOD, "kept": {"0.weight": {"0": [1, 0]}}}),
        json.dumps({**GOOD, "kept": {"0.weight": {"0": [-1, 0]}}}),
        json.dumps({**GOOD, "kept": {"0.weight": {"zero": [0]}}}),
        json.dumps({**GOOD, "groups": {"neurons": 3}}),
        json.dumps({**GOOD, "aliases": ["x"]}),
        json.dumps({**GOOD, "kept": {"0.weight": {"-1": [0]}}}),
        json.dumps({**GOOD, "kept": {"0.weight": {"0": [0, True]}}}),
        json.dumps({**GOOD, "difference": math.nan}),
        json.dumps({**GOOD, "absent": {"0": {"like": []}}}),
        json.dumps({**GOOD, "absent": {"0": {"kind": "tensor", "like": [[0, [1], {}]]}}}),
        json.dumps({**GOOD, "unknown": 3}),
        "[" * 100_000,
    ],
)
def test_a_damaged_plan(plan: str, tmp_path: Path) -> None:
    path = rewritten(save(small_mlp(), tmp_path / "small"), plan=plan)
    refuses(path, "small holds a damaged plan: ")


def test_a_wrong_value_in_a_plan_is_named_with_its_place(tmp_path: Path) -> None:
    plan = json.dumps({**GOOD, "kept": {"0.weight": {"0": [0, "1"]}}})
    path = rewritten(save(small_mlp(), tmp_path / "small"), plan=plan)
    refuses(path, r"damaged plan: kept\['0.weight'\]\['0'\]\[1\]: expected an integer, got '1'")


def test_whatever_stands_in_a_plan_it_is_followed_or_refused(tmp_path: Path) -> None:
    path = save(small_mlp(), tmp_path / "small")
    more = {
        "sizes": {"0": {"out_features": 4}},
        "reshaped": {"1": 2},
        "absent": {"1": {"kind": "tensor", "like": [[0, [1, 2], [4, [1, 0]]]]}},
        "norms": {"0": {"eps": 0.1, "normalized_shape": [3]}},
        "rerouted": {"1": [0, 1]},
    }
    with safe_open(path, framework="pt") as file:
        plan = {**json.loads(file.metadata()["plan"]), **more}
    refused = 0
    for where, text in hostile(json.dumps(plan)):
        rewritten(path, plan=text)
        try:
            load(path, model=mlp())
        except FileError as error:
            assert str(path) in str(error), where
            refused += 1
    assert refused > 300


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept": {"0.weight": {"0": [0, 99]}}}, "does not fit 0.weight"),
        ({"kept": {"0.weight": {"7": [0, 1]}}}, "does not fit 0.weight"),
        ({"kept": {"9.weight": {"0": [0, 1]}}}, "9.weight"),
        ({"biases": ["9.bias"]}, "9"),
        ({"biases": ["1.bias"]}, "weight"),
        ({"aliases": {"x": "2.weight"}}, "only the file has  x"),
    ],
)
def test_a_plan_that_fits_no_such_model(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    plan = json.dumps({**GOOD, **change})
    path = rewritten(save(mlp(), tmp_path / "small"), plan=plan)
    refuses(path, f"(?s)does not fit this Sequential: .*{message}.*this one is unchanged")


def test_a_tie_to_nothing(tmp_path: Path) -> None:
    plan = json.dumps({**GOOD, "aliases": {"0.weight": "none"}})
    path = rewritten(save(mlp(), tmp_path / "small"), plan=plan)
    refuses(path, "is damaged: 0.weight is tied to none, which is not there")


def test_a_model_of_another_size_is_shown_both_shapes_on_aligned_lines(tmp_path: Path) -> None:
    path = save(small_mlp(), tmp_path / "small")
    refuses(
        path,
        r"holds a torch.nn.modules.container.Sequential, which does not fit this Sequential: \n"
        r"  2.weight in the model \(3, 4\), once cut\n"
        r"  2.weight in the file  \(2, 4\)\n"
        r"  pass a new full-size model",
        nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)),
    )
    refuses(path, "the plan does not fit 0.weight", mlp(hidden=5))


def test_a_model_of_another_class_is_shown_the_names(tmp_path: Path) -> None:
    path = save(ResNet(), tmp_path / "full")
    names = r"\n  only the model has conv1.bias, .*\n  only the file has  bn.bias, "
    refuses(path, f"holds a .*networks.ResNet, which does not fit this LeNet: {names}", LeNet())


def test_a_class_in_place_of_a_model_is_refused() -> None:
    with pytest.raises(TypeError, match=r"a full-size model such as Tied\(\), got the class Tied"):
        load(HERE / "data/format1.safetensors", model=Tied)  # pyright: ignore


def test_a_small_model_is_refused(tmp_path: Path) -> None:
    small = small_mlp()
    refuses(save(small, tmp_path / "small"), "it is small already", small)


def test_a_buffer_that_would_stay_on_the_meta_device_is_refused() -> None:
    with torch.device("meta"):
        model = Tied()
    with pytest.raises(FileError, match="the buffer gain is on the meta device and not in the"):
        load(HERE / "data/format1.safetensors", model=model)
    assert model.conv.weight.shape == (6, 2, 3, 3)
    assert model.read.bias is None


class Stubborn(nn.Module):
    """Fails when its weights are loaded, after those of the modules before it."""

    def __init__(self, stubborn: bool = True) -> None:
        super().__init__()
        self.first, self.last = mlp(), nn.Linear(2, 2)
        self.stubborn = stubborn

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        result = super().load_state_dict(*args, **kwargs)
        if self.stubborn:
            raise RuntimeError("checksum of the vocabulary differs")
        return result


def test_a_load_that_fails_midway_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    path = save(small_of(lambda: Stubborn(False), (4,), sc.neurons), tmp_path / "small")
    assert load(path, model=Stubborn(False)).first[0].weight.shape == (4, 4)
    refuses(path, "checksum of the vocabulary differs", Stubborn())


# -- refusals on writing: the old file stays as it was ---------------------------------------------


def test_state_that_is_not_a_tensor(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"seen": 3}

    with pytest.raises(TypeError, match="_extra_state in the state_dict is a dict; only tensors"):
        save(Extra(2, 2), tmp_path / "small")
    assert os.listdir(tmp_path) == []


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    with pytest.raises(OSError, match="small"):
        save(mlp(), tmp_path / "small")
    assert os.listdir(tmp_path) == ["small"]


BIG = "nn.Linear(2000, 2000)"  # 16 MB


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX's")
def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path: Path) -> None:
    path = save(mlp(), tmp_path / "small.safetensors")
    before = path.read_bytes()
    code = f"""
        import resource, sys, secateur as sc
        from torch import nn
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
        try:
            sc.save({BIG}, sys.argv[1])
        except OSError as error:
            print(error.strerror, error.filename)
    """
    assert result_of(in_a_new_process(code, path)) == f"File too large {path}\n"
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX's")
def test_a_process_killed_in_the_middle_of_the_write_leaves_the_old_file(tmp_path: Path) -> None:
    model = mlp()
    path = save(model, tmp_path / "small.safetensors")
    code = f"""
        import resource, signal, sys, secateur as sc
        from torch import nn
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the kernel ends the process at 1 MB
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
        sc.save({BIG}, sys.argv[1])
    """
    process = in_a_new_process(code, path)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGXFSZ
    assert [f.stat().st_size for f in tmp_path.glob(".small*/*")] == [10**6]  # it was at it
    assert_same(load(path, model=mlp()), model)
    save(small := small_mlp(), path)  # what the dead process left is in nobody's way
    assert_same(load(path, model=mlp()), small)
