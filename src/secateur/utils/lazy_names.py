"""Public names of a package that are imported when they are first used.

A table of names and the modules where they stand flows in; what a package's `__init__` needs flows
out. Type checkers read the names in the `__init__.pyi` beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def lazy_names(
    package: str, names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], list[str]]:
    """Give `__getattr__` and `__all__` to a package whose names shall not cost an import.

    Args:
        package: its `__name__`.
        names: for each module inside it, the public names that it holds.

    Returns:
        A `__getattr__` that finds these names, and modules inside the package; and all names.
    """
    home = {name: module for module, its in names.items() for name in its}

    def get(name: str) -> Any:
        if name in home:
            return getattr(import_module(f"{package}.{home[name]}"), name)
        if not name.startswith("_") and find_spec(f"{package}.{name}"):
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, sorted(home)
