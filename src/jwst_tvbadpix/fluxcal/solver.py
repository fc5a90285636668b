"""Penalised least squares with robust weights, where the widths of the effects are found too."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import linalg, sparse
from scipy.sparse.linalg import SuperLU, splu

from ..errors import EvidenceError
from .effects import Effects
from .timeforms import TimeModel

__all__ = [
    "NU_ROW",
    "Inverse",
    "Problem",
    "Solution",
    "Widths",
    "compute_precision",
    "count_information",
    "make_inverse",
    "make_normal",
    "make_penalty",
    "solve",
]

log = logging.getLogger(__name__)

# Unknowns up to which matrices are dense and traces exact.
_DENSE = 600
_MOST_ITERATIONS = 60
# Largest relative change of a width in the last iteration.
_STEADY = 0.02
_N_PROBES = 24
NU_ROW = 8.0
# Width of the rows' own jitter first guessed, and its weight, in rows.
_JITTER, _JITTER_WEIGHT = 0.003, 2.0
_SMALLEST = 1e-5
# Weight of the prior of an effect that is ignored.
_IGNORED = 1e-4


@dataclass(frozen=True, slots=True)
class Problem:
    """What is fitted: ``ln_response = linear @ x + ln f(time) + effects``.

    Attributes
    ----------
    ln_response, sigma : ndarray
        (n,) float64; formal errors.
    linear : sparse matrix
        Units, subarrays and classes, (n, n_linear).
    time : TimeModel
    maps : mapping
        What `time` maps to each row, as from its `expand`.
    unit : ndarray
        (n,) int64.
    days : ndarray
        (n,) float64.
    effects : Effects
    prior_mean, prior_sigma : ndarray
        Of the linear parameters, (n_linear,) float64; sigma inf for none.
    jitter : ndarray
        Index of the jitter of each row, (n,) int64.
    jitter_names : tuple of str
    ignored : ndarray
        Effects that are free and tell nothing of their family's width, (n_effects,) bool.
    """

    ln_response: np.ndarray
    sigma: np.ndarray
    linear: sparse.csr_matrix
    time: TimeModel
    maps: Mapping[str, sparse.csr_matrix]
    unit: np.ndarray
    days: np.ndarray
    effects: Effects
    prior_mean: np.ndarray
    prior_sigma: np.ndarray
    jitter: np.ndarray
    jitter_names: tuple[str, ...]
    ignored: np.ndarray


@dataclass(frozen=True, slots=True)
class Widths:
    """Widths of the effects' families and of the rows' jitter, and the robust weights.

    Attributes
    ----------
    family : ndarray
        (n_families,) float64; the scale of Student's t where it is one.
    jitter : ndarray
        (n_jitters,) float64.
    row_weight : ndarray
        (n,) float64; 1 for a row at the typical distance.
    effect_weight : ndarray
        (n_effects,) float64.
    """

    family: np.ndarray
    jitter: np.ndarray
    row_weight: np.ndarray
    effect_weight: np.ndarray


@dataclass(frozen=True, slots=True)
class Solution:
    """Solution of a problem.

    Attributes
    ----------
    values : ndarray
        Linear parameters, those of time, effects, (n_unknowns,) float64.
    widths : Widths
    residual : ndarray
        What is left of each row, (n,) float64.
    jacobian : sparse matrix
        (n, n_unknowns).
    objective : float
        Weighted squares, with those of the priors.
    n_iterations : int
    converged : bool
    """

    values: np.ndarray
    widths: Widths
    residual: np.ndarray
    jacobian: sparse.csr_matrix
    objective: float
    n_iterations: int
    converged: bool


Inverse = Callable[[np.ndarray], np.ndarray]
Penalty = tuple[sparse.csr_matrix, np.ndarray]


def solve(
    problem: Problem,
    *,
    widths: Widths | None = None,
    hold: bool = False,
    start: np.ndarray | None = None,
    tolerance: float = 2e-3,
) -> Solution:
    """Solve a problem.

    Parameters
    ----------
    problem : Problem
    widths : Widths, optional
        First guess of widths and weights.
    hold : bool
        Whether these are kept.
    start : ndarray, optional
        First guess of the unknowns, (n_unknowns,) float64.
    tolerance : float
        The solution stands when all unknowns together move by less than this many sigma.

    Returns
    -------
    Solution

    Raises
    ------
    EvidenceError
        The throughput has no positive value at some date.
    """
    state = widths if widths is not None else _start_widths(problem)
    values = _start(problem) if start is None else start.copy()
    done, count = False, 0
    residual, jacobian = _linearise(problem, values)
    order = _find_order(make_normal(problem, state, jacobian))
    for count in range(1, _MOST_ITERATIONS + 1):
        values, moved, inverse = _step(problem, state, values, residual, jacobian, order)
        residual, fresh = _linearise(problem, values)
        change = 0.0
        if not hold:
            previous = state
            state = _update(
                problem,
                state,
                values,
                residual,
                jacobian,
                inverse,
                first=widths is None and count < 3,
            )
            change = np.abs(np.log(state.family / previous.family)).max()
            change = max(change, np.abs(np.log(state.jitter / previous.jitter)).max())
        jacobian = fresh
        if moved < tolerance and change < _STEADY:
            done = True
            break
    if not done:
        log.info("the fit had not settled after %d iterations (%.2g sigma)", count, moved)
    objective = _evaluate(problem, state, make_penalty(problem, state), values)
    return Solution(values, state, residual, jacobian, objective, count, done)


def _start_widths(problem: Problem) -> Widths:
    n_jitters = int(problem.jitter.max()) + 1
    return Widths(
        np.array([f.width for f in problem.effects.families]),
        np.full(n_jitters, _JITTER),
        np.ones(len(problem.sigma)),
        np.ones(len(problem.effects.family)),
    )


def _start(problem: Problem) -> np.ndarray:
    linear = np.where(np.isfinite(problem.prior_sigma), problem.prior_mean, 0.0)
    count = np.bincount(problem.unit)
    sums = np.bincount(problem.unit, problem.ln_response)
    linear[: len(count)] = -sums / count
    return np.concatenate([linear, problem.time.start, np.zeros(len(problem.effects.family))])


def _linearise(problem: Problem, values: np.ndarray) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Residuals and Jacobian at the values."""
    residual, slope = _subtract(problem, values, derivatives=True)
    matrices = [problem.linear, slope, problem.effects.design]
    return residual, sparse.hstack(matrices, format="csr")


def _subtract(
    problem: Problem, values: np.ndarray, *, derivatives: bool
) -> tuple[np.ndarray, sparse.csr_matrix]:
    n_linear, n_time = problem.linear.shape[1], len(problem.time.names)
    linear, time, effects = np.split(values, [n_linear, n_linear + n_time])
    ln_f, slope = problem.time.evaluate(time, problem.maps, problem.days, derivatives=derivatives)
    model = problem.linear @ linear + ln_f + problem.effects.design @ effects
    return problem.ln_response - model, slope


def compute_precision(problem: Problem, widths: Widths) -> np.ndarray:
    """Weight of each row, 1/variance times its robust weight, (n,)."""
    variance = problem.sigma**2 + widths.jitter[problem.jitter] ** 2
    return widths.row_weight / variance


def count_information(problem: Problem, widths: Widths) -> Widths:
    """Weights with the information that Student's t has: (nu + 1)/(nu + 3) of a Gaussian's."""
    nu = np.array([f.nu for f in problem.effects.families])[problem.effects.family]
    share = 1.0 - 2.0 / (nu + 3)
    row = (NU_ROW + 1) / (NU_ROW + 3)
    return replace(
        widths,
        row_weight=widths.row_weight * row,
        effect_weight=widths.effect_weight * share,
    )


def make_penalty(problem: Problem, widths: Widths) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Rows of all priors, each with error 1, and what they should give."""
    effects = np.sqrt(widths.effect_weight) / widths.family[problem.effects.family]
    matrix = sparse.block_diag(
        [sparse.diags(1.0 / problem.prior_sigma), problem.time.prior, sparse.diags(effects)],
        format="csr",
    )
    known = np.isfinite(problem.prior_sigma)
    mean = np.where(known, problem.prior_mean, 0.0) / problem.prior_sigma
    return matrix, np.concatenate([mean, problem.time.prior_mean, np.zeros(len(effects))])


def _evaluate(problem: Problem, widths: Widths, penalty: Penalty, values: np.ndarray) -> float:
    """Objective at the values; inf where f is not positive."""
    residual, _ = _subtract(problem, values, derivatives=False)
    if not np.isfinite(residual).all():
        return np.inf
    matrix, mean = penalty
    rows = float(np.sum(residual**2 * compute_precision(problem, widths)))
    return rows + float(np.sum((matrix @ values - mean) ** 2))


def make_normal(problem: Problem, widths: Widths, jacobian: sparse.csr_matrix) -> sparse.csc_matrix:
    """Make the matrix of the normal equations, priors included."""
    weighted = sparse.diags(compute_precision(problem, widths)) @ jacobian
    matrix, _ = make_penalty(problem, widths)
    return (jacobian.T @ weighted + matrix.T @ matrix).tocsc()


def make_inverse(normal: sparse.csc_matrix, order: np.ndarray | None = None) -> Inverse:
    """Factor a symmetric positive matrix; a function that solves with it.

    `order` is that of a matrix with the same elements, from `_find_order`: to find it anew takes
    several times as long as the factors themselves.
    """
    if normal.shape[0] <= _DENSE:
        factor = linalg.cho_factor(normal.toarray(), check_finite=False)
        return lambda b: linalg.cho_solve(factor, b, check_finite=False)
    if order is None:
        return _factor(normal, "MMD_AT_PLUS_A").solve
    lu = _factor(normal[order][:, order].tocsc(), "NATURAL")
    place = np.argsort(order)
    return lambda b: lu.solve(b[order])[place]


def _find_order(normal: sparse.csc_matrix) -> np.ndarray | None:
    """Find the order in which a matrix is eliminated with the fewest elements; None if dense."""
    if normal.shape[0] <= _DENSE:
        return None
    return np.argsort(_factor(normal, "MMD_AT_PLUS_A").perm_c)


def _factor(normal: sparse.csc_matrix, order: str) -> SuperLU:
    options = {"SymmetricMode": True}
    return splu(normal, permc_spec=order, diag_pivot_thresh=0.0, options=options)


def _step(
    problem: Problem,
    widths: Widths,
    values: np.ndarray,
    residual: np.ndarray,
    jacobian: sparse.csr_matrix,
    order: np.ndarray | None,
) -> tuple[np.ndarray, float, Inverse]:
    """One bounded Gauss-Newton step, how far all moved in sigma, and the inverse."""
    if not np.isfinite(residual).all():
        raise EvidenceError(
            "expected a throughput above zero at every date, found none; give a t0_mjd before the "
            "first measurement, or fewer forms"
        )
    normal = make_normal(problem, widths, jacobian)
    inverse = make_inverse(normal, order)
    penalty = make_penalty(problem, widths)
    matrix, mean = penalty
    gradient = jacobian.T @ (compute_precision(problem, widths) * residual)
    gradient += matrix.T @ (mean - matrix @ values)
    step = _solve_bounded(problem, normal, inverse, gradient, values)
    before = _evaluate(problem, widths, penalty, values)
    scale = 1.0
    while scale > 1e-3:
        trial = _clip(problem, values + scale * step)
        if _evaluate(problem, widths, penalty, trial) <= before * (1 + 1e-12) + 1e-9:
            moved = trial - values
            return trial, float(np.sqrt(max(moved @ (normal @ moved), 0.0))), inverse
        scale *= 0.5
    return values, 0.0, inverse


def _clip(problem: Problem, values: np.ndarray) -> np.ndarray:
    out, begin = values.copy(), problem.linear.shape[1]
    part = slice(begin, begin + len(problem.time.names))
    out[part] = np.clip(out[part], problem.time.lower, problem.time.upper)
    return out


def _solve_bounded(
    problem: Problem,
    normal: sparse.csc_matrix,
    inverse: Inverse,
    gradient: np.ndarray,
    values: np.ndarray,
) -> np.ndarray:
    """Solve for the step, holding parameters at a bound that it would cross."""
    begin = problem.linear.shape[1]
    part = np.arange(begin, begin + len(problem.time.names))
    at_low = values[part] <= problem.time.lower + 1e-12
    at_high = values[part] >= problem.time.upper - 1e-12
    held = (at_low & (gradient[part] < 0)) | (at_high & (gradient[part] > 0))
    if not held.any():
        return inverse(gradient)
    chosen = np.delete(np.arange(len(values)), part[held])
    step = np.zeros(len(values))
    step[chosen] = make_inverse(normal[chosen][:, chosen].tocsc())(gradient[chosen])
    return step


def _update(
    problem: Problem,
    widths: Widths,
    values: np.ndarray,
    residual: np.ndarray,
    jacobian: sparse.csr_matrix,
    inverse: Inverse,
    *,
    first: bool,
) -> Widths:
    """Find the widths and weights anew."""
    begin = problem.linear.shape[1] + len(problem.time.names)
    effects = values[begin:]
    row_freedom, effect_freedom = _count_freedom(problem, widths, jacobian, inverse, begin)
    family, weight = widths.family.copy(), widths.effect_weight.copy()
    for k, f in enumerate(problem.effects.families):
        mine = problem.effects.family == k
        if np.isfinite(f.nu) and not first:
            weight[mine] = (f.nu + 1) / (f.nu + (effects[mine] / family[k]) ** 2)
        weight[mine & problem.ignored] = _IGNORED
        kept = mine & ~problem.ignored
        squares = float(np.sum(weight[kept] * effects[kept] ** 2)) + f.weight * f.width**2
        freedom = kept.sum() - effect_freedom[k]
        family[k] = max(np.sqrt(squares / (max(freedom, 0.0) + f.weight)), _SMALLEST)
    variance = problem.sigma**2 + widths.jitter[problem.jitter] ** 2
    row_weight = widths.row_weight
    if not first:
        row_weight = (NU_ROW + 1) / (NU_ROW + residual**2 / variance)
    jitter = _find_jitter(problem, widths.jitter, row_weight, residual, row_freedom)
    return Widths(family, jitter, row_weight, weight)


def _find_jitter(
    problem: Problem,
    jitter: np.ndarray,
    weight: np.ndarray,
    residual: np.ndarray,
    freedom: np.ndarray,
) -> np.ndarray:
    """Widths at which the weighted squares equal what the unknowns left of the rows."""
    n = len(jitter)
    variance = problem.sigma**2 + jitter[problem.jitter] ** 2
    # A few steps of the fixed point s2 <- s2 sum(w r2/v) / left, in shares of the variance.
    share = jitter[problem.jitter] ** 2 / variance
    squares = np.bincount(problem.jitter, weight * residual**2 / variance * share, n)
    left = np.bincount(problem.jitter, share, n) - freedom
    top = squares * jitter**2 + _JITTER_WEIGHT * _JITTER**2
    return np.maximum(np.sqrt(top / (np.maximum(left, 0.0) + _JITTER_WEIGHT)), _SMALLEST)


def _count_freedom(
    problem: Problem,
    widths: Widths,
    jacobian: sparse.csr_matrix,
    inverse: Inverse,
    begin: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Degrees of freedom taken from each jitter's rows, and lost to each family's prior."""
    precision = compute_precision(problem, widths)
    prior = widths.effect_weight / widths.family[problem.effects.family] ** 2
    prior = np.where(problem.ignored, 0.0, prior)
    share = widths.jitter[problem.jitter] ** 2
    share = share / (problem.sigma**2 + share)
    n_rows, n = jacobian.shape
    n_jitters, n_families = len(widths.jitter), len(widths.family)
    if n <= _DENSE:
        covariance = inverse(np.eye(n))
        leverage = np.asarray(jacobian.multiply(jacobian @ covariance).sum(axis=1)).ravel()
        rows = np.bincount(problem.jitter, leverage * precision * share, n_jitters)
        lost = np.diag(covariance)[begin:] * prior
        return rows, np.bincount(problem.effects.family, lost, n_families)
    rng = np.random.default_rng(1)
    z = rng.choice([-1.0, 1.0], (n_rows, _N_PROBES))
    root = np.sqrt(precision)[:, None]
    image = jacobian @ inverse(np.asarray(jacobian.T @ (z * root)))
    leverage = np.mean(z * root * image, axis=1)
    rows = np.bincount(problem.jitter, leverage * share, n_jitters)
    e = np.zeros((n, _N_PROBES))
    e[begin:] = rng.choice([-1.0, 1.0], (n - begin, _N_PROBES)) * np.sqrt(prior)[:, None]
    lost = np.mean(e * inverse(e), axis=1)[begin:]
    return rows, np.bincount(problem.effects.family, lost, n_families)
