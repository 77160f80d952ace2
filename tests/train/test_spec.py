"""Words of the command line: understood, or answered with what to write."""

import pytest
import torch

import secateur as sc
from secateur.budget.words import parse_budgets
from secateur.train import spec
from train import mine


@pytest.mark.parametrize(
    ("texts", "amounts"),
    [
        (["flops=25%"], {"flops": 0.25}),
        (["flops=0.25"], {"flops": 0.25}),
        (["flops=12.5 %"], {"flops": 0.125}),
        (["flops=120M"], {"flops": 120_000_000}),
        (["params=1.5M"], {"params": 1_500_000}),
        (["params=1e6"], {"params": 1_000_000}),
        (["bytes=2MiB"], {"bytes": 2 * 1024**2}),
        (["bytes=3KiB"], {"bytes": 3072}),
        (["bytes=2MB"], {"bytes": 2_000_000}),
        (["groups=60"], {"groups": 60}),
        (["memory=2MiB"], {"memory": 2 * 1024**2}),
        (["memory=30%"], {"memory": 0.3}),
        (["latency=3ms"], {"latency": sc.LatencyTarget("3ms")}),
        (["latency=800us,flops=50%"], {"latency": sc.LatencyTarget("800us"), "flops": 0.5}),
        (["latency=60%"], {"latency": sc.LatencyTarget(0.6)}),
        (["groups=1"], {"groups": 1}),
        (["flops=1.0"], {"flops": 1.0}),
        (["flops=25%,params=40%"], {"flops": 0.25, "params": 0.4}),
        (["flops=25%", "groups=7"], {"flops": 0.25, "groups": 7}),
        (["flops=25%", "flops=1M"], {"flops": (0.25, 1_000_000)}),
        (["FLOPs=25%"], {"flops": 0.25}),
    ],
)
def test_budgets_are_read(texts, amounts):
    assert parse_budgets(texts) == (sc.Budget(**amounts),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("25", "25 of what.* write MEASURE=AMOUNT"),
        ("25%", "25% of what"),
        ("speed=3", "unknown measure 'speed'; measures are groups, flops, params, bytes"),
        ("flops=25", "write flops=25% for a share"),
        ("latency=3", "can't read '3'; write a share such as 50% .* such as 3ms"),
        ("latency=0ms", "can't read '0ms'"),
        ("latency=3 parsecs", "such as 3ms or 800us"),
        ("memory=2M", "unknown unit 'M'; known for memory: .*MiB"),
        ("flops=120Q", "unknown unit 'Q'; known for flops: %, k, M, G, T"),
        ("bytes=2M", "unknown unit 'M'; known for bytes: .*MiB"),
        ("flops=1.7", r"lies in \(0, 1\]"),
        ("flops=0%", "above 0%"),
        ("flops=130%", "up to 100%"),
        ("flops=-3", "can't read '-3'; write a share"),
        ("flops=", "can't read ''"),
        ("flops=1e9999999999", "can't read '1e9999999999'; write a share"),
        ("flops=25%,flops=30%", "given 2 times"),
    ],
)
def test_what_is_no_budget_is_answered_with_what_to_write(text, words):
    with pytest.raises(ValueError, match=words):
        parse_budgets([text])


@pytest.mark.parametrize(
    ("texts", "budgets"),
    [
        (["flops=50%,25%,10%"], [{"flops": 0.5}, {"flops": 0.25}, {"flops": 0.1}]),
        (["groups=60,30"], [{"groups": 60}, {"groups": 30}]),
        (
            ["flops=50%,25%", "bytes=2MiB"],
            [{"flops": 0.5, "bytes": 2 * 1024**2}, {"flops": 0.25, "bytes": 2 * 1024**2}],
        ),
        (
            ["flops=50%,25%,params=60%,30%"],
            [{"flops": 0.5, "params": 0.6}, {"flops": 0.25, "params": 0.3}],
        ),
    ],
)
def test_several_amounts_are_several_budgets(texts, budgets):
    found = parse_budgets(texts, multiple_of=8, per_layer=True)
    assert found == tuple(sc.Budget(**b, multiple_of=8, per_layer=True) for b in budgets)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["flops=50%,25%,params=30%,20%,10%"], "2 of flops, 3 of params; give every measure"),
        (["flops=50%,groups"], "groups of what"),
        (["25%,flops=50%"], "25% of what"),
        (["flops=50%,25"], "write flops=25% for a share"),
    ],
)
def test_budgets_that_make_no_list_are_refused(texts, words):
    with pytest.raises(ValueError, match=words):
        parse_budgets(texts)


def test_a_pair_that_disagrees_is_refused_by_the_budget():
    model = mine.make_model()
    groups = sc.filters(model, torch.ones(1, 1, 6, 6))
    (budget,) = parse_budgets(["params=50%", "params=500"])
    with pytest.raises(ValueError, match="give one of the two"):
        budget.on(groups)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train.mine", "write PACKAGE.MODULE:NAME"),
        ("integrations.yours:make_model", "no module 'integrations.yours'"),
        ("train.mine:make_modle", "has no 'make_modle'; it has .*make_model"),
        ("train.mine:__doc__", "expected a function or class"),
        ("train.mine:fails", r"calling it with \(\) failed: KeyError: 'weights.pt'"),
        ("train.mine:not_a_model", "returned a int, not an nn.Module"),
    ],
)
def test_factories_that_do_not_work_are_named(text, words):
    with pytest.raises(ValueError, match=words):
        spec.make_model(text)


def test_a_module_that_misses_another_says_which(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import no_such_package")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="needs_more needs 'no_such_package'"):
        spec.resolve("needs_more:make_model", "--model")


def test_kinds_compose_and_unknown_ones_are_listed():
    model, example = mine.make_model(), torch.ones(1, 1, 6, 6)
    kinds = [layer.kind for layer in spec.make_groups(model, example, "filters").layers]
    assert set(kinds) == {"filters"}
    with pytest.raises(ValueError, match="unknown kind 'filter'; known: filters, neurons"):
        spec.make_groups(model, example, "filter")


def test_examples_are_shapes():
    image, tokens = spec.parse_example(["1,3,8,8", "1,16:int64"])
    assert image.shape == (1, 3, 8, 8) and image.std() > 0.5
    assert tokens.dtype == torch.int64 and not tokens.any()
    for text in ("1x3", "1,3:int65", ""):
        with pytest.raises(ValueError, match="write a shape"):
            spec.parse_example([text])


def test_intervals_are_times_or_steps():
    assert spec.parse_interval("2h") == {"seconds": 7200.0}
    for text in ("0", "5 minutes", "-3", "1.5m"):
        with pytest.raises(ValueError, match="30s, 5m or 1h, or a number of steps"):
            spec.parse_interval(text)


def test_optimizers_have_their_usual_rates():
    model = mine.make_model()
    sgd = spec.make_optimizer(model, "sgd", None, None, 0.8)
    assert sgd.defaults["lr"] == 0.1 and sgd.defaults["momentum"] == 0.8
    assert spec.make_optimizer(model, "adamw", None, 0.3, 0.9).defaults["weight_decay"] == 0.3
    with pytest.raises(ValueError, match="known are sgd, adamw"):
        spec.make_optimizer(model, "lion", None, None, 0.9)


def test_a_latency_is_given_its_runtime_and_table():
    (budget,) = parse_budgets(["latency=3ms"], runtime="torch", table="phone.json")
    assert budget.latency == sc.LatencyTarget("3ms", runtime="torch", table="phone.json")
    with pytest.raises(ValueError, match="go with a budget on latency="):
        parse_budgets(["flops=50%"], runtime="torch")
