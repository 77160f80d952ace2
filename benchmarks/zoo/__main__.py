"""Run the zoo: every architecture in a process of its own, one JSON line each.

See the package's first lines for the commands.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

import runs
from secateur.measurement import machine
from zoo import table
from zoo.check import check
from zoo.entry import Entry, Missing, everything

RESULT = runs.RESULTS / "zoo.jsonl"
LIMIT = 300  # seconds; a model that takes longer is stopped and counted as failed


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=sys.modules["zoo"].__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="only these architectures, measured anew")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--no-export", action="store_true", help="leave ONNX out")
    parser.add_argument("--table", action="store_true", help="only write docs/zoo.md")
    options = parser.parse_args(arguments)
    if not options.table:
        run(options.names, options.result, export=not options.no_export)
    if options.result == RESULT:
        table.write(RESULT)


def run(names: list[str], result: Path, *, export: bool = True) -> None:
    """Measure what has no line in `result` yet, or `names`, and write their lines."""
    zoo = everything()
    if unknown := [name for name in names if name not in zoo]:
        raise SystemExit(f"the zoo has no {', '.join(unknown)}; it has {', '.join(zoo)}")
    if export:
        import_exporter()
    done = {key[0] for key in runs.finished(result, ("name",))}
    for name in names or [name for name in zoo if name not in done]:
        line = in_a_process(zoo[name], export) | machine()
        line["transformers"] = installed("transformers")
        line["command"] = "PYTHONPATH=benchmarks python -m zoo"
        runs.replace(result, line, ("name",))
        print(f"{name:28} {line['seconds']:6.1f} s  {table.verdict(line)}", flush=True)


def import_exporter() -> None:
    """Export something, so that no process has to import torch's exporter anew."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        path = Path(folder) / "layer.onnx"
        torch.onnx.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),), path, verbose=False)


def installed(package: str) -> str | None:
    """The version of a package, or None where it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def in_a_process(entry: Entry, export: bool) -> dict[str, Any]:
    """Check one architecture so that a crash, a loop or an exit ends only its own process."""
    context = multiprocessing.get_context("fork")  # keeps what is imported
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, entry, export))
    process.start()
    sender.close()
    try:
        if receiver.poll(LIMIT):
            return receiver.recv()
        error = f"took more than {LIMIT} s"
    except EOFError:
        error = "its process ended"
    finally:
        process.terminate()
        process.join()
    return {"name": entry.name, "family": entry.family, "error": error, "seconds": float(LIMIT)}


def _send(sender: Connection, entry: Entry, export: bool) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        line = check(entry, export=export)
    except Missing as reason:
        line = {"name": entry.name, "family": entry.family, "skipped": str(reason)}
    except Exception as error:
        line = {
            "name": entry.name,
            "family": entry.family,
            "error": f"{type(error).__name__}: {error}"[:600],
        }
    sender.send(line | {"seconds": round(time.process_time(), 1)})


if __name__ == "__main__":
    main(sys.argv[1:])
