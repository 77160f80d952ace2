"""The public names: imported when used, and never the room of the same name."""

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
        call = f"cli.main({words.split()!r})"
        code = f"from secateur import cli\ntry: {call}\nexcept SystemExit: pass"
    heavy = "torch", "numpy", "scipy"
    assert _fresh(f"{code}\nimport sys\nprint([n for n in {heavy} if n in sys.modules])").endswith(
        "[]"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import secateur.shrink, secateur.measure",
        "from secateur.shrink import ShrinkError; from secateur.measure.machine import machine",
        "import secateur.report, secateur.optim",
        "sc.shrink, sc.measure; import secateur.shrink, secateur.measure",
        "from importlib import import_module; import_module('secateur.shrink')",
    ],
)
def test_a_room_never_takes_the_place_of_its_function(first: str) -> None:
    code = f"import secateur as sc; {first}; from secateur import shrink, measure\n"
    code += "import sys; rooms = [sys.modules['secateur.' + n] for n in ('shrink', 'measure')]\n"
    code += (
        "print(sc.shrink is shrink is rooms[0].shrink, sc.measure is measure is rooms[1].measure)"
    )
    assert _fresh(code) == "True True"


def test_every_public_name_is_what_it_says() -> None:
    rooms = {"envelope", "groups"}
    for name in sc.__all__:
        assert isinstance(getattr(sc, name), types.ModuleType) == (name in rooms)
        assert name in rooms or callable(getattr(sc, name))
        assert name in dir(sc)
    assert inspect.signature(sc.shrink).parameters  # and not the package's
    with pytest.raises(AttributeError, match="no attribute 'shrnk'"):
        _ = sc.shrnk  # pyright: ignore
