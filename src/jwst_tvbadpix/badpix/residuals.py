"""Each pixel against its surroundings: residual, local model, and how sure the model is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..robust import compute_running_median

__all__ = [
    "AxisResiduals",
    "LocalResiduals",
    "combine_axes",
    "compute_halo",
    "compute_residuals",
    "subtract_medians",
]

# Two local models that differ by this many sigma count half as much as if they agreed.
_AGREEMENT = 3.0


@dataclass(frozen=True, slots=True)
class LocalResiduals:
    """Residuals of a stack of looks against their local environment.

    Attributes
    ----------
    residual : ndarray of float32, shape (n_looks, ny, nx)
        Value minus local model [DN/s]; NaN where there is no evidence.
    local : ndarray of float32, shape (n_looks, ny, nx)
        Local model M [DN/s].
    spread : ndarray of float32, shape (n_looks, ny, nx)
        Disagreement of the two one-dimensional models [DN/s], >= 0.
    """

    residual: np.ndarray
    local: np.ndarray
    spread: np.ndarray


@dataclass(frozen=True, slots=True)
class AxisResiduals:
    """Count rates, and what the running medians along y and along x leave of them [DN/s].

    Attributes
    ----------
    rate, along_y, along_x : ndarray of float32, shape (n_looks, ny, nx)
        NaN where there is no evidence.
    """

    rate: np.ndarray
    along_y: np.ndarray
    along_x: np.ndarray


def compute_halo(window_along: int, window_across: int) -> int:
    """Count the rows around a block that its residuals depend on, exclusions included."""
    return 2 * (max(window_along, window_across) // 2)


def compute_residuals(
    rate: np.ndarray,
    bad: np.ndarray,
    *,
    dispersion_axes: Sequence[int | None],
    window_along: int = 11,
    window_across: int = 9,
    sigma: np.ndarray | None = None,
) -> LocalResiduals:
    """Subtract from each pixel the running medians along and across the dispersion.

    A spectral trace and a slit edge are smooth along the dispersion, the horizontal edge of a
    field is smooth across it; only a point defect stands out of both. So where the two medians
    disagree the smaller residual counts, and where they agree their mean, which is less noisy.

    Parameters
    ----------
    rate : ndarray of float32, shape (n_looks, ny, nx)
        Count rates [DN/s]; NaN = no evidence.
    bad : ndarray of bool, shape (ny, nx)
        Pixels left out of their neighbours' medians (they still get a residual).
    dispersion_axes : sequence of int or None, length n_looks
        DISPAXIS: 1 = dispersion along x, 2 = along y; None = image (both windows equal).
    window_along, window_across : int
        Full widths of the medians along and across the dispersion [pixel], odd.
    sigma : ndarray of float32, shape (n_looks, ny, nx), optional
        Scatter expected of a clean pixel [DN/s], pattern included. Without it the smaller
        residual is taken everywhere.

    Returns
    -------
    LocalResiduals

    Notes
    -----
    With a the smaller and b the larger in modulus of the residuals along and across,
    ``r = a + (b - a) / 2 / (1 + (|a - b| / 3 sigma)^4)``, ``M = rate - r``,
    ``spread = |a - b|``.
    """
    medians = subtract_medians(
        rate,
        bad,
        dispersion_axes=dispersion_axes,
        window_along=window_along,
        window_across=window_across,
    )
    return combine_axes(medians, sigma)


def subtract_medians(
    rate: np.ndarray,
    bad: np.ndarray,
    *,
    dispersion_axes: Sequence[int | None],
    window_along: int = 11,
    window_across: int = 9,
    rows: slice = slice(None),
    columns: slice = slice(None),
) -> AxisResiduals:
    """Subtract the running medians along each axis; parameters as in `compute_residuals`.

    Only those of some rows and columns are given, all being their neighbours.
    """
    neighbours = np.where(bad, np.float32(np.nan), rate)
    rate = rate[:, rows, columns]
    along_y = np.empty_like(rate)
    along_x = np.empty_like(rate)
    for axis in set(dispersion_axes):
        looks = [k for k, value in enumerate(dispersion_axes) if value == axis]
        width_y, width_x = {
            2: (window_along, window_across),
            1: (window_across, window_along),
            None: (window_along, window_along),
        }[axis]
        chosen = slice(None) if len(looks) == len(rate) else looks
        own = neighbours[chosen]
        along_y[chosen] = compute_running_median(own[..., columns], width_y, axis=1)[:, rows]
        along_x[chosen] = compute_running_median(own[:, rows], width_x, axis=2)[..., columns]
    np.subtract(rate, along_y, out=along_y)
    np.subtract(rate, along_x, out=along_x)
    np.copyto(along_y, along_x, where=np.isnan(along_y))
    np.copyto(along_x, along_y, where=np.isnan(along_x))
    return AxisResiduals(rate, along_y, along_x)


def combine_axes(medians: AxisResiduals, sigma: np.ndarray | None = None) -> LocalResiduals:
    """Combine the residuals of both axes into one, see `compute_residuals`."""
    along_y, along_x = medians.along_y, medians.along_x
    spread = along_y - along_x
    np.abs(spread, out=spread)
    swap = np.abs(along_y) > np.abs(along_x)
    residual = np.where(swap, along_x, along_y)
    if sigma is not None:
        larger = np.where(swap, along_y, along_x)
        ratio = _AGREEMENT * sigma
        np.divide(spread, ratio, out=ratio)
        for _ in range(2):
            np.multiply(ratio, ratio, out=ratio)
        ratio += 1
        np.divide(np.float32(0.5), ratio, out=ratio)
        larger -= residual
        larger *= ratio
        residual += larger
    return LocalResiduals(residual, medians.rate - residual, spread)
