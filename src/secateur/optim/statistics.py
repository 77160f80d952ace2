"""BatchNorm's running averages, which keep up with a network whose groups leave.

In: after each step, what its forward passes made of the averages. Out: the same averages, as they
are with a shorter memory while the budget presses, and begun anew when the groups are chosen.
"""

from __future__ import annotations

import gc
import warnings
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from secateur.utils.distributed import is_dtensor
from secateur.utils.forward import unwrapped

MEMORY = 10  # forward passes: what the averages span while the budget presses, as torch's own do


class RunningStatistics:
    """The running averages of a model's BatchNorm layers, corrected after each step.

    A layer of momentum p turns its average C, over k forward passes of mean x, into

        R = (1 - p)^k C + w x,    w = 1 - (1 - p)^k

    In an average over n passes these k should weigh k / (n + k), so that it is corrected to

        C + g (R - C),    g = max(1, k / ((n + k) w))

    While the budget presses, n is at most `MEMORY` - 1. At the choice it is 0: from there on the
    averages are plain means, until n is so long that the layer's own momentum weighs more (g = 1).
    Nothing but the averages is touched, and so it doesn't matter who runs the layer: a compiled
    model, a captured graph, several passes a step.

    Layers that momentum=None makes plain averages of, that run in eval mode, or hold them in half
    precision are left alone.

    Args:
        model: whose layers; None has none.
        pressing: whether a budget presses before the choice.

    Source: own.
    """

    def __init__(self, model: nn.Module | None, *, pressing: bool = True) -> None:
        self.model, self.pressing = model, pressing
        self._shown: Tensor | None = None  # the averages after the last step; None: nothing to do
        self._counts = self._spans = torch.zeros(0)  # of each layer: passes in all, and n
        self._steps = 0  # since the choice

    def follow_(self, *, chosen: bool) -> None:
        """Correct what the forward passes of a step have made of the averages.

        Args:
            chosen: whether the groups were chosen before these passes.
        """
        if self._shown is None:
            if self.pressing and not chosen and any(p < 1 / MEMORY for p in self._momenta()):
                self._begin(MEMORY - 1)
            return
        values, counts = self._read()
        momenta = values.new_tensor(self._momenta())
        shown, spans = self._shown.to(values), self._spans.to(values)
        passes = (counts - self._counts.to(counts.device)).to(values)
        own = -torch.expm1(passes * torch.log1p(-momenta))
        counted = (own > 0) & self._mine.to(values.device)  # fewer passes: it was loaded
        gain = torch.where(counted, passes / ((spans + passes) * own), 1.0).clamp_min(1)
        values = shown.lerp(values, gain[self._places.to(values.device)])
        values[len(values) // 2 :].clamp_min_(0)  # the variances: a difference may round below
        self._write(values)
        self._shown, self._counts = values, counts
        self._spans = spans + torch.where(counted, passes, 0.0)
        if not chosen:
            self._spans.clamp_max_(MEMORY - 1)
            return
        self._steps += 1
        done = (self._spans * momenta >= 1) | (self._spans == 0)
        if self._steps * min(self._momenta()) >= 1 and bool(done.all()):
            self._shown = None  # their own momentum rules

    def begin_anew(self) -> None:
        """The groups have been chosen: forget what the averages hold, once there is something new.

        Warns:
            UserWarning: layers are in eval mode, and their averages stay those of the network
                before.
        """
        self._begin(0)
        frozen = [name for name, layer in self._all() if not layer.training or layer.momentum == 0]
        if frozen:
            more = f" and {len(frozen) - 3} more" if len(frozen) > 3 else ""
            warnings.warn(
                f"{', '.join(frozen[:3])}{more}: in eval mode when the groups were chosen, so that "
                "the averages of BatchNorm stay those of the network before; if its score is low, "
                "average them anew: secateur.recalibrate(model, loader)",
                stacklevel=2,
            )

    def go_on_with(self, small: nn.Module, optimizer: Optimizer, names: dict[str, str]) -> None:
        """After each step of this optimizer, correct the averages of a network cut out of this one.

        Args:
            small: the small network, whose averages are those of the last step.
            names: module of the small network -> what it is called in this one.
        """
        if self._shown is None or self.model is None:
            return
        spans = dict(zip(map(id, self._layers), self._spans.tolist(), strict=True))
        full = {name: spans.get(id(module), 0.0) for name, module in self.model.named_modules()}
        other = RunningStatistics(small)
        other._begin(0)
        mine = {id(module): full.get(names[name], 0.0) for name, module in small.named_modules()}
        if other._shown is not None:
            other._spans = other._shown.new_tensor([mine[id(layer)] for layer in other._layers])
            other._steps = self._steps
            optimizer.register_step_post_hook(partial(_follow, other))

    def _begin(self, span: int) -> None:
        if self._layers:
            self._shown, self._counts = self._read()
            self._spans = self._shown.new_full((len(self._layers),), span)
            self._steps = 0

    # -- the layers --------------------------------------------------------------------------------

    def _all(self) -> list[tuple[str, _BatchNorm]]:
        modules = () if self.model is None else self.model.named_modules()
        return [
            (name, module)
            for name, module in modules
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        ]

    @cached_property
    def _layers(self) -> list[_BatchNorm]:
        """Those that are followed, found when the first step was taken."""
        return [
            layer
            for _, layer in self._all()
            if 0 < (layer.momentum or 0) < 1
            and layer.running_mean is not None
            and layer.running_mean.dtype.itemsize > 2
            and not (layer.running_mean.is_meta or is_dtensor(layer.running_mean))
        ]

    @cached_property
    def _places(self) -> Tensor:
        """The layer of every value."""
        sizes = torch.tensor([x.num_features for x in self._layers], dtype=torch.int64)
        return torch.arange(len(sizes)).repeat_interleave(sizes).repeat(2)

    @cached_property
    def _mine(self) -> Tensor:
        """Whether each layer's averages are this process's own."""
        given = self.model is not None and are_given(self.model)
        return torch.tensor([not given or isinstance(x, nn.SyncBatchNorm) for x in self._layers])

    def _momenta(self) -> list[float]:
        return [float(layer.momentum or 0) for layer in self._layers]

    def _buffers(self) -> list[Tensor]:
        """All means, then all variances; a model that is moved gets others."""
        means = [layer.running_mean for layer in self._layers]
        variances = [layer.running_var for layer in self._layers]
        return [buffer for buffer in (*means, *variances) if buffer is not None]

    def _read(self) -> tuple[Tensor, Tensor]:
        buffers = self._buffers()
        device = buffers[0].device
        counts = [layer.num_batches_tracked for layer in self._layers]
        return (
            torch.cat([buffer.detach().to(device) for buffer in buffers]),
            torch.stack([count.to(device) for count in counts if count is not None]),
        )

    @torch.no_grad()
    def _write(self, values: Tensor) -> None:
        buffers = self._buffers()
        for buffer, piece in zip(buffers, values.split([len(b) for b in buffers]), strict=True):
            buffer.copy_(piece)

    # -- between processes and runs ----------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs; nothing where there is nothing to do."""
        if self._shown is None:
            return {}
        return {
            "shown": self._shown.clone(),
            "counts": self._counts.clone(),
            "spans": self._spans.clone(),
            "steps": self._steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a state_dict was taken, if it is of such layers; else from the averages."""
        shown = state.get("shown")
        self._shown = None
        if shown is not None and len(shown) == len(self._places):
            self._shown = shown.clone()
            self._counts, self._spans = state["counts"].clone(), state["spans"].clone()
            self._steps = int(state["steps"])

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: which averages are this process's own is found anew."""
        return {name: value for name, value in vars(self).items() if name != "_mine"}


def _follow(statistics: RunningStatistics, *_: Any) -> None:
    statistics.follow_(chosen=True)


def followed(statistics: str, model: nn.Module | None, *, pressing: bool) -> RunningStatistics:
    """What `Proximal(statistics=)` asks for.

    Raises:
        ValueError: another word than "recent" and "model".
    """
    if statistics not in ("recent", "model"):
        raise ValueError(
            f'statistics={statistics!r}: "recent", or "model" to leave the running averages of '
            "BatchNorm to the model's own momentum"
        )
    return RunningStatistics(model if statistics == "recent" else None, pressing=pressing)


def are_given(model: nn.Module) -> bool:
    """Whether this process's buffers are overwritten by the first one's before each forward pass.

    DistributedDataParallel does that unless it is told not to. Nothing in a model says whether it
    is in one, but it is among the objects that Python keeps.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0:
        return False
    shells = (x for x in gc.get_objects() if issubclass(type(x), DistributedDataParallel))
    return any(x.broadcast_buffers and model in unwrapped(x).modules() for x in shells)
