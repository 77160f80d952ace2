"""Runs with several budgets: a network for each, written down, and resumable in between."""

import json
import math
import os
import stat
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import secateur as sc
from secateur.report import Run
from secateur.train import checkpoint
from secateur.train import run as whole_run
from secateur.train.loop import Interrupted
from secateur.train.run import cosine
from secateur.train.settings import Settings
from secateur.utils.lock import FolderInUse, Lock
from train import mine

SETTINGS = Settings(
    model="train.mine:make_model",
    data="train.mine:make_data",
    budget=("flops=70%,50%,30%",),
    epochs=4,
    lr=0.05,
)
FOLDERS = ("network-1", "network-2", "")
train = partial(whole_run.train, to_onnx=False)


def state(folder: Path) -> dict[str, torch.Tensor]:
    small = sc.load(folder / "small.safetensors", model=mine.make_model())
    return small.state_dict()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A frontier in one go."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(SETTINGS, folder)  # pyright: ignore


def test_every_network_of_a_frontier_is_written_down(whole: tuple[Path, Run]) -> None:
    tmp_path, run = whole
    assert [line.asked / line.full for p in run.frontier for line in p.lines] == pytest.approx(
        [0.7, 0.5, 0.3], abs=1e-3
    )
    example = torch.ones(1, 1, 6, 6)
    for name, point in zip(FOLDERS, run.frontier, strict=True):
        small = sc.load(tmp_path / name / "small.safetensors", model=mine.make_model())
        facts = Run.read(tmp_path / name / "run.json")
        assert point.lines == facts.asked
        assert point.lines[0].holds
        assert point.lines[0].reached == sc.measure(small, example, latency=False).flops
        assert point.score == facts.networks[-1].score
    page = (tmp_path / "report.html").read_text()
    assert "The frontier" in page
    assert "The frontier" not in (tmp_path / "network-1" / "report.html").read_text()
    assert Run.read(tmp_path / "run.json") == run


@pytest.mark.parametrize("at", [20, 25, 40])
def test_a_frontier_resumes_between_its_networks(
    tmp_path: Path, at: int, monkeypatch, whole: tuple[Path, Run]
) -> None:
    """Stopped before, at, and after the end of a stage (48 steps in all; 24, 36, 48)."""
    from secateur.train import loop

    parts = tmp_path / "parts"

    def stop(self, signals) -> None:
        if self.step == at:
            self.save()
            raise Interrupted(15, self.step, self.steps, self.path)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_pause", stop)
        with pytest.raises(Interrupted):
            train(SETTINGS, parts)
    train(SETTINGS, parts, resume=True)
    for name in FOLDERS:
        one, other = state(whole[0] / name), state(parts / name)
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_widths_in_multiples_and_layer_by_layer(tmp_path: Path) -> None:
    settings = replace(SETTINGS, budget=("flops=60%",), epochs=1, multiple_of=2, per_layer=True)
    run = train(settings, tmp_path)
    assert run.asked[0].holds
    assert [width.kept % 2 for width in run.widths] == [0, 0]


def test_the_rate_falls_along_a_cosine_in_every_stage() -> None:
    factor = cosine(sc.Homotopy(40, stages=3))
    assert [factor(step) for step in (0, 10, 20, 25, 30, 40)] == pytest.approx(
        [1, 0.5, 0.5, 0.25, 0.5, 0], abs=1e-12
    )
    assert factor(19) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.95)))
    alone = cosine(sc.Homotopy(40))
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(
        torch.optim.SGD([torch.zeros(1)], 1.0), 40
    )
    for step in range(40):
        assert alone(step) == pytest.approx(reference.get_last_lr()[0], abs=1e-9)
        reference.optimizer.step()
        reference.step()


def test_the_geometry_is_the_optimizer_s_where_asked(tmp_path: Path) -> None:
    settings = replace(SETTINGS, budget=("flops=60%",), epochs=1, optimizer="adamw", lr=None)
    run = train(replace(settings, geometry="optimizer"), tmp_path / "adamw")
    assert run.asked[0].holds
    with pytest.raises(ValueError, match="geometry"):
        train(replace(settings, optimizer="sgd", geometry="optimizer"), tmp_path / "sgd")


@dataclass
class Scored:
    """The data, with a metric of one's own and losses that overflow while testing."""

    score: Any
    train_loader, test_loader = mine.make_data()

    def metric(self, output: torch.Tensor, target: torch.Tensor) -> float:
        return self.score() if callable(self.score) else self.score

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss = torch.nn.functional.cross_entropy(output, target)
        return loss if output.requires_grad else loss * math.inf


TWO = replace(SETTINGS, budget=("flops=70%,50%",), epochs=2)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_scores_that_are_no_numbers_end_no_run(tmp_path: Path, score, monkeypatch) -> None:
    monkeypatch.setattr(mine, "make_data", lambda: Scored(score))
    run = train(TWO, tmp_path)
    for folder in (tmp_path / "network-1", tmp_path):
        assert repr(Run.read(folder / "run.json").networks[-1].score) == repr(score)
        assert "points are not finite" in (folder / "report.html").read_text()
    assert run is not None and len(run.frontier) == 2


@pytest.mark.parametrize("at", [1, 2])
def test_a_metric_that_fails_costs_no_training(tmp_path: Path, at: int, monkeypatch) -> None:
    """At the first network of two, and after the first epoch."""
    calls = iter(range(99))

    def score() -> float:
        if next(calls) == (0 if at == 1 else 2):
            raise ZeroDivisionError("no positives")
        return 0.5

    steps = []
    settings = replace(TWO, epochs=4) if at == 1 else replace(TWO, budget=("flops=50%",))
    monkeypatch.setattr(mine, "make_data", lambda: Scored(score))
    with pytest.raises(ZeroDivisionError):
        train(settings, tmp_path, watch=lambda what, done, *_: steps.append(done))
    saved = checkpoint.read(tmp_path / "checkpoint")["place"][-1]
    assert saved == max(steps) > 0 and not (tmp_path / "lock").exists()
    run = train(settings, tmp_path, resume=True)
    assert run is not None and run.networks[-1].score == 0.5
    assert settings.epochs == 2 or (tmp_path / "network-1" / "run.json").exists()


def test_a_report_that_cannot_be_drawn_is_said_and_ends_nothing(
    tmp_path: Path, monkeypatch
) -> None:
    def fails(run: Run, path: Path) -> None:
        raise OverflowError("too far")

    told: list[str] = []
    monkeypatch.setattr("secateur.train.run.html", fails)
    run = train(TWO, tmp_path, watch=lambda *what: told.append(str(what)))
    assert run == Run.read(tmp_path / "run.json")
    said = [words for words in told if "report.html could not be written: OverflowError" in words]
    assert len(said) == 2 and all("warning" in words for words in said)


def test_one_run_a_folder(tmp_path: Path) -> None:
    def meanwhile(what: str, done: int, *_: object) -> None:
        if done == 10:
            assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
            (tmp_path / "lock").write_text('{"host": "far", "pid": 3}')

    for resume in (False, True):
        with Lock(tmp_path), pytest.raises(FolderInUse, match="in use by process"):
            train(TWO, tmp_path, resume=resume)
    with pytest.raises(FolderInUse, match="process 3 on far took it over"):
        train(TWO, tmp_path, watch=meanwhile)
    assert not (tmp_path / "checkpoint").exists()


def test_files_have_the_modes_that_the_user_asks_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        train(TWO, tmp_path / "run", to_onnx=True)
    finally:
        os.umask(before)
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*.*")}
    assert {"small.safetensors", "small.onnx", "run.json", "report.html"} < set(files)
    files["checkpoint"] = stat.S_IMODE((tmp_path / "run" / "checkpoint").stat().st_mode)
    assert set(files.values()) == {0o640}
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o750
