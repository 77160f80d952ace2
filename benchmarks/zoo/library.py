"""Models of the transformers library, from small configurations with random weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is fetched

from torch import nn

from zoo.entry import ZOO, Entry, random, tokens


def register(family: str, name: str, model: str, example: Callable[[], Any], **config: Any) -> None:
    """Register a class of transformers under `name`; `config` makes it small."""

    def build() -> nn.Module:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        made = getattr(transformers, model)
        settings = made.config_class(**config)
        settings._attn_implementation = "eager"
        return made(settings).requires_grad_(True)  # some come with frozen parts

    ZOO[name] = Entry(name, family, build, example)


def text(length: int = 7, **more: Callable[[], Any]) -> Callable[[], dict[str, Any]]:
    """Two rows of words, and further inputs by name."""
    words = tokens(2, length)
    return lambda: {"input_ids": words()} | {name: make() for name, make in more.items()}


def image(size: int = 32) -> Callable[[], dict[str, Any]]:
    """Two images."""
    pixels = random(2, 3, size, size)
    return lambda: {"pixel_values": pixels()}
