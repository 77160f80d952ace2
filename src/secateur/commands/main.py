"""The command `secateur`: reads its words, runs one command, says what went wrong.

A command is a file beside this one: its first line of help, its options, and what it does. Nothing
heavy is imported before it is known what to do, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from secateur.commands import compare, demo, export, inspect, measure, profile, sweep, train
from secateur.commands.options import set_threads
from secateur.commands.terminal import rank

COMMANDS = (demo, train, sweep, inspect, measure, profile, export, compare)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after "secateur"; those of the process by default.

    Returns:
        The exit status: 0, 2 after an error, 128 + the signal after an interruption.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(words, argparse.Namespace(words=words))
    try:
        set_threads(options)
        return options.run(options) or 0
    except KeyboardInterrupt:
        print(f"secateur: interrupted{options.hint(options)}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if options.traceback:
            raise
        who = f"secateur: process {rank()}" if rank() else "secateur"
        print(f"{who}: error: {_told(error)}", file=sys.stderr)
        return 2


def _told(error: Exception) -> str:
    """An error in words; what no one meant to raise also says its type and how to see more."""
    words = str(error) or type(error).__name__
    expected = (ValueError, RuntimeError, OSError, ImportError, FloatingPointError)
    if isinstance(error, expected) and str(error):
        return words
    return f"{type(error).__name__}: {words} (--traceback shows where)"


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog="secateur",
        description="Train a network once and get it at exactly the size your hardware affords.",
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for file in COMMANDS:
        command = commands.add_parser(
            file.__name__.rpartition(".")[2],
            help=file.HELP.replace("%", "%%"),
            description=file.HELP,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        words = "show where an error comes from"
        command.add_argument("--traceback", action="store_true", help=words)
        command.set_defaults(run=file.run, hint=getattr(file, "resume_hint", lambda options: ""))
        file.add_options(command)
    return top


if __name__ == "__main__":
    sys.exit(main())
