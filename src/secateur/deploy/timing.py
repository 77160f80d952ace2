"""How long one run of an exported file takes, in the runtime of its suffix, on the CPU.

Files and an example flow in; seconds flow out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from secateur.measurement import Latency, time_calls, time_together
from secateur.runtimes.running import prepare_file
from secateur.utils.forward import Example


def latency(
    path: str | os.PathLike[str],
    example: Example,
    *,
    threads: int = 1,
    repeats: int = 50,
    warmup: int = 5,
) -> Latency:
    """Return the median seconds of one run of an exported file on the CPU.

    Args:
        path: The file, such as "small.onnx" or "small.tflite".
        example: A tensor, a tuple of tensors or a dict of tensors by input name.
        threads: Threads inside an operator; 0 lets the runtime choose.
        repeats: Timed runs, at least 1.
        warmup: Runs that come first and are not timed.

    Returns:
        `Latency(median, spread)` in seconds.

    Raises:
        ImportError: The runtime is missing.

    Example:
        >>> import tempfile, torch
        >>> import secateur as sc
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = sc.export(torch.nn.Linear(3, 2), torch.zeros(1, 3), f"{folder}/small.onnx")
        ...     latency(path, torch.zeros(1, 3), repeats=3).median > 0
        True
    """
    return time_calls(prepare_file(path, example, threads), repeats=repeats, warmup=warmup)


def latencies(
    paths: Sequence[str | os.PathLike[str]], example: Example, *, threads: int = 1
) -> list[Latency]:
    """Return the latency of several exported files, in turns so that their ratios stay true.

    Args:
        paths: The files, also of different runtimes.
        example: As `latency` takes it, for all of them.
        threads: As there.

    Returns:
        One `Latency(median, spread)` a file, in seconds.

    Raises:
        ImportError: A runtime is missing.

    Warns:
        RuntimeWarning: The machine is busy, so that measuring takes longer.

    Example:
        >>> import tempfile, torch
        >>> import secateur as sc
        >>> example = torch.zeros(64, 512)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     full = sc.export(torch.nn.Linear(512, 512), example, f"{folder}/full.onnx")
        ...     small = sc.export(torch.nn.Linear(512, 8), example, f"{folder}/small.onnx")
        ...     full, small = latencies([full, small], example)
        >>> small.median < full.median
        True
    """
    return time_together([prepare_file(path, example, threads) for path in paths], patience=2)
