"""The group lasso, to compare with: a penalty of `Proximal` that knows of no budget.

In: group norms and lambda. Out: the factor of each group; how many are 0 depends on lambda.
"""

from __future__ import annotations

import numpy as np

from secateur.optim.penalties import Penalty, Problem, Relaxation


class GroupLasso(Penalty):
    """lam * sum_j sqrt(d_j) a_j, for `Proximal(..., penalty=GroupLasso(), lam=lam)`.

    In a geometry, sqrt(h_j) a_j and d_j / h_j stand for a_j and d_j.

    Source: Yuan and Lin, "Model selection and estimation in regression with grouped variables",
    Journal of the Royal Statistical Society B 68, 2006.
    """

    name = "group lasso"

    def prox(self, problem: Problem, pull: float, length: float) -> tuple[np.ndarray, Relaxation]:
        """What is kept is all that is not zero, with no threshold."""
        norms = problem.norms * np.sqrt(problem.geometry)
        found = shrink(norms, problem.importance / problem.geometry, pull * length)
        return found, Relaxation((found > 0).astype(float))


def shrink(norms: np.ndarray, weights: np.ndarray, step: float) -> np.ndarray:
    """The factors of the proximal operator of step * sum_j sqrt(d_j) a_j.

        factor_j = max(0, 1 - step sqrt(d_j) / a_j)

    Args:
        norms: a, float64 of shape (m,).
        weights: d, (m,), above 0.
        step: the learning rate times lambda, 0 or more.

    Example:
        >>> shrink(np.array([4.0, 1.0, 0.0]), np.array([1.0, 4.0, 1.0]), step=1.0)
        array([0.75, 0.  , 0.  ])
    """
    left = np.maximum(norms - step * np.sqrt(weights), 0)
    return np.divide(left, norms, out=np.zeros_like(norms), where=norms > 0)
