"""BatchNorm's running averages, made anew from some batches.

In: a network and batches. Out: the network, with averages of what its layers see in these.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.utils.batches import Inputs, call, split, to_device
from secateur.utils.forward import evaluating, unwrapped
from secateur.utils.rng import rng_state, set_rng_state


def recalibrate(
    model: nn.Module, loader: Iterable[Any], *, batches: int | None = None
) -> nn.Module:
    """Average BatchNorm's running statistics anew over batches, as plain means.

    For a network whose averages are of another one: it was cut, quantized, loaded, or averaged from
    several. Everything else of it runs in eval mode meanwhile (no dropout).

    Args:
        model: changed in place: the running averages, and how many batches they are of. A network
            without any is left alone.
        loader: batches as in training; tensors, tuples (inputs..., target), of which the last entry
            is left out if there are several, or mappings, without their entry "labels".
        batches: how many of them; None takes all.

    Returns:
        The model. Modes, momenta, gradients and random numbers are as they were.

    Raises:
        TypeError: the loader gives no batches, or something else than such.
        ValueError: no batch, or one from which no variance can be taken (of one row). The averages
            are as they were.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
        >>> batches = [torch.tensor([[0.0, 0], [2, 4]]), torch.tensor([[4.0, 8], [6, 12]])]
        >>> recalibrate(model, batches)[0].running_mean
        tensor([3., 6.])
    """
    if batches is not None and batches < 1:
        raise ValueError(f"recalibrate(batches={batches}): 1 or more, or None for all")
    if not isinstance(loader, Iterable) or isinstance(loader, Tensor):
        raise TypeError(
            f"recalibrate: expected batches, got a {type(loader).__name__}; pass a DataLoader, or "
            "[x] for a single batch"
        )
    model = unwrapped(model)
    layers = [x for x in model.modules() if isinstance(x, _BatchNorm) and x.track_running_stats]
    if not layers:
        return model
    device = next((x.device for x in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    momenta = [layer.momentum for layer in layers]
    before = [[buffer.clone() for buffer in layer.buffers()] for layer in layers]
    random = rng_state(loader)
    done = 0
    try:
        with torch.no_grad(), evaluating(model):
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # torch's word for a plain mean
                layer.train()
            for batch in islice(loader, batches):
                call(model, to_device(inputs_of(batch), device))
                done += 1
        if not done:
            raise ValueError("recalibrate: the loader gave no batch")
    except Exception as error:
        _restore_(layers, before)
        if "more than 1 value per channel" in str(error):
            raise ValueError(
                "recalibrate: a batch of one row has no variance; give batches of two rows or more "
                "(DataLoader(drop_last=True) leaves out a last one that is smaller)"
            ) from error
        raise
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        set_rng_state(random, loader)
    return model


def inputs_of(batch: Any) -> Inputs:
    """What a model takes of a batch.

    Raises:
        TypeError: it is not of a known kind.

    Example:
        >>> inputs_of((torch.zeros(2), torch.ones(2)))
        (tensor([0., 0.]),)
    """
    if isinstance(batch, Tensor):
        return (batch,)
    if isinstance(batch, (tuple, list)) and len(batch) == 1:
        return tuple(batch)
    if isinstance(batch, dict) and "labels" not in batch:
        return batch
    return split(batch)[0]


def _restore_(layers: list[Any], before: list[list[Tensor]]) -> None:
    with torch.no_grad():
        for layer, kept in zip(layers, before, strict=True):
            for buffer, value in zip(layer.buffers(), kept, strict=True):
                buffer.copy_(value)
