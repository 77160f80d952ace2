"""The engine behind `secateur train`: Accelerate, for any launcher, device and precision.

In: what torchrun or `accelerate launch` say, and options. Out: an engine whose steps are those of
one process on the whole batch, whatever the number of processes; each process's part of the data.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from secateur.optim import Proximal
from secateur.train.engine import Engine
from secateur.utils.extras import require
from secateur.utils.rng import part_ways

PRECISIONS = ("no", "bf16", "fp16")
# What a loader is made with, besides its data and the order of it.
LOADING = (
    *("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn"),
    *("multiprocessing_context", "prefetch_factor", "persistent_workers"),
)


class Accelerated(Engine):
    """Steps on every process that a launcher started, each on its part of every batch (DDP).

    Without a launcher, one process. Gradients are averaged over the processes, so that a step is
    that of one process on the whole batch (layers that mix rows, such as BatchNorm, see a part).

    Args:
        device: such as "cpu" or "cuda"; by default what Accelerate finds.
        precision: "no", "bf16" or "fp16": in which the model is run, its weights staying as they
            are; by default what the launcher says, or "no".
        clip: the largest norm of all gradients together.

    Attributes:
        device: where this process's model and batches go.

    Raises:
        ImportError: Accelerate is missing.
        ValueError: a precision or launcher's option that this engine doesn't know; fp16 on a CPU.
    """

    def __init__(
        self,
        device: str | None = None,
        *,
        precision: str | None = None,
        clip: float | None = None,
    ) -> None:
        super().__init__(clip=clip)
        if precision not in (None, *PRECISIONS):
            raise ValueError(f"--precision {precision}: known are {', '.join(PRECISIONS)}")
        accelerate = require("accelerate", extra="cli")
        on_cpu = device == "cpu" or (device is None and not torch.accelerator.is_available())
        self.accelerator = accelerate.Accelerator(mixed_precision=precision, cpu=on_cpu)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        try:
            self.device = self._chosen(device)
            self._refuse()
        except ValueError:
            self.__exit__()  # Accelerate would keep the options of this attempt for the next one
            raise

    def _chosen(self, device: str | None) -> torch.device:
        """The device asked for, of the kind that Accelerate works with; by default Accelerate's."""
        found = self.accelerator.device
        if device is None:
            return found
        asked = torch.device(device)
        if asked.type != found.type or (self.world > 1 and asked.index is not None):
            raise ValueError(
                f"--device {device}: Accelerate has {found} for process {self.rank} of "
                f"{self.world}; leave the choice to it, or write --device {found.type}"
            )
        return found if asked.index is None else asked

    def _refuse(self) -> None:
        """What a launcher may ask for, and this engine would leave out without a word."""
        kind = self.accelerator.distributed_type.value
        if kind != "NO" and not kind.startswith("MULTI_"):
            raise ValueError(
                f"the launcher asks for {kind}; secateur train runs under DDP. Start it with "
                "torchrun or plain `accelerate launch`, or see docs/distributed.md for a loop of "
                "your own"
            )
        launched = int(os.environ.get("WORLD_SIZE", 1))
        if launched != self.world:
            raise ValueError(
                f"the launcher started {launched} processes and Accelerate joins {self.world} on "
                f"{self.device.type}: start one process, or add --device cpu"
            )
        if self.accelerator.gradient_accumulation_steps != 1:
            raise ValueError(
                "the launcher asks for gradient accumulation; write --accumulate "
                f"{self.accelerator.gradient_accumulation_steps} behind `secateur train` instead"
            )
        if self.accelerator.mixed_precision == "fp16" and self.accelerator.scaler is None:
            raise ValueError(
                f"--precision fp16 on {self.device.type}: needs a GPU; on a CPU write "
                "--precision bf16"
            )

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Wrap the model in DDP where there are several processes: all get the first's weights."""
        self.module, self.inner = model, optimizer
        self.prepared = self.accelerator.prepare_optimizer(optimizer, device_placement=False)
        if self.world > 1:
            on_gpu = self.device.type == "cuda"
            model = DistributedDataParallel(model, [self.device] if on_gpu else None)
        super().prepare(model, self.prepared)

    def share(self, loader: Any) -> Any:
        """The loader of this process's part of every batch: as many rows on every process.

        Where a batch can't be divided evenly, its first rows are used twice.

        Raises:
            TypeError: several processes, and a loader whose rows can't be shared out.
        """
        if self.world == 1:
            return loader
        _check_shareable(loader)
        options = {name: getattr(loader, name) for name in LOADING}
        batches = Share(loader.batch_sampler, self.rank, self.world, loader.generator)
        return DataLoader(loader.dataset, batch_sampler=batches, **options)

    def autocast(self) -> AbstractContextManager[None]:
        return self.accelerator.autocast()

    def _quiet(self) -> AbstractContextManager[Any]:
        return self.accelerator.no_sync(self.model)

    def _backward(self, loss: Tensor) -> None:
        self.accelerator.backward(loss)

    def _update(self) -> None:
        if self.clip is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip)
        self.prepared.step()
        if self.prepared.step_was_skipped and isinstance(self.inner, Proximal):
            self.inner.skip()  # so that the groups are chosen at the step announced

    # -- between processes ------------------------------------------------------------------------

    def total(self, *values: float) -> list[float]:
        return self._reduced(values, "sum")

    def largest(self, *values: float) -> list[float]:
        return self._reduced(values, "max")

    def _reduced(self, values: tuple[float, ...], how: str) -> list[float]:
        if self.world == 1:
            return list(values)
        sent = torch.tensor(values, dtype=torch.float64, device=self.device)
        operation = distributed.ReduceOp.SUM if how == "sum" else distributed.ReduceOp.MAX
        distributed.all_reduce(sent, operation)
        return sent.tolist()

    def gather(self, value: Any) -> list[Any]:
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        distributed.all_gather_object(found, value)
        return found

    def align(self) -> None:
        if self.world > 1:
            for buffer in self.module.buffers():
                distributed.broadcast(buffer, 0)

    # -- beginning and end ------------------------------------------------------------------------

    def __enter__(self) -> Accelerated:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the other processes; what is done from here on, each does alone."""
        self.__dict__.pop("model", None)  # DDP first: gloo may abort where it outlives its group
        gc.collect()
        self.accelerator.end_training()
        self.accelerator.state._reset_state(reset_partial_state=True)

    # -- what a checkpoint holds ------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {} if scaler is None else {"scaler": scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])


class Share:
    """One process's part of every batch of a batch sampler.

    The order of an epoch is drawn at once, from generators that are alike on all processes; from
    then on each process has random numbers of its own. It is the order of the whole loader in one
    process, which draws a seed for its workers first.

    Example:
        >>> list(Share([[0, 1, 2, 3], [4, 5, 6]], rank=0, world=2))
        [[0, 1], [4, 5]]
        >>> batches = Share([[0, 1, 2, 3], [4, 5, 6]], rank=1, world=2)
        >>> batches.part([0, 1, 2, 3]), batches.part([4, 5, 6])
        ([2, 3], [6, 4])
    """

    def __init__(
        self, batches: Any, rank: int, world: int, generator: torch.Generator | None = None
    ) -> None:
        self.batches, self.rank, self.world, self.generator = batches, rank, world, generator
        self.sampler = getattr(batches, "sampler", None)  # whose generator is seeded

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Any]]:
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)  # the workers' seed
        drawn = list(self.batches)
        part_ways(self.rank)
        return (self.part(batch) for batch in drawn)

    def part(self, batch: list[Any]) -> list[Any]:
        """This process's rows of a batch."""
        rows = -(-len(batch) // self.world)
        return list(islice(cycle(batch), self.rank * rows, (self.rank + 1) * rows))


def _check_shareable(loader: Any) -> None:
    """Refuse what would be trained on twice, or not at all."""
    words = None
    if not isinstance(loader, DataLoader):
        words = f"a {type(loader).__name__}; return a DataLoader"
    elif isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        words = "one without a batch sampler; give it a dataset with indices and a batch size"
    elif isinstance(getattr(loader.batch_sampler, "sampler", None), DistributedSampler):
        words = "one with a DistributedSampler; write shuffle=True instead"
    if words is not None:
        raise TypeError(
            "on several processes the rows of the training loader's batches are shared out; it is "
            + words
        )
