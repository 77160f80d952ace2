"""`secateur profile`: latency by widths on this machine, as a table for --latency-table."""

from __future__ import annotations

import argparse
from pathlib import Path

from secateur.commands.options import add_device, add_example, add_fields, example, model
from secateur.commands.terminal import show, watched
from secateur.train.settings import Settings

HELP = "measure latency by widths: a table for --latency-table"


def add_options(command: argparse.ArgumentParser) -> None:
    """A model, the inputs that count, the groups to be trained with, a runtime, and a file."""
    add_fields(command, Settings, "model", "kind", "multiple_of", "ignore")
    add_example(command)
    add_device(command)
    words = "torch (default), torch.compile, onnxruntime, openvino, litert, executorch, ..."
    add_fields(command, Settings, "runtime", default="torch", help=words)
    command.add_argument("--out", required=True, metavar="FILE", help="such as phone.json")


def run(options: argparse.Namespace) -> None:
    """Measure, write the table down and print it."""
    from secateur.costs import profile
    from secateur.report.tables import layer_table
    from secateur.train.spec import make_groups
    from secateur.utils.batches import to_device

    path = Path(options.out)
    network = model(options).to(options.device)
    inputs = to_device(example(options), options.device)
    if not path.parent.is_dir():
        raise ValueError(f"--out {path}: there is no folder {path.parent}")
    with watched() as watch:
        watch("tracing the model", 0, 0, "")
        table = profile(
            make_groups(network, inputs, options.kind, options.ignore),
            runtime=options.runtime,
            threads=options.threads,
            multiple_of=options.multiple_of,
            watch=watch,
        )
    table.save(path)
    show(layer_table(table))
    print(f"{path}: off by {table.error:.1%} on networks that it doesn't know")
