"""`secateur export`: a network as a file for another runtime, checked."""

from __future__ import annotations

import argparse

from secateur.commands.options import add_network, example, model
from secateur.commands.terminal import watched

HELP = "write a network as ONNX, OpenVINO, LiteRT, ExecuTorch or torch.export, checked"


def add_options(command: argparse.ArgumentParser) -> None:
    """A model, its small network's file, inputs, and the file to write."""
    add_network(command)
    command.add_argument(
        "--out", required=True, metavar="FILE", help=".onnx, .xml, .tflite, .pte or .pt2"
    )
    words = "sizes left open: batch, sequence, height, width, or none; by default the batch"
    command.add_argument("--dynamic", nargs="+", metavar="NAME", help=words)


def run(options: argparse.Namespace) -> None:
    """Write the file and run it once."""
    from secateur.deploy import export

    network = model(options)
    dynamic = options.dynamic and tuple(name for name in options.dynamic if name != "none")
    with watched() as watch:
        watch("exporting", 0, 0, "")
        path = export(network, example(options), options.out, dynamic=dynamic)
    print(f"{path}: {path.stat().st_size:,} bytes, agrees with the network")
