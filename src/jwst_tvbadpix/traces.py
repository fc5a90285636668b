"""Spectra of sources in images: where a trace lies, and how bright it is."""

from dataclasses import dataclass

import bottleneck as bn
import numpy as np
from scipy.ndimage import median_filter

from .robust import compute_running_median

__all__ = ["TRACE_SNR", "Trace", "find_trace", "measure_coverage", "select_field"]

# From this significance on a trace is one. On simulated blank LRS exposures the largest is 2.7.
TRACE_SNR = 5.0
# Rows whose median makes one profile: long against clusters of bad pixels, short against spectra.
_CHUNK = 48
# How far the peaks of neighbouring chunks of one trace lie apart at most [pixel].
_WANDER = 2
# Pixels over which a profile is averaged: the core of a point source.
_WIDTH = 3
# Where their median is not this significant, against their mean, one column alone reads high.
_LEAST_SHARE = 0.3
# Scatter of the median of n values is this many times that of their mean.
_MEDIAN_FACTOR = 1.2533
# A pixel across the dispersion is covered where the profile exceeds this share of its peak.
_COVERED = 0.05
# Window of the running medians that sources in images stand out of [pixel].
_SKY_WINDOW = 41
# Rows and columns (first, last + 1) of the LRS slit in the full frame, 0-based, as its aperture is
# commonly quoted; its edges, which are steps, are left out.
_LRS_SLIT = (7, 397, 307, 344)


@dataclass(frozen=True, slots=True)
class Trace:
    """The most significant trace of an image.

    Attributes
    ----------
    snr : float
        Significance, of the weaker of two neighbouring chunks that agree; 0 = none.
    peak : float
        Height above the background in the better chunk, in the unit of the image.
    position : float
        Pixel across the dispersion at which it lies, 0-based, mean over the chunks; NaN = none.
    covered : float
        Share of the pixels across the dispersion that its light covers.
    """

    snr: float
    peak: float
    position: float
    covered: float

    @property
    def seen(self) -> bool:
        """Whether there is a trace at all."""
        return self.snr >= TRACE_SNR


def select_field(
    exp_type: str, corner: tuple[int, int], shape: tuple[int, int], good: np.ndarray
) -> np.ndarray:
    """Mark where a source of the mode may lie: bool, `shape`.

    Parameters
    ----------
    exp_type : str
        EXP_TYPE; for MIR_LRS-FIXEDSLIT the slit, for all others the whole image.
    corner, shape : tuple of int
        0-based full-frame (y, x) of the first pixel, and (ny, nx), of the image.
    good : ndarray of bool, shape of the full frame
        True where a pixel sees light: no reference pixel.
    """
    (y, x), (ny, nx) = corner, shape
    field = good[y : y + ny, x : x + nx].copy()
    if exp_type == "MIR_LRS-FIXEDSLIT":
        y0, y1, x0, x1 = _LRS_SLIT
        rows, columns = np.arange(y, y + ny)[:, None], np.arange(x, x + nx)
        field &= (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)
    return field


def find_trace(image: np.ndarray, axis: int, *, across: int | None = None) -> Trace:
    """Find the most significant trace along the dispersion.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Count rates, any unit; NaN = no value. Reference pixels and what lies outside the field
        must be NaN.
    axis : int
        DISPAXIS: 1 = dispersion along x, 2 = along y.
    across : int, optional
        Width across the dispersion over which the background is alike [pixel], where it is not so
        over the whole image: half a slice of an integral-field unit.

    Returns
    -------
    Trace

    Notes
    -----
    From each step along the dispersion its median is taken (the background and its spectrum);
    the median over the steps of a chunk makes a profile. Its peaks are compared with the larger
    of the noise of that median and the scatter of the profile below its middle, which no source
    raises. Bad pixels make no trace: they are few in a chunk.
    """
    along = np.asarray(image if axis == 2 else image.T, np.float64)
    kept = np.flatnonzero(np.isfinite(along).mean(axis=0) > 0.3) if along.size else np.empty(0, int)
    along = along[:, kept][np.isfinite(along[:, kept]).any(axis=1)]
    if len(along) < 2 or kept.size < 3 * _WIDTH:
        return Trace(0.0, 0.0, np.nan, 0.0)
    along = along - bn.nanmedian(along, axis=1)[:, None]
    chunks = np.array_split(along, max(2, len(along) // _CHUNK))
    measured = [_measure_profile(chunk, across) for chunk in chunks]
    snr, height = (np.stack(v) for v in zip(*measured, strict=True))
    best, tops = snr.argmax(axis=1), snr.max(axis=1)
    agree = np.abs(np.diff(best)) <= _WANDER
    pairs = np.where(agree, np.minimum(tops[:-1], tops[1:]), 0.0)
    k = int(pairs.argmax())
    if pairs[k] <= 0:
        return Trace(0.0, 0.0, np.nan, 0.0)
    chunk = k if tops[k] >= tops[k + 1] else k + 1
    peak = float(height[chunk, best[chunk]])
    seen = (tops >= 0.5 * pairs[k]) & (np.abs(best - best[chunk]) <= 2 * _WANDER)
    lit = (snr[chunk] > TRACE_SNR) & (height[chunk] > _COVERED * peak)
    position = float(np.average(kept[best[seen]], weights=tops[seen]))
    return Trace(float(pairs[k]), peak, position, float(lit.mean()))


def _measure_profile(chunk: np.ndarray, across: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Measure the profile of a chunk: significance and height, each (n_across,)."""
    profile = bn.nanmedian(chunk, axis=0)
    profile = np.where(np.isfinite(profile), profile, bn.nanmedian(profile))
    if across is not None:
        local = compute_running_median(profile, across, axis=0)
        chunk, profile = chunk - local, profile - local
    n = np.maximum(np.isfinite(chunk).sum(axis=0), 1)
    scatter = 1.4826 * bn.nanmedian(np.abs(chunk - profile), axis=0)
    noise = _MEDIAN_FACTOR * float(bn.nanmedian(scatter / np.sqrt(n))) / np.sqrt(_WIDTH)
    padded = np.pad(profile, _WIDTH // 2, mode="edge")
    height, snr = _compare(bn.move_mean(padded, _WIDTH)[_WIDTH - 1 :], noise)
    _, core = _compare(bn.move_median(padded, _WIDTH)[_WIDTH - 1 :], noise)
    return np.where(core >= _LEAST_SHARE * snr, snr, 0.0), height


def _compare(smooth: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Compare a profile with its noise and its scatter below the middle: height, significance."""
    height = smooth - bn.nanmedian(smooth)
    below = -height[height < 0]
    structure = 1.4826 * float(bn.nanmedian(below)) if below.size else 0.0
    return height, height / max(noise, structure, 1e-30)


def measure_coverage(image: np.ndarray) -> float:
    """Measure the share of the pixels of an image that sources cover.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Count rates, any unit; NaN = no value.

    Returns
    -------
    float
        Share of the finite pixels whose median over 3 x 3 pixels, which leaves no bad pixel, is 5
        sigma above the running medians along both axes; 0 for an image without values.
    """
    finite = np.isfinite(image)
    if not finite.any():
        return 0.0
    filled = np.where(finite, image, bn.nanmedian(image))
    smooth = np.where(finite, median_filter(filled, 3, mode="nearest"), np.nan)
    above = [smooth - compute_running_median(smooth, _SKY_WINDOW, axis=axis) for axis in (0, 1)]
    excess = np.fmin(*above)
    sigma = 1.4826 * float(bn.nanmedian(np.abs(excess)))
    return float((np.nan_to_num(excess) > 5 * sigma).sum() / finite.sum())
