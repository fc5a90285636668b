"""The order of a star flat, by cross-validation over stars."""

from dataclasses import dataclass

import numpy as np

from ..errors import EvidenceError
from .normal import Design, NormalEquations, solve, solve_nested

__all__ = ["OrderChoice", "choose_order"]

# A higher order must predict left-out stars better by this many standard errors.
_N_SIGMA = 1.0


@dataclass(frozen=True, slots=True)
class OrderChoice:
    """How well each order predicts stars that it was not fitted to.

    Attributes
    ----------
    order : int
        The one chosen.
    orders : ndarray of int, shape (n_orders,)
        Those tried.
    loss : ndarray, shape (n_orders,)
        chi2 of the left-out stars, less that of the best order.
    loss_err : ndarray, shape (n_orders,)
        Its standard error, from the groups of stars.
    beyond : float
        rms of the modes between the order chosen and the highest tried, their noise taken off
        [ln flux]: what the chosen order leaves out.
    """

    order: int
    orders: np.ndarray
    loss: np.ndarray
    loss_err: np.ndarray
    beyond: float


def choose_order(
    design: Design, normal: NormalEquations, zero_point_scatter: float, lowest: int, top: int
) -> OrderChoice:
    """Leave each group of stars out in turn and predict it with every order.

    Parameters
    ----------
    design : Design
    normal : NormalEquations
        By groups of stars, with the modes of the highest order.
    zero_point_scatter : float
        Prior width of the zero points [ln flux].
    lowest, top : int
        Range of orders to try.

    Returns
    -------
    OrderChoice

    Raises
    ------
    EvidenceError
        When there is only one star.

    Notes
    -----
    The flux of a left-out star is free, so its chi2 is b_0 - 2 p.b + p.N p with its own normal
    equations. Modes are in the order of their degree: one factorisation per group serves all
    orders.
    """
    n_folds = len(normal.constant)
    if n_folds < 2 and top > lowest:
        raise EvidenceError(
            "expected two stars or more to choose an order from, found one; give the order"
        )
    orders = np.arange(lowest, top + 1)
    sizes = [design.n_before + (n + 1) * (n + 2) // 2 - 1 for n in orders.tolist()]
    prior = design.compute_prior(zero_point_scatter)
    matrix, rhs = normal.matrix.sum(axis=0), normal.rhs.sum(axis=0)
    loss = np.empty((n_folds, len(orders)))
    for fold in range(n_folds):
        held, held_rhs = normal.matrix[fold], normal.rhs[fold]
        found = solve_nested(matrix - held + np.diag(prior), rhs - held_rhs, sizes)
        for column, (n, p) in enumerate(zip(sizes, found, strict=True)):
            loss[fold, column] = p @ (held[:n, :n] @ p) - 2 * p @ held_rhs[:n]
    best = int(np.argmin(loss.sum(axis=0)))
    worse = loss - loss[:, [best]]
    error = np.sqrt(n_folds) * worse.std(axis=0, ddof=min(1, n_folds - 1))
    chosen = int(np.argmax(worse.sum(axis=0) <= _N_SIGMA * error))
    full = solve(matrix, rhs, prior)
    modes = slice(sizes[chosen], sizes[-1])
    power = full.parameters[modes] ** 2 - np.diag(full.compute_covariance())[modes]
    return OrderChoice(
        int(orders[chosen]),
        orders,
        worse.sum(axis=0),
        error,
        float(np.sqrt(max(power.sum(), 0.0))),
    )
