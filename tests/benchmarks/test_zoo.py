"""The zoo's runner: what it writes is true of small models, and one crash ends one line only."""

from __future__ import annotations

import importlib
import os

import pytest
import torch
from torch import nn

import runs
from zoo import check, entry, table

NAMES = (
    "LeNet", "ResNet-20", "DenseNet", "YOLO with C2f", "U-Net", "LSTM tagger", "LISTA",
    "GCN, dense adjacency",
)  # fmt: skip


@pytest.fixture(scope="module")
def zoo():
    for name in ("classics", "residual", "pixels", "sequences", "mixed"):
        importlib.import_module(f"zoo.{name}")
    return entry.ZOO


@pytest.mark.parametrize("name", NAMES)
def test_small_models_shrink_exactly_and_equal(zoo, name):
    line = check.check(zoo[name], export=False)
    assert sum(line["kinds"].values()) > 0
    for budget in line["budgets"]:
        assert budget["exact"] and not budget["floor"]
        assert budget["reached"] <= budget["asked"]
        assert budget["difference"] <= 1e-5
        assert budget["loads"]
        assert budget["stayed"] == []
    assert table.is_right(line)


def test_a_crash_ends_its_own_line_and_finished_models_are_skipped(zoo, tmp_path, monkeypatch):
    main = importlib.import_module("zoo.__main__")

    def absent() -> nn.Module:
        raise entry.Missing("no network")

    models = {
        "absent": entry.Entry("absent", "mixed", absent, torch.Tensor),
        "crash": entry.Entry("crash", "mixed", lambda: os._exit(3), torch.Tensor),
        "error": entry.Entry("error", "mixed", lambda: nn.Linear("a", 2), torch.Tensor),
        "LISTA": zoo["LISTA"],
    }
    monkeypatch.setattr(main, "everything", lambda: models)
    result, page = tmp_path / "zoo.jsonl", tmp_path / "zoo.md"
    main.run([], result, export=False)
    lines = {line["name"]: line for line in runs.read(result)}
    assert list(lines) == ["absent", "crash", "error", "LISTA"]
    assert lines["absent"]["skipped"] == "no network"
    assert lines["crash"]["error"] == "its process ended"
    assert "TypeError" in lines["error"]["error"]
    assert table.is_right(lines["LISTA"])
    before = result.read_text()
    main.run([], result, export=False)
    assert result.read_text() == before
    table.write(result, page)
    written = page.read_text()
    assert "1 of 3 architectures shrink" in written
    assert "Failed: crash, error" in written
    assert "Skipped: absent" in written and "**absent** was skipped: no network" in written


def test_kinds_that_share_parameters_are_removed_in_a_run_of_their_own(zoo):
    line = check.check(zoo["ResNet-20"], export=False)
    assert line["kinds"] == {"filters": 224, "depth": 9}
    assert line["alone"] == {"depth": pytest.approx(0, abs=1e-5)}
    assert table.is_right(line)
    assert not table.is_right(line | {"alone": {"depth": 1e-3}})
