"""How a model's layers are written down for people: repeated blocks once, names as a tree.

In: one row a layer, with its dotted name, a size and words. Out: fewer rows, whose names stand for
several layers (layers.0-11.mlp), and the lines of a tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Row:
    """One layer, or several of equal size and words.

    Attributes:
        name: such as "layers.3.mlp.up", or "layers.0-11.mlp.up" for twelve.
        size: how many channels or groups each has.
        words: what is said of each; other words are another row.
        figures: numbers that are added up where rows become one.
        times: how many layers these are.
    """

    name: str
    size: int = 0
    words: tuple[str, ...] = ()
    figures: tuple[int, ...] = ()
    times: int = 1

    @property
    def count(self) -> str:
        """The size, and how often: "64", "64 × 12"."""
        return f"{self.size:,}" + (f" × {self.times}" if self.times > 1 else "")


def folded(rows: Iterable[Row], *, last: bool = False) -> list[Row]:
    """Rows that differ in one number of their names become one row, in the order of the first.

    Args:
        rows: one a layer.
        last: whether the last part of a name may be that number, too ("shortcut.0-1").

    Example:
        >>> blocks = [Row(f"layers.{i}.{part}", 8) for i in range(3) for part in ("up", "down")]
        >>> [(row.name, row.count) for row in folded(blocks)]
        [('layers.0-2.up', '8 × 3'), ('layers.0-2.down', '8 × 3')]
    """
    found = list(rows)
    depth = max((len(row.name.split(".")) for row in found), default=0)
    for place in reversed(range(depth)):
        found = _folded_at(found, place, last)
    return found


def _folded_at(rows: list[Row], place: int, last: bool) -> list[Row]:
    same: dict[object, list[Row]] = {}
    for number, row in enumerate(rows):
        parts = row.name.split(".")
        if place < len(parts) - (not last) and parts[place].isdecimal():
            parts[place] = ""
            key = (tuple(parts), row.size, row.words, row.times)
        else:
            key = number
        same.setdefault(key, []).append(row)
    return [_one(found, place) for found in same.values()]


def _one(rows: list[Row], place: int) -> Row:
    if len(rows) == 1:
        return rows[0]
    parts = rows[0].name.split(".")
    parts[place] = ranges(int(row.name.split(".")[place]) for row in rows)
    figures = tuple(map(sum, zip(*(row.figures for row in rows), strict=True)))
    times = sum(row.times for row in rows)
    return replace(rows[0], name=".".join(parts), figures=figures, times=times)


def ranges(numbers: Iterable[int]) -> str:
    """Numbers in few characters.

    Example:
        >>> ranges([0, 1, 2, 5, 7, 8])
        '0-2,5,7-8'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def names(given: Iterable[str], most: int = 4) -> str:
    """Names in a line, folded, the first few of them.

    Example:
        >>> names(["a.0.weight", "a.1.weight", "b", "c", "d", "e"])
        'a.0-1.weight, b, c, d and 1 more'
    """
    short = [row.name for row in folded(map(Row, given), last=True)]
    more = f" and {len(short) - most} more" if len(short) > most else ""
    return ", ".join(short[:most]) + more


def reasons(given: Iterable[tuple[str, int, str]]) -> list[str]:
    """Lines of what was refused: (name, how many, why), folded.

    Example:
        >>> reasons([("blocks.0.out", 8, "is mixed"), ("blocks.1.out", 8, "is mixed")])
        ['  blocks.0-1.out (8 × 2): is mixed']
    """
    rows = folded(Row(name, count, (why,)) for name, count, why in given)
    return [f"  {row.name} ({row.count}): {row.words[0]}" for row in rows]


def tied_to(layer: str, producers: Iterable[str]) -> str:
    """The modules that the channels of `layer` also belong to, named from where it is.

    Example:
        >>> tied_to("block.3.conv1", ["block.3.conv1.weight", "block.3.bn1.weight", "head.bias"])
        'bn1, head'
    """
    owners = dict.fromkeys(owner_of(producer) for producer in producers)
    others = [owner for owner in owners if not is_inside(owner, [layer])]
    return names(_seen_from(layer, other) for other in others)


def is_inside(name: str, modules: Iterable[str]) -> bool:
    """Whether a module (or parameter) is one of `modules` or inside one of them.

    Example:
        >>> is_inside("block.3.conv1", ["block.3"]), is_inside("block.30", ["block.3"])
        (True, False)
    """
    return any(f"{name}.".startswith(f"{outer}.") for outer in modules)


def owner_of(parameter: str) -> str:
    """The module that a parameter belongs to, also where it is computed (parametrizations)."""
    name = parameter.partition(".parametrizations.")[0]
    return name if name != parameter else parameter.rpartition(".")[0] or parameter


def _seen_from(layer: str, other: str) -> str:
    """`other` without the block that both are in: the part of their names up to its number."""
    mine, theirs = layer.split("."), other.split(".")
    common = 0
    while common < min(len(mine), len(theirs)) - 1 and mine[common] == theirs[common]:
        common += 1
    while common and common < len(mine) - 1 and not mine[common - 1].isdecimal():
        common -= 1
    if common and theirs[common].isdecimal():
        common -= 1  # a number alone says little
    return ".".join(theirs[common:])


# -- trees -----------------------------------------------------------------------------------------


@dataclass
class _Node:
    rows: list[Row] = field(default_factory=list)
    children: dict[str, _Node] = field(default_factory=dict)


def tree(rows: Sequence[Row]) -> list[tuple[str, Row | None]]:
    """The lines of a tree of names: what to write, and the row that it is about (or None).

    Example:
        >>> rows = [Row("body.conv1"), Row("body.0-3.conv2"), Row("body.0-3.conv3"), Row("head")]
        >>> print("\\n".join(line for line, _ in tree(rows)))
        body
        ├─ conv1
        └─ 0-3
           ├─ conv2
           └─ conv3
        head
    """
    root = _Node()
    for row in rows:
        node = root
        for part in row.name.split("."):
            node = node.children.setdefault(part, _Node())
        node.rows.append(row)
    return [line for part, node in root.children.items() for line in _lines(part, node, "", "")]


def _lines(part: str, node: _Node, first: str, rest: str) -> list[tuple[str, Row | None]]:
    while not node.rows and len(node.children) == 1:
        ((below, node),) = node.children.items()
        part = f"{part}.{below}"
    found: list[tuple[str, Row | None]] = [(first + part, row) for row in node.rows or [None]]
    for number, (below, child) in enumerate(node.children.items()):
        ends = number == len(node.children) - 1
        branch, line = ("└─ ", "   ") if ends else ("├─ ", "│  ")
        found += _lines(below, child, rest + branch, rest + line)
    return found


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Lines of columns of equal width; those in `right` end at the same place, others begin so.

    Example:
        >>> table([("a", "10", "x"), ("bcd", "9", "")], right=(1,))
        ['a    10  x', 'bcd   9']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if n in right else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
