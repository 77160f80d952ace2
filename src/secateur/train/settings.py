"""What a run can be told: dataclasses that the command line makes its options from.

In: plain values. Out: `Settings`, `Resources`. No torch is imported: --help answers at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, NamedTuple


class Option(NamedTuple):
    """What the command line says about a field."""

    help: str = ""
    metavar: str | None = None


@dataclass(frozen=True)
class Settings:
    """Everything that determines a run's result; a checkpoint remembers it."""

    model: Annotated[
        str, Option("called without arguments, returns the full-size nn.Module", "MODULE:FACTORY")
    ]
    data: Annotated[str, Option("see below", "MODULE:FUNCTION")]
    budget: Annotated[tuple[str, ...], Option("see below", "WHAT=AMOUNT")]
    epochs: Annotated[int, Option()]
    kind: Annotated[str, Option("filters, neurons, ..., or several: filters,neurons")] = "filters"
    optimizer: Annotated[str, Option("sgd or adamw")] = "sgd"
    lr: Annotated[float | None, Option("default: 0.1 for sgd, 0.001 for adamw")] = None
    weight_decay: Annotated[float | None, Option("default: 0.0005 for sgd, 0.01 for adamw")] = None
    momentum: Annotated[float, Option("of sgd")] = 0.9
    batch_size: Annotated[int | None, Option("handed to the data function as batch_size=")] = None
    seed: Annotated[int, Option("of all random numbers")] = 0
    every: Annotated[int, Option("steps between proximal steps")] = 1
    importance: Annotated[
        str, Option("how groups are weighed: auto (curvature), layer or a number")
    ] = "auto"
    geometry: Annotated[str, Option("euclidean, or optimizer: AdamW's own")] = "euclidean"
    freeze: Annotated[
        float | None,
        Option("share of the run after which groups are chosen (default: as suits the budget)"),
    ] = None
    power: Annotated[
        float | None,
        Option("raise the pressure as this power of time (default: gradually, then a close)"),
    ] = None
    per_layer: Annotated[bool, Option("the same share of every layer's groups")] = False
    multiple_of: Annotated[int, Option("widths in multiples, such as 8", "N")] = 1
    at_least: Annotated[int, Option("groups that stay in every layer", "N")] = 1
    ignore: Annotated[tuple[str, ...], Option("modules that stay", "NAME")] = ()
    runtime: Annotated[
        str | None,
        Option("of a budget on latency: torch (default), onnxruntime, litert, ..."),
    ] = None
    latency_table: Annotated[
        str | None, Option("from secateur profile; by default measured here", "FILE")
    ] = None
    precision: Annotated[
        str | None,
        Option("no, bf16 or fp16, of the forward pass (default: the launcher's, or no)"),
    ] = None
    accumulate: Annotated[int, Option("batches of a step", "N")] = 1
    clip: Annotated[float | None, Option("of all gradients, at most", "NORM")] = None
    distill: Annotated[
        str | None,
        Option(
            "learn from it too: a file of weights, MODULE:FACTORY, or start for the (trained) "
            "model as it is at the beginning",
            "TEACHER",
        ),
    ] = None
    distill_temperature: Annotated[float | None, Option("of its logits (default: 2)", "T")] = None
    distill_weight: Annotated[float | None, Option("of the loss (default: 0.5)", "SHARE")] = None

    def budgeted(self) -> dict[str, Any]:
        """What a budget needs besides its amounts: options of `parse_budgets`."""
        return {
            "at_least": self.at_least,
            "multiple_of": self.multiple_of,
            "per_layer": self.per_layer,
            "runtime": self.runtime,
            "table": self.latency_table,
        }

    def words(self) -> dict[str, str]:
        """Option -> value, without those left open."""
        return {
            name.replace("_", " "): ", ".join(value) if isinstance(value, tuple) else str(value)
            for name, value in asdict(self).items()
            if value not in (None, ()) and value is not False
        }


@dataclass(frozen=True)
class Resources:
    """What each run of a sweep gets.

    Attributes:
        cpus: cores, and threads of torch.
        gpus: GPUs; 0.5 lets two runs share one.
        device: such as "cpu" or "cuda".

    Raises:
        ValueError: they don't fit together.
    """

    cpus: Annotated[int, Option("cores and threads of a run", "N")] = 1
    gpus: Annotated[float, Option("of a run; 0.5 shares one", "N")] = 0
    device: Annotated[str, Option("cpu, cuda, ...")] = "cpu"

    def __post_init__(self) -> None:
        if self.cpus < 1:
            raise ValueError(f"--cpus {self.cpus}: cores of each run, 1 or more")
        if self.gpus < 0:
            raise ValueError(f"--gpus {self.gpus:g}: GPUs of each run, 0 or more")
        if self.device.startswith("cuda") != (self.gpus > 0):
            raise ValueError(
                f"--gpus {self.gpus:g} with --device {self.device}: a run sees the GPUs that it "
                "reserves; give both (--gpus 1 --device cuda) or neither"
            )
