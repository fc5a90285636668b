"""Zero points of exposures: their scatter, and exposures that are not of it."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from .normal import eliminate

__all__ = ["OddZeroPoint", "find_odd_zero_points", "find_zero_point_scatter"]

# Range of the scatter that is searched [ln flux].
_SCATTER_RANGE = (1e-6, 1.0)
# Share of what exposures would tell, were all else known, below which a direction holds nothing.
_NULL = 1e-9
# Odd is what departs by more than so many sigma of the others, and by more than this [ln flux]:
# JWST repeats to 0.1-0.5 %.
_N_SIGMA, _LEAST = 5.0, 0.02
# Most exposures that are taken to be odd: of three one, of any number this.
_MOST = 10


@dataclass(frozen=True, slots=True)
class OddZeroPoint:
    """An exposure whose sensitivity is not that of the others.

    Attributes
    ----------
    exposure_id : int
    departure : float
        From the mean of the others [ln flux].
    sigma : float
        Expected of it, from the scatter of the others and the errors [ln flux].
    """

    exposure_id: int
    departure: float
    sigma: float


def find_zero_point_scatter(matrix: np.ndarray, rhs: np.ndarray, n: int) -> float | None:
    """Find the scatter of the first n parameters by restricted maximum likelihood.

    Parameters
    ----------
    matrix, rhs : ndarray, shapes (size, size) and (size,)
        Normal equations without prior.
    n : int
        Number of zero points.

    Returns
    -------
    float or None
        Scatter [ln flux]; None where fewer than two combinations of zero points are known apart
        from the flat.

    Notes
    -----
    The modes are eliminated without prior, so combinations of zero points that look like a
    gradient of the flat count for nothing. In the eigenvectors of what is left, with eigenvalue
    l, each estimate is drawn from N(0, s^2 + 1/l).
    """
    return _find_scatter(matrix, rhs, np.arange(n))


def find_odd_zero_points(
    matrix: np.ndarray, rhs: np.ndarray, exposure_id: np.ndarray
) -> tuple[OddZeroPoint, ...]:
    """Find exposures whose zero points depart from those of the others.

    Parameters
    ----------
    matrix, rhs : ndarray, shapes (size, size) and (size,)
        Normal equations without prior, zero points first.
    exposure_id : ndarray of int, shape (n,)
        Exposures, in the order of the zero points.

    Returns
    -------
    tuple of OddZeroPoint
        In the order of the exposures; at most one in three, and ten.

    Notes
    -----
    An odd exposure makes the scatter look large and, with one roll, tilts the flat so that its
    neighbours look odd too. So the most conspicuous exposures are set free one after the other,
    each time with the scatter of the rest; then, from the least conspicuous on, those that do
    not depart from what the rest scatters are taken back.
    """
    n = len(exposure_id)
    odd: list[int] = []
    for _ in range(min(n // 3, _MOST)):
        departure, sigma = _set_free(matrix, rhs, n, odd)
        pull = np.abs(departure) / sigma
        pull[odd] = -1
        if not pull.max() > 1:
            break
        odd.append(int(np.argmax(pull)))
    while odd:
        departure, sigma = _set_free(matrix, rhs, n, odd)
        pull = (np.abs(departure) / sigma)[odd]
        small = np.abs(departure[odd]) <= _LEAST
        if not small.any() and pull.min() > _N_SIGMA:
            break
        odd.pop(int(np.argmin(np.where(small, -1 / np.maximum(pull, 1e-9), pull))))
    odd.sort()
    return tuple(
        OddZeroPoint(int(exposure_id[k]), float(departure[k]), float(sigma[k])) for k in odd
    )


def _set_free(
    matrix: np.ndarray, rhs: np.ndarray, n: int, odd: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Departure of each zero point and its sigma, had it no prior; without that of odd ones.

    Without the prior of exposure k the estimate x_k, of error P_kk, becomes x_k / (1 - P_kk p).
    """
    kept = np.setdiff1d(np.arange(n), odd)
    scatter = _find_scatter(matrix, rhs, kept) or _SCATTER_RANGE[1]
    left, right = _keep(matrix, rhs, np.arange(n))
    prior = np.zeros(n)
    prior[kept] = scatter**-2
    covariance = np.linalg.inv(left + np.diag(prior + _SCATTER_RANGE[1] ** -2))
    share = np.maximum(1 - np.diag(covariance) * prior, 1e-9)
    return covariance @ right / share, np.sqrt(scatter**2 + np.diag(covariance) / share)


def _keep(matrix: np.ndarray, rhs: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eliminate all parameters but some: the normal equations of these."""
    others = np.setdiff1d(np.arange(len(rhs)), kept)
    order = np.concatenate([others, kept])
    joint = np.block(
        [[matrix[np.ix_(order, order)], rhs[order, None]], [rhs[None, order], np.zeros((1, 1))]]
    )
    left = eliminate(joint, len(others))
    return left[:-1, :-1], left[:-1, -1]


def _find_scatter(matrix: np.ndarray, rhs: np.ndarray, kept: np.ndarray) -> float | None:
    """Find the scatter of some zero points when all other parameters are free."""
    left, right = _keep(matrix, rhs, kept)
    values, vectors = np.linalg.eigh(left)
    used = values > _NULL * max(float(np.diag(matrix)[kept].max()), np.finfo(float).tiny)
    if used.sum() < 2:
        return None
    variance = 1 / values[used]
    squared = (vectors[:, used].T @ right * variance) ** 2

    def cost(log_scatter: float) -> float:
        total = np.exp(2 * log_scatter) + variance
        return float(np.sum(np.log(total) + squared / total))

    found = minimize_scalar(cost, bounds=np.log(_SCATTER_RANGE), method="bounded")
    return float(np.exp(found.x))
