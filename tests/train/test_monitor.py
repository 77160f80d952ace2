"""What is watched in a run: the figures are the optimizer's, and every way out shows them."""

import json
import math
from pathlib import Path

import pytest
import torch
from markupsafe import escape

import secateur as sc
from secateur.commands.main import main
from secateur.report import Run
from secateur.train import Data, Loop
from secateur.train.data import cross_entropy
from secateur.train.records import baseline_loss, due, widths
from secateur.utils.rng import seed_all
from train import digits, test_loggers

WORDS = ["train", "--model", "train.digits:make_model"]
WORDS += ["--data", "train.digits:make_data", "--lr", "0.05", "--no-export"]


def make_loop(epochs: int = 10, **options) -> Loop:
    seed_all(0, -1)
    model, data = digits.make_model(), Data(*digits.make_data())
    steps = epochs * len(data.train_loader)
    groups = sc.filters(model, data.example())
    optimizer = sc.Proximal(
        torch.optim.SGD(model.parameters(), 0.05, momentum=0.9),
        groups,
        sc.Budget(flops=0.5, params=0.8),
        steps=steps,
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return Loop(model, optimizer, data, epochs=epochs, scheduler=scheduler, **options)


@pytest.fixture(scope="module")
def loop() -> Loop:
    loop = make_loop()
    loop.run()
    return loop


def test_asked_and_spent_meet_when_the_groups_are_chosen(loop):
    steps = [record for record in loop.history if "hardness" in record]
    assert all(r["asked"] == pytest.approx({"flops": 0.5, "params": 0.8}, abs=1e-3) for r in steps)
    assert steps[0]["spent"]["flops"] == 1
    assert all(
        r["spent"]["flops"] <= 0.5 and "threshold" not in r for r in steps if r["hardness"] == 1
    )
    assert all(r["threshold"] > 0 for r in steps[20:80])  # the budget presses, nothing is chosen


def test_widths_over_time_end_where_the_network_does(loop):
    seen = [record["widths"] for record in loop.history if "widths" in record]
    assert 40 <= len(seen) <= 110
    assert seen[0] == {"0": 16, "3": 16}
    small = sc.shrink(loop.model, loop.optimizer.groups)
    assert seen[-1] == {"0": small[0].out_channels, "3": small[3].out_channels}
    assert all(sum(r["widths"].values()) == r["kept"] for r in loop.history if "widths" in r)


def test_stationarity_is_that_of_the_optimizer_and_seldom(monkeypatch):
    loop, found = make_loop(), {}
    original = sc.Proximal.stationarity

    def noted(self):
        found[self.steps_taken] = original(self)
        return found[self.steps_taken]

    monkeypatch.setattr(sc.Proximal, "stationarity", noted)
    loop.run()
    records = {r["step"]: r["stationarity"] for r in loop.history if "stationarity" in r}
    assert records == found and list(records) == [200, 210]
    assert all(value > 0 for value in records.values())


def test_a_warm_up_from_zero_has_no_stationarity():
    loop = make_loop(1)
    loop.scheduler = torch.optim.lr_scheduler.LambdaLR(loop.optimizer, lambda step: 0.0)
    with pytest.warns(UserWarning, match="no better than that of outputs of zero"):
        loop.run()
    assert not [record for record in loop.history if "stationarity" in record]


@pytest.mark.parametrize("steps", [1, 48, 399, 400, 1700, 100_000])
def test_a_history_has_about_as_many_records_whatever_the_run(steps):
    found = [step for step in range(1, steps + 1) if due(step, steps)]
    assert found[-1] == steps and min(steps, 400) <= len(found) <= 800
    seldom = [step for step in range(1, steps + 1) if due(step, steps, apart=100)]
    assert set(seldom) <= set(found) and len(seldom) <= steps // 100 + 1


def test_the_baseline_loss_is_that_of_zeros_in_the_output_s_own_type():
    def loss_of(output):
        return cross_entropy(output, torch.tensor([0, 1, 2]))

    found = baseline_loss(loss_of, {"logits": torch.randn(3, 4), "hidden": None})
    assert found == pytest.approx(math.log(4))
    assert baseline_loss(loss_of, "no logits") is None
    assert baseline_loss(lambda output: output.sum().log(), torch.ones(3)) is None


def test_layers_of_one_module_are_told_apart_by_kind():
    model = digits.make_model()
    groups = sc.filters(model, torch.ones(1, 1, 8, 8), ignore=["3"])
    groups = groups + sc.shapes(model, torch.ones(1, 1, 8, 8), ignore=["0"])
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    optimizer = sc.Proximal(sgd, groups, sc.Budget(groups=0.5), steps=10)
    assert sum(widths(optimizer).values()) == len(groups)


# -- through the command --------------------------------------------------------------------------


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_command_logs_to_tensorboard_and_to_a_logger_of_one_s_own(tmp_path):
    log = ["--log", "tensorboard", "--log", "train.test_loggers:Kept"]
    words = [*WORDS, "--budget", "flops=50%", "--epochs", "2", "--out", str(tmp_path), *log]
    assert main(words) == 0
    written, curves = lines(tmp_path), test_loggers.curves(tmp_path / "tensorboard")
    for name in ("loss", "lr", "kept", "hardness", "spent/flops", "asked/flops", "widths/0"):
        expected = [(r["step"], r[name]) for r in written if name in r]
        assert curves[name] == [(step, pytest.approx(value)) for step, value in expected], name
        assert [(s, m[name]) for s, m in test_loggers.Kept.seen[1:-1] if name in m] == expected
    assert test_loggers.Kept.seen[0][1]["epochs"] == 2
    assert test_loggers.Kept.seen[-1] == ("end", "success")


def test_the_command_refuses_a_logger_it_does_not_know(tmp_path, capsys):
    words = [*WORDS, "--budget", "flops=50%", "--epochs", "1", "--out", str(tmp_path)]
    assert main([*words, "--log", "none"]) == 2
    told = capsys.readouterr().err
    assert "--log none: write" in told and "tensorboard" in told and "MODULE:FACTORY" in told
    assert not list(tmp_path.iterdir())


def test_a_warning_reaches_the_console_the_log_and_the_report(tmp_path, capsys):
    words = [*WORDS, "--budget", "flops=25%", "--epochs", "8", "--lr", "2", "--out", str(tmp_path)]
    assert main([*words, "--log", "tensorboard"]) == 0
    told = capsys.readouterr().err
    assert told.startswith("secateur: warning: step ") and told.count("\n") == 1
    warning = told.removeprefix("secateur: warning: ").strip()
    assert [record["warning"] for record in lines(tmp_path) if "warning" in record] == [warning]
    assert [r["warning"] for r in Run.read(tmp_path / "run.json").history if "warning" in r]
    assert warning in test_loggers.texts(tmp_path / "tensorboard")
    page = (tmp_path / "report.html").read_text()
    assert "Early warnings" in page and escape(warning.partition(": ")[2]) in page
