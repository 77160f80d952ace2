"""`from_pretrained`: a small network from the folder that its save_pretrained wrote.

In: a class of a library such as transformers, and a folder. Out: a network of that class, small
where the folder holds a plan.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import torch

from secateur.deploy.configs import build
from secateur.deploy.loading import FileError, load
from secateur.deploy.small_pretrained import FILE, ordinary_weights
from secateur.utils.extras import require

Network = TypeVar("Network", bound=torch.nn.Module)


def from_pretrained(kind: type[Network], folder: str | os.PathLike[str], **options: Any) -> Network:
    """Make a network from the folder that save_pretrained of a small (or any) one wrote.

    `shrink` and `load` hand over a network of transformers (or of a library like it) whose
    save_pretrained writes an ordinary folder, for the library's own from_pretrained, where a
    configuration can say the small sizes: blocks that left whole, and neurons, heads or width that
    all layers lost alike. Else it writes the full-size configuration and "secateur.safetensors",
    weights and plan, and no file of weights that the library knows: its own from_pretrained raises,
    and never makes up weights. This function reads both.

    Args:
        kind: the class, such as `LlamaForCausalLM` or `AutoModelForCausalLM`.
        folder: on this machine; `huggingface_hub.snapshot_download(name)` gives that of a network
            on the Hub.
        options: for an ordinary folder, whatever `kind.from_pretrained` takes. Where there is a
            plan: `dtype` (or `torch_dtype`), and what the configuration takes, such as
            `attn_implementation`.

    Returns:
        The network in eval mode; where there is a plan on the CPU, cut and filled as by `load`,
        with its generation configuration.

    Raises:
        FileError: the file is damaged, does not fit `kind`, or there are ordinary weights beside
            it, so that nobody knows which are meant.
        FileNotFoundError: there is no such folder, or no network in it.
        TypeError: `kind` is no class with from_pretrained, or an option has no meaning here.

    Example:
        >>> import tempfile
        >>> import secateur as sc
        >>> from transformers import GPT2Config, GPT2Model
        >>> model = GPT2Model(GPT2Config(vocab_size=9, n_embd=8, n_layer=2, n_head=2)).eval()
        >>> groups = sc.depth(model, {"input_ids": torch.tensor([[1, 2]])})
        >>> small = sc.shrink(model, groups.scale_(torch.tensor([1.0, 0, 1, 1])))  # one MLP
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     small.save_pretrained(folder)
        ...     again = sc.from_pretrained(GPT2Model, folder)
        >>> again.h[0].mlp
        Placeholder()
    """
    if not (isinstance(kind, type) and callable(getattr(kind, "from_pretrained", None))):
        raise TypeError(
            f"from_pretrained: expected a class such as transformers.LlamaForCausalLM, got {kind!r}"
        )
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"from_pretrained: there is no folder {folder}; for a network on the Hub pass "
            "huggingface_hub.snapshot_download(name)"
        )
    if not (folder / FILE).exists():
        try:
            return kind.from_pretrained(folder, **options)  # pyright: ignore
        except OSError as error:
            raise FileNotFoundError(f"{folder} has no {FILE}, and otherwise: {error}") from error
    if others := ordinary_weights(folder):
        raise FileError(
            f"{folder} holds two networks, in {FILE} and {others[0].name}: remove the one that is "
            "not meant"
        )
    return _small(kind, folder, options)


def _small(kind: Any, folder: Path, options: dict[str, Any]) -> Any:
    dtype = options.pop("torch_dtype", None)
    dtype = options.pop("dtype", dtype)
    reader = getattr(kind, "config_class", None) or _auto_config()
    config, unknown = reader.from_pretrained(folder, return_unused_kwargs=True, **options)
    if unknown:
        raise TypeError(
            f"from_pretrained: {', '.join(unknown)} has no meaning for a small network, which is "
            "made on the CPU; move or convert it afterwards"
        )
    model: Any = build(getattr(kind, "from_config", kind), config)
    model = load(folder / FILE, model=model).eval()
    generation = getattr(model, "generation_config", None)
    if generation is not None and (folder / "generation_config.json").exists():
        model.generation_config = type(generation).from_pretrained(folder)
    return model if dtype in (None, "auto") else model.to(dtype)


def _auto_config() -> Any:
    return require("transformers", extra="transformers").AutoConfig
