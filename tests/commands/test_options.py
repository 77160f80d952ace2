"""The options of a run are the fields of its dataclasses: names, types and defaults."""

from __future__ import annotations

from dataclasses import fields

from secateur.commands.main import parser
from secateur.commands.options import fill
from secateur.train.settings import Resources, Settings

NEEDED = ["--model", "m:f", "--data", "d:f", "--epochs", "3", "--out", "run"]
GIVEN: dict[str, object] = {
    "model": "m:f",
    "data": "d:f",
    "budget": ("flops=50%,25%", "params=1M"),
    "epochs": 3,
    "lr": 0.05,
    "batch_size": 8,
    "per_layer": True,
    "ignore": ("head", "stem.0"),
    "importance": "0.5",
    "geometry": "optimizer",
    "latency_table": "phone.json",
    "distill_weight": 0.25,
}


def words(given: dict[str, object]) -> list[str]:
    """Options as one writes them."""
    found = []
    for name, value in given.items():
        values = value if isinstance(value, tuple) else () if value is True else (value,)
        found += [f"--{name.replace('_', '-')}", *map(str, values)]
    return found


def test_train_s_options_are_the_settings() -> None:
    options = parser().parse_args(["train", "--out", "run", *words(GIVEN)])
    assert fill(Settings, options) == Settings(**GIVEN)  # pyright: ignore
    bare = parser().parse_args(["train", *NEEDED, "--budget", "flops=50%"])
    assert fill(Settings, bare) == Settings("m:f", "d:f", ("flops=50%",), 3)


def test_a_list_goes_on_where_its_option_is_repeated() -> None:
    twice = ["--budget", "flops=50%", "--budget", "params=1M", "--ignore", "a", "--ignore", "b"]
    found = fill(Settings, parser().parse_args(["train", *NEEDED, *twice]))
    assert (found.budget, found.ignore) == (("flops=50%", "params=1M"), ("a", "b"))


def test_a_sweep_has_all_but_budget_and_seed_and_what_each_run_gets() -> None:
    more = ["--budgets", "flops=50%", "--cpus", "4", "--gpus", "0.5", "--device", "cuda"]
    options = parser().parse_args(["sweep", *NEEDED, *more])
    assert {f.name for f in fields(Settings)} - set(vars(options)) == {"budget", "seed"}
    assert fill(Settings, options, budget=(), seed=0) == Settings("m:f", "d:f", (), 3)
    assert fill(Resources, options) == Resources(4, 0.5, "cuda")
