"""Noise of each look as a function of the local level, and the fixed pattern beneath it."""

from dataclasses import dataclass, replace

import bottleneck as bn
import numpy as np
from scipy.optimize import nnls

from ..errors import EvidenceError
from ..parallel import map_in_threads
from .regression import BackgroundFit, fit_background
from .residuals import LocalResiduals

__all__ = ["NoiseModel", "compute_excess", "compute_variance", "fit_noise", "measure_noise"]

# Quantiles of |x| and their value for a unit Gaussian. High enough that the core of a peaked
# distribution does not pass for its width, low enough that defects and sources (a few per cent)
# do not count.
_NOISE_QUANTILE, _NOISE_WIDTH = 0.80, 1.2816
_PATTERN_QUANTILE, _PATTERN_WIDTH = 0.985, 2.4324
# Spread of the two local models that noise alone explains, in sigma.
_FREE_SPREAD = 3.0
# Width of the tail over that of the core beyond which the tail is defects (in small samples they
# are more than a per cent) and not pattern.
_LARGEST_TAIL = 1.3
# The same for the width of one side over that of the other.
_LARGEST_ASYMMETRY = 1.15
_VARIANCE_FLOOR = 1e-8
# Points of the grid on which the variance is looked up.
_GRID = 4096
# Smallest share of the photon-noise line that a measured variance may have.
_LOWEST_SHARE = 0.7
# Fewest pixels a level bin may have for its quantile to be good to a few per cent.
_PIXELS_PER_BIN = 200
# Level over the width of the offsets from which a response shows, and the width of responses taken
# where too few pixels are so bright: a per cent or two is what flats of all detectors have.
_LIT, _TYPICAL_RESPONSE = 20.0, 0.02
# Width of a prior that says nothing, relative to what it is the prior of.
_FREE = 100.0
# A pattern narrower than this (DN/s, or relative) cannot be told from rounding of float32 rates.
_MINIMUM_WIDTH = 1e-4


@dataclass(frozen=True, slots=True)
class NoiseModel:
    """Noise that changes from look to look, and pattern that does not.

    Attributes
    ----------
    level : ndarray of float64, shape (n_looks, n_bins)
        Local levels at which each sigma was measured [DN/s], increasing along axis 1.
    sigma : ndarray of float64, shape (n_looks, n_bins)
        Scatter in time of clean pixels about their own relation to the level [DN/s].
    sigma_offset : float
        Scatter from pixel to pixel of the additive offset delta [DN/s].
    sigma_response : float
        Scatter from pixel to pixel of the response q.
    n_used : ndarray of int, shape (n_looks,)
        Number of sampled pixels behind each look; 0 = its noise is borrowed from the others.
    """

    level: np.ndarray
    sigma: np.ndarray
    sigma_offset: float
    sigma_response: float
    n_used: np.ndarray

    def pattern(self, local: np.ndarray) -> np.ndarray:
        """Variance of the fixed pattern at a local level [(DN/s)^2]."""
        return np.float32(self.sigma_offset) ** 2 + (np.float32(self.sigma_response) * local) ** 2


def compute_variance(
    noise: NoiseModel,
    local: np.ndarray,
    spread: np.ndarray | None = None,
    expected_spread: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Evaluate the variance of each residual without the fixed pattern.

    Parameters
    ----------
    noise : NoiseModel
    local, spread : ndarray of float32, shape (n_looks, ny, nx)
        Local level and disagreement of the local models [DN/s].
    expected_spread : ndarray (ny, nx) or float
        Disagreement that is always there, such as at the edge of a field [DN/s].

    Returns
    -------
    ndarray of float32, shape (n_looks, ny, nx)
        [(DN/s)^2]. Where the local models disagree by more than usual, a source or a streak is
        near, and what exceeds the usual is added as uncertainty.
    """
    variance = np.empty_like(local)

    def evaluate(look: int) -> None:
        variance[look] = _look_up(local[look], noise.level[look], noise.sigma[look] ** 2)

    if len(local) == 1:
        evaluate(0)
    else:
        list(map_in_threads(evaluate, range(len(local))))
    np.maximum(variance, np.float32(_VARIANCE_FLOOR), out=variance)
    if spread is not None:
        sigma = np.sqrt(variance + noise.pattern(local))
        variance += compute_excess(sigma, spread, expected_spread)
    return variance


def _look_up(local: np.ndarray, level: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Interpolate a table at each pixel, on a fine grid: a fifth of the time of `numpy.interp`."""
    first, last = float(level[0]), float(level[-1])
    grid = np.interp(np.linspace(first, last, _GRID), level, variance).astype(np.float32)
    place = local - np.float32(first)
    place *= np.float32((_GRID - 1) / max(last - first, _MINIMUM_WIDTH))
    np.minimum(place, _GRID - 1, out=place)
    place += np.float32(0.5)
    with np.errstate(invalid="ignore"):
        found = grid.take(place.astype(np.int32), mode="clip")
    np.copyto(found, np.float32(np.nan), where=np.isnan(place))
    return found


def compute_excess(
    sigma: np.ndarray, spread: np.ndarray, expected_spread: np.ndarray | float
) -> np.ndarray:
    """Variance of local models that disagree by more than expected and three sigma [(DN/s)^2]."""
    excess = np.maximum(spread - expected_spread - _FREE_SPREAD * sigma, 0)
    return np.asarray(excess * excess)


def fit_noise(residuals: LocalResiduals, *, n_bins: int = 24, n_iterations: int = 3) -> NoiseModel:
    """Measure the noise of each look and the fixed pattern from a sample of pixels.

    Parameters
    ----------
    residuals : LocalResiduals
        Of a sample of rows; no file's own error is needed, and no defect can hide in its own.
    n_bins : int
        Number of bins in level, fewer where a look has fewer than 200 pixels per bin.
    n_iterations : int
        Number of passes between pattern and noise.

    Returns
    -------
    NoiseModel

    Raises
    ------
    EvidenceError
        No look has any evidence.
    """
    residual, local = residuals.residual, residuals.local
    looks = range(len(local))
    bins = list(
        map_in_threads(
            lambda k: _LevelBins.cut(local[k].ravel(), n_bins, np.isfinite(residual[k])), looks
        )
    )
    n_used = np.array([b.order.size for b in bins])
    if not n_used.any():
        raise EvidenceError(
            "expected pixels with a finite rate and without DO_NOT_USE, found none in any "
            "exposure; give usable exposures"
        )

    def tabulate(values: np.ndarray, quantile: float) -> np.ndarray:
        table = np.stack(
            list(
                map_in_threads(
                    lambda k: bins[k].quantile(values[k].ravel(), quantile, n_bins), looks
                )
            )
        )
        # A look that the sample did not meet borrows from the others.
        return np.where(np.isnan(table), bn.nanmedian(table, axis=0), table)

    level = tabulate(local, 0.5)
    sigma = _lift(level, tabulate(np.abs(residual), _NOISE_QUANTILE) / _NOISE_WIDTH)
    middle = bn.nanmedian(local, axis=0)
    faint = middle < np.nanquantile(middle, 0.2)
    mean = bn.nanmedian(residual, axis=0)
    width = _widen(_find_variance(mean[faint]), np.empty(0))
    bright = _find_bright(middle, width)
    response = _widen(_find_variance(mean[bright] / middle[bright]), np.empty(0))
    noise = NoiseModel(level, sigma, width, response, n_used)
    for _ in range(n_iterations):
        variance = compute_variance(noise, local)
        fit = fit_background(
            residual,
            local,
            variance,
            # No prior on what is measured: it would pull large values down, its own width too.
            sigma_offset=np.where(faint, _FREE * width, noise.sigma_offset),
            sigma_response=np.where(bright, _FREE, noise.sigma_response),
        )
        scatter = np.abs(fit.standardised) * np.sqrt(variance)
        sigma = _lift(level, tabulate(scatter, _NOISE_QUANTILE) / _NOISE_WIDTH)
        noise = NoiseModel(level, sigma, *_find_widths(fit, noise, middle, faint, bright), n_used)
    if bright.sum() < _PIXELS_PER_BIN:
        return replace(noise, sigma_response=_TYPICAL_RESPONSE)
    return noise


def measure_noise(
    level: np.ndarray, error: np.ndarray, *, n_bins: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tabulate the scatter of one look where the pattern of each pixel is known.

    Parameters
    ----------
    level, error : ndarray of float32, shape (n,)
        Local level, and residual less its pattern [DN/s]; finite.
    n_bins : int

    Returns
    -------
    level, sigma : ndarray of float64, shape (n_bins,)
        As in `NoiseModel`.
    """
    bins = _LevelBins.cut(level, n_bins, np.isfinite(level))
    middle = bins.quantile(level, 0.5, n_bins)
    sigma = bins.quantile(np.abs(error), _NOISE_QUANTILE, n_bins) / _NOISE_WIDTH
    return middle, _lift(middle[None], sigma[None])[0]


def _find_bright(middle: np.ndarray, width: float) -> np.ndarray:
    """Mark the brightest third of the pixels, as far as they show their response at all."""
    with np.errstate(invalid="ignore"):
        return (middle > _LIT * width) & (middle > np.nanquantile(middle, 0.7))


@dataclass(frozen=True, slots=True)
class _LevelBins:
    """Pixels with evidence of a look in bins of equal numbers: sorted once, for every table."""

    order: np.ndarray
    cuts: np.ndarray

    @classmethod
    def cut(cls, level: np.ndarray, n_bins: int, evidence: np.ndarray) -> "_LevelBins":
        chosen = np.flatnonzero(evidence)
        n = int(np.clip(chosen.size // _PIXELS_PER_BIN, 1, n_bins))
        return cls(chosen[np.argsort(level[chosen])], np.arange(1, n) * chosen.size // n)

    def quantile(self, values: np.ndarray, quantile: float, n_bins: int) -> np.ndarray:
        """Tabulate to exactly n_bins entries, the last repeated; NaN without pixels."""
        if not self.order.size:
            return np.full(n_bins, np.nan)
        parts = np.split(values[self.order], self.cuts)
        table = [np.partition(p, k := int(quantile * (p.size - 1)))[k] for p in parts]
        return np.pad(np.array(table, float), (0, n_bins - len(table)), mode="edge")


def _lift(level: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Lift sigmas that lie far below the line that photon noise follows.

    On a steep slope the running median is the pixel itself, so that the residuals of levels that
    occur only at the edges of a field are too small; they would make sources significant.
    """
    lifted = np.empty_like(sigma)
    # Zero variance: on a smooth slope the running median is the pixel itself.
    variance = np.maximum(sigma**2, _VARIANCE_FLOOR)
    for out, at, value in zip(lifted, level, variance, strict=True):
        design = np.stack([np.ones_like(at), np.maximum(at, 0)], axis=1)
        line = np.maximum(value, np.median(value))
        for _ in range(4):
            # A bin full of sources lies far above the line and must not pull it up.
            counts = (value >= _LOWEST_SHARE * line) / np.maximum(line, value)
            line = design @ nnls(design * counts[:, None], value * counts)[0]
            line = np.maximum(line, _VARIANCE_FLOOR)
        out[...] = np.sqrt(np.maximum(value, _LOWEST_SHARE * line))
    return lifted


def _find_widths(
    fit: BackgroundFit, noise: NoiseModel, middle: np.ndarray, faint: np.ndarray, bright: np.ndarray
) -> tuple[float, float]:
    """Widths of offset and response, from the pattern at a faint and at a bright level.

    With widths d and q, the variance of the pattern at a level M is d^2 + q^2 M^2. Each fit leaves
    to the other parameter what its prior says; here that is added again, and both are solved for.
    """
    lower = _find_variance(fit.offset[faint], fit.offset_err[faint])
    if not bright.any():
        return _widen(lower, fit.offset_err[faint]), noise.sigma_response
    m_faint, m_bright = float(np.median(middle[faint])), float(np.median(middle[bright]))
    lower += (noise.sigma_response * m_faint) ** 2
    upper = _find_variance(fit.response[bright], fit.response_err[bright]) * m_bright**2
    upper += noise.sigma_offset**2
    response = np.clip(
        (upper - lower) / (m_bright**2 - m_faint**2), 0.0, max(upper, 0.0) / m_bright**2
    )
    return (
        _widen(lower - response * m_faint**2, fit.offset_err[faint]),
        _widen(response, fit.response_err[bright]),
    )


def _find_variance(values: np.ndarray, err: np.ndarray | float = 0.0) -> float:
    """Variance of the true values about zero, from the wider side unless that holds defects.

    Dark current widens one side, lost response the other.
    """
    sides = [side[side > 0] for side in (values, -values)]
    reach = sorted(_reach(side) for side in sides if side.size) or [0.0]
    width = min(reach[-1], _LARGEST_ASYMMETRY * reach[0])
    return float(width**2 - np.median(err) ** 2) if values.size else 0.0


def _widen(variance: float, err: np.ndarray) -> float:
    """Take the root, but no less than a third of the errors: nothing narrower shows in them."""
    noise = float(np.median(err)) if err.size else 0.0
    return max(float(np.sqrt(max(variance, 0.0))), noise / 3, _MINIMUM_WIDTH)


def _reach(values: np.ndarray) -> float:
    """Width of a half Gaussian by its tail, as far as the core supports it."""
    tail = np.quantile(values, _PATTERN_QUANTILE) / _PATTERN_WIDTH
    core = np.quantile(values, _NOISE_QUANTILE) / _NOISE_WIDTH
    return float(min(tail, _LARGEST_TAIL * core))
