"""What all tests and the examples of docstrings share: one thread a process, so that they run side
by side and alike; a cache.

Where there is no GPU, its kernels run on CPU tensors, in Triton's interpreter.
"""

from __future__ import annotations

import math
import os
from contextlib import suppress
from functools import cache as cache_of
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

pytest_plugins = ["slow_tests"]
torch.set_num_threads(1)
if not torch.cuda.is_available():  # Triton asks when it is imported: kernels run in Python
    os.environ.setdefault("TRITON_INTERPRET", "1")
kernels = [
    "tests/gpu_kernels.py",
    "src/secateur/kernels/triton_*.py",
]  # can be imported with Triton only
collect_ignore_glob = [] if find_spec("triton") else kernels


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latency tables are kept here, not in the user's folder."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["SECATEUR_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def operators() -> None:
    """Half of a small export is spent on reading onnxscript's operators anew: read them once."""
    with suppress(ImportError, AttributeError):
        from onnxscript._framework_apis import torch_2_5

        torch_2_5.get_torchlib_ops = cache_of(torch_2_5.get_torchlib_ops)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test draws the same numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run beside others, often on busy machines: a table of unsteady figures will do here."""
    monkeypatch.setattr("secateur.costs.timing.STEADY", math.inf)
