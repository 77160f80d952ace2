"""Runs with several budgets: a network for each, written down, and resumable in between."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import secateur as sc
from secateur.report import Run
from secateur.train.loop import Interrupted
from secateur.train.run import cosine, train
from secateur.train.settings import Settings
from train import mine

SETTINGS = Settings(
    model="train.mine:make_model",
    data="train.mine:make_data",
    budget=("flops=70%,50%,30%",),
    epochs=4,
    lr=0.05,
)
FOLDERS = ("network-1", "network-2", "")


def state(folder: Path) -> dict[str, torch.Tensor]:
    small = sc.load(folder / "small.safetensors", model=mine.make_model())
    return small.state_dict()


def test_every_network_of_a_frontier_is_written_down(tmp_path: Path) -> None:
    run = train(SETTINGS, tmp_path)
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
def test_a_frontier_resumes_between_its_networks(tmp_path: Path, at: int, monkeypatch) -> None:
    """Stopped before, at, and after the end of a stage (48 steps in all; 24, 36, 48)."""
    from secateur.train import loop

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(SETTINGS, whole)

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
        one, other = state(whole / name), state(parts / name)
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
