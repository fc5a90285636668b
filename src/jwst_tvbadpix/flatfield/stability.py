"""Whether a flat is stable: its smooth modes in time, and its pixels between two halves."""

import logging
from dataclasses import dataclass

import bottleneck as bn
import numpy as np
from scipy.special import erfc
from scipy.stats import false_discovery_control, norm

from ..errors import EvidenceError
from .basis import make_basis
from .drifts import TIME_CONSTANT_DAY, Drifts, find_drifts
from .starflat import StarFlat

__all__ = ["PixelDrift", "find_flat_drifts", "find_pixel_drift"]

log = logging.getLogger(__name__)

# Changes beyond this many of their sigma say nothing about the smooth change between the halves.
_N_SIGMA = 5.0
# Pixels from which the noise is told.
_LEAST_PIXELS = 100
# Probability with which limits hold.
_CONFIDENCE = 0.95
# Change of all pixels together that is believed [its error]. rms / rms_err = sqrt(z (4 z + 1))
# where rms^2 is z of its own sigma: this is z = 3.9.
_N_RMS = 8.0
# 1.4826 times the median modulus of normal deviates is their sigma; its relative error, over
# 1 / sqrt(n).
_TO_SIGMA, _MAD_ERROR = 1.4826, 1.167


@dataclass(frozen=True, slots=True)
class PixelDrift:
    """Change of single pixels from an early to a late half.

    Attributes
    ----------
    change : ndarray of float32, shape (ny, nx)
        ln(late / early), smooth part taken off; NaN = not known.
    err : ndarray of float32, shape (ny, nx)
        Its 1-sigma error: as given, times `noise_scale`.
    changed : ndarray of bool, shape (ny, nx)
        Pixels whose change is believed.
    smooth : ndarray of float64, shape (n_modes,)
        Change in the modes of degree 1 to `order` that was taken off [ln].
    smooth_err : ndarray of float64, shape (n_modes,)
        Its error, were all pixels independent.
    noise_scale : float
        Scatter over the errors given: of the control where there is one, else of the halves.
    rms, rms_err : float
        Change of all pixels alike, beyond the noise [ln].
    rms_limit : float
        What it stays below with a probability of 95 %.
    n_pixels, n_changed : int
    expected_false : float
        Believed changes that are expected to be noise.
    false_discovery_rate : float
        Setting.
    """

    change: np.ndarray
    err: np.ndarray
    changed: np.ndarray
    smooth: np.ndarray
    smooth_err: np.ndarray
    noise_scale: float
    rms: float
    rms_err: float
    rms_limit: float
    n_pixels: int
    n_changed: int
    expected_false: float
    false_discovery_rate: float

    @property
    def drifts(self) -> bool:
        """Whether any pixel changed, or all of them together."""
        return self.n_changed > 0 or self.all_drift

    @property
    def all_drift(self) -> bool:
        """Whether all pixels together changed more than the noise."""
        return self.rms > _N_RMS * self.rms_err > 0

    def describe(self) -> str:
        """Say it in one line."""
        return (
            f"{self.n_changed} of {self.n_pixels} pixels changed; rms of all {100 * self.rms:.3f} "
            f"%, below {100 * self.rms_limit:.3f} %"
        )


def find_flat_drifts(
    flat: StarFlat,
    mid_mjd: np.ndarray,
    visit: np.ndarray,
    *,
    false_discovery_rate: float = 0.01,
    time_constant_day: float = TIME_CONSTANT_DAY,
) -> Drifts:
    """Find how the smooth modes of a star flat change in time.

    Parameters
    ----------
    flat : StarFlat
        Solved with `epoch`.
    mid_mjd : ndarray of float64, shape (n_epochs,)
        Times of its epochs, in the order of `flat.epoch_id` [MJD].
    visit : ndarray of int, shape (n_epochs,)
        Their visits.
    false_discovery_rate, time_constant_day
        See `find_drifts`.

    Returns
    -------
    Drifts
        In ln flux, one series per mode of the epochs; its value is the rms over the field. The
        first two are the gradients, which lean on the prior of the zero points.

    Raises
    ------
    EvidenceError
        When the star flat has no epochs, or not as many as times.
    """
    n_epochs, n_modes = flat.epoch_coefficients.shape
    if n_epochs != len(mid_mjd) or not n_epochs:
        raise EvidenceError(
            f"expected a star flat with the epochs of {len(mid_mjd)} times, found {n_epochs}; "
            "solve it with `epoch` and give the time of each"
        )
    by_mode = flat.epoch_covariance.reshape(n_epochs, n_modes, n_epochs, n_modes)
    drifts = find_drifts(
        flat.epoch_coefficients,
        np.einsum("iqjq->qij", by_mode),
        mid_mjd,
        visit,
        names=[
            f"mode {q + 1} (degree {degree})"
            for q, degree in enumerate(flat.basis.degree[:n_modes])
        ],
        false_discovery_rate=false_discovery_rate,
        time_constant_day=time_constant_day,
    )
    for line in drifts.describe(scale=100, unit="%"):
        log.info("Flat: %s", line)
    return drifts


def find_pixel_drift(
    early: tuple[np.ndarray, np.ndarray],
    late: tuple[np.ndarray, np.ndarray],
    good: np.ndarray,
    *,
    control: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
    order: int = 3,
    false_discovery_rate: float = 0.01,
) -> PixelDrift:
    """Find pixels whose response changed between two halves of the exposures.

    Parameters
    ----------
    early, late : tuple of ndarray, shape (ny, nx)
        Flat of each half and its random 1-sigma error, independent from pixel to pixel, stacked
        from exposures of its own.
    good : ndarray of bool, shape (ny, nx)
        True = use. Pixels without a positive flat and error in both halves are left out too.
    control : tuple of two such, optional
        Halves that do not differ in time, such as every other exposure. They tell the noise;
        without them it is told by the pixels of the halves themselves, which then do not show
        a change of all pixels beyond the errors given.
    order : int
        Total degree of the smooth change that is taken off.
    false_discovery_rate : float
        Expected share of false ones among the pixels that are believed to have changed.

    Returns
    -------
    PixelDrift

    Raises
    ------
    EvidenceError
        When shapes differ or too few pixels are known in both halves.

    Notes
    -----
    ``rms^2 = (scale^2 - control^2) / <1 / err^2>`` with both scales the median moduli of the
    standardised changes: few pixels that change much do not raise it. Without control it is
    compared with the errors given. Pixels are judged by Benjamini & Hochberg (1995).
    """
    if not 0 < false_discovery_rate < 1:
        raise EvidenceError(
            "expected a false_discovery_rate between 0 and 1, found "
            f"{false_discovery_rate}; correct it"
        )
    good = np.asarray(good, bool)
    change, err, smooth, smooth_err = _compare(early, late, good, order)
    scale, scale_err = _measure_scale(change, err)
    given, given_err = 1.0, 0.0
    if control is not None:
        given, given_err = _measure_scale(*_compare(*control, good, order)[:2])
    noise_scale = scale if control is None else given
    known = np.isfinite(change)
    size = float(1 / np.mean(1 / err[known].astype(float) ** 2))
    power = size * (scale**2 - given**2)
    power_err = 2 * size * float(np.hypot(scale * scale_err, given * given_err))
    rms = float(np.sqrt(max(power, 0.0)))
    limit = float(np.sqrt(max(power, 0.0) + norm.ppf(_CONFIDENCE) * power_err))
    # Of chi^2 with one degree of freedom.
    p_value = erfc(np.abs(change[known]) / (np.sqrt(2) * noise_scale * err[known]))
    changed = np.zeros(change.shape, bool)
    changed[known] = false_discovery_control(p_value) <= false_discovery_rate
    n_changed = int(changed.sum())
    drift = PixelDrift(
        change.astype(np.float32),
        (noise_scale * err).astype(np.float32),
        changed,
        smooth,
        smooth_err,
        noise_scale,
        rms,
        power_err / float(np.sqrt(4 * max(power, 0.0) + power_err)) if power_err else 0.0,
        limit,
        p_value.size,
        n_changed,
        false_discovery_rate * n_changed,
        false_discovery_rate,
    )
    log.info("%s", drift.describe())
    return drift


def _compare(
    early: tuple[np.ndarray, np.ndarray],
    late: tuple[np.ndarray, np.ndarray],
    good: np.ndarray,
    order: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """ln(late / early) without its smooth part, its error, and the smooth part with its error."""
    arrays = [np.asarray(a, float) for half in (early, late) for a in half]
    if any(a.shape != good.shape for a in arrays):
        raise EvidenceError(
            f"expected flats and errors of shape {good.shape}, found "
            f"{sorted({a.shape for a in arrays})}; give both halves on the same pixels"
        )
    known = good & np.all([np.isfinite(a) & (a > 0) for a in arrays], axis=0)
    if known.sum() < _LEAST_PIXELS:
        raise EvidenceError(
            f"expected at least {_LEAST_PIXELS} pixels that both halves know, found "
            f"{int(known.sum())}; give halves that cover the detector"
        )
    one, one_err, other, other_err = (np.where(known, a, 1.0) for a in arrays)
    change = np.where(known, np.log(other / one), np.nan)
    err = np.where(known, np.hypot(one_err / one, other_err / other), np.nan)
    change -= bn.nanmedian(change)
    basis = make_basis(known, order)
    noise = max(_measure_scale(change, err)[0], 1e-300) * err[known]
    used = np.flatnonzero(np.abs(change[known]) < _N_SIGMA * np.maximum(noise, 1e-300))
    y, x = np.nonzero(known)
    modes = np.column_stack([np.ones(used.size), basis.evaluate(x[used], y[used])])
    weight = 1 / err[known][used] ** 2
    normal = np.linalg.inv(modes.T @ (modes * weight[:, None]))
    smooth = normal @ (modes.T @ (weight * change[known][used]))
    change = change - smooth[0] - basis.render(smooth[1:])
    return change, err, smooth[1:], np.sqrt(np.diag(normal))[1:]


def _measure_scale(change: np.ndarray, err: np.ndarray) -> tuple[float, float]:
    """Scatter of changes in units of their errors, blind to few large ones; and its error."""
    ratio = np.abs(change / err)
    ratio = ratio[np.isfinite(ratio)]
    scale = _TO_SIGMA * float(bn.median(ratio))
    return scale, scale * _MAD_ERROR / float(np.sqrt(ratio.size))
