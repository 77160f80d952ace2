"""The demo, as a visitor runs it."""

import json
import subprocess
import sys
import time


def test_the_demo_keeps_its_promises(tmp_path):
    start = time.monotonic()
    told = subprocess.run(
        [sys.executable, "-m", "secateur.commands.main", "demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0 and told.stderr == ""
    assert time.monotonic() - start < 120
    assert {p.name for p in tmp_path.iterdir()} == {"report.html", "secateur-demo"}
    folder = tmp_path / "secateur-demo"
    assert {p.name for p in folder.iterdir()} == {"small.safetensors", "small.onnx", "run.json"}
    facts = json.loads((folder / "run.json").read_text())
    (line,) = facts["asked"]
    assert 0.97 * line["asked"] < line["reached"] <= line["asked"]
    dense, small = facts["networks"]
    assert dense["score"] > 0.97 and small["score"] > 0.96
    assert len(facts["checks"]) == 4 and all(check["holds"] for check in facts["checks"])
    assert f"{line['reached']:,}" in told.stdout and "Asked and reached" in told.stdout
