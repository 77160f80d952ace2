"""How a window of batches becomes one step of an optimizer.

In: a model, an optimizer and batches. Out: the step, in one process and in the model's precision;
`accelerated.py` has the engine for several processes and mixed precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

Loss = Callable[[nn.Module, Any], Tensor]  # of a model on a batch, a scalar


class Engine:
    """One process, plain: what a `Loop` steps with unless it is given another engine.

    Args:
        clip: the largest norm of all gradients together; None leaves them as they are.

    Attributes:
        rank, world: which process this is, and of how many.

    Raises:
        ValueError: clip is not above 0.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 1)
        >>> engine = Engine(clip=1.0)
        >>> engine.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
        >>> engine.step([torch.ones(3, 2)], lambda model, batch: 0 * model(batch).square().sum())
        0.0
    """

    rank, world = 0, 1

    def __init__(self, *, clip: float | None = None) -> None:
        if clip is not None and not clip > 0:
            raise ValueError(f"clip={clip}: the largest norm of the gradients is above 0")
        self.clip = clip

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Take what is to be trained; called once, by the loop."""
        self.model, self.optimizer = model, optimizer

    def share(self, loader: Any) -> Any:
        """The loader of this process's part of every batch."""
        return loader

    def step(self, window: Sequence[Any], loss: Loss) -> float:
        """One step of the optimizer on the mean loss of some batches; returns this mean."""
        self.model.train()
        self.optimizer.zero_grad()
        total = 0.0
        for number, batch in enumerate(window, 1):
            with self._quiet() if number < len(window) else nullcontext():
                with self.autocast():
                    found = loss(self.model, batch)
                self._backward(found / len(window))
            total += float(found.detach())
        self._update()
        return total / len(window)

    def autocast(self) -> AbstractContextManager[None]:
        """In which the model is run."""
        return nullcontext()

    # -- between processes: of one, nothing to do -------------------------------------------------

    def total(self, *values: float) -> list[float]:
        """The sum of each value over all processes."""
        return list(values)

    def largest(self, *values: float) -> list[float]:
        """The largest of each value over all processes."""
        return list(values)

    def gather(self, value: Any) -> list[Any]:
        """The value of every process, in order."""
        return [value]

    def align(self) -> None:
        """Give all processes the buffers of the first one."""

    # -- what a checkpoint holds ------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What the engine itself remembers between steps."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` gave."""

    # -- the parts of a step ----------------------------------------------------------------------

    def _quiet(self) -> AbstractContextManager[Any]:
        """In which gradients are added up without telling the other processes."""
        return nullcontext()

    def _backward(self, loss: Tensor) -> None:
        loss.backward()

    def _update(self) -> None:
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
