"""Dates: when each state begins and ends, and the epochs of a mask series."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from .intervals import Intervals

__all__ = [
    "DATING",
    "DatedIntervals",
    "date_intervals",
    "follow_masked",
    "list_epochs",
    "select_active",
    "select_counted",
    "select_masked",
]

log = logging.getLogger(__name__)

Dating = Literal["midpoint", "conservative", "detected"]
DATING: tuple[Dating, ...] = ("midpoint", "conservative", "detected")
_SECONDS_PER_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class DatedIntervals:
    """Intervals on the calendar; all arrays float64 of shape (n_rows,) [MJD, UTC].

    Attributes
    ----------
    start_mjd, end_mjd : ndarray
        When the pixel counts as bad and as good again; -inf, inf = open. Whole seconds.
    start_lo, start_hi, end_lo, end_hi : ndarray
        Brackets: end of the last look in the old state, start of the first in the new one.
    """

    start_mjd: np.ndarray
    start_lo: np.ndarray
    start_hi: np.ndarray
    end_mjd: np.ndarray
    end_lo: np.ndarray
    end_hi: np.ndarray


def date_intervals(
    intervals: Intervals, start_mjd: np.ndarray, end_mjd: np.ndarray, *, dating: Dating = "midpoint"
) -> DatedIntervals:
    """Choose the date of each change of state.

    Parameters
    ----------
    intervals : Intervals
    start_mjd, end_mjd : ndarray of float64, shape (n_looks,)
        Start (DATE-OBS + TIME-OBS, by which CRDS selects) and end of each look [MJD].
    dating : {'midpoint', 'conservative', 'detected'}
        Middle of the gap; onset at its beginning and recovery at its end; both at its end.

    Returns
    -------
    DatedIntervals

    Notes
    -----
    All changes in one gap between consecutive exposures share one date, so that there is one
    mask per gap. Dates are floored to the second and lie after the start of the last exposure
    in the old state, at or before the start of the first in the new one: each exposure gets the
    mask of its own state. A bracket that spans several gaps (exposures that did not read the
    pixel out) takes the gap whose date is nearest its middle, its first (conservative onset) or
    its last one.
    """
    onset = _date_gaps(start_mjd, end_mjd, dating, onset=True)
    recovery = _date_gaps(start_mjd, end_mjd, dating, onset=False)
    opens, closes = intervals.before < 0, intervals.after < 0
    start_gap = _choose_gap(
        intervals.before,
        intervals.first,
        onset,
        start_mjd,
        end_mjd,
        {"midpoint": "near", "conservative": "first", "detected": "last"}[dating],
    )
    end_gap = _choose_gap(
        intervals.last,
        intervals.after,
        recovery,
        start_mjd,
        end_mjd,
        {"midpoint": "near", "conservative": "last", "detected": "last"}[dating],
    )
    return DatedIntervals(
        start_mjd=np.where(opens, -np.inf, _take(onset, start_gap)),
        start_lo=np.where(opens, -np.inf, end_mjd[intervals.before]),
        start_hi=np.where(opens, -np.inf, start_mjd[intervals.first]),
        end_mjd=np.where(closes, np.inf, _take(recovery, end_gap)),
        end_lo=np.where(closes, np.inf, end_mjd[intervals.last]),
        end_hi=np.where(closes, np.inf, start_mjd[intervals.after]),
    )


def _take(dates: np.ndarray, gap: np.ndarray) -> np.ndarray:
    return dates[gap] if dates.size else np.full(gap.shape, np.nan)


def _date_gaps(
    start_mjd: np.ndarray, end_mjd: np.ndarray, dating: Dating, *, onset: bool
) -> np.ndarray:
    """Date a change in each gap between consecutive looks: float64 (n_looks - 1,)."""
    old, new = start_mjd[:-1], start_mjd[1:]
    ended = np.clip(end_mjd[:-1], old, new)
    if dating == "midpoint":
        wanted = (ended + new) / 2
    elif dating == "conservative" and onset:
        wanted = ended
    else:
        wanted = new
    date = np.floor(wanted * _SECONDS_PER_DAY) / _SECONDS_PER_DAY
    after_old = (np.floor(old * _SECONDS_PER_DAY) + 1) / _SECONDS_PER_DAY
    date = np.maximum(date, after_old)
    dated = bool(np.ptp(start_mjd))  # else one exposure, whose integrations are not told apart
    for k in np.flatnonzero((date > new) & dated):
        log.warning(
            "exposures %d and %d start within the same second: a change between them gets the "
            "state of the first for both",
            k,
            k + 1,
        )
    return date


def _choose_gap(
    start: np.ndarray,
    stop: np.ndarray,
    dates: np.ndarray,
    start_mjd: np.ndarray,
    end_mjd: np.ndarray,
    which: str,
) -> np.ndarray:
    """Choose among the gaps start..stop-1 of each row: index into `dates`."""
    # Open rows (-1) get any gap: their dates are infinite.
    low = np.clip(start, 0, max(dates.size - 1, 0))
    high = np.maximum(np.where(stop < 0, low, stop - 1), low)
    if which == "first":
        return low
    if which == "last" or not dates.size:
        return high
    middle = (end_mjd[low] + start_mjd[np.minimum(high + 1, start_mjd.size - 1)]) / 2
    nearest = np.searchsorted(dates, middle)
    left = np.clip(nearest - 1, low, high)
    right = np.clip(nearest, low, high)
    return np.where(np.abs(dates[left] - middle) <= np.abs(dates[right] - middle), left, right)


def list_epochs(start_mjd: np.ndarray, end_mjd: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """List the dates at which the set of bad pixels changes: float64, increasing [MJD].

    Parameters
    ----------
    start_mjd, end_mjd : ndarray of float64, shape (n_rows,)
        Intervals; +-inf = open.
    counts : ndarray of bool, shape (n_rows,)
        Rows that go into masks and change with time.
    """
    dates = np.concatenate([start_mjd[counts], end_mjd[counts]])
    return np.unique(dates[np.isfinite(dates)])


def select_counted(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Mark the rows of a history that go into masks: bad, DO_NOT_USE, not pending.

    Parameters
    ----------
    rows : mapping of str to ndarray, shape (n_rows,)
        Columns `state`, `dnu` and `pending` of a history's intervals.
    """
    return (rows["state"] == 1) & rows["dnu"] & ~rows["pending"]


def select_active(
    start_mjd: np.ndarray, end_mjd: np.ndarray, always: np.ndarray, mjd: float
) -> np.ndarray:
    """Mark the rows that hold at a date: start <= mjd < end, or always."""
    return always | ((start_mjd <= mjd) & (mjd < end_mjd))


def select_masked(rows: Mapping[str, np.ndarray], mjd: float) -> np.ndarray:
    """Mark the rows of a history that are in the mask of a date; TELEGRAPH is in all of them.

    Parameters
    ----------
    rows : mapping of str to ndarray, shape (n_rows,)
        Columns of a history's intervals.
    mjd : float
        Date [MJD, UTC].
    """
    counted, select = follow_masked(rows)
    masked = np.zeros(len(rows["state"]), bool)
    masked[counted] = select(mjd)
    return masked


def follow_masked(
    rows: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, Callable[[float], np.ndarray]]:
    """Prepare what `select_masked` asks of many dates.

    Parameters
    ----------
    rows : mapping of str to ndarray, shape (n_rows,)

    Returns
    -------
    counted : ndarray of intp, shape (n_counted,)
        Rows that are in some mask.
    select : callable
        Marks those of them that are in the mask of a date [MJD]: bool (n_counted,).
    """
    counted = np.flatnonzero(select_counted(rows))
    start, end = rows["start_mjd"][counted], rows["end_mjd"][counted]
    telegraph = np.asarray(rows["class"])[counted] == "TELEGRAPH"
    return counted, partial(select_active, start, end, telegraph)
