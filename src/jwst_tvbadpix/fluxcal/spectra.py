"""Spectra of standard stars, made into calibration factors on a common grid of wavelengths."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from ..errors import InputError
from .gather import (
    MIN_SNR,
    blank,
    check_dates,
    exclude,
    join_measurements,
    mark_duplicates,
    name_visits,
    require_used,
)
from .measurements import Measurements
from .modes import Band, Mode

__all__ = ["RESOLUTION_PIXELS", "StarSpectrum", "measure_spectra", "rebin", "smooth_model"]

# Width of the resolution element of a spectrum (FWHM) [pixel]: NIRSpec defines its resolving power
# by it (JWST user documentation); the others sample theirs by 2 to 3.
RESOLUTION_PIXELS = 2.2
_FWHM_PER_SIGMA = 2.3548
# Steps of the logarithmic grid of the convolution per sigma of the narrowest resolution element.
_STEPS_PER_SIGMA = 4.0
# Wavelengths that JWST sees [um].
_WAVES = (0.3, 40.0)


@dataclass(frozen=True, slots=True)
class StarSpectrum:
    """One spectrum of a standard star, and what its model says.

    Attributes
    ----------
    mode : Mode
    star, star_class, given : str
        Name and class after the aliases, and the name as given.
    visit, subarray, source : str
        `visit` may be '': it is then told by the time.
    mjd : float
        Middle of the exposure [MJD]; NaN where unknown.
    wave : ndarray, shape (n,)
        Wavelengths, rising [um].
    rate, err : ndarray, shape (n,)
        Count rate in the sampling of `wave` and its 1-sigma error [DN/s]; NaN = no value.
    model_jy : ndarray, shape (n,)
        Flux density of the model at the resolution of the mode [Jy].
    exposure_s : float
        NaN where unknown.
    reason : str
        Why the whole spectrum is left out; '' where it is not.
    """

    mode: Mode
    star: str
    star_class: str
    given: str
    visit: str
    subarray: str
    mjd: float
    wave: np.ndarray
    rate: np.ndarray
    err: np.ndarray
    model_jy: np.ndarray
    source: str
    exposure_s: float = float("nan")
    reason: str = ""


def smooth_model(
    wave: np.ndarray, flux: np.ndarray, target: np.ndarray, *, pixels: float = RESOLUTION_PIXELS
) -> np.ndarray:
    """Convolve a model with the resolution of a spectrum, and sample it there.

    Parameters
    ----------
    wave, flux : ndarray, shape (n,)
        The model: wavelengths, rising [um], and flux density [Jy].
    target : ndarray, shape (m,)
        Wavelengths of the spectrum's pixels, rising [um].
    pixels : float
        FWHM of the resolution element [pixel of the spectrum].

    Returns
    -------
    ndarray, shape (m,)
        NaN where the model does not reach.

    Notes
    -----
    The line spread function is a Gaussian whose width, in ln(wavelength), changes along the
    spectrum. The model is convolved with a few widths and interpolated between them. A model that
    is coarser than the resolution stays as it is. Photons of one pixel are counted over its width.
    """
    step = np.gradient(target) / target
    sigma = pixels * step / _FWHM_PER_SIGMA
    pad = 6 * sigma.max()
    low, high = max(target[0] * np.exp(-pad), wave[0]), min(target[-1] * np.exp(pad), wave[-1])
    if not high > low:
        return np.full(len(target), np.nan)
    grid_step = sigma.min() / _STEPS_PER_SIGMA
    grid = np.linspace(np.log(low), np.log(high), max(2, int(np.log(high / low) / grid_step) + 2))
    grid_step = grid[1] - grid[0]
    # The integral over each step, so that lines narrower than one are not missed.
    edges = np.exp(np.concatenate([[grid[0]], (grid[1:] + grid[:-1]) / 2, [grid[-1]]]))
    fine = _average(wave, flux, edges)
    widths = np.geomspace(sigma.min(), sigma.max() * (1 + 1e-9), 1 + 7 * (np.ptp(sigma) > 0))
    sampled = np.array(
        [
            np.interp(np.log(target), grid, gaussian_filter1d(fine, w / grid_step, mode="nearest"))
            for w in widths
        ]
    )
    if len(widths) == 1:
        smooth = sampled[0]
    else:
        at = np.interp(np.log(sigma), np.log(widths), np.arange(len(widths)))
        k = np.minimum(at.astype(int), len(widths) - 2)
        column = np.arange(len(target))
        smooth = sampled[k, column] * (1 - at + k) + sampled[k + 1, column] * (at - k)
    return np.where((target >= wave[0]) & (target <= wave[-1]), smooth, np.nan)


def _average(wave: np.ndarray, flux: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Average a piecewise linear spectrum between edges, exactly."""
    steps = np.diff(wave) * (flux[1:] + flux[:-1]) / 2
    total = np.concatenate([[0.0], np.cumsum(steps)])
    k = np.clip(np.searchsorted(wave, edges, side="right") - 1, 0, len(wave) - 2)
    t = edges - wave[k]
    slope = (flux[k + 1] - flux[k]) / (wave[k + 1] - wave[k])
    mean: np.ndarray = np.diff(total[k] + t * (flux[k] + slope * t / 2)) / np.diff(edges)
    return mean


def rebin(wave: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Find which share of each pixel lies in each bin.

    Parameters
    ----------
    wave : ndarray, shape (n,)
        Middle of the pixels, rising [um].
    edges : ndarray, shape (m + 1,)
        Edges of the bins, rising [um].

    Returns
    -------
    ndarray, shape (m, n)
        Shares, 0 to 1; those of a pixel within the edges add up to 1.
    """
    middle = (wave[1:] + wave[:-1]) / 2
    ends = [2 * wave[0] - middle[0]], [2 * wave[-1] - middle[-1]]
    borders = np.concatenate([ends[0], middle, ends[1]])
    low = np.maximum(borders[:-1], edges[:-1, None])
    high = np.minimum(borders[1:], edges[1:, None])
    return np.clip(high - low, 0, None) / np.diff(borders)


def measure_spectra(spectra: Sequence[StarSpectrum], *, max_bins: int = 400) -> Measurements:
    """Make calibration factors of spectra.

    Parameters
    ----------
    spectra : sequence of StarSpectrum
        Of any modes, in any order.
    max_bins : int
        Most bins of one mode; a bin is never narrower than two pixels.

    Returns
    -------
    Measurements
        A row for each spectrum and bin; those left out say why. `band` of a bin is its middle.

    Raises
    ------
    InputError
        Wavelengths do not rise or are not in um.
    EvidenceError
        No row is usable.

    Notes
    -----
    In a bin ``C = 1e-6 sum(model) / sum(rate)`` [MJy per DN/s], over the pixels that are good, each
    by its share in the bin; the shares make the errors of neighbouring bins correlate slightly.
    The edges are quantiles of the wavelengths of all good pixels of the mode: they do not depend
    on the order of the spectra, and follow a sampling that changes along the spectrum.
    """
    by_mode: dict[Mode, list[StarSpectrum]] = {}
    for spectrum in sorted(spectra, key=lambda s: (s.mode, s.source, s.star)):
        _check(spectrum)
        by_mode.setdefault(spectrum.mode, []).append(spectrum)
    parts = [_measure_mode(group, max_bins) for group in by_mode.values()]
    return require_used(join_measurements(parts))


def _check(spectrum: StarSpectrum) -> None:
    """Refuse wavelengths that are none."""
    wave = spectrum.wave
    check_dates(np.array([spectrum.mjd]), spectrum.source)
    if len(wave) < 2 or not (np.isfinite(wave).all() and (np.diff(wave) > 0).all()):
        raise InputError(
            f"expected at least two rising wavelengths in {spectrum.source}, found {len(wave)}, "
            "repeated or no numbers; sort them"
        )
    if wave[0] < _WAVES[0] or wave[-1] > _WAVES[1]:
        raise InputError(
            f"expected wavelengths in um within {_WAVES[0]:g} to {_WAVES[1]:g} in "
            f"{spectrum.source}, found {wave[0]:g} to {wave[-1]:g}; convert them"
        )


def _find_good(spectrum: StarSpectrum) -> np.ndarray:
    """Find the pixels that say something."""
    with np.errstate(invalid="ignore"):
        good = np.isfinite(spectrum.rate) & (spectrum.err > 0) & (spectrum.model_jy > 0)
    return np.asarray(good & np.isfinite(spectrum.err) & np.isfinite(spectrum.model_jy))


def _find_edges(group: Sequence[StarSpectrum], max_bins: int) -> np.ndarray:
    """Find the edges of the bins of a mode [um]."""
    goods = [_find_good(s) for s in group if not s.reason]
    waves = [s.wave[g] for s, g in zip([s for s in group if not s.reason], goods, strict=True)]
    waves = [wave for wave in waves if len(wave) > 1]
    if not waves:
        return np.array([group[0].wave[0], group[0].wave[-1]])
    pooled = np.sort(np.concatenate(waves))
    n = int(max(1, min(max_bins, np.median([len(wave) for wave in waves]) // 2)))
    return np.unique(np.quantile(pooled, np.linspace(0, 1, n + 1)))


def _measure_mode(group: Sequence[StarSpectrum], max_bins: int) -> Measurements:
    """Measure the spectra of one mode on one grid."""
    edges = _find_edges(group, max_bins)
    middle = (edges[1:] + edges[:-1]) / 2
    n_bins, n = len(middle), len(group)
    sums = np.array([_sum_bins(s, edges) for s in group])  # (n, 4, n_bins)
    model, rate, err, share = np.moveaxis(sums, 1, 0).reshape(4, -1)
    with np.errstate(all="ignore"):
        factor, sigma, flux = 1e-6 * model / rate, err / rate, model / share
    why = np.repeat(np.array([s.reason for s in group], dtype=object), n_bins)
    reason = np.array(why, dtype=object)
    exclude(reason, share <= 0, "no good pixel")
    exclude(reason, ~(rate > 0), "rate is not positive")
    exclude(reason, rate < MIN_SNR * err, f"rate below {MIN_SNR:g} sigma")

    def repeat(values: Sequence[str | float], dtype: type) -> np.ndarray:
        return np.repeat(np.array(values, dtype=dtype), n_bins)

    star, source = repeat([s.star for s in group], str), repeat([s.source for s in group], str)
    mjd = repeat([s.mjd for s in group], float)
    band = np.tile(np.arange(n_bins, dtype=np.int32), n)
    mark_duplicates(reason, (star, band, mjd, rate, err))
    return Measurements(
        bands=tuple(Band(group[0].mode, float(wave)) for wave in middle),
        band=band,
        star=star,
        star_class=repeat([s.star_class for s in group], str),
        visit=_name_all(group, n_bins),
        subarray=repeat([s.subarray for s in group], str),
        mjd=mjd,
        factor=np.where(np.isfinite(factor), factor, np.nan),
        sigma=np.where(np.isfinite(sigma), sigma, np.nan),
        flux_jy=np.where(np.isfinite(flux), flux, np.nan),
        peak=blank(n * n_bins),
        well_depth=blank(n * n_bins),
        background=blank(n * n_bins),
        exposure_s=repeat([s.exposure_s for s in group], float),
        used=np.asarray(reason == "", bool),
        reason=reason.astype(str),
        source=source,
        given=repeat([s.given for s in group], str),
    )


def _name_all(group: Sequence[StarSpectrum], n_bins: int) -> np.ndarray:
    """Name the visits: as said, else by the time."""
    columns = (
        np.array([s.star for s in group], dtype=str),
        np.array([s.mjd for s in group], float),
        np.array([s.source for s in group], dtype=str),
    )
    named = zip(name_visits(*columns).tolist(), group, strict=True)
    return np.repeat(np.array([s.visit or name for name, s in named], dtype=str), n_bins)


def _sum_bins(spectrum: StarSpectrum, edges: np.ndarray) -> np.ndarray:
    """Sum model, rate, and error (in quadrature) over the good pixels, and count them (4, m)."""
    good = _find_good(spectrum)
    shares = rebin(spectrum.wave, edges)[:, good]
    columns = (spectrum.model_jy[good], spectrum.rate[good], np.ones(good.sum()))
    model, rate, count = (shares @ column for column in columns)
    return np.array([model, rate, np.sqrt(shares**2 @ spectrum.err[good] ** 2), count])
