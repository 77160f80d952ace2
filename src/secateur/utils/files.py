"""Writing a file so that it is either the old one or the whole new one.

Bytes flow in; a complete file flows out.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> Path:
    """Write `data` beside `path`, then put it in its place in one step.

    Args:
        path: the file; missing folders are made.
        data: bytes, or text that is written as UTF-8.

    Returns:
        The path.

    Raises:
        OSError: it can't be written; an older file is intact. Its filename is the path.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(f"{folder}/note.txt", "hello").read_text()
        'hello'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        new = Path(folder) / path.name
        with named_after(path), open(new, "xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    return path


@contextmanager
def named_after(path: Path) -> Iterator[None]:
    """Inside, what can't be written is said of `path`: a full disk knows no name."""
    try:
        yield
    except OSError as error:
        error.filename = os.fspath(path)
        raise
