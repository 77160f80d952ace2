"""Where the tests of the GPU's kernels run them: on a GPU, or on a CPU in Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from secateur.kernels import cpu, gpu

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = DEVICE == "cpu"
needs_gpu = pytest.mark.skipif(INTERPRETED, reason="no GPU")


@contextmanager
def kernels() -> Iterator[None]:
    """Let everything on `DEVICE` go through the kernels; skip where there is no Triton."""
    pytest.importorskip("triton")
    with pytest.MonkeyPatch.context() as patch:
        if INTERPRETED:
            if os.environ.get("TRITON_INTERPRET") != "1":
                pytest.skip("Triton's interpreter is off")
            patch.setattr(gpu, "DEVICES", ("cpu",))
            patch.setattr(cpu, "_library", None)
        yield
