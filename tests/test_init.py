"""The public names: imported when used; no room and no file has the name of a function."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
import types
from pathlib import Path

import pytest

import secateur as sc
import secateur.train


def _fresh(code: str) -> str:
    """What a new process prints that runs some code."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize(
    "words", ["import secateur", *(f"{w} --help" for w in ("", "train", "sweep"))]
)
def test_neither_import_nor_help_waits_for_torch(words: str) -> None:
    code = words
    if "help" in words:
        call = f"main.main({words.split()!r})"
        code = f"from secateur.commands import main\ntry: {call}\nexcept SystemExit: pass"
    heavy = "torch", "numpy", "scipy"
    assert _fresh(f"{code}\nimport sys\nprint([n for n in {heavy} if n in sys.modules])").endswith(
        "[]"
    )


def test_a_room_is_a_module_and_a_function_a_function_whatever_is_imported_first() -> None:
    rooms = "optim, measurement, shrinking, tracing, kinds, budget, costs, report, deploy, train"
    code = f"import types, secateur as sc\nfor name in {rooms.split(', ')!r}:\n"
    code += "    assert isinstance(getattr(sc, name), types.ModuleType)\n"
    code += "import secateur.measurement as m; from secateur import shrink, shrinking\n"
    code += "print(sc.measure is m.measure, sc.shrink is shrink is shrinking.shrink)"
    assert _fresh(code) == "True True"
    assert _fresh("import secateur.shrinking; from secateur import shrink; print(callable(shrink))")


def test_every_public_name_is_what_it_says() -> None:
    for name in sc.__all__:
        assert callable(getattr(sc, name))
        assert name in dir(sc)
    assert inspect.signature(sc.shrink).parameters  # and not the package's
    with pytest.raises(AttributeError, match="no attribute 'shrnk'"):
        _ = sc.shrnk  # pyright: ignore


@pytest.mark.parametrize("package", [sc, secateur.train])
def test_type_checkers_see_what_can_be_imported(package: types.ModuleType) -> None:
    assert package.__file__
    tree = ast.parse(Path(package.__file__).with_suffix(".pyi").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    names = {name for name, home in seen.items() if home != package.__name__}
    assert names == set(package.__all__)
    for name, home in seen.items():
        rooms = home == package.__name__
        found = importlib.import_module(f"{home}.{name}" if rooms else home or "")
        assert getattr(package, name) is (found if rooms else getattr(found, name))
