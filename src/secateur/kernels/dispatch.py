"""Who runs this room's inner loops: C on a CPU (cpu.py), Triton on a GPU (gpu.py), or neither.

In: tensors. Out: the module whose `root`, `shrunk`, `norms` and `scale_` can read them.
"""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from secateur.kernels import cpu, gpu


def loops(*tensors: Tensor) -> ModuleType | None:
    """Choose the compiled loops for these tensors; None where plain operations have to do.

    Example:
        >>> import torch
        >>> loops(torch.ones(3, dtype=torch.int32)) is None
        True
    """
    return next((module for module in (cpu, gpu) if module.takes(*tensors)), None)
