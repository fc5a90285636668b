"""Rows of measurements put together, and what excludes a row whatever it comes from."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from ..errors import DateError, EvidenceError
from .measurements import Measurements

__all__ = [
    "MIN_SNR",
    "blank",
    "check_dates",
    "exclude",
    "join_measurements",
    "mark_duplicates",
    "name_visits",
    "require_used",
]

# A rate of fewer sigma leaves out its row: its logarithm is skewed.
MIN_SNR = 3.0
# Dates of JWST [MJD]: 2021-12-25, and as far as its propellant may last.
_MJD = (59573.0, 75000.0)
# Exposures of one star closer than this are of one visit [day].
_VISIT_GAP_DAYS = 0.5


def name_visits(star: np.ndarray, mjd: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Name the visits of exposures that do not say theirs.

    Parameters
    ----------
    star, source : ndarray of str, shape (n,)
        The star, and the file or row it comes from.
    mjd : ndarray of float64, shape (n,)
        Middle of the exposure [MJD]; NaN = unknown.

    Returns
    -------
    ndarray of str, shape (n,)
        Exposures of one star that follow each other within half a day share a name; an undated
        one is named after its source.
    """
    names = np.array([f"{s} {o}" for s, o in zip(star, source, strict=True)], dtype=object)
    dated = np.isfinite(mjd)
    for name in np.unique(star[dated]):
        rows = np.flatnonzero(dated & (star == name))
        rows = rows[np.argsort(mjd[rows], kind="stable")]
        starts = np.concatenate([[True], np.diff(mjd[rows]) > _VISIT_GAP_DAYS])
        first = rows[starts][np.cumsum(starts) - 1]
        for row, start in zip(rows, first, strict=True):
            names[row] = f"{name} {mjd[start]:.2f}"
    return names.astype(str)


def check_dates(mjd: np.ndarray, name: str) -> None:
    """Refuse dates that are none of JWST; NaN is no date.

    Raises
    ------
    DateError
        They are before its launch or far after its life: of another scale than MJD.
    """
    wrong = np.isfinite(mjd) & ~((mjd >= _MJD[0]) & (mjd <= _MJD[1]))
    if wrong.any():
        raise DateError(
            f"expected dates as MJD within {_MJD[0]:g} to {_MJD[1]:g} in {name}, found "
            f"{mjd[wrong][0]:g}; convert them"
        )


def blank(n: int) -> np.ndarray:
    """Make a column of unknown numbers: NaN (n,) float64."""
    return np.full(n, np.nan)


def exclude(reason: np.ndarray, rows: np.ndarray, why: str | np.ndarray) -> None:
    """Write why rows are out, in place, where nothing is written yet.

    Parameters
    ----------
    reason : ndarray of object, shape (n,)
    rows : ndarray of bool, shape (n,)
    why : str or ndarray of str, shape (n,)
    """
    new = rows & (reason == "")
    reason[new] = np.broadcast_to(why, reason.shape)[new]


def mark_duplicates(reason: np.ndarray, keys: Sequence[np.ndarray]) -> None:
    """Exclude, in place, the rows that say again what an earlier one says.

    Parameters
    ----------
    reason : ndarray of object, shape (n,)
    keys : sequence of ndarray, shape (n,)
        Columns that make a row the same as another; NaN equals NaN.
    """
    seen: dict[tuple[Any, ...], int] = {}
    for row, values in enumerate(zip(*(np.asarray(key).tolist() for key in keys), strict=True)):
        key = tuple(None if value != value else value for value in values)
        if key in seen:
            if not reason[row]:
                reason[row] = f"duplicate of row {seen[key] + 1}"
        else:
            seen[key] = row


def join_measurements(parts: Sequence[Measurements]) -> Measurements:
    """Put measurements one after the other, each band listed once.

    Parameters
    ----------
    parts : sequence of Measurements
        At least one.

    Returns
    -------
    Measurements
        Its bands sorted by mode and wavelength.
    """
    bands = tuple(sorted({band for part in parts for band in part.bands}))
    place = {band: index for index, band in enumerate(bands)}
    columns: dict[str, Any] = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(Measurements)
        if field.name not in ("bands", "band", "given")
    }
    columns["given"] = np.concatenate(
        [part.star if part.given is None else part.given for part in parts]
    )
    index = [np.array([place[b] for b in part.bands], np.int32)[part.band] for part in parts]
    return Measurements(bands=bands, band=np.concatenate(index), **columns)


def require_used(measurements: Measurements) -> Measurements:
    """Return the measurements; refuse those of which none can be used.

    Raises
    ------
    EvidenceError
        No row is used; the message says why.
    """
    if measurements.used.any():
        return measurements
    reasons = Counter(measurements.reason.tolist()).most_common(3)
    raise EvidenceError(
        f"expected measurements of standard stars, found none usable among "
        f"{len(measurements.used)}: " + "; ".join(f"{why} ({n} rows)" for why, n in reasons)
    )
