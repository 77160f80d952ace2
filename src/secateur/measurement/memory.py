"""How much memory one forward needs at its worst moment: weights, inputs and activations together.

A model and an example flow in; bytes flow out.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.measurement.count import distinct, parts, tensor_bytes
from secateur.utils.forward import (
    Example,
    device_of,
    evaluating,
    forward,
    inputs_of,
    state_of,
    tensors_of,
    unfused_attention,
)


def measure_peak_memory(model: nn.Module, example: Example) -> int:
    """Return the peak bytes of live tensors during one forward without gradients.

    Weights, buffers and the example itself are part of it. On CUDA the figure comes from torch's
    allocator (whose peak statistics are reset); elsewhere the life of every tensor's memory is
    followed through the forward, which sees all that operators return and nothing of the scratch
    space inside a kernel.

    Args:
        model: Any module.
        example: A tensor, a tuple of tensors or a dict of keyword tensors on the model's device.

    Returns:
        Bytes.

    Raises:
        ValueError: Model and example are on different devices.

    Example:
        >>> net = nn.Linear(3, 2, bias=False)
        >>> measure_peak_memory(net, torch.zeros(1, 3))  # 6 weights, 3 inputs, 2 outputs, float32
        44
    """
    run = forward(model, example)
    resident = [*state_of(model), *inputs_of(example)]
    device = device_of(model, example)
    with evaluating(model), torch.no_grad():
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            run()
            torch.cuda.synchronize(device)
            added = torch.cuda.max_memory_allocated(device) - before
            return added + sum(tensor_bytes(tensor) for tensor in distinct(resident))
        follower = Follower(resident)
        with unfused_attention(), follower:
            run()
        return follower.peak


class Follower(TorchDispatchMode):
    """Adds up the memory alive: each storage from the operator that returns it to its end.

    Args:
        resident: what is alive all the time: parameters, buffers and inputs.

    Attributes:
        live: bytes alive now.
        peak: the most that were alive at once.
    """

    def __init__(self, resident: list[Tensor]) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}
        self._ends: list[weakref.finalize] = []
        self.follow(resident)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.follow(tensors_of(result))
        return result

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for end in self._ends:
            end.detach()

    def follow(self, tensors: list[Tensor]) -> None:
        """Count what these tensors are stored in, until it is freed."""
        for tensor in tensors:
            for part in parts(tensor):
                storage = part.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if self._sizes.get(key) == size:
                    continue
                if key not in self._sizes:
                    self._ends.append(weakref.finalize(storage, self._resize, key, 0))
                self._resize(key, size)
                self.appeared(key, size, tensor)

    def appeared(self, key: int, size: int, tensor: Tensor) -> None:
        """A storage of `size` bytes is alive from now on; `tensor` is the first to show it."""

    def vanished(self, key: int) -> None:
        """A storage has been freed."""

    def _resize(self, key: int, size: int) -> None:
        self.live += size - self._sizes.pop(key, 0)
        self.peak = max(self.peak, self.live)
        if size:
            self._sizes[key] = size
        else:
            self.vanished(key)
