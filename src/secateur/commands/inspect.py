"""`secateur inspect`: what can be removed from a model, what can't, and why."""

from __future__ import annotations

import argparse

from secateur.commands.options import add_example, add_fields, example, model
from secateur.commands.terminal import show, watched
from secateur.train.settings import Settings

HELP = "what can be removed, what can't, and why"


def add_options(command: argparse.ArgumentParser) -> None:
    """A model, its inputs, and kinds of groups."""
    add_fields(command, Settings, "model", "kind", "ignore")
    add_example(command)


def run(options: argparse.Namespace) -> None:
    """Find the groups and print them."""
    from secateur.report.inspection import inspect
    from secateur.train.spec import make_groups

    network = model(options)
    with watched() as watch:
        watch("tracing the model", 0, 0, "")
        inputs = example(options)
        groups = make_groups(network, inputs, options.kind, options.ignore)
        tables = inspect(network, inputs, groups)
    show(*tables)
