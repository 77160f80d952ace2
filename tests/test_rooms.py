"""Rooms import only what stands above them in CONTRIBUTING.md, also late and for types."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "secateur"


def rooms() -> list[str]:
    """The rooms, from the one that imports none on."""
    return re.findall(r"^\| `(\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)


def imported(file: Path) -> Iterator[str]:
    """The rooms that a file imports from."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("secateur."))


def test_the_table_has_every_room() -> None:
    there = {path.stem for path in SOURCE.iterdir() if not path.name.startswith(("_", "py.typed"))}
    assert set(rooms()) == there


def test_rooms_import_only_what_stands_above_them() -> None:
    order = {room: place for place, room in enumerate(rooms())}
    found = []
    for file in SOURCE.rglob("*.py"):
        room = file.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room in order:
            found += [(file.name, room, other) for other in imported(file) if other in order]
    assert len({(room, other) for _, room, other in found}) > 20  # they are seen at all
    assert [use for use in found if order[use[2]] > order[use[1]]] == []
