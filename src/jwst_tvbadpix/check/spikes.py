"""How large a defect shows in a spectrum: its excess over the flux of the aperture."""

from dataclasses import dataclass

import bottleneck as bn
import numpy as np
from scipy.ndimage import maximum_filter1d, uniform_filter1d

from ..robust import compute_running_median
from .products import Plane, Product, blank_flagged

__all__ = ["Spikes", "measure_spikes"]

# Windows of running medians along the dispersion: of the image, and of the continuum.
_WINDOW, _CONTINUUM_WINDOW = 15, 31
# A continuum below this many times its error is none.
_CONTINUUM_SNR = 3.0
# Pixels beyond the aperture, and gap to it, that give the background.
_BACKGROUND, _GAP = 12, 2


@dataclass(frozen=True, slots=True)
class Spikes:
    """Sizes of defects; arrays of shape (n_rows,), NaN where they cannot be told.

    Attributes
    ----------
    expected, expected_err : ndarray of float64
        What the defect adds [% of the continuum]; negative = it takes away.
    seen, seen_err : ndarray of float64
        What the pixel itself shows over its neighbours along the dispersion, and its noise [%].
    gap : ndarray of float64
        What is lost when the pixel is masked and not replaced [%].
    relative_to : str
        What the sizes are a share of.
    scale_from : str
        What turned DN/s into the unit of the product; empty where nothing did.
    """

    expected: np.ndarray
    expected_err: np.ndarray
    seen: np.ndarray
    seen_err: np.ndarray
    gap: np.ndarray
    relative_to: str
    scale_from: str


def measure_spikes(
    product: Product,
    plane: Plane,
    inside: np.ndarray,
    extracted: bool,
    *,
    y: np.ndarray,
    x: np.ndarray,
    amplitude: np.ndarray,
    amplitude_err: np.ndarray,
    response: np.ndarray,
) -> Spikes:
    """Measure how large defects show.

    Parameters
    ----------
    product : Product
    plane : Plane
    inside : ndarray of bool, shape (ny, nx)
        The aperture.
    extracted : bool
        Whether the flux across the dispersion is added up within it.
    y, x : ndarray of int, shape (n_rows,)
        Pixels of the plane.
    amplitude, amplitude_err : ndarray of float64, shape (n_rows,)
        Excess of the defects [DN/s]; NaN = not known.
    response : ndarray of float64, shape (n_rows,)
        Their response, 1 = normal.

    Returns
    -------
    Spikes

    Notes
    -----
    An additive defect adds its amplitude times the unit per DN/s; one whose response r is not
    normal adds (r - 1) times the level that its neighbours along the dispersion have here. The
    continuum is the sum over the aperture of the level less the background beyond it, smoothed by
    a running median along the dispersion.
    """
    data, rate = blank_flagged(plane), plane.rate
    if plane.axis == 1:  # from here on the dispersion runs along the first axis
        data, inside, y, x = data.T, inside.T, x, y
        rate = None if rate is None else rate.T
    level = _measure_level(data, spectral=plane.axis is not None)
    scale, scale_from = _measure_scale(product, data, rate)
    here, flux = level[y, x], np.full(len(y), np.nan)
    if extracted:
        background = _measure_background(level, inside)
        continuum, error = _measure_continuum(data, level - background, inside)
    with np.errstate(invalid="ignore", divide="ignore"):
        if extracted and bn.nanmedian(continuum / error) > _CONTINUUM_SNR:
            lit = np.where(continuum > _CONTINUUM_SNR * error, continuum, np.nan)
            flux, share = lit[y], (error / lit)[y]
            relative_to = "the continuum"
            source = (level - background)[y, x]
        else:
            flux, share, source = np.where(here > 0, here, np.nan), np.zeros(len(y)), np.nan
            relative_to = "the local level"
        multiplicative = response != 1
        excess = np.where(multiplicative, (response - 1) * here, amplitude * scale[y, x])
        per_dn = np.where(multiplicative, excess / amplitude, scale[y, x])
        expected = 100 * excess / flux
        scatter = 1.4826 * bn.nanmedian(np.abs(data - level)[inside]) if inside.any() else np.nan
        noise = 100 * np.abs(amplitude_err * per_dn / flux)
        return Spikes(
            expected=expected,
            expected_err=np.hypot(noise, np.abs(expected) * share),
            seen=100 * (data[y, x] - here) / flux,
            seen_err=100 * scatter / flux,
            gap=-100 * source / flux,
            relative_to=relative_to,
            scale_from=scale_from,
        )


def _measure_level(data: np.ndarray, *, spectral: bool) -> np.ndarray:
    """Measure what each pixel would have without a defect: (n_along, n_across)."""
    level = compute_running_median(data, _WINDOW, axis=0)
    if spectral:
        return level
    across = compute_running_median(data, _WINDOW, axis=1)
    return np.where(np.isfinite(level + across), (level + across) / 2, np.nan)


def _measure_scale(
    product: Product, data: np.ndarray, rate: np.ndarray | None
) -> tuple[np.ndarray, str]:
    """Find the unit of the product per DN/s, (n_along, n_across), and where it comes from.

    It is the slope of the product against the rate product over the neighbours across the
    dispersion, where wavelength hardly changes: a background that was subtracted drops out.
    """
    if np.isfinite(product.photmjsr):
        text = product.path.name if product.photmjsr == 1 else "PHOTMJSR"
        return np.full(data.shape, product.photmjsr), text
    if rate is None or product.rate_path is None:
        return np.full(data.shape, np.nan), ""
    use = np.isfinite(data) & np.isfinite(rate)
    share = np.maximum(_average(use), 1e-30)
    mean_data, mean_rate = (_average(np.where(use, v, 0)) / share for v in (data, rate))
    both = _average(np.where(use, data * rate, 0)) / share - mean_data * mean_rate
    square = _average(np.where(use, rate * rate, 0)) / share - mean_rate**2
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = np.where(square > 0, both / square, np.nan)
    return compute_running_median(slope, _WINDOW, axis=0), product.rate_path.name


def _average(values: np.ndarray) -> np.ndarray:
    """Average over the neighbours across the dispersion."""
    return np.asarray(
        uniform_filter1d(values.astype(float), 2 * _BACKGROUND + 1, axis=1, mode="constant")
    )


def _measure_background(level: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Measure the background beyond the aperture at each step: (n_along, 1), 0 without one."""
    beyond = _grow(inside, _GAP + _BACKGROUND) & ~_grow(inside, _GAP)
    background = bn.nanmedian(np.where(beyond, level, np.nan), axis=1)
    return np.nan_to_num(compute_running_median(background, _CONTINUUM_WINDOW, axis=0))[:, None]


def _grow(inside: np.ndarray, n: int) -> np.ndarray:
    """Grow a region by n pixels across the dispersion."""
    return np.asarray(maximum_filter1d(inside, 2 * n + 1, axis=1, mode="constant"))


def _measure_continuum(
    data: np.ndarray, source: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Measure the flux in the aperture at each step and its error, both (n_along,)."""
    count = (inside & np.isfinite(source)).sum(axis=1)
    flux = np.where(count > 0, np.nansum(np.where(inside, source, 0), axis=1), np.nan)
    step = np.where(inside, np.diff(data, axis=0, prepend=np.nan), np.nan)
    scatter = 1.4826 * bn.nanmedian(np.abs(step), axis=1) / np.sqrt(2)
    flux, scatter = (compute_running_median(v, _CONTINUUM_WINDOW, axis=0) for v in (flux, scatter))
    # The level is a median of so many steps, whose error is 1.25 times that of their mean.
    return flux, 1.2533 * scatter * np.sqrt(np.maximum(count, 1) / _WINDOW)
