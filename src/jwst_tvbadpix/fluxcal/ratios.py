"""How modes compare: ratios of their factors, and of what the same stars give in both."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from .results import FluxFit
from .rows import SPECTRAL

__all__ = ["RatioMatrix", "compare_modes"]


@dataclass(frozen=True, slots=True)
class RatioMatrix:
    """Filters, and pieces of spectra, against each other.

    Attributes
    ----------
    labels : tuple of str
    wave : ndarray
        Mean wavelength [um], (n,) float64.
    ln_factor : ndarray
        Mean ln C of each, (n,) float64.
    covariance : ndarray
        Its covariance, (n, n) float64.
    ln_ratio, error : ndarray
        ``ln C_i - ln C_j`` and its error, (n, n) float64.
    star_ratio, star_error : ndarray
        Mean over the stars seen in both of ln(observed/model) in i minus that in j, after both
        factors, and its error from the scatter of these stars or, with one, from the widths of the
        fit; NaN without a common star, (n, n) float64.
    n_stars : ndarray
        Stars in common, (n, n) int64.
    """

    labels: tuple[str, ...]
    wave: np.ndarray
    ln_factor: np.ndarray
    covariance: np.ndarray
    ln_ratio: np.ndarray
    error: np.ndarray
    star_ratio: np.ndarray
    star_error: np.ndarray
    n_stars: np.ndarray


def compare_modes(fit: FluxFit) -> RatioMatrix:
    """Compare all filters and pieces of spectra of a fit.

    Parameters
    ----------
    fit : FluxFit

    Returns
    -------
    RatioMatrix
        By instrument, detector and wavelength. A star ratio that differs from zero says that two
        modes disagree on the stars they share, which the factors, means over different stars, hide.
    """
    rows = fit.rows
    first = {int(u): k for k, u in reversed(list(enumerate(rows.unit)))}
    cell = [_name(fit, k, str(rows.cell[first[k]])) for k in range(len(fit.units))]
    labels = sorted(set(cell), key=cell.index)
    place = np.array([labels.index(c) for c in cell])
    count = np.bincount(place)
    mean = sparse.csr_matrix((1.0 / count[place], (place, np.arange(len(place)))))
    wide = sparse.hstack(
        [mean, sparse.csr_matrix((len(labels), len(fit.parameters) - len(place)))], format="csr"
    )
    covariance = fit.parameter_covariance.join(wide)
    ln_factor = mean @ np.log(fit.factor)
    variance = np.diag(covariance)
    error = np.sqrt(np.maximum(variance[:, None] + variance[None, :] - 2 * covariance, 0.0))
    ratio, star_error, n_stars = _compare_stars(fit, place[rows.unit], len(labels))
    return RatioMatrix(
        tuple(labels),
        mean @ np.array([u.band.wave for u in fit.units]),
        ln_factor,
        covariance,
        ln_factor[:, None] - ln_factor[None, :],
        error,
        ratio,
        star_error,
        n_stars,
    )


def _name(fit: FluxFit, unit: int, cell: str) -> str:
    kind = fit.units[unit].band.mode.kind
    label = cell if kind in SPECTRAL else fit.units[unit].band.mode.label
    own = fit.units[unit].subarray
    return f"{label} {own}" if own else label


def _compare_stars(
    fit: FluxFit, place: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean difference of the stars seen in both, its error, and their number."""
    rows = fit.rows
    star = rows.take("star").astype(str)
    names, which = np.unique(star, return_inverse=True)
    residual = fit.residual[rows.index]
    flat = which * n + place
    total = np.bincount(flat, minlength=len(names) * n).reshape(len(names), n)
    mean = np.bincount(flat, residual, len(names) * n).reshape(len(names), n)
    mean = np.where(total > 0, mean / np.maximum(total, 1), np.nan)
    seen = total > 0
    count = seen.T.astype(int) @ seen.astype(int)
    filled = np.where(seen, mean, 0.0)
    own = seen.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        # Sums over the common stars of (a - b) and (a - b)^2.
        first = filled.T @ own - own.T @ filled
        square = (filled**2).T @ own + own.T @ filled**2 - 2 * filled.T @ filled
        difference = first / count
        spread = np.maximum(square / count - difference**2, 0.0) * count / (count - 1)
    typical = np.hypot(
        max((w for k, w in fit.widths.items() if k.startswith("star in")), default=0.0),
        max((w for k, w in fit.widths.items() if k.startswith("visit")), default=0.0),
    )
    error = np.sqrt(np.where(count > 1, spread, 2 * typical**2) / np.maximum(count, 1))
    difference[count == 0] = np.nan
    error[count == 0] = np.nan
    return difference, error, count
