"""Knowledge distillation: a network learns from a larger one's outputs beside the targets.

In: a teacher, and the student's loss and outputs on a batch. Out: the loss to train on.
"""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.nn import functional

from secateur.deploy import load
from secateur.train.data import Data, logits
from secateur.train.engine import Engine
from secateur.train.loop import test
from secateur.train.monitor import LEARNT
from secateur.train.records import zeros_like
from secateur.train.spec import called, make_model
from secateur.utils.forward import device_of, evaluating

START = "start"  # the teacher that is the model as the run finds it
TEMPERATURE, WEIGHT = 2.0, 0.5


class Distill:
    """Mix a loss with the distance between the student's and a teacher's predictions.

        (1 - weight) * loss + weight * T^2 * KL(softmax(t / T) || softmax(s / T))

    where t and s are the logits of teacher and student, and the KL divergence is a mean over rows
    (and over positions, where there are such). T^2 keeps its gradients at one scale for every T.
    The teacher runs in eval mode and without gradients, on the inputs as the student saw them.

    Args:
        teacher: any module whose output is logits, or has them as `logits`. It is not changed, but
            must not be trained meanwhile: of a student that starts as its own teacher, pass a copy
            (`Distill.start`).
        temperature: T, above 0; the higher, the more the classes that are not the first count.
        weight: of the teacher, in (0, 1]; at 1 targets don't count.
        dim: of the classes. By default 1, as for `cross_entropy`; logits of three dimensions need
            it said: -1 for (rows, positions, classes), 1 for (rows, classes, positions).

    Raises:
        ValueError: a value out of its bounds.

    Example:
        >>> student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
        >>> distill = Distill(teacher, temperature=4.0)
        >>> inputs, target = torch.randn(8, 4), torch.randint(3, (8,))
        >>> output = student(inputs)
        >>> loss = functional.cross_entropy(output, target)
        >>> distill(loss, output, inputs).backward()  # in the place of loss.backward()
        >>> teacher.weight.grad is None, student.weight.grad.shape
        (True, torch.Size([3, 4]))

    Source: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015.
    """

    def __init__(
        self,
        teacher: nn.Module,
        *,
        temperature: float = TEMPERATURE,
        weight: float = WEIGHT,
        dim: int | None = None,
    ) -> None:
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature={temperature}: a number above 0, such as {TEMPERATURE}")
        if not 0 < weight <= 1:
            raise ValueError(f"weight={weight}: the teacher's share of the loss lies in (0, 1]")
        self.teacher, self.temperature, self.weight, self.dim = teacher, temperature, weight, dim

    @classmethod
    def start(cls, model: nn.Module, **options: Any) -> Distill:
        """Teach a model by a copy of what it is now: for a trained one that is about to shrink."""
        return cls(copy.deepcopy(model).requires_grad_(False), **options)

    def __call__(self, loss: Tensor, output: Any, /, *args: Any, **kwargs: Any) -> Tensor:
        """The loss to train on.

        Args:
            loss: of the student on the targets, a scalar.
            output: of the student, with its gradient: logits, or an object that has them.
            args, kwargs: the student's inputs, which the teacher gets too.

        Returns:
            A scalar.

        Raises:
            TypeError: an output without logits.
            ValueError: the logits of the two differ in shape, or it isn't clear where classes are.
        """
        with torch.no_grad(), evaluating(self.teacher):
            told = logits(self.teacher(*args, **kwargs))
        return torch.lerp(loss, self.distance(logits(output), told).to(loss), self.weight)

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """T^2 KL(teacher || student) of logits, in float32 or wider; a scalar."""
        if student.shape != teacher.shape:
            raise ValueError(
                "teacher and student must give logits of one shape\n"
                f"  student  {tuple(student.shape)}\n  teacher  {tuple(teacher.shape)}"
            )
        dim, wide = self._dim(student), torch.promote_types(student.dtype, torch.float32)
        one = functional.log_softmax(student.to(wide) / self.temperature, dim)
        other = functional.log_softmax(teacher.to(wide) / self.temperature, dim)
        divergence = functional.kl_div(one, other, reduction="none", log_target=True).sum(dim)
        return divergence.mean() * self.temperature**2

    def _dim(self, found: Tensor) -> int:
        if self.dim is not None:
            return self.dim
        if found.ndim == 3:
            raise ValueError(
                f"logits of shape {tuple(found.shape)}: where are the classes? Distill(teacher, "
                "dim=-1) for (rows, positions, classes), dim=1 for (rows, classes, positions)"
            )
        return 1


# -- teachers by name ---------------------------------------------------------------------------


def make_teacher(words: str, model: nn.Module, factory: str) -> nn.Module:
    """The teacher that --distill names.

    Args:
        words: "start", MODULE:FACTORY, or a file with weights.
        model: the student as the run begins, on its device; left as it is.
        factory: of the student, --model: a file's weights are loaded into what it makes.

    Returns:
        The teacher on the student's device, frozen.

    Raises:
        ValueError: no such factory or file, or weights of another network.
    """
    if words == START:
        teacher = copy.deepcopy(model)
    elif Path(words).is_file():
        teacher = _filled(make_model(factory), Path(words))
    elif ":" in words:
        teacher = called(words, "--distill")
        if not isinstance(teacher, nn.Module):
            kind = type(teacher).__name__
            raise ValueError(f"--distill {words}: returned a {kind}, not an nn.Module")
    else:
        raise ValueError(
            f"--distill {words}: no such file; name a file of weights (.safetensors, or from "
            f"torch.save), MODULE:FACTORY, or {START} for the model as it is at the beginning"
        )
    return teacher.to(device_of(model)).eval().requires_grad_(False)


def _filled(model: nn.Module, path: Path) -> nn.Module:
    """A model with the weights of a file: of `secateur.save`, of safetensors or of torch.save."""
    try:
        if path.suffix != ".safetensors":
            model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        elif _is_ours(path):
            return load(path, model=model)
        else:
            load_model(model, path)
    except Exception as error:  # foreign bytes fail in many ways
        raise ValueError(
            f"--distill {path}: no weights of this {type(model).__name__}: {error}"
        ) from error
    return model


def _is_ours(path: Path) -> bool:
    with safe_open(path, framework="pt") as file:
        return "secateur" in (file.metadata() or {})


def examine(teacher: nn.Module, data: Data, engine: Engine | None = None) -> dict[str, float]:
    """A teacher's scores on the held-out data.

    Args:
        teacher: on its device.
        data: whose test loader, loss and metric are used.
        engine: see `test`.

    Returns:
        What `test` gives.

    Raises:
        ValueError: it does no better than outputs that are all zero: it is not trained.
    """
    scores = test(teacher, data, engine=engine)
    blank = test(_Blank(teacher), data, engine=engine)["held_out_loss"]
    if scores["held_out_loss"] > (1 - LEARNT) * blank:
        raise ValueError(
            f"the teacher's held-out loss is {scores['held_out_loss']:.3g}, no better than that of "
            f"outputs of zero ({blank:.3g}): it is not trained. Train it first: secateur.save "
            "writes the file to name, or let the factory load the weights"
        )
    return scores


class _Blank(nn.Module):
    """Outputs of zero, in the shape of a model's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return zeros_like(self.model(*args, **kwargs))


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's parameters and buffers: a checkpoint keeps it in the teacher's place."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
