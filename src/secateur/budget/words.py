"""Budgets in words: "flops=25%", "params=1.5M,bytes=2MiB", "flops=50%,25%,10%".

In: text. Out: a `Budget`, or one for each of several networks; or an error that says what to write.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from secateur.budget.amounts import read_amount
from secateur.budget.budget import Budget
from secateur.budget.target import LatencyTarget
from secateur.costs.measures import MEASURES


def parse_budgets(
    texts: Sequence[str],
    *,
    at_least: int = 1,
    multiple_of: int = 1,
    per_layer: bool = False,
    runtime: str | None = None,
    table: str | None = None,
    option: str = "budget",
) -> tuple[Budget, ...]:
    """Read a budget, or several for one run: comma-separated MEASURE=AMOUNT.

    Args:
        texts: such as ["flops=25%", "params=1.5M,bytes=2MiB"]: shares or absolute numbers. The same
            measure as a share and as an absolute number is a pair, which must agree. Several
            amounts of a measure, "flops=50%,25%,10%", are budgets of networks one after another;
            a measure with one amount has it in all of them.
        at_least: how many groups stay in every layer.
        multiple_of: of which widths are multiples.
        per_layer: whether all layers keep the same share.
        runtime: in which a latency is measured.
        table: the file of a latency table.
        option: where the texts were written, for errors: "--budget".

    Raises:
        ValueError: a measure, number or unit that isn't known; it says what to write.

    Example:
        >>> parse_budgets(["flops=25%", "params=1.5M"])
        (Budget(flops=0.25, params=1500000),)
        >>> parse_budgets(["flops=50%,25%"])
        (Budget(flops=0.5), Budget(flops=0.25))
        >>> parse_budgets(["25"])
        Traceback (most recent call last):
        ValueError: budget 25: 25 of what? write MEASURE=AMOUNT, such as flops=25% or ...
    """
    given = _amounts(texts, option)
    counts = {measure: len(amounts) for measure, amounts in given.items()}
    most = max(counts.values())
    if any(count not in (1, most) for count in counts.values()):
        words = ", ".join(f"{count} of {measure}" for measure, count in counts.items())
        raise ValueError(
            f"{option}: {words}; give every measure as many amounts as there are networks, or one"
        )
    if (runtime or table) and "latency" not in given:
        raise ValueError("--runtime and --latency-table go with a budget on latency=")
    for targets in given.get("latency", ()):
        targets[:] = [replace(target, runtime=runtime, table=table) for target in targets]
    options = {"at_least": at_least, "multiple_of": multiple_of, "per_layer": per_layer}
    networks = zip(*(each * (most // len(each)) for each in given.values()), strict=True)
    return tuple(
        Budget(
            **{m: _pair(m, amounts, option) for m, amounts in zip(given, each, strict=True)},
            **options,
        )
        for each in networks
    )


def _amounts(texts: Sequence[str], option: str) -> dict[str, list[list[Any]]]:
    """Measure -> what is asked of one network after another: an amount, or two to be a pair."""
    given: dict[str, list[list[Any]]] = {}
    for words in texts:
        measure = ""  # what an amount alone goes on with
        for text in (part.strip() for part in words.split(",")):
            name, equals, amount = (part.strip() for part in text.partition("="))
            name = name.lower()
            if not equals and (not measure or name in MEASURES):
                raise ValueError(
                    f"{option} {text}: {text} of what? write MEASURE=AMOUNT, such as flops=25% "
                    f"or params=1.5M; measures are {', '.join(MEASURES)}"
                )
            if equals and name not in MEASURES:
                raise ValueError(
                    f"{option} {text}: unknown measure {name!r}; measures are {', '.join(MEASURES)}"
                )
            if not equals:
                given[measure].append([_amount(measure, text, f"{option} {measure}={text}")])
                continue
            measure = name
            given.setdefault(measure, [[]])[-1].append(_amount(measure, amount, f"{option} {text}"))
    return given


def _amount(measure: str, amount: str, shown: str) -> Any:
    """A fraction as a float, an absolute number as an int, or a target."""
    if measure != "latency":
        return read_amount(measure, amount, shown)
    given: float | str = amount  # a share with %, or a time
    with suppress(ValueError):
        given = float(amount)
    try:
        return LatencyTarget(given)
    except ValueError as error:
        raise ValueError(
            f"{shown}: can't read {amount!r}; write a share such as 50% or 0.5, or a time "
            "with its unit, such as 3ms or 800us"
        ) from error


def _pair(measure: str, given: list[Any], option: str) -> Any:
    """One amount alone, or (share, absolute number)."""
    if len(given) == 1:
        return given[0]
    shares = [amount for amount in given if isinstance(amount, float)]
    numbers = [amount for amount in given if isinstance(amount, int)]
    if len(shares) != 1 or len(numbers) != 1:
        raise ValueError(
            f"{option}: {measure} is given {len(given)} times; give it once, or once as a share "
            "and once as an absolute number"
        )
    return shares[0], numbers[0]
