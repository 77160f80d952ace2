"""Width trained to a budget, alone and with other kinds: exact sizes, saved, exported, again."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from cuts import counted, some_dead, zero
from secateur.deploy import run
from secateur.shrinking.optimizer_refit import refit
from secateur.surgery.cut import cut
from secateur.surgery.equivalence import difference
from secateur.surgery.plan import Plan
from streams import TOKENS, Rms, Stream, stream

STEPS = 120
KINDS = {
    "alone": lambda m: sc.width(m, TOKENS),
    "with heads and neurons": lambda m: (
        sc.width(m, TOKENS) + sc.heads(m, TOKENS) + sc.neurons(m, TOKENS)
    ),
}


def batches(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Words, each followed by three times itself."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        words = (torch.randint(20, (32, 1), generator=draw) * 3 ** torch.arange(8)) % 20
        yield words[:, :-1], words[:, 1:]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = STEPS) -> float:
    """Learn which word comes after which; the loss of the last step."""
    loss = torch.tensor(0.0)
    for tokens, following in batches(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens).flatten(0, 1), following.flatten())
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def to_budget(model: nn.Module, groups: sc.Groups, budget: sc.Budget, **options) -> sc.Proximal:
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    return sc.Proximal(adam, groups, budget, steps=STEPS, **options)


@pytest.mark.parametrize("measure", ["flops", "params", "bytes"])
@pytest.mark.parametrize("name", ["alone", "with heads and neurons"])
def test_training_ends_on_the_budget_and_an_equal_network(name, measure, tmp_path):
    model = stream(nn.RMSNorm, width=16)
    full = dict(zip(("flops", "params"), counted(model, TOKENS), strict=True))
    full["bytes"] = 4 * full["params"]
    groups = KINDS[name](model)
    budget = sc.Budget(**{measure: 0.4})
    assert train(model, to_budget(model, groups, budget)) < 1.5  # of ln 20 = 3 for guessing
    small = sc.shrink(model, groups)
    assert difference(model, small, TOKENS) <= 1e-5
    left = dict(zip(("flops", "params"), counted(small, TOKENS), strict=True))
    left["bytes"] = 4 * left["params"]
    assert left[measure] <= 0.4 * full[measure]
    assert left[measure] > 0.4 * full[measure] - full[measure] / 16
    assert budget.reached(small, TOKENS, groups=groups).holds
    loaded = sc.load(sc.save(small, tmp_path / "small.safetensors"), model=Stream(width=16))
    assert difference(small, loaded, TOKENS) == 0
    assert loaded.last.eps == small.last.eps


def test_depth_and_width_would_own_the_same_weights():
    """A branch is zero where its last projection is: so are the rows that write each channel."""
    model = stream()
    with pytest.raises(ValueError, match=r"groups overlap in blocks\.0\.attention\.o\.weight"):
        sc.width(model, TOKENS) + sc.depth(model, TOKENS)


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_shrinking_twice_is_one_plan(offset, tmp_path):
    make = partial(stream, partial(Rms, offset=offset))
    model = make()
    for share in (0.5, 0.5):
        groups = sc.width(model, TOKENS)
        zeroed, groups = zero(model, groups, some_dead(groups, 0, share=share))
        model = sc.shrink(zeroed, groups)
        assert difference(zeroed, model, TOKENS) <= 1e-6
    assert model.last.eps == pytest.approx(4e-3)
    assert model.secateur.groups == {"width": (3, 12)}
    loaded = sc.load(sc.save(model, tmp_path / "small.safetensors"), model=make())
    assert difference(model, loaded, TOKENS) == 0


@pytest.mark.parametrize("norm", [nn.RMSNorm, nn.LayerNorm, partial(Rms, offset=1.0)])
def test_the_small_network_exports(norm, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = stream(norm)
    groups = sc.width(model, TOKENS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = sc.shrink(*zero(model, groups, some_dead(groups, 0)), exact=False)
        path = sc.export(small, TOKENS, tmp_path / "small.onnx")
    with torch.no_grad():
        assert torch.allclose(run(path, TOKENS)[0], small(TOKENS), atol=1e-5)


@pytest.mark.parametrize("where", ["before", "behind"])
def test_the_correction_of_layer_norms_is_better_than_none(where):
    """Scale and eps that stand for the missing zeros bring the outputs nearer to what they were."""
    for kept in (0.75, 0.5):
        model = stream(nn.LayerNorm, where, width=16)
        groups = sc.width(model, TOKENS)
        train(model, to_budget(model, groups, sc.Budget(groups=kept), importance=1.0))
        with pytest.warns(UserWarning, match="outputs differ by"):
            small = sc.shrink(model, groups, exact=False)
        plain = copy.deepcopy(small)
        for norm in groups.coupling.norms:
            before, after = model.get_submodule(norm.module), plain.get_submodule(norm.module)
            alive = list(norm.kept(~groups.alive().numpy()))
            after.weight.data, after.eps = before.weight.data[alive].clone(), before.eps
        words = torch.randint(20, (64, 7), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = model(words)
            gaps = [float((net(words) - expected).square().mean()) for net in (small, plain)]
        assert gaps[0] < 0.9 * gaps[1], gaps


@pytest.mark.parametrize("where", ["before", "behind"])
def test_what_layer_norms_lose_is_learned_again(where):
    """Shrunk once the choice is made, the small network makes use of the steps that are left."""
    model = stream(nn.LayerNorm, where, width=16)
    groups = sc.width(model, TOKENS)
    optimizer = to_budget(model, groups, sc.Budget(groups=0.5), importance=1.0)
    before = train(model, optimizer, steps=STEPS * 8 // 10)
    assert optimizer.frozen
    with pytest.warns(UserWarning, match="outputs differ by"):
        small = sc.shrink(model, groups, exact=False)
    after = train(small, refit(optimizer, model, small), steps=STEPS * 2 // 10)
    assert after < before


def test_a_plan_sets_nothing_but_numbers_of_normalisations():
    for attribute in ("training", "epsilon"):
        plan = Plan(norms={"last": {attribute: 2.0}})
        with pytest.raises(ValueError, match=f"sets last.{attribute}, which Stream does not have"):
            cut(stream(), plan)
