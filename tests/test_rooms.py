"""Rooms import only what stands above them in CONTRIBUTING.md, and files never in a circle."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "secateur"
FILES = {
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}


def rooms() -> list[str]:
    """The rooms, from the one that imports none on."""
    return re.findall(r"^\| `(\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)


def imported(file: Path) -> Iterator[str]:
    """The modules that a file imports, late and for types too."""
    stub = file.with_suffix(".pyi")  # what a door imports when it is asked
    for node in ast.walk(ast.parse((stub if stub.exists() else file).read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                names.append(name if name in FILES else node.module)
        yield from (name for name in names if name.startswith("secateur."))


def room(module: str) -> str:
    return module.split(".")[1]


def test_the_table_has_every_room() -> None:
    there = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert set(rooms()) == there


def test_rooms_import_only_what_stands_above_them() -> None:
    order = {name: place for place, name in enumerate(rooms())}
    found = [
        (module, other)
        for module, file in FILES.items()
        if module.count(".") and room(module) in order
        for other in imported(file)
        if room(other) in order
    ]
    assert len({(room(one), room(other)) for one, other in found}) > 20
    up = [(one, other) for one, other in found if order[room(other)] > order[room(one)]]
    assert up == []


def test_files_import_one_way() -> None:
    """No circle, late imports counted; what a room shows at its door comes from all files there."""
    doors = {module for module, file in FILES.items() if file.name == "__init__.py"}
    graph = {}
    for module, file in FILES.items():
        found = set(imported(file)) - {module}
        assert module.rpartition(".")[0] not in found, f"{module} imports from its own room's door"
        if module not in doors:
            graph[module] = {
                home
                for name in found
                for home in (imported(FILES[name]) if name in doors else [name])
            }
    list(TopologicalSorter(graph).static_order())  # raises CycleError with the circle


def test_rooms_are_small_and_files_short() -> None:
    for name in rooms():
        assert len(list((SOURCE / name).glob("[!_]*.py"))) <= 14, name
    lines = {name: len(file.read_text().splitlines()) for name, file in FILES.items()}
    assert {name: count for name, count in lines.items() if count > 400} == {}


def test_no_module_has_the_name_of_a_function_beside_it() -> None:
    """So that `import secateur.x.y as m` gives the module, never the function."""
    for module, file in FILES.items():
        if file.name == "__init__.py":
            door = importlib.import_module(module)
            beside = {path.stem for path in file.parent.iterdir()}
            for name in beside.intersection(getattr(door, "__all__", ())):
                assert isinstance(getattr(door, name), ModuleType), f"{module}.{name}"
