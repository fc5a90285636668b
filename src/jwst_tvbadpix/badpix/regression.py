"""The relation of each pixel to the background level: an offset and a response."""

from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np

from ..parallel import map_in_threads

__all__ = ["BackgroundFit", "fit_background"]

# Residuals beyond this many sigma lose their weight (twice-applied Cauchy weight).
_CLIP = 3.0
# Mean of these weights for Gaussian noise: without it errors would come out 10 % too large, and
# the widths that `fit_noise` takes from them too small.
_MEAN_WEIGHT = 0.845
# Values (pixel, look) fitted at once: more do not fit into the processor's cache.
_PIECE_VALUES = 200_000


@dataclass(frozen=True, slots=True)
class BackgroundFit:
    """Fit of r = delta + q M for every pixel.

    Attributes
    ----------
    offset : ndarray, shape (ny, nx)
        delta [DN/s].
    response : ndarray, shape (ny, nx)
        q, the relative deviation of the response.
    offset_err, response_err : ndarray, shape (ny, nx)
        Posterior standard deviations of both.
    standardised : ndarray, shape (n_looks, ny, nx)
        Residual over its own sigma, each look corrected for its pull on the fit; 0 where there
        is no evidence.
    """

    offset: np.ndarray
    response: np.ndarray
    offset_err: np.ndarray
    response_err: np.ndarray
    standardised: np.ndarray

    @staticmethod
    def free_err(prior: np.ndarray, err: np.ndarray) -> np.ndarray:
        """Error of an offset or response that its prior has pulled to zero, prior included.

        With the prior N(0, s^2), m its posterior mean and p its posterior variance, the estimate
        without prior over the hypotenuse of s and its own error is m / sqrt(s^2 - p).
        """
        return np.sqrt(np.maximum(prior**2 - err**2, 1e-12 * prior**2))


def fit_background(
    residual: np.ndarray,
    local: np.ndarray,
    variance: np.ndarray,
    *,
    sigma_offset: np.ndarray | float,
    sigma_response: np.ndarray | float,
    n_iterations: int = 3,
) -> BackgroundFit:
    """Regress the residual of each pixel on the local level, robustly, with priors.

    The zodiacal light changes by tens of per cent over a year: what grows with it is response
    (flat field), what does not is dark current.

    Parameters
    ----------
    residual, local, variance : ndarray of float32, shape (n_looks, ny, nx)
        Residual r and local level M [DN/s], variance of r without pattern [(DN/s)^2];
        a NaN residual = no evidence.
    sigma_offset, sigma_response : ndarray (ny, nx) or float
        Prior widths of delta [DN/s] and q about zero.
    n_iterations : int
        Number of reweighted solutions.

    Returns
    -------
    BackgroundFit

    Notes
    -----
    Normal equations of two parameters in closed form; with w the weights, a = sum w +
    1/sigma_delta^2, b = sum w M, c = sum w M^2 + 1/sigma_q^2 and D = a c - b^2, look k pulls the
    fit with leverage h_k = w_k (c - 2 b M_k + a M_k^2) / D and its residual is divided by
    sqrt(1 - h_k).
    """
    pixels, n = residual.shape[1:], residual[0].size
    planes = [values.reshape(len(residual), n) for values in (residual, local, variance)]
    # A prior for each pixel, or one for all, which keeps its own type.
    priors = [
        prior.ravel() if isinstance(prior, np.ndarray) else prior
        for prior in (sigma_offset, sigma_response)
    ]
    edges = np.linspace(0, n, max(1, residual.size // _PIECE_VALUES) + 1).astype(int)

    def solve(edge: tuple[int, int]) -> BackgroundFit:
        own = slice(*edge)
        return _fit(
            *(values[:, own] for values in planes),
            *(prior[own] if isinstance(prior, np.ndarray) else prior for prior in priors),
            n_iterations=n_iterations,
        )

    parts = list(map_in_threads(solve, pairwise(edges)))
    joined = (
        np.concatenate([getattr(part, f.name) for part in parts], axis=-1)
        for f in fields(BackgroundFit)
    )
    return BackgroundFit(*(values.reshape(*values.shape[:-1], *pixels) for values in joined))


def _fit(
    residual: np.ndarray,
    local: np.ndarray,
    variance: np.ndarray,
    sigma_offset: np.ndarray | float,
    sigma_response: np.ndarray | float,
    *,
    n_iterations: int,
) -> BackgroundFit:
    """Fit pixels at once; axis 0 = look, axis 1 = pixel."""
    evidence = np.isfinite(residual)
    r = np.where(evidence, residual, 0)
    level = np.where(evidence, local, 0)
    full = np.where(evidence, 1 / variance, 0)
    weight = full
    for iteration in range(n_iterations):
        scaled = weight * level
        a = weight.sum(axis=0) + 1 / sigma_offset**2
        b = scaled.sum(axis=0)
        c = (scaled * level).sum(axis=0) + 1 / sigma_response**2
        p = (weight * r).sum(axis=0)
        s = (scaled * r).sum(axis=0)
        determinant = a * c - b * b
        offset = (p * c - s * b) / determinant
        response = (a * s - b * p) / determinant
        error = r - offset - response * level
        if iteration < n_iterations - 1:
            down = 1 + error * error * full / _CLIP**2
            weight = full / (_MEAN_WEIGHT * down * down)
    leverage = weight * (c - level * (2 * b - a * level)) / determinant
    standardised = error * np.sqrt(full / np.maximum(1 - leverage, 0.05))
    return BackgroundFit(
        offset, response, np.sqrt(c / determinant), np.sqrt(a / determinant), standardised
    )
