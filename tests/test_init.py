"""The public names: imported when used; no room and no file has the name of a function."""

from __future__ import annotations

import inspect
import subprocess
import sys
import types

import pytest

import secateur as sc


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


@pytest.mark.slow
def test_a_room_is_a_module_and_a_function_a_function_whatever_is_imported_first() -> None:
    rooms = "optim, measurement, shrinking, tracing, kinds, budget, costs, report, deploy, train"
    code = f"import types, secateur as sc\nfor name in {rooms.split(', ')!r}:\n"
    code += "    assert isinstance(getattr(sc, name), types.ModuleType)\n"
    code += "import secateur.measurement as m; from secateur import shrink, shrinking\n"
    code += "print(sc.measure is m.measure, sc.shrink is shrink is shrinking.shrink)"
    assert _fresh(code) == "True True"
    assert _fresh("import secateur.shrinking; from secateur import shrink; print(callable(shrink))")


def test_every_public_name_is_what_it_says() -> None:
    rooms = {"envelope", "groups"}
    for name in sc.__all__:
        assert isinstance(getattr(sc, name), types.ModuleType) == (name in rooms)
        assert name in rooms or callable(getattr(sc, name))
        assert name in dir(sc)
    assert inspect.signature(sc.shrink).parameters  # and not the package's
    with pytest.raises(AttributeError, match="no attribute 'shrnk'"):
        _ = sc.shrnk  # pyright: ignore
