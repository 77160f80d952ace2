"""What a runtime is: something that writes a network as a file of its own and runs such a file.

A captured network flows in; a file flows out, and from the file a program. A new runtime is one
file beside this one with a `Runtime` in it, and its place in table.py.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from secateur.runtimes.capture import Captured


@dataclass(frozen=True)
class Program:
    """A file that was opened.

    Attributes:
        inputs: their names, in order.
        bind: of tensors in that order, a call without arguments that runs the program once on
            them and returns its outputs, arrays or tensors.
    """

    inputs: tuple[str, ...]
    bind: Callable[[Sequence[Tensor]], Callable[[], Sequence[Any]]]


class Runtime(ABC):
    """One runtime: how its files are written, opened and timed.

    Attributes:
        name: what `runtime=` calls it.
        title: what people call it.
        suffix: of its files.
        extra: of secateur, which installs it.
        writers, runners: the packages that write its files, and that run them.
        distribution: the package whose version decides how fast it is.
        companions: suffixes of files that lie beside it under the same name.
        largest: bytes of weights that one file holds at most.
        open_sizes: whether its files may leave sizes such as the batch open.
        lacks: number types that it doesn't compute in, and why.
        trials: how many thinner networks a latency table times in it, and how many judge the table.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    suffix: ClassVar[str]
    extra: ClassVar[str]
    writers: ClassVar[tuple[str, ...]]
    runners: ClassVar[tuple[str, ...]]
    distribution: ClassVar[str]
    companions: ClassVar[tuple[str, ...]] = ()
    largest: ClassVar[int | None] = None
    open_sizes: ClassVar[bool] = False
    lacks: ClassVar[dict[torch.dtype, str]] = {}
    trials: ClassVar[tuple[int, int]] = (8, 3)

    @abstractmethod
    def write(self, network: Captured, path: Path) -> None:
        """Write a network to a file; what the runtime can't take is an error of its own."""

    @abstractmethod
    def load(self, path: Path, threads: int) -> Program:
        """Open a file on the CPU; 0 threads: as many as the runtime likes."""

    def require(self, *, to_write: bool = True, to_run: bool = True) -> None:
        """Refuse where a package is missing.

        Raises:
            ImportError: it names the extra.
        """
        needed = (self.writers if to_write else ()) + (self.runners if to_run else ())
        missing = [name for name in dict.fromkeys(needed) if not _is_there(name)]
        if missing:
            raise ImportError(
                f"{self.title} needs {', '.join(missing)}: pip install secateur[{self.extra}]"
            )

    @property
    def version(self) -> str:
        """The installed version, or "" where it is missing."""
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return ""


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # its parent is missing, or it is blocked
        return False


def load_package(name: str) -> Any:
    """Import a package of an extra; `Runtime.require` has said that it is there."""
    return importlib.import_module(name)
