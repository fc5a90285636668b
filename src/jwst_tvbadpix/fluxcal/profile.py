"""The throughput alone, with all that is linear profiled out at widths that are held.

Forms of one detector differ in nothing else: the matrix of factors, stars and visits, which is
what is large, is factored once for all of them.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from .solver import Inverse, Problem, Widths, compute_precision, make_inverse

__all__ = ["Linear", "Profiled", "fit_throughput", "profile_linear"]

_MOST_ITERATIONS = 60
_SMALLEST_STEP = 1e-3


@dataclass(frozen=True, slots=True)
class Linear:
    """All but the throughput.

    Attributes
    ----------
    design : sparse matrix
        Factors, subarrays, classes and effects, (n, m).
    precision : ndarray
        Weight of each row, (n,) float64.
    prior_precision, prior_mean : ndarray
        (m,) float64; precision 0 for none.
    inverse : callable
        Solves with the normal matrix of these.
    """

    design: sparse.csr_matrix
    precision: np.ndarray
    prior_precision: np.ndarray
    prior_mean: np.ndarray
    inverse: Inverse


@dataclass(frozen=True, slots=True)
class Profiled:
    """A throughput, fitted.

    Attributes
    ----------
    objective : float
        That of `solve`, all else at its best; inf where the throughput at the start has no
        positive value at some date, and then nothing is fitted.
    values : ndarray
        Parameters of the throughput, (n_parameters,) float64.
    covariance : ndarray
        Of these, (n_parameters, n_parameters) float64.
    best : ndarray
        What is linear, (m,) float64.
    response : ndarray
        Derivatives of `best` by `values`, (m, n_parameters) float64.
    """

    objective: float
    values: np.ndarray
    covariance: np.ndarray
    best: np.ndarray
    response: np.ndarray


def profile_linear(problem: Problem, widths: Widths) -> Linear:
    """Factor what is linear in a problem.

    Parameters
    ----------
    problem : Problem
        Of any form of the throughput.
    widths : Widths
        Held.

    Returns
    -------
    Linear
    """
    design = sparse.hstack([problem.linear, problem.effects.design], format="csr")
    effects = widths.effect_weight / widths.family[problem.effects.family] ** 2
    prior_precision = np.concatenate([1.0 / problem.prior_sigma**2, effects])
    prior_mean = np.zeros(len(prior_precision))
    prior_mean[: len(problem.prior_mean)] = problem.prior_mean
    precision = compute_precision(problem, widths)
    normal = design.T @ sparse.diags(precision) @ design + sparse.diags(prior_precision)
    return Linear(design, precision, prior_precision, prior_mean, make_inverse(normal.tocsc()))


def fit_throughput(
    problem: Problem, linear: Linear, *, start: np.ndarray, tolerance: float
) -> Profiled:
    """Fit the throughput of a problem.

    Parameters
    ----------
    problem : Problem
    linear : Linear
        From `profile_linear` of a problem of the same rows.
    start : ndarray
        First guess of the parameters of the throughput, (n_parameters,) float64.
    tolerance : float
        It stands when the parameters together move by less than this many sigma.

    Returns
    -------
    Profiled
    """
    values = start.copy()
    objective, residual, best = _profile(problem, linear, values)
    if not np.isfinite(objective) or not len(values):
        none = np.zeros((0, 0))
        return Profiled(objective, values, none, best, np.zeros((len(best), 0)))
    for _ in range(_MOST_ITERATIONS):
        step, curvature, _ = _find_step(problem, linear, values, residual)
        scale, moved = 1.0, 0.0
        while scale > _SMALLEST_STEP:
            trial = np.clip(values + scale * step, problem.time.lower, problem.time.upper)
            after, left, found = _profile(problem, linear, trial)
            if after <= objective * (1 + 1e-12) + 1e-9:
                change = trial - values
                moved = float(np.sqrt(max(change @ curvature @ change, 0.0)))
                values, objective, residual, best = trial, after, left, found
                break
            scale *= 0.5
        if moved < tolerance:
            break
    _, curvature, response = _find_step(problem, linear, values, residual)
    return Profiled(objective, values, np.linalg.inv(curvature), best, response)


def _profile(
    problem: Problem, linear: Linear, values: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Objective and residuals with all that is linear at its best; inf without a value."""
    ln_f, _ = problem.time.evaluate(values, problem.maps, problem.days, derivatives=False)
    left = problem.ln_response - ln_f
    if not np.isfinite(left).all():
        return np.inf, left, linear.prior_mean
    pull = linear.prior_precision * linear.prior_mean
    best = linear.inverse(linear.design.T @ (linear.precision * left) + pull)
    residual = left - linear.design @ best
    objective = float(residual**2 @ linear.precision)
    objective += float((best - linear.prior_mean) ** 2 @ linear.prior_precision)
    time = problem.time
    objective += float(np.sum((time.prior @ values - time.prior_mean) ** 2))
    return objective, residual, best


def _find_step(
    problem: Problem, linear: Linear, values: np.ndarray, residual: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Step, parameters at a bound that it would cross being held; curvature, linear's response."""
    time = problem.time
    _, jacobian = time.evaluate(values, problem.maps, problem.days)
    weighted = sparse.diags(linear.precision) @ jacobian
    crossed = (linear.design.T @ weighted).toarray()
    curvature = (jacobian.T @ weighted + time.prior.T @ time.prior).toarray()
    image = linear.inverse(crossed)
    curvature -= crossed.T @ image
    gradient = weighted.T @ residual + time.prior.T @ (time.prior_mean - time.prior @ values)
    held = (values <= time.lower + 1e-12) & (gradient < 0)
    held |= (values >= time.upper - 1e-12) & (gradient > 0)
    step, free = np.zeros(len(values)), np.flatnonzero(~held)
    step[free] = np.linalg.solve(curvature[np.ix_(free, free)], gradient[free])
    return step, curvature, -image
