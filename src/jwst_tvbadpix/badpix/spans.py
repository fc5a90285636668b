"""Spans of validity: which changes get a mask of their own, and what each mask holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .series import list_epochs, select_counted

__all__ = ["MaskSpan", "choose_starts", "cost_starts", "plan_masks"]

_SECONDS_PER_DAY = 86400.0
_FOREVER_S = 10**15
# Before the first and after the last exposure this much time counts: nothing was observed there,
# but a series serves new data until the next one is made (MRS masks: every six months).
_BEYOND_S = round(182.625 * _SECONDS_PER_DAY)
# Pixels per block of the cost table, to stay in the cache.
_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class MaskSpan:
    """One mask of a series.

    Attributes
    ----------
    start_mjd : float
        Its USEAFTER [MJD, UTC]; it is valid until the next one's.
    flagged : ndarray of bool, shape (n_rows,)
        Rows of the intervals that it holds with DO_NOT_USE.
    advised : ndarray of bool, shape (n_rows,)
        Rows that it holds without.
    """

    start_mjd: float
    flagged: np.ndarray
    advised: np.ndarray


def plan_masks(
    rows: Mapping[str, np.ndarray],
    first_mjd: float,
    observed_mjd: tuple[float, float],
    *,
    max_masks: int = 0,
) -> list[MaskSpan]:
    """Plan a series of masks: when each begins, and what it holds.

    Parameters
    ----------
    rows : mapping of str to ndarray, shape (n_rows,)
        Columns of a history's intervals: y, x, class, state, start_mjd, end_mjd, dnu, pending;
        optionally `advisory`, rows that are shown without DO_NOT_USE.
    first_mjd : float
        USEAFTER of the first mask [MJD, UTC].
    observed_mjd : tuple of float
        Start of the first and end of the last exposure [MJD, UTC].
    max_masks : int
        Largest number of masks. 0: one per change.

    Returns
    -------
    list of MaskSpan
        In order of time, the first at `first_mjd`.

    Notes
    -----
    A pixel is in a mask when it is bad for more than half of its span: the pixel-days that are
    masked in vain and those that slip through cost the same, for either harms a spectrum (jwst
    issue 7698 for the former). Time counts, not the number of exposures given: the masks serve
    other exposures, taken at any date. TELEGRAPH pixels are in all masks.
    """
    start, end = (_count_seconds(rows[name], first_mjd) for name in ("start_mjd", "end_mjd"))
    telegraph = np.asarray(rows["class"]) == "TELEGRAPH"
    counted = select_counted(rows)
    changing = counted & ~telegraph
    advisory = np.asarray(rows.get("advisory", np.zeros(len(start), bool)))
    epochs = list_epochs(rows["start_mjd"], rows["end_mjd"], changing)
    edges = _bound(
        np.unique(_count_seconds(epochs, first_mjd)),
        *_count_seconds(np.array(observed_mjd), first_mjd).tolist(),
    )
    place = np.asarray(rows["y"], np.int64) * 2**16 + rows["x"]
    pixel = np.unique(place, return_inverse=True)[1]
    starts = np.arange(edges.size - 1)
    if 0 < max_masks < starts.size:
        part = np.unique(pixel[changing], return_inverse=True)[1]
        bad_s = np.stack(
            [
                _sum_overlap(start[changing], end[changing], part, low, high)
                for low, high in pairwise(edges)
            ],
            axis=1,
        )
        starts = choose_starts(bad_s, np.diff(edges), max_masks)
    spans = []
    for low, high in zip(starts, [*starts[1:], edges.size - 1], strict=True):
        bounds = int(edges[low]), int(edges[high])
        flagged, advised = (
            _select_majority(start, end, pixel, chosen, *bounds) for chosen in (changing, advisory)
        )
        begin = 0 if low == 0 else bounds[0]
        spans.append(
            MaskSpan(first_mjd + begin / _SECONDS_PER_DAY, flagged | (counted & telegraph), advised)
        )
    return spans


def _count_seconds(mjd: np.ndarray, zero_mjd: float) -> np.ndarray:
    """Whole seconds since a date; infinities become very large."""
    seconds = (np.asarray(mjd, float) - zero_mjd) * _SECONDS_PER_DAY
    return np.rint(np.clip(seconds, -_FOREVER_S, _FOREVER_S)).astype(np.int64)


def _bound(dates: np.ndarray, first: int, last: int) -> np.ndarray:
    """Edges of the segments between changes [s]: the time before and after that counts, too."""
    dates = dates[dates > 0]
    end = max(last, *dates[-1:].tolist(), 0) + _BEYOND_S
    begin = min(max(0, first - _BEYOND_S), int(dates[0]) - 1 if dates.size else 0)
    return np.array([max(begin, 0), *dates, end], np.int64)


def _sum_overlap(
    start: np.ndarray, end: np.ndarray, pixel: np.ndarray, low: int, high: int
) -> np.ndarray:
    """Seconds that each pixel is bad within [low, high): float64 (n_pixels,), whole numbers."""
    overlap = np.clip(np.minimum(end, high) - np.maximum(start, low), 0, None)
    return np.bincount(pixel, weights=overlap)


def _select_majority(
    start: np.ndarray, end: np.ndarray, pixel: np.ndarray, rows: np.ndarray, low: int, high: int
) -> np.ndarray:
    """Mark those of the chosen rows that hold within a span, of pixels bad for most of it."""
    inside = rows & (start < high) & (end > low)
    if not inside.any():
        return inside
    bad = _sum_overlap(start[inside], end[inside], pixel[inside], low, high)
    inside[inside] = 2 * bad[pixel[inside]] > high - low
    return inside


def choose_starts(bad_s: np.ndarray, length_s: np.ndarray, max_masks: int) -> np.ndarray:
    """Choose the segments with which a mask begins so that a series of few masks costs least.

    Parameters
    ----------
    bad_s : ndarray, shape (n_pixels, n_segments)
        How long each pixel is bad in each segment [s]; whole numbers.
    length_s : ndarray, shape (n_segments,)
        Length of the segments [s]; whole numbers.
    max_masks : int
        Largest number of masks, from 1 on.

    Returns
    -------
    ndarray of intp
        First segment of each mask, increasing, the first 0. No choice of at most `max_masks`
        segments costs less, see `cost_starts`; of those that cost the same, one of the fewest
        masks.

    Notes
    -----
    Dynamic programming: best[k, b] = min over a of best[k - 1, a] + cost(a, b), where cost(a, b)
    is the cost of one mask for the segments a to b - 1. O(n_segments^2 (n_pixels + max_masks)).
    """
    n = len(length_s)
    cost = _tabulate_cost(bad_s, length_s)
    best = cost[0]  # best[b]: cost of the segments before b, with the masks used so far
    came_from = [np.zeros(n + 1, np.intp)]
    totals = [best[n]]
    for _ in range(1, min(max_masks, n)):
        every = best[:n, None] + cost
        came_from.append(every.argmin(axis=0))
        best = every.min(axis=0)
        totals.append(best[n])
    starts: list[int] = []
    stop = n
    for k in range(int(np.argmin(totals)), -1, -1):
        stop = int(came_from[k][stop])
        starts.append(stop)
    return np.array(starts[::-1], np.intp)


def _tabulate_cost(bad_s: np.ndarray, length_s: np.ndarray) -> np.ndarray:
    """Cost of one mask for the segments a to b - 1: float64 (n, n + 1), inf where b <= a."""
    n = len(length_s)
    total = np.concatenate([[0], np.cumsum(length_s)]).astype(float)
    kinds, number = np.unique(bad_s, axis=0, return_counts=True)
    cost = np.full((n, n + 1), np.inf)
    cost[np.triu_indices(n, 1, n + 1)] = 0
    for k in range(0, len(kinds), _BLOCK):
        block, weight = kinds[k : k + _BLOCK], number[k : k + _BLOCK].astype(float)
        until = np.concatenate([np.zeros((len(block), 1)), np.cumsum(block, axis=1)], axis=1)
        for a in range(n):
            bad = until[:, a + 1 :] - until[:, a : a + 1]
            good = (total[a + 1 :] - total[a]) - bad
            cost[a, a + 1 :] += weight @ np.minimum(bad, good)
    return cost


def cost_starts(bad_s: np.ndarray, length_s: np.ndarray, starts: np.ndarray) -> float:
    """Sum over masks and pixels of the time in the wrong state [pixel s]; see `choose_starts`."""
    bad = np.add.reduceat(bad_s, starts, axis=1)
    return float(np.minimum(bad, np.add.reduceat(length_s, starts) - bad).sum())
