"""How a model runs while operators are watched: in eval mode, every product an operator of its own.

In: a model and one example. Out: a context in which `model(*args, **kwargs)` runs what the example
calls, and after which the model is as before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from secateur.tracing.attention import converted
from secateur.utils.contexts import preserve_state, unfused_ops, unfused_rnn
from secateur.utils.forward import calling


@contextmanager
def plain_run(model: nn.Module, example: Any) -> Iterator[None]:
    """Attention and recurrence as matrix products, no gradients, no trace of the run left."""
    with (
        preserve_state(model),
        converted(model),
        torch.no_grad(),
        unfused_ops(),
        unfused_rnn(),
        calling(model, example),
    ):
        yield
