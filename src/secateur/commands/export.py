"""`secateur export`: a network as an ONNX file, checked."""

from __future__ import annotations

import argparse

from secateur.commands.options import add_example, add_fields, add_weights, example, model
from secateur.commands.terminal import watched
from secateur.train.settings import Settings

HELP = "write a network as ONNX, checked"


def add_options(command: argparse.ArgumentParser) -> None:
    """A model, its small network's file, inputs, and the file to write."""
    add_fields(command, Settings, "model")
    add_weights(command)
    add_example(command)
    command.add_argument("--out", required=True, metavar="FILE", help="such as small.onnx")


def run(options: argparse.Namespace) -> None:
    """Write the file and run it once."""
    from secateur.deploy import export

    network = model(options)
    with watched() as watch:
        watch("exporting to ONNX", 0, 0, "")
        path = export(network, example(options), options.out)
    print(f"{path}: {path.stat().st_size:,} bytes, agrees with the network")
