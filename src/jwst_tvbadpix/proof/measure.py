"""How good a spectrum is whose truth is known; pure arrays."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, uniform_filter

__all__ = [
    "Quality",
    "count_added",
    "count_features",
    "find_features",
    "measure_noise",
    "measure_quality",
]

# A feature is what differs from the truth by more than this [sigma of one spectrum].
THRESHOLD = 3.0
# Bins at either side of a defect in which a feature is put down to it.
REACH = 2
# Bins over which the noise is smoothed: it changes slowly with wavelength.
_SMOOTHING = 31


@dataclass(frozen=True, slots=True)
class Quality:
    """How a spectrum differs from its truth.

    Attributes
    ----------
    largest : float
        Largest deviation within ``REACH`` bins of a defect, as a fraction of the continuum.
    rms : float
        Root mean square of extracted / true - 1 over the judged bins. Here and in `largest` the
        smoothed mean of the draws is divided out.
    level : float
        Median of extracted / true.
    n_features : int
        Features near defects.
    n_expected : float
        The same without defects: mean over noise draws.
    n_elsewhere : int
        Features far from defects.
    """

    largest: float
    rms: float
    level: float
    n_features: int
    n_expected: float
    n_elsewhere: int
    sign: np.ndarray

    @property
    def excess(self) -> float:
        """Features that the defects, or what was done about them, made."""
        return self.n_features - self.n_expected


def measure_noise(draws: np.ndarray) -> np.ndarray:
    """Measure the noise of a spectrum from draws of it.

    Parameters
    ----------
    draws : ndarray of float, shape (n_draws, n_bins)
        Extracted / true of exposures without defects.

    Returns
    -------
    ndarray of float, shape (n_bins,)
        1 sigma per bin, smoothed along the bins.
    """
    return np.sqrt(_smooth(np.var(draws, axis=0, ddof=1)))


def _smooth(values: np.ndarray) -> np.ndarray:
    """Smooth along the bins; those that were never extracted take the median."""
    finite = np.isfinite(values)
    filled = np.where(finite, values, np.median(values[finite]))
    return uniform_filter(filled, _SMOOTHING, mode="nearest")


def find_features(ratio: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Find the bins that differ from the truth: int (n_bins,), -1, 0 or 1; lost ones are -1."""
    deviation = np.where(np.isfinite(ratio), ratio - 1, -np.inf)
    return np.where(np.abs(deviation) > THRESHOLD * sigma, np.sign(deviation), 0).astype(int)


def count_features(sign: np.ndarray, where: np.ndarray) -> int:
    """Count runs of bins of one sign that have a bin in `where`.

    Parameters
    ----------
    sign : ndarray of int, shape (n_bins,)
        From `find_features`.
    where : ndarray of bool, shape (n_bins,)
        Bins that count.
    """
    edges = np.flatnonzero(np.diff(sign)) + 1
    runs = zip(np.split(sign, edges), np.split(where, edges), strict=True)
    return sum(1 for run, here in runs if run[0] != 0 and here.any())


def spread_bins(bins: np.ndarray, n_bins: int, reach: int = REACH) -> np.ndarray:
    """Mark bins and their neighbours: bool (n_bins,)."""
    marked = np.zeros(n_bins, bool)
    marked[bins] = True
    return binary_dilation(marked, iterations=reach) if marked.any() else marked


def measure_quality(
    ratio: np.ndarray,
    *,
    draws: np.ndarray,
    defect_bins: np.ndarray,
    used: np.ndarray,
) -> Quality:
    """Compare a spectrum with its truth.

    Parameters
    ----------
    ratio : ndarray of float, shape (n_bins,)
        Extracted / true flux; NaN where nothing was extracted.
    draws : ndarray of float, shape (n_draws, n_bins)
        The same of exposures without defects or masks, through the same stages. They give 1 sigma
        of each bin, and by it, as for `ratio`, the features that noise alone makes.
    defect_bins : ndarray of int, shape (n_defects,)
        Bins in which defects lie.
    used : ndarray of bool, shape (n_bins,)
        Bins that are judged.

    Returns
    -------
    Quality
    """
    sigma = measure_noise(draws)
    # What the extraction itself does, as an aperture correction would take it out.
    systematic = _smooth(np.mean(draws, axis=0))
    near = spread_bins(defect_bins, ratio.size) & used
    sign = find_features(ratio / systematic, sigma)
    in_draws = [find_features(draw / systematic, sigma) for draw in draws]
    deviation = np.where(np.isfinite(ratio), ratio / systematic - 1, -1.0)
    n_features = count_features(sign, near)
    return Quality(
        largest=float(np.abs(deviation[near]).max()) if near.any() else 0.0,
        rms=float(np.sqrt(np.mean(deviation[used] ** 2))),
        level=float(np.nanmedian(ratio[used])),
        n_features=n_features,
        n_expected=float(np.mean([count_features(one, near) for one in in_draws])),
        n_elsewhere=count_features(sign, used) - n_features,
        sign=np.where(near, sign, 0),
    )


def count_added(new: Quality, old: Quality) -> int:
    """Count the features of one spectrum where another of the same exposure has none nearby."""
    explained = spread_bins(np.flatnonzero(old.sign), old.sign.size)
    everywhere = np.ones(new.sign.size, bool)
    return count_features(new.sign, everywhere) - count_features(new.sign, explained)
