"""From a trained network with zeros to files and facts: shrink, verify, measure, save, export.

In: a trained model, its groups, budget and data. Out: small.safetensors, small.onnx and a `Run`.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.budget import Budget
from secateur.deploy import export, latencies, save
from secateur.deploy import run as run_file
from secateur.groups import Groups
from secateur.measurement import machine, measure_together
from secateur.report import Check, Network, Run, widths
from secateur.shrinking import shrink
from secateur.shrinking.recalibration import recalibrate
from secateur.surgery.equivalence import tolerance
from secateur.train.data import Data
from secateur.train.loop import test
from secateur.utils.batches import call, split, to_device
from secateur.utils.forward import arguments, device_of, evaluating, tensors_of

BATCHES = 60  # that BatchNorm's statistics are averaged anew over


def finish(
    model: nn.Module,
    groups: Groups,
    budget: Budget,
    data: Data,
    folder: Path,
    *,
    title: str,
    dense: nn.Module | None = None,
    history: tuple[Mapping[str, Any], ...] = (),
    settings: Mapping[str, str] | None = None,
    to_onnx: bool = True,
    watch: Callable[[str], None] = lambda words: None,
) -> tuple[nn.Module, Run]:
    """Shrink a trained model, check and measure the result, and write it down.

    Args:
        model: trained to the end with `Proximal`.
        groups: its groups.
        budget: what they were trained to.
        data: for the test score.
        folder: where small.safetensors and, with the extra export, small.onnx go.
        title: of the report.
        dense: a network of full size trained without a budget, to compare with.
        history: the training loop's.
        settings: how the run was made.
        to_onnx: whether both networks are exported, compared and timed, where the extra is there.
        watch: told what is being done.

    Returns:
        The small network, and the facts. Its BatchNorm statistics are averaged anew where that
        lowers the held-out loss.

    Raises:
        ShrinkError: the small network would compute something else.
    """
    example = groups.example
    folder.mkdir(parents=True, exist_ok=True)
    watch("shrinking")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        exact = not any(layer.inexact for layer in groups.layers)
        small = shrink(model, groups, exact=exact)
    checks = [_same_outputs(model, small, data)]
    checks += [Check("every dead group removed exactly", False, str(w.message)) for w in caught]
    watch("averaging BatchNorm anew")
    checks += _recalibrated(small, data)
    save(small, folder / "small.safetensors")
    files = {"small.safetensors": "the small network: secateur.load(path, model=FullSizeModel())"}
    reference = model if dense is None else dense
    onnx_times: list[float | None] = [None, None]
    if to_onnx and all(find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
        watch("exporting to ONNX")
        onnx_times, found = _export(reference, small, example, data, folder)
        checks += found
        if found[0].holds:
            files["small.onnx"] = "the small network for ONNX Runtime, any batch size"
    watch("measuring")
    with _bearing_with_noise():
        footprints = measure_together([reference, small], example)
    networks = (
        Network(
            "full size" if dense is None else "dense",
            footprints[0],
            onnx_times[0],
            None if dense is None else test(dense, data)[data.metric_name],
        ),
        Network("small", footprints[1], onnx_times[1], test(small, data)[data.metric_name]),
    )
    return small, Run(
        title=title,
        asked=budget.reached(small, example, groups=groups).lines,
        widths=widths(model, groups),
        networks=networks,
        history=history,
        metric=data.metric_name,
        checks=tuple(checks),
        settings=dict(settings or {}),
        machine=machine(),
        files=files,
    )


def _recalibrated(small: nn.Module, data: Data) -> list[Check]:
    """Average BatchNorm's statistics anew, if that does better on held-out rows."""
    if not any(isinstance(x, _BatchNorm) and x.track_running_stats for x in small.modules()):
        return []
    before = {name: buffer.clone() for name, buffer in small.named_buffers()}
    old = test(small, data)
    recalibrate(small, data.train_loader, batches=BATCHES)
    new = test(small, data)
    better = new["held_out_loss"] < old["held_out_loss"]
    if not better:
        small.load_state_dict(before, strict=False)
    words = f"held-out loss {old['held_out_loss']:.4f}, averaged anew {new['held_out_loss']:.4f}"
    return [
        Check(f"BatchNorm statistics {'averaged anew' if better else 'as trained'}", True, words)
    ]


@torch.no_grad()
def _same_outputs(model: nn.Module, small: nn.Module, data: Data) -> Check:
    """Whether the small network computes what the zeroed one computes, on all test data."""
    apart, scale = 0.0, 0.0
    with evaluating(model), evaluating(small):
        for batch in data.test_loader:
            inputs = to_device(split(batch)[0], device_of(model))
            pairs = zip(
                tensors_of(call(model, inputs)), tensors_of(call(small, inputs)), strict=True
            )
            for expected, found in pairs:
                apart = max(apart, _apart(expected, found))
                scale = max(scale, float(expected.abs().nan_to_num(posinf=0.0).max()))
    return _check("small and zeroed network agree on the test data", apart, scale, tolerance(model))


@torch.no_grad()
def _export(
    reference: nn.Module, small: nn.Module, example: Any, data: Data, folder: Path
) -> tuple[list[float | None], list[Check]]:
    """Export both networks, time both files, and compare the small one's with the network."""
    what = "ONNX Runtime agrees on the test data"
    path = folder / "small.onnx"
    threads = torch.get_num_threads()
    try:
        with tempfile.TemporaryDirectory() as temporary:
            full = export(reference, example, Path(temporary) / "full.onnx")
            export(small, example, path)
            with _bearing_with_noise():
                times = latencies([full, path], example, threads=threads)
    except Exception as error:  # whatever an exporter says: the network itself is saved
        words = (str(error) or type(error).__name__).splitlines()[0]
        return [None, None], [Check(what, False, f"not exported: {words}")]
    inputs = split(next(iter(data.test_loader)))[0]
    args, named = arguments(inputs)
    with evaluating(small):
        expected = tensors_of(call(small, to_device(inputs, device_of(small))))[0].cpu()
    found = run_file(path, *args, **named)[0]
    scale = float(expected.abs().nan_to_num(posinf=0.0).max())
    check = _check(what, _apart(expected, found), scale, tolerance(small))
    return [time.median for time in times], [check]


def _apart(expected: Tensor, found: Tensor) -> float:
    """The largest difference; inf where one is a number, or infinite, and the other is not."""
    alike = (expected == found) | (expected.isnan() & found.isnan())
    differences = (expected - found).abs().masked_fill(alike, 0)
    return float(differences.nan_to_num(nan=torch.inf).max())


@contextmanager
def _bearing_with_noise() -> Iterator[None]:
    """No warning of a busy machine: the ratios of what is timed in turns are true there."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the device is busy", RuntimeWarning)
        yield


def _check(what: str, apart: float, scale: float, allowed: float) -> Check:
    found = apart / (scale or 1.0)
    words = f"apart by at most {found:.0e} of the output's scale" if found else "bit for bit"
    return Check(what, found <= allowed, words)
