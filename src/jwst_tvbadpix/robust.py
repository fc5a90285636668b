"""Robust statistics that know about NaN."""

import bottleneck as bn
import numpy as np

__all__ = ["compute_running_median", "find_settled"]

# Widest window whose medians are taken by comparisons of whole arrays: their number goes with the
# square of the width. Values in a piece, so that all that is made of it stays in the cache.
_WIDEST, _PIECE = 15, 32_768


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
    least = max(1, window // 3)
    if window > _WIDEST:
        half = window // 2
        padding = [(0, 0)] * data.ndim
        padding[axis] = (0, max(half, window - data.shape[axis]))
        padded = np.pad(data, padding, constant_values=np.nan)
        median = bn.move_median(padded, window, min_count=least, axis=axis)
        return np.moveaxis(np.moveaxis(median, axis, 0)[half : half + data.shape[axis]], 0, axis)
    n = data.shape[axis]
    stack = data.reshape(int(np.prod(data.shape[:axis])), n, -1)
    median = np.empty_like(stack)
    wide = min(stack.shape[2], max(64, _PIECE // n))
    many = max(1, _PIECE // (n * max(wide, 1)))
    for k in range(0, len(stack), many):
        for start in range(0, stack.shape[2], wide):
            own = slice(k, k + many), slice(None), slice(start, start + wide)
            median[own] = _take_medians(stack[own], window, least)
    return median.reshape(data.shape)


def _take_medians(data: np.ndarray, window: int, least: int) -> np.ndarray:
    """Take the running medians along axis 1 of three.

    With -inf and +inf in turn in place of what is absent, the median of a window that lacks an
    even number of values is that of the others. Where an odd number is absent it is the lower or
    the upper of the two values in their middle; with the signs changed it is the other one.
    """
    half = window // 2
    padded = np.pad(data, [(0, 0), (half, half), (0, 0)], constant_values=np.nan)
    absent = np.isnan(padded)
    # Wraps at 256, which leaves parity and differences within a window as they are.
    count = np.cumsum(absent, axis=1, dtype=np.uint8)
    sign = np.where(count & 1, data.dtype.type(np.inf), data.dtype.type(-np.inf))
    np.copyto(padded, sign, where=absent)
    median = _compare(padded, half)
    np.negative(sign, out=sign)
    np.copyto(padded, sign, where=absent)
    with np.errstate(invalid="ignore"):  # nothing but infinities
        median += _compare(padded, half)
    median *= 0.5
    inside = count[:, window - 1 :].copy()
    inside[:, 1:] -= count[:, :-window]
    median[inside > window - least] = np.nan
    return median


def _compare(values: np.ndarray, half: int) -> np.ndarray:
    """Take the medians of windows of 2 half + 1 finite or infinite values along axis 1.

    The `half` values before the middle of a window, and those after it, are sorted once for all
    windows that they belong to; of two such runs a and b, the k-th smallest value is
    min over i + j = k of max(a_i, b_j). The middle value, clipped between the half-th of them and
    the next, is the median.
    """
    size, n = values.shape[1] - half + 1, values.shape[1] - 2 * half
    run: list[np.ndarray] = []
    for k in range(half):
        high = values[:, k : k + size]
        for j, known in enumerate(run):
            run[j], high = np.minimum(known, high), np.maximum(known, high)
        run.append(high)
    middle = values[:, half : half + n].copy()
    if not run:
        return middle
    before = [values[:, :n] for values in run]
    after = [values[:, half + 1 : half + 1 + n] for values in run]
    low = np.minimum(before[-1], after[-1])
    high = np.maximum(before[0], after[0])
    for i in range(half - 1):
        np.minimum(low, np.maximum(before[i], after[half - 2 - i]), out=low)
        np.maximum(high, np.minimum(before[i + 1], after[half - 1 - i]), out=high)
    return np.maximum(low, np.minimum(high, middle, out=middle), out=middle)


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
