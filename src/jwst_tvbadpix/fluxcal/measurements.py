"""Standard stars as they were seen: one row per star, band and visit."""

from dataclasses import dataclass

import numpy as np

from .modes import Band

__all__ = ["Measurements"]


@dataclass(frozen=True, slots=True)
class Measurements:
    """Calibration factors that single observations of standard stars give, with what they are of.

    Attributes
    ----------
    bands : tuple of Band
        What `band` points into.
    band : ndarray
        Index of the band of each row, (n,) int32.
    star, star_class : ndarray
        Name (after the aliases) and class ('hot', 'adwarf', 'solar', 'asteroid' or ''), (n,) str.
    visit : ndarray
        Rows of one visit share its jitter, (n,) str.
    subarray : ndarray
        As in SUBARRAY, (n,) str.
    mjd : ndarray
        Middle of the exposure [MJD], NaN where unknown, (n,) float64.
    factor : ndarray
        ``F_model / N``: MJy/sr per DN/s for images (aperture correction and pixel area included),
        MJy per DN/s for spectra, (n,) float64.
    sigma : ndarray
        Relative error of `factor` from the noise of the observation, (n,) float64.
    flux_jy : ndarray
        Flux density of the model [Jy], (n,) float64.
    peak, well_depth, background, exposure_s : ndarray
        Brightest pixel [DN/s], its share of the well, sky [DN/s], time [s]; NaN where unknown,
        (n,) float64.
    used : ndarray
        Whether the row takes part, (n,) bool.
    reason : ndarray
        Why it does not, '' where it does, (n,) str.
    source : ndarray
        File or exposure it comes from, (n,) str.
    given : ndarray or None
        Name of the star as the input has it, (n,) str; None where that is `star`.
    """

    bands: tuple[Band, ...]
    band: np.ndarray
    star: np.ndarray
    star_class: np.ndarray
    visit: np.ndarray
    subarray: np.ndarray
    mjd: np.ndarray
    factor: np.ndarray
    sigma: np.ndarray
    flux_jy: np.ndarray
    peak: np.ndarray
    well_depth: np.ndarray
    background: np.ndarray
    exposure_s: np.ndarray
    used: np.ndarray
    reason: np.ndarray
    source: np.ndarray
    given: np.ndarray | None = None
