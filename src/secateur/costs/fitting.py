"""From the seconds of thinner copies of a network to a function of what is kept of it.

In: which groups copies keep, and what their layers and the whole of them take. Out: the seconds of
each layer by its widths, and a scale for each kind of operator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secateur.costs.latency_table import LayerTimes, cut_axes, subsets
from secateur.groups import Groups
from secateur.groups.coupling import Operation

PULL = 0.1  # how strongly the scales of operators are held together


def is_there(operation: Operation, kept: np.ndarray) -> bool:
    """Whether an operator is left in a network of these groups."""
    return all(kept[list(together)].any() for together in operation.within)


def fit_layers(
    groups: Groups,
    choices: Sequence[np.ndarray],
    names: Sequence[str],
    rows: Sequence[dict[int, float]],
) -> tuple[LayerTimes, ...]:
    """Multilinear functions of the kept fractions that never fall, by least relative squares."""
    from scipy.optimize import nnls  # takes 0.1 s to import

    assert groups.coupling is not None
    layers = []
    for n, operation in enumerate(groups.coupling.operations):
        axes = cut_axes(operation)
        points = [
            (*_fractions(axes, kept), row[n])
            for kept, row in zip(choices, rows, strict=True)
            if n in row
        ]
        table = np.array(points)
        features = _products(table[:, :-1])
        found, _ = nnls(features / table[:, -1:], np.ones(len(table)))
        layers.append(
            LayerTimes(
                names[n],
                operation.name,
                tuple(len(axis) for axis in axes),
                tuple(map(float, found)),
                tuple(tuple(float(f"{x:.4g}") for x in point) for point in points),
            )
        )
    return tuple(layers)


def fit_networks(
    groups: Groups,
    layers: Sequence[LayerTimes],
    choices: Sequence[np.ndarray],
    seconds: np.ndarray,
    known: int,
) -> tuple[float, dict[str, float], np.ndarray]:
    """An offset, a scale for each kind of operator, and the seconds of networks by these.

    The first `known` networks decide, and the full one, which comes first, gets what it takes.
    """
    inside = np.array([_shares(groups, layers, kept) for kept in choices])
    fitted = _fit_scales(inside[:known], seconds[:known])
    fitted *= seconds[0] / (inside[0] @ fitted)
    scales = dict(zip(_kinds(layers), map(float, fitted[1:]), strict=True))
    return float(fitted[0]), scales, inside @ fitted


def _fit_scales(inside: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """What each kind is to be multiplied by, 0 or more, so that the sums are the networks' times.

    Kinds that can't be told apart are held near the one scale that fits all of them best.
    """
    from scipy.optimize import nnls

    both = np.stack([inside[:, 0], inside[:, 2:].sum(1)], 1)
    (_, common), _ = nnls(both / seconds[:, None], np.ones(len(seconds)))
    held = np.zeros((inside.shape[1] - 2, inside.shape[1]))
    held[:, 2:] = PULL / max(common, 1e-9) * np.eye(len(held))
    rows = np.vstack([inside / seconds[:, None], held])
    return nnls(rows, np.append(np.ones(len(seconds)), np.full(len(held), PULL)))[0]


def _shares(groups: Groups, layers: Sequence[LayerTimes], kept: np.ndarray) -> list[float]:
    """A network's seconds by kind: a constant, what no width changes, then operator by operator."""
    assert groups.coupling is not None
    total = dict.fromkeys(_kinds(layers), 0.0)
    for layer, operation in zip(layers, groups.coupling.operations, strict=True):
        if is_there(operation, kept):
            products = _products(np.array([_fractions(cut_axes(operation), kept)]))[0]
            total[""] += layer.seconds[0]
            total[layer.operator] += float(products[1:] @ np.array(layer.seconds[1:]))
    return [1.0, *total.values()]


def _kinds(layers: Sequence[LayerTimes]) -> list[str]:
    """What gets a scale of its own: the parts that no width changes, and each operator."""
    return ["", *sorted({layer.operator for layer in layers})]


def _fractions(axes: Sequence[np.ndarray], kept: np.ndarray) -> list[float]:
    padded = np.append(kept, True)
    return [float(padded[axis].mean()) for axis in axes]


def _products(fractions: np.ndarray) -> np.ndarray:
    """The product of the fractions of each subset of axes, (points, subsets)."""
    return np.stack(
        [fractions[:, list(subset)].prod(1) for subset in subsets(fractions.shape[1])], 1
    )
