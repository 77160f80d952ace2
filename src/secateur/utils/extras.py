"""Packages that only some users need: imported when needed, and named when they are missing.

The name of a package flows in; the module flows out.
"""

from __future__ import annotations

import importlib
from typing import Any


def require(name: str, *, extra: str) -> Any:
    """Import a package that belongs to an extra of secateur.

    Args:
        name: The package as it is imported.
        extra: The extra that installs it.

    Returns:
        The module.

    Raises:
        ImportError: It is missing; the message says what to install.

    Example:
        >>> require("no_such_package", extra="export")
        Traceback (most recent call last):
        ImportError: no_such_package is not installed: pip install secateur[export]
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is not installed: pip install secateur[{extra}]") from error
