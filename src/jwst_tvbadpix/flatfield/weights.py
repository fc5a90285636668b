"""Noise of star measurements, found from residuals, and robust weights."""

from dataclasses import dataclass

import bottleneck as bn
import numpy as np
from scipy.optimize import nnls
from scipy.stats import chi2, norm

from .observations import PreparedObservations

__all__ = ["NoiseModel", "compute_huber", "compute_redescending", "find_variable", "fit_noise"]

# Residuals beyond this many sigma say nothing about the noise.
_CLIP = 3.0
# Variance of a unit Gaussian cut at +-_CLIP.
_CLIPPED_VARIANCE = 1 - 2 * _CLIP * norm.pdf(_CLIP) / (1 - 2 * norm.sf(_CLIP))
# Errors are not overstated by more than this: data without any noise must not get all weight.
_LEAST_SCALE = 0.01
# Where the variances given scatter by less than this share, no floor is told from their scale.
_DISTINCT = 0.1
# Floor that is expected [ln flux] (JWST's repeatability is 0.1-0.5 %), and how many bright
# measurements this counts as: few residuals would often tell none, and leave all to bright stars.
_USUAL_FLOOR, _USUAL_COUNT = 0.003, 10
# Residuals that the noise is found from, at most.
_ENOUGH = 100_000
# Huber's corner [sigma]: 95 % efficient at 1.345, more above; it only leads to the weights below.
_HUBER = 2.0
# Full weight up to the first, none beyond the second [sigma]: 99.8 % efficient.
_REDESCENDING = (3.0, 5.0)
# No measurement adds more than this to the chi2 of its star [sigma], so that one outlier does not
# make a star variable; chance that a constant star is called variable.
_MOST_PULL, _FALSE_VARIABLE = 4.0, 1e-4


@dataclass(frozen=True, slots=True)
class NoiseModel:
    """Variance of ln flux: (scale * flux_err / flux)^2 + floor^2.

    Attributes
    ----------
    scale : float
        By how much the errors given are too small.
    floor : float
        Scatter that does not depend on flux [ln flux].
    """

    scale: float
    floor: float

    def compute_variance(self, relative_err: np.ndarray) -> np.ndarray:
        """Variance for relative errors as they were given."""
        return (self.scale * relative_err) ** 2 + self.floor**2


def fit_noise(residual: np.ndarray, relative_err: np.ndarray, left: np.ndarray) -> NoiseModel:
    """Find the noise from the residuals of a fit.

    Parameters
    ----------
    residual, relative_err : ndarray, shape (n,)
        Residuals of ln flux, and flux_err over the expected flux.
    left : ndarray, shape (n,)
        Share of each residual's variance that the fitted parameters have left, above 0.

    Returns
    -------
    NoiseModel

    Notes
    -----
    Squared residuals, scaled to what they would be without fit, are regressed on the squares of
    the errors given and on 1, both not negative, with weights 1 / variance^2; residuals beyond
    3 sigma are left out and the cut corrected for. From a robust scale, until it stands. A usual
    floor is one more, weak equation.
    """
    squared = residual**2 / left
    given = relative_err**2
    some = slice(None, None, 1 + len(given) // _ENOUGH)
    squared, given = squared[some], given[some]
    scale = max(1.4826 * np.sqrt(bn.median(squared / given)), _LEAST_SCALE)
    variance = given * scale**2
    floor = np.full_like(given, given.mean())
    if given.std() < _DISTINCT * given.mean():
        floor[:] = 0
    columns = np.column_stack([given, floor])
    solution = np.zeros(2)
    for _ in range(12):
        used = squared < _CLIP**2 * variance
        root = 1 / variance[used]
        previous = solution
        usual = np.sqrt(_USUAL_COUNT) / max(_USUAL_FLOOR**2, solution[1] * floor[0])
        scaled = np.vstack([columns[used] * root[:, None], [0.0, floor[0] * usual]])
        right = np.append(squared[used] * root, _CLIPPED_VARIANCE * _USUAL_FLOOR**2 * usual)
        solution = nnls(scaled, right)[0] / _CLIPPED_VARIANCE
        variance = np.maximum(columns @ solution, _LEAST_SCALE**2 * given)
        if np.allclose(solution, previous, rtol=1e-3, atol=1e-6):
            break
    scale = max(float(np.sqrt(solution[0])), _LEAST_SCALE)
    return NoiseModel(scale, float(np.sqrt(solution[1] * given.mean())))


def compute_huber(standardised: np.ndarray) -> np.ndarray:
    """Weights of the convex loss: they find the solution from anywhere."""
    return np.minimum(1.0, _HUBER / np.maximum(np.abs(standardised), _HUBER))


def compute_redescending(standardised: np.ndarray) -> np.ndarray:
    """Weights that are 1 for good measurements and 0 for outliers."""
    full, none = _REDESCENDING
    return np.clip((none - np.abs(standardised)) / (none - full), 0.0, 1.0)


def find_variable(data: PreparedObservations, standardised: np.ndarray) -> np.ndarray:
    """Find stars that scatter more than their noise.

    Parameters
    ----------
    data : PreparedObservations
    standardised : ndarray, shape (n_used,)
        Residual over its own sigma.

    Returns
    -------
    ndarray, shape (n_stars,)
        By how much the variance of the star's measurements is too small; 1 for constant stars.
    """
    freedom = np.maximum(np.diff(data.start) - 1, 1)
    total = data.sum_by_star(np.minimum(standardised**2, _MOST_PULL**2)) * (
        freedom / np.diff(data.start)
    )
    return np.where(total > chi2.isf(_FALSE_VARIABLE, freedom), total / freedom, 1.0)
