"""Robust statistics that know about NaN."""

import bottleneck as bn
import numpy as np

__all__ = ["compute_running_median", "find_settled"]


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
    padding[axis] = (0, max(half, window - data.shape[axis]))
    padded = np.pad(data, padding, constant_values=np.nan)
    median = bn.move_median(padded, window, min_count=max(1, window // 3), axis=axis)
    keep = [slice(None)] * data.ndim
    keep[axis] = slice(half, half + data.shape[axis])
    return median[tuple(keep)]


def find_settled(
    level: np.ndarray, scatter: np.ndarray, *, n_sigma: float = 5.0, tolerance: float = 0.1
) -> tuple[int, ...]:
    """List the integrations that follow the settling of the detector after its reset.

    Parameters
    ----------
    level : ndarray, shape (n_int,)
        Median count rate of each integration [DN/s]; NaN = empty.
    scatter : ndarray, shape (n_int,)
        Scatter of the pixels of each integration about its level [DN/s].
    n_sigma : float
        A leading integration is unsettled when its level lies further than this from the median
        of the later ones, in their own scatter.
    tolerance : float
        Smallest scatter of the levels, as a fraction of that median.

    Returns
    -------
    tuple of int
        Indices of the settled, non-empty integrations. A level within the scatter of single
        pixels never counts as unsettled: local residuals do not see it. With fewer than three
        integrations there is nothing to compare with and all count as settled.
    """
    first = 0
    while len(level) - first >= 3:
        later = level[first + 1 :]
        middle = bn.nanmedian(later)
        spread = max(1.4826 * bn.nanmedian(np.abs(later - middle)), tolerance * abs(middle))
        allowed = max(n_sigma * spread, bn.nanmedian(scatter[first + 1 :]))
        if abs(level[first] - middle) <= allowed:
            break
        first += 1
    return tuple(int(k) for k in range(first, len(level)) if np.isfinite(level[k]))
