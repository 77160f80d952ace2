"""Distillation: the loss is the formula's, teachers stay as they are, runs resume bit for bit."""

import copy
import json
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

import secateur as sc
from secateur.commands.main import main
from secateur.report import Run
from secateur.train import CheckpointError, Data, Distill, Interrupted, Loop, run
from secateur.train.distill import examine, fingerprint, make_teacher
from secateur.train.loop import test as score
from secateur.train.settings import Settings
from train import digits

FACTORY = "train.digits:make_model"
WORDS = ["train", "--model", FACTORY, "--data", "train.digits:make_data"]
WORDS += ["--budget", "flops=50%", "--epochs", "2", "--lr", "0.05", "--no-export"]


def taught() -> nn.Module:
    """The digits' network, trained: a teacher's factory."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model, data = digits.make_model(), Data(*digits.make_data())
        sgd = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        Loop(model, sgd, data, epochs=2).run()
    return model.eval()


def untaught() -> nn.Module:
    return digits.make_model()


def nothing() -> int:
    return 3


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    return taught()


@pytest.fixture(scope="module")
def weights(teacher, tmp_path_factory) -> Path:
    return sc.save(teacher, tmp_path_factory.mktemp("teacher") / "dense.safetensors")


# -- the loss -----------------------------------------------------------------------------------


def expected(student, told, temperature, weight, loss):
    """The definition, from probabilities, in float64."""
    p = (told.double() / temperature).softmax(1)
    q = (student.double() / temperature).softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    return (1 - weight) * loss.double() + weight * temperature**2 * divergence


@pytest.mark.parametrize(("temperature", "weight"), [(2.0, 0.5), (1.0, 1.0), (7.0, 0.1)])
def test_the_loss_is_that_of_the_formula(temperature, weight):
    told, student = torch.randn(6, 5), torch.randn(6, 5, requires_grad=True)
    distill = Distill(nn.Identity(), temperature=temperature, weight=weight)
    loss = functional.cross_entropy(student, torch.arange(5).repeat(2)[:6])
    found = distill(loss, student, told).detach()
    exact = expected(student.detach(), told, temperature, weight, loss.detach())
    assert float(found) == pytest.approx(float(exact))


def test_the_gradient_s_scale_does_not_depend_on_the_temperature():
    told, sizes = torch.randn(32, 10), []
    for temperature in (5.0, 50.0):
        student = torch.zeros(32, 10, requires_grad=True)
        Distill(nn.Identity(), temperature=temperature, weight=1.0)(
            torch.zeros(()), student, told
        ).backward()
        sizes.append(float(student.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def test_agreement_costs_nothing_and_pulls_nowhere():
    student = torch.randn(4, 3, requires_grad=True)
    Distill(nn.Identity(), weight=1.0)(torch.zeros(()), student, student.detach()).backward()
    assert torch.allclose(student.grad, torch.zeros(4, 3), atol=1e-7)


def test_positions_are_rows_and_classes_are_where_they_are_said_to_be():
    told, student = torch.randn(2, 7, 5), torch.randn(2, 7, 5)
    last = Distill(nn.Identity(), dim=-1).distance(student, told)
    rows = Distill(nn.Identity()).distance(student.reshape(14, 5), told.reshape(14, 5))
    assert torch.allclose(last, rows)
    second = Distill(nn.Identity(), dim=1).distance(student.mT, told.mT)
    assert torch.allclose(second, rows)
    with pytest.raises(ValueError, match=r"logits of shape \(2, 7, 5\): where are the classes"):
        Distill(nn.Identity()).distance(student, told)


def test_outputs_with_logits_and_inputs_by_name():
    class Named(nn.Module):
        def forward(self, *, loss, output):
            return SimpleNamespace(logits=loss + output)

    one, other = torch.randn(3, 4), torch.randn(3, 4)
    student = SimpleNamespace(logits=torch.randn(3, 4))
    found = Distill(Named(), weight=1.0)(torch.zeros(()), student, loss=one, output=other)
    assert torch.equal(found, Distill(nn.Identity()).distance(student.logits, one + other))


def test_low_precision_is_widened():
    told, student = torch.randn(4, 1000), torch.randn(4, 1000)
    exact = Distill(nn.Identity()).distance(student.bfloat16().double(), told.bfloat16().double())
    found = Distill(nn.Identity()).distance(student.bfloat16(), told.bfloat16())
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(exact), rel=1e-5)


def test_a_teacher_is_asked_in_eval_mode_and_stays_as_it_is(teacher):
    teacher = copy.deepcopy(teacher).train()
    before = copy.deepcopy(teacher.state_dict())
    student = digits.make_model()
    images = torch.rand(8, 1, 8, 8)
    loss = Distill(teacher, weight=1.0)(torch.zeros(()), student(images), images)
    loss.backward()
    with torch.no_grad():
        told = teacher.eval()(images)
    assert torch.allclose(loss, Distill(nn.Identity()).distance(student(images), told))
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_copy_of_the_start_teaches_and_the_student_moves_away(teacher):
    student = copy.deepcopy(teacher)
    distill = Distill.start(student, temperature=3.0)
    with torch.no_grad():
        student[0].weight.zero_()
    assert torch.equal(distill.teacher[0].weight, teacher[0].weight)
    assert distill.temperature == 3.0 and distill.weight == 0.5
    assert not any(p.requires_grad for p in distill.teacher.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0}, "temperature=0: a number above 0"),
        ({"temperature": float("nan")}, "temperature=nan: a number above 0"),
        ({"weight": 0}, r"weight=0: the teacher's share of the loss lies in \(0, 1\]"),
        ({"weight": 1.5}, r"weight=1.5: the teacher's share"),
    ],
)
def test_what_is_out_of_bounds_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Distill(nn.Identity(), **options)


def test_other_classes_are_refused():
    with pytest.raises(ValueError, match=r"student  \(2, 3\)\n  teacher  \(2, 4\)"):
        Distill(nn.Identity())(torch.zeros(()), torch.ones(2, 3), torch.ones(2, 4))


# -- teachers -----------------------------------------------------------------------------------


def test_files_of_every_kind_hold_a_teacher(teacher, weights, tmp_path):
    save_file(teacher.state_dict(), tmp_path / "plain.safetensors")
    torch.save(teacher.state_dict(), tmp_path / "plain.pt")
    for path in (weights, tmp_path / "plain.safetensors", tmp_path / "plain.pt"):
        found = make_teacher(str(path), digits.make_model(), FACTORY)
        assert fingerprint(found) == fingerprint(teacher)
        assert not found.training and not any(p.requires_grad for p in found.parameters())


def test_a_fingerprint_is_of_every_number():
    model = nn.Sequential(nn.Linear(2, 2).bfloat16(), nn.BatchNorm1d(2))
    before = fingerprint(model)
    assert fingerprint(copy.deepcopy(model)) == before
    model[1].running_mean[1] += 1e-6
    assert fingerprint(model) != before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nowhere.pt", "no such file; name a file of weights"),
        (f"{__name__}:nothing", "returned a int, not an nn.Module"),
    ],
)
def test_what_is_no_teacher_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        make_teacher(words, digits.make_model(), FACTORY)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    (tmp_path / "bytes.pt").write_bytes(b"nothing of the kind")
    save_file({"weight": torch.ones(2)}, tmp_path / "other.safetensors")
    for name in ("other.pt", "bytes.pt", "other.safetensors"):
        with pytest.raises(ValueError, match="no weights of this Sequential"):
            make_teacher(str(tmp_path / name), digits.make_model(), FACTORY)


def test_an_untrained_teacher_is_refused(teacher):
    data = Data(*digits.make_data())
    assert examine(teacher, data) == score(teacher, data)
    with pytest.raises(ValueError, match="no better than that of outputs of zero"):
        examine(untaught(), data)


# -- through the command ------------------------------------------------------------------------


def history(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_command_learns_from_a_file_and_from_a_factory_alike(weights, tmp_path):
    one, other, plain = (tmp_path / name for name in ("one", "other", "plain"))
    assert main([*WORDS, "--out", str(one), "--distill", str(weights)]) == 0
    factory = [f"{__name__}:taught", "--distill-temperature", "2", "--distill-weight", "0.5"]
    assert main([*WORDS, "--out", str(other), "--distill", *factory]) == 0
    assert main([*WORDS, "--out", str(plain)]) == 0
    assert history(one) == history(other) != history(plain)
    run = Run.read(one / "run.json")
    assert run.asked[0].holds and run.settings["distill"] == str(weights)
    assert run.checks[0].what.startswith("the teacher does better") and "%" in run.checks[0].found
    assert "the teacher does better" in (one / "report.html").read_text()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--distill", "start"], "it is not trained. Train it first"),
        (["--distill-weight", "0.5"], "--distill-weight goes with --distill TEACHER"),
        (["--distill-temperature", "3"], "--distill-temperature goes with --distill TEACHER"),
        (["--distill", "teacher.pt"], "--distill teacher.pt: no such file"),
    ],
)
def test_the_command_says_what_is_missing(more, words, tmp_path, capsys):
    assert main([*WORDS, "--out", str(tmp_path / "run"), *more]) == 2
    assert words in capsys.readouterr().err


train = partial(run.train, to_onnx=False)
SETTINGS = Settings(
    model=f"{__name__}:taught",
    data="train.digits:make_data",
    budget=("flops=50%",),
    epochs=2,
    lr=0.02,
    distill="start",
    distill_weight=0.8,
)


def test_a_model_that_is_its_own_teacher_resumes_bit_for_bit(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(SETTINGS, whole)

    def stop(what: str, done: int, total: int, words: str) -> None:
        if total and done == 29:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train(SETTINGS, parts, watch=stop)
    train(SETTINGS, parts, resume=True)
    one, two = (load_file(folder / "small.safetensors") for folder in (whole, parts))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert history(whole) == history(parts)
    plain = (tmp_path / "plain" / "checkpoint", parts / "checkpoint")
    train(replace(SETTINGS, distill=None, distill_weight=None), tmp_path / "plain")
    sizes = [path.stat().st_size for path in plain]
    assert sizes[1] - sizes[0] < 1000  # the teacher is not in the checkpoint


def test_a_run_is_not_resumed_with_another_teacher(weights, tmp_path):
    path = tmp_path / "dense.safetensors"
    path.write_bytes(weights.read_bytes())
    settings = replace(SETTINGS, distill=str(path), epochs=1)
    train(settings, tmp_path / "run")
    other = taught()
    with torch.no_grad():
        other[0].weight[0] *= 1.001
    sc.save(other, path)
    with pytest.raises(CheckpointError, match="teacher"):
        train(settings, tmp_path / "run", resume=True)
