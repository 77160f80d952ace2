"""The page on sweeps shows commands and calls that exist."""

import inspect
import re
import shlex
from pathlib import Path

from secateur.budget.words import parse_budgets
from secateur.commands.main import parser
from secateur.train.settings import Settings
from secateur.train.spec import parse_seeds
from secateur.train.sweep import sweep

PAGE = (Path(__file__).parents[2] / "docs" / "sweep.md").read_text(encoding="utf-8")


def test_every_command_of_the_page_is_one():
    commands = re.findall(r"^    secateur (sweep .*)$", PAGE.replace("\\\n", " "), re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        options = parser().parse_args(shlex.split(command))
        assert all(len(parse_budgets([text])) == 1 for text in options.budgets)
        assert parse_seeds(options.seeds)


def test_the_call_of_the_page_fits_its_function():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    arguments: list = []
    names = {
        "sweep": lambda *given, **named: arguments.append(
            inspect.signature(sweep).bind(*given, **named)
        ),
        "Settings": Settings,
    }
    exec(re.sub(r"^from .*$", "", code, flags=re.MULTILINE), names)
    assert arguments[0].arguments["seeds"] == [0, 1, 2]
