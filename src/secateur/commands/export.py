"""`secateur export`: a network as an ONNX file, checked."""

from __future__ import annotations

import argparse

from secateur.commands.options import add_network, example, model
from secateur.commands.terminal import watched

HELP = "write a network as ONNX, checked"


def add_options(command: argparse.ArgumentParser) -> None:
    """A model, its small network's file, inputs, and the file to write."""
    add_network(command)
    command.add_argument("--out", required=True, metavar="FILE", help="such as small.onnx")


def run(options: argparse.Namespace) -> None:
    """Write the file and run it once."""
    from secateur.deploy import export

    network = model(options)
    with watched() as watch:
        watch("exporting to ONNX", 0, 0, "")
        path = export(network, example(options), options.out)
    print(f"{path}: {path.stat().st_size:,} bytes, agrees with the network")
