"""save_pretrained of a network that was cut: what is in the folder makes the same network again.

In: a small network of a library such as transformers, which has a `config` and a `save_pretrained`.
Out: the same network, whose save_pretrained writes an ordinary folder where a network made from its
configuration is just like it, and else one that only `secateur.from_pretrained` reads.
"""

from __future__ import annotations

import copy
import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from secateur.deploy.configs import (
    build,
    differences,
    follow,
    put,
    rebuilt,
    shape_differences,
    sizes_before,
)
from secateur.surgery.cut import cut
from secateur.surgery.module_removal import remove_from_lists

FILE = "secateur.safetensors"
ORDINARY = re.compile(  # the files of weights that a library looks for in a folder
    r"(model|pytorch_model|diffusion_pytorch_model)"
    r"([.-].*)?\.(safetensors|bin)(\.index(\..*)?\.json)?"
)


def ordinary_weights(folder: Path) -> list[Path]:
    """The files of weights in a folder that are not ours."""
    return [path for path in sorted(folder.iterdir()) if ORDINARY.fullmatch(path.name)]


def configuration(model: nn.Module) -> Any:
    """A copy of a network's configuration; None if it isn't saved by one."""
    config = vars(model).get("config")
    is_saved = callable(getattr(model, "save_pretrained", None)) and hasattr(config, "to_dict")
    return copy.deepcopy(config) if is_saved else None


def keep_pretrained(small: nn.Module, before: Any, write: Callable[..., Path]) -> None:
    """Let a small network's configuration follow, and its save_pretrained know of the plan.

    Args:
        small: a network that was cut, with its plan.
        before: the configuration of what it was cut out of; None for a network without one.
        write: `secateur.save`.
    """
    if before is None or small.secateur.cuts_nothing:  # pyright: ignore
        return
    follow(small)
    full = sizes_before(small.config, before)
    earlier = vars(small).get("save_pretrained")
    if isinstance(earlier, SavePretrained):  # it was small before
        full |= earlier.full
    small.save_pretrained = SavePretrained(small, full, write)  # pyright: ignore


@dataclass(eq=False, repr=False)
class SavePretrained:
    """The save_pretrained of a small network.

    Attributes:
        model: the network; it and this are copied and pickled together.
        full: what its configuration says in the full size: path -> value.
        write: `secateur.save`.
    """

    model: nn.Module
    full: dict[str, Any]
    write: Callable[..., Path]

    def __call__(self, save_directory: str | os.PathLike[str], *args: Any, **options: Any) -> Any:
        """Write a folder from which the same network is made again.

        Where the network's own configuration says all of its sizes, the library's save_pretrained
        writes it, with the arguments given. Else the folder gets the full-size configuration and
        "secateur.safetensors", for `secateur.from_pretrained(Class, folder)`; the library's own
        from_pretrained finds no weights there, and says so. Of the arguments, those that say how
        weights are spread over files are then without effect.

        Raises:
            OSError: something can't be written.
            TypeError: the network isn't what its class and the plan make any more.
            ValueError: push_to_hub=True or a variant, where our file is written.
        """
        model: Any = self.model
        plain, folder = type(model).save_pretrained, Path(save_directory)
        given = inspect.signature(plain).bind(model, save_directory, *args, **options).arguments
        writes = given.get("is_main_process", True)
        other = rebuilt(model, model.config)
        if other is not None and not differences(model, other):
            if writes:
                (folder / FILE).unlink(missing_ok=True)
            return plain(model, save_directory, *args, **options)
        for name in ("push_to_hub", "variant"):
            if given.get(name):
                raise ValueError(
                    f"save_pretrained({name}=...): no configuration describes this small network, "
                    f"so {FILE} is written, and nothing else; push the folder, or call "
                    "network.push_to_hub(name)"
                )
        if writes:
            self._write_ours(folder, given.get("state_dict"))
        return None

    def _write_ours(self, folder: Path, state_dict: Any) -> None:
        model: Any = self.model
        config = self._full_config()
        self._check(config, state_dict)
        self.write(model, folder / FILE, state_dict=state_dict)
        config.save_pretrained(folder)
        generation = getattr(model, "generation_config", None)
        if generation is not None:
            generation.save_pretrained(folder)
        for stale in ordinary_weights(folder):
            stale.unlink()

    def _full_config(self) -> Any:
        model: Any = self.model
        config = copy.deepcopy(model.config)
        for path, value in self.full.items():
            put(config, path, value)
        config.architectures = [type(model).__name__]
        if hasattr(model, "dtype"):
            config.dtype = model.dtype
        return config

    def _check(self, config: Any, state_dict: Any) -> None:
        """That the folder will make this network again: what would not be isn't written."""
        model: Any = self.model
        name, plan = type(model).__name__, model.secateur
        try:
            full = build(type(model), type(config).from_dict(config.to_dict()))
            cut(full, plan)
            remove_from_lists(full, plan.out)
            found = shape_differences(model, full)
        except Exception as error:
            raise TypeError(_refusal(name, str(error))) from error
        if found:
            raise TypeError(_refusal(name, f"{', '.join(sorted(found)[:3])} would be another"))
        if state_dict is not None and state_dict.keys() != model.state_dict().keys():
            wrong = sorted(state_dict.keys() ^ model.state_dict().keys())
            raise TypeError(
                f"save_pretrained: state_dict is not this network's: {', '.join(wrong[:3])}"
            )


def _refusal(name: str, reason: str) -> str:
    return (
        f"save_pretrained: this small network would not be made again from {name}(config) and the "
        f"plan it was cut by: {reason}\n  sc.save(network, path) saves it, and sc.load(path, "
        "model=...) fills what you make as you made this one"
    )
