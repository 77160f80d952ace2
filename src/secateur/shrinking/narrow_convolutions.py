"""Narrow convolutions that torch trains wrongly on a CPU.

In: a network. Out: the names of those convolutions, so that nobody trains them unawares.
"""

from __future__ import annotations

import platform

import torch
from torch import nn

ISSUE = "github.com/uxlfoundation/oneDNN/issues/6035"


def trained_wrongly(network: nn.Module) -> list[str]:
    """The strided 1x1 convolutions on an x86 CPU with fewer inputs than its vectors have entries.

    Where they or their inputs are channels last in memory, their weights' gradients may be wrong,
    or the process crashes. Forward passes are right.

    Source: oneDNN issue 6035, in torch up to 2.14 at least.
    """
    if not x86() or not torch.backends.mkldnn.enabled:
        return []
    entries = 16 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 8
    return [
        f"{name} ({module.in_channels} inputs)"
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.groups == 1
        and module.in_channels < entries
        and module.weight.requires_grad
        and module.weight.dtype == torch.float32
        and module.weight.device.type == "cpu"
    ]


def x86() -> bool:
    """Whether this machine's CPU is of that kind."""
    return platform.machine().lower() in ("x86_64", "amd64")
