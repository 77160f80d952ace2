"""Where latency tables are kept: one is measured here once, and found again.

In: groups that were traced, a runtime. Out: the table of the cache folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from pathlib import Path

import torch

from secateur.costs.latency_table import LatencyTable, check_fits, cut_axes, example_words
from secateur.costs.timing import profile
from secateur.groups import Groups
from secateur.measurement.host import hardware, machine
from secateur.runtimes import EXPORTED
from secateur.utils.forward import device_of


def table_for(
    groups: Groups, *, runtime: str, threads: int | None, multiple_of: int
) -> LatencyTable:
    """The table of the cache folder, measured now where there is none.

    What decides is the machine, its versions of torch and the runtime, the network's operators and
    their sizes, the example's shape, threads and multiples.
    """
    threads = threads or torch.get_num_threads()
    path = cache_path(groups, runtime, threads, multiple_of)
    if path.exists():
        try:
            table = LatencyTable.load(path)
            check_fits(table, groups)
            return table
        except ValueError as error:
            warnings.warn(f"measuring anew: {error}", RuntimeWarning, stacklevel=3)
    table = profile(groups, runtime=runtime, threads=threads, multiple_of=multiple_of)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.save(path)
    except OSError as error:
        warnings.warn(f"the latency table is not kept: {error}", RuntimeWarning, stacklevel=3)
    return table


def cache_folder() -> Path:
    """Where tables are kept: $SECATEUR_CACHE, or the system's place for what can be made anew."""
    if "SECATEUR_CACHE" in os.environ:
        return Path(os.environ["SECATEUR_CACHE"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "secateur"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "secateur"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secateur"


def cache_path(groups: Groups, runtime: str, threads: int, multiple_of: int) -> Path:
    """The file of the table that these groups need here."""
    facts = machine()
    assert groups.coupling is not None
    key = {
        "machine": hardware(facts),
        "versions": [facts["torch"], EXPORTED[runtime].version if runtime in EXPORTED else ""],
        "model": type(groups.model).__name__,
        "device": str(device_of(groups.model, groups.example)) if groups.model else "",
        "example": example_words(groups),
        "runtime": [runtime, threads, multiple_of],
        "operators": [
            [operation.name, operation.flops, [len(axis) for axis in cut_axes(operation)]]
            for operation in groups.coupling.operations
        ],
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / "latency" / f"{type(groups.model).__name__}-{runtime}-{name}.json"
