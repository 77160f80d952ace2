"""`secateur measure`: what a network costs, at full size or small."""

from __future__ import annotations

import argparse
from pathlib import Path

from secateur.commands.options import add_device, add_fields, add_network, example, model
from secateur.commands.terminal import watched
from secateur.train.settings import Settings

HELP = "parameters, FLOPs, bytes, latency, memory"


def add_options(command: argparse.ArgumentParser) -> None:
    """A model, a file or both, inputs, and a device."""
    add_network(command, required=False)
    add_device(command)
    words = "what the latency is of: torch (default), onnxruntime, openvino, litert, ..."
    add_fields(command, Settings, "runtime", default="torch", help=words)


def run(options: argparse.Namespace) -> None:
    """Print the figures; of a file alone, how many numbers it holds."""
    if options.model is None:
        if options.weights is None:
            raise ValueError("say what to measure: --model MODULE:FACTORY, --weights FILE, or both")
        from secateur.report.comparison import contents

        numbers, size = contents(Path(options.weights))
        print(f"{numbers:,} parameters and buffers, {size:,} bytes (more with --model)")
        return
    from secateur.measurement import measure
    from secateur.utils.batches import to_device

    network = model(options).to(options.device)
    inputs = to_device(example(options), options.device)
    with watched() as watch:
        watch("measuring", 0, 0, "")
        found = measure(network, inputs, runtime=options.runtime)
    print(found)
