"""The command line: what it prints, refuses and leaves behind."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from secateur.commands.main import main
from secateur.train.loggers import flat
from train import mine

MODEL = ["--model", "train.mine:make_model"]
DATA = ["--data", "train.mine:make_data"]
SHAPE = ["--example", "1,1,6,6"]
TRAIN = ["train", *MODEL, *DATA, "--budget", "flops=50%", "--epochs", "3", "--lr", "0.05"]
SOURCE = Path(__file__).parents[2] / "src" / "secateur"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main([*TRAIN, "--out", str(folder)]) == 0
    return folder


def refused(words: list[str], capsys) -> str:
    assert main(words) == 2
    told = capsys.readouterr()
    assert told.out == "" and "Traceback" not in told.err
    assert told.err.startswith("secateur: error: ")
    return told.err


# -- help ---------------------------------------------------------------------------------------

# The command's own module must not import anything heavy; the package around it is left out here.
HELP = f"""
import sys, types
package = types.ModuleType("secateur")
package.__path__ = [{str(SOURCE)!r}]
sys.modules["secateur"] = package
from secateur.commands.main import main
try:
    main(sys.argv[1:])
finally:
    heavy = {{"torch", "numpy", "scipy", "rich", "secateur.groups"}} & set(sys.modules)
    assert not heavy, heavy
"""


COMMANDS = ["train", "sweep", "inspect", "measure", "profile", "export", "compare", "demo"]


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_is_quick_and_imports_nothing_heavy(words):
    start = time.perf_counter()
    told = subprocess.run([sys.executable, "-c", HELP, *words], capture_output=True, text=True)
    assert time.perf_counter() - start < 1
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("usage: secateur")


def test_help_of_train_documents_budget_and_data(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    words = capsys.readouterr().out
    assert "flops=25%" in words and "train_loader, test_loader" in words and "loss(output" in words


# -- train --------------------------------------------------------------------------------------


def test_a_run_leaves_everything_behind(run):
    names = {path.name for path in run.iterdir()}
    expected = {"checkpoint", "metrics.jsonl", "run.json", "report.html"}
    assert names == {*expected, "small.safetensors", "small.onnx"}
    facts = json.loads((run / "run.json").read_text())
    (line,) = facts["asked"]
    assert line["reached"] <= line["asked"] == line["full"] // 2
    assert all(check["holds"] for check in facts["checks"])
    records = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    assert records == [{"step": r["step"], **dict(flat(r))} for r in facts["history"]]
    assert records[-1]["epoch"] == 3
    assert f"{line['reached']:,}" in (run / "report.html").read_text()


def test_a_run_prints_what_was_asked_and_reached(run, capsys):
    assert main([*TRAIN, "--out", str(run), "--resume"]) == 0  # ended: only the finish is redone
    told = capsys.readouterr().out
    reached = json.loads((run / "run.json").read_text())["asked"][0]["reached"]
    assert "Asked and reached" in told and f"{reached:,}" in told and "small / full size" in told


def test_a_folder_with_a_run_is_not_overwritten(run, capsys):
    before = (run / "checkpoint").read_bytes()
    assert "continue it with --resume" in refused([*TRAIN, "--out", str(run)], capsys)
    assert (run / "checkpoint").read_bytes() == before


def test_a_run_with_other_settings_is_not_resumed(run, capsys):
    words = [*TRAIN, "--out", str(run), "--resume", "--seed", "1"]
    assert "seed  then 0, now 1" in refused(words, capsys)


def test_a_damaged_checkpoint_is_refused(run, tmp_path, capsys):
    shutil.copy(run / "checkpoint", tmp_path)
    data = (tmp_path / "checkpoint").read_bytes()
    (tmp_path / "checkpoint").write_bytes(data[:-100])
    assert "is damaged" in refused([*TRAIN, "--out", str(tmp_path), "--resume"], capsys)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--budget", "25"], "25 of what? write MEASURE=AMOUNT"),
        (["--budget", "params=1%"], "can't be reached; with at_least=1"),
        (["--budget", "params=30%", "--budget", "params=9"], "params=9% for a share"),
        (["--kind", "kittens"], "unknown kind 'kittens'; known: filters, neurons"),
        (["--ignore", "7x"], "has no such module"),
        (["--model", "nowhere:Net"], "no module 'nowhere'"),
        (["--data", "train.mine:not_a_model"], "got a int"),
        (["--optimizer", "adam"], "known are sgd, adamw"),
        (["--epochs", "0"], "an integer of 1 or more"),
        (["--freeze", "1.5"], "a share of the run"),
        (["--power", "0"], "a number above 0"),
        (["--checkpoint-every", "soon"], "30s, 5m or 1h"),
        (["--lr", "1e9"], "lower the learning rate"),
        (["--threads", "0"], "--threads 0: 1 or more"),
        (["--resume"], "nothing to resume"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(change, words, tmp_path, capsys):
    told = refused([*TRAIN, "--out", str(tmp_path / "run"), *change], capsys)
    assert words.lower() in told.lower()


def test_traceback_shows_where(tmp_path):
    with pytest.raises(ValueError, match="25 of what"):
        main([*TRAIN, "--out", str(tmp_path), "--budget", "25", "--traceback"])


# -- the other commands -------------------------------------------------------------------------


def test_inspect_says_what_can_be_removed_and_how_small_it_gets(capsys):
    assert main(["inspect", *MODEL, *SHAPE, "--kind", "filters,neurons", "--ignore", "4"]) == 2
    assert "no removable neurons" in capsys.readouterr().err
    assert main(["inspect", *MODEL, *SHAPE, "--ignore", "4"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    # One of 8 filters stays of conv 0; conv 4 keeps its 6.
    least = 9 + 2 + (6 * 9 + 6) + (24 * 2 + 2)
    assert f"parameters {sum(p.numel() for p in mine.make_model().parameters())} {least}" in told
    assert "ignored ('4')" in told


def test_measure_counts_the_full_and_the_small_network(run, capsys):
    assert main(["measure", *MODEL, *SHAPE]) == 0
    full = capsys.readouterr().out
    assert main(["measure", *MODEL, *SHAPE, "--weights", str(run / "small.safetensors")]) == 0
    small = capsys.readouterr().out
    assert full.splitlines()[0] == "parameters   576"
    facts = json.loads((run / "run.json").read_text())["networks"][1]["footprint"]
    assert small.splitlines()[0] == f"parameters   {facts['params']}"
    assert main(["measure", "--weights", str(run / "small.safetensors")]) == 0
    assert f"{facts['bytes']:,} bytes" in capsys.readouterr().out


def test_export_writes_a_file_that_runs(run, tmp_path, capsys):
    path = tmp_path / "small.onnx"
    weights = ["--weights", str(run / "small.safetensors")]
    assert main(["export", *MODEL, *weights, *DATA, "--out", str(path)]) == 0
    from secateur.deploy import run as run_onnx

    assert run_onnx(path, torch.ones(3, 1, 6, 6))[0].shape == (3, 2)
    assert "agrees with the network" in capsys.readouterr().out


def test_export_goes_by_the_suffix_and_leaves_open_what_is_named(run, tmp_path, capsys):
    path = tmp_path / "small.pt2"
    weights = ["--weights", str(run / "small.safetensors")]
    command = ["export", *MODEL, *weights, *DATA, "--out"]
    assert main([*command, str(path), "--dynamic", "none"]) == 0
    from secateur.deploy import run as run_file

    assert run_file(path, torch.ones(1, 1, 6, 6))[0].shape == (1, 2)
    assert main([*command, str(tmp_path / "small.bin")]) != 0
    assert ".tflite (LiteRT)" in capsys.readouterr().err


def test_compare_shows_ratios(run, capsys):
    assert main(["compare", str(run), str(run)]) == 0
    assert "100.0%" in capsys.readouterr().out
    file = str(run / "small.safetensors")
    assert main(["compare", file, file]) == 0
    assert "100.0%" in capsys.readouterr().out
    assert "two runs' folders or two" in refused(["compare", str(run), file], capsys)
    onnx = str(run / "small.onnx")
    assert "not a readable .safetensors" in refused(["compare", file, onnx], capsys)
    assert "no such file or folder" in refused(["compare", file, "nothing"], capsys)


def test_an_example_is_needed_once(capsys):
    assert "say what the inputs look like" in refused(["measure", *MODEL], capsys)
    assert "say what the inputs look like" in refused(["measure", *MODEL, *SHAPE, *DATA], capsys)
    assert "say what to measure" in refused(["measure"], capsys)


# -- profile -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the device is busy", "ignore:the latency table of")
def test_profile_writes_a_table_that_training_goes_by(tmp_path, capsys):
    table = tmp_path / "here.json"
    assert main(["profile", *MODEL, *SHAPE, "--out", str(table)]) == 0
    told = capsys.readouterr().out
    assert "convolution" in told and f"{table}: off by" in told
    facts = json.loads(table.read_text())
    assert facts["format"] == "secateur latency table" and facts["example"] == ["float32 1x1x6x6"]
    facts["machine"]["processor"] = "A Phone, 8 cores"
    facts["layers"][1]["seconds"] = [0.0, 0.0, 0.0, 1e-3]  # one layer decides: width times width
    facts["offset"], facts["scales"] = 0.0, dict.fromkeys(facts["scales"], 1.0)
    table.write_text(json.dumps(facts))
    words = [*TRAIN[:5], "--budget", "latency=1ms", "--epochs", "1", "--out", str(tmp_path / "run")]
    assert main([*words, "--latency-table", str(table)]) == 2
    assert "the whole network has only" in capsys.readouterr().err
    facts["networks"][0]["seconds"] = 0.002
    table.write_text(json.dumps(facts))
    assert main([*words, "--latency-table", str(table)]) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    (line,) = run["asked"]
    assert line["reached"] <= line["asked"] == 0.001
    assert line["note"] == "by the table of A Phone, 8 cores"


def test_profile_refuses_a_folder_that_is_not_there(tmp_path, capsys):
    words = ["profile", *MODEL, *SHAPE, "--out", str(tmp_path / "no" / "x.json")]
    assert "there is no folder" in refused(words, capsys)
