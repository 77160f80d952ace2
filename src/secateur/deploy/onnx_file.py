"""What is done to an ONNX file once it is written: float16, 8-bit integers, and notes in it.

A file flows in; the same file, changed, flows out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import secateur
from secateur.budget import Reached
from secateur.runtimes.capture import silent
from secateur.surgery.plan import plan_of
from secateur.utils.extras import require
from secateur.utils.forward import tensors_of

BATCHES = 32  # of calibration; more change little


def facts(path: str | os.PathLike[str]) -> dict[str, str]:
    """The notes that `export` left in an ONNX file, by name.

    Returns:
        "secateur" (the version), "difference" (max |file - torch| / max |torch|; missing where
        nothing was checked), "groups" and "plan" of a network that was shrunk (JSON), and where
        export was told what the budget reached, "budget" (JSON: asked, reached and full of each
        measure).

    Raises:
        ImportError: onnx is missing.

    Example:
        >>> import tempfile, secateur, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model, path = torch.nn.Linear(3, 2), f"{folder}/small.onnx"
        ...     _ = secateur.export(model, torch.zeros(1, 3), path)
        ...     float(facts(path)["difference"]) < 1e-5
        True
    """
    onnx = require("onnx", extra="export")
    model = onnx.load(os.fspath(path), load_external_data=False)
    prefix = "secateur."
    return {
        entry.key.removeprefix(prefix): entry.value
        for entry in model.metadata_props
        if entry.key.startswith(prefix)
    }


def write_facts(
    path: Path, model: nn.Module, difference: float | None, reached: Reached | None
) -> None:
    """Note in a file what it was made of."""
    onnx = require("onnx", extra="export")
    notes = {"secateur": secateur.__version__}
    if difference is not None:
        notes["difference"] = f"{difference:.3g}"
    if (plan := plan_of(model)) is not None:
        notes |= {"groups": json.dumps(plan.groups), "plan": json.dumps(vars(plan))}
    if reached is not None:
        notes["budget"] = json.dumps([asdict(line) for line in reached])
    file = onnx.load(os.fspath(path))
    for name, text in notes.items():
        file.metadata_props.add(key=f"secateur.{name}", value=text)
    onnx.save(file, os.fspath(path))


def halve(path: Path) -> None:
    """Weights and arithmetic in float16; inputs and outputs stay as they are."""
    onnx = require("onnx", extra="export")
    float16 = require("onnxruntime.transformers.float16", extra="export")
    with silent():
        half = float16.convert_float_to_float16(onnx.load(os.fspath(path)), keep_io_types=True)
        onnx.save(half, os.fspath(path))


def quantize(path: Path, batches: Iterable[Any]) -> None:
    """Weights and activations as 8-bit integers (static QDQ), ranges from calibration batches.

    Raises:
        ValueError: there is no batch, or one of another shape than the file takes.
    """
    quantization = require("onnxruntime.quantization", extra="export")
    prepared = path.with_suffix(".prepared.onnx")
    with silent():
        quantization.quant_pre_process(
            os.fspath(path), os.fspath(prepared), skip_symbolic_shape=True
        )
        onnx = require("onnx", extra="export")
        inputs = onnx.load(os.fspath(path)).graph.input
    feeds = [_feed(inputs, batch) for batch in islice(iter(batches), BATCHES)]
    if not feeds:
        raise ValueError("export: int8= has no batch; pass some to calibrate by")
    with silent():
        quantization.quantize_static(
            os.fspath(prepared),
            os.fspath(path),
            _Reader(quantization, feeds),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"CalibTensorRangeSymmetric": False},
        )
    prepared.unlink()


def _Reader(quantization: Any, feeds: list[dict[str, Any]]) -> Any:
    class Reader(quantization.CalibrationDataReader):
        """Calibration batches as ONNX Runtime takes them, one at a time."""

        def __init__(self) -> None:
            self.rest: Iterator[dict[str, Any]] = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.rest, None)

    return Reader()


def _feed(inputs: Any, batch: Any) -> dict[str, Any]:
    """The arrays of a batch by the file's names: by name, or in order, targets left out."""
    names = [value.name for value in inputs]
    if isinstance(batch, Mapping):
        given = {name: batch[name] for name in names if name in batch}
    else:
        given = dict(zip(names, tensors_of(batch), strict=False))
    for value in inputs:
        wanted = [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
        tensor = given.get(value.name)
        if tensor is None or not _fits(tensor, wanted):
            shape = "nothing" if tensor is None else list(tensor.shape)
            raise ValueError(
                f"export: a batch of int8= does not fit the input {value.name}:\n"
                f"  takes: {wanted}\n"
                f"  given: {shape}"
            )
    return {name: tensor.detach().cpu().numpy() for name, tensor in given.items()}


def _fits(tensor: Tensor, wanted: list[int | str]) -> bool:
    pairs = zip(tensor.shape, wanted, strict=False)
    return tensor.dim() == len(wanted) and all(
        isinstance(size, str) or size == have for have, size in pairs
    )
