"""Robust statistics that know about NaN: running medians, MAD, binned medians."""

import bottleneck as bn
import numpy as np

__all__ = ["binned_quantile", "compute_running_median", "find_settled"]


def compute_running_median(data: np.ndarray, window: int, *, axis: int) -> np.ndarray:
    """Take the centred running median along one axis, ignoring NaN.

    Parameters
    ----------
    data : ndarray of float32 or float64, any shape
        Values; NaN = no value.
    window : int
        Full width, odd, in pixels. It is cut at the ends of the axis.
    axis : int
        Axis to run along.

    Returns
    -------
    ndarray, same shape and dtype
        Median of the finite values in each window; NaN where fewer than a third are finite.
    """
    half = window // 2
    padding = [(0, 0)] * data.ndim
    padding[axis] = (0, half)
    padded = np.pad(data, padding, constant_values=np.nan)
    median = bn.move_median(padded, window, min_count=max(1, window // 3), axis=axis)
    keep = [slice(None)] * data.ndim
    keep[axis] = slice(half, None)
    return median[tuple(keep)]


def binned_quantile(
    values: np.ndarray, level: np.ndarray, edges: np.ndarray, quantile: float
) -> np.ndarray:
    """Take a quantile of `values` in bins of `level`.

    Parameters
    ----------
    values, level : ndarray, 1-D, finite, equal length
        What to summarise and what to bin by.
    edges : ndarray, 1-D, increasing, length n_bins + 1
        Bin edges; values outside fall into the first or last bin.
    quantile : float
        Between 0 and 1.

    Returns
    -------
    ndarray of float64, shape (n_bins,)
        NaN in an empty bin.
    """
    order = np.argsort(level, kind="stable")
    cuts = np.searchsorted(level[order], edges[1:-1])
    return np.array(
        [
            np.quantile(part, quantile) if part.size else np.nan
            for part in np.split(values[order], cuts)
        ]
    )


def find_settled(
    level: np.ndarray, *, n_sigma: float = 5.0, tolerance: float = 0.1
) -> tuple[int, ...]:
    """List the integrations that follow the settling of the detector after its reset.

    Parameters
    ----------
    level : ndarray, shape (n_int,)
        Median count rate of each integration [DN/s]; NaN = empty.
    n_sigma : float
        A leading integration is unsettled when it lies further than this from the median of the
        later ones, in their scatter.
    tolerance : float
        Smallest scatter, as a fraction of that median.

    Returns
    -------
    tuple of int
        Indices of the settled, non-empty integrations. With fewer than three integrations there
        is nothing to compare with and all count as settled.
    """
    first = 0
    while len(level) - first >= 3:
        later = level[first + 1 :]
        middle = bn.nanmedian(later)
        scatter = max(1.4826 * bn.nanmedian(np.abs(later - middle)), tolerance * abs(middle))
        if abs(level[first] - middle) <= n_sigma * scatter:
            break
        first += 1
    return tuple(int(k) for k in range(first, len(level)) if np.isfinite(level[k]))
