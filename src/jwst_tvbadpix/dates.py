"""Dates as text and MJD, also beyond those that leap seconds are announced for: Roman's.

ERFA calls a year from 2029 on dubious where UTC is asked for, as a leap second may yet be
announced. One second is nothing to a USEAFTER, and the MJD of headers has none: the days here are
of 86,400 s, which is UTC in all years of JWST.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["allow_far_dates", "to_isot", "to_isots", "to_mjd", "to_mjds", "to_years"]


def to_mjd(date: str) -> float:
    """Read an ISO date [MJD, UTC].

    Raises
    ------
    ValueError
        It is none.
    """
    return float(_read(date).mjd)


def to_mjds(dates: Sequence[str]) -> list[float]:
    """Read ISO dates [MJD, UTC], all at once: one by one they take a hundred times as long."""
    return [float(mjd) for mjd in _read(list(dates)).mjd] if dates else []


def to_isot(date: float | str) -> str:
    """Write a date [MJD, UTC], or one in another ISO form, as ``YYYY-MM-DDThh:mm:ss.sss``.

    Raises
    ------
    ValueError
        It is none.
    """
    return str(_read(date).isot)


def to_isots(mjd: Sequence[float]) -> list[str]:
    """Write dates [MJD, UTC] as `to_isot` does, all at once."""
    return [str(date) for date in _read(list(mjd)).isot] if len(mjd) else []


def to_years(mjd: Any) -> Any:
    """Turn a date or an array of dates [MJD, UTC] into years and their fractions."""
    return _read(mjd).decimalyear


def _read(date: Any) -> Any:
    """Read text or MJD on a scale without leap seconds."""
    from astropy.time import Time

    text = isinstance(date[0] if isinstance(date, list) else date, str)
    return Time(date, format=None if text else "mjd", scale="tai")


@contextmanager
def allow_far_dates() -> Iterator[None]:
    """Let other packages convert dates some years ahead, or read them, without a warning for each.

    Filters of warnings are the process's own, so this is for its main thread.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "ERFA function .*dubious year")
        yield
