"""Dated events of the observatory: anneals, changes of settings, solar storms."""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from astropy.time import Time

from .errors import DateError, InputError

__all__ = ["Events", "read_events"]

log = logging.getLogger(__name__)

_COLUMNS = ("date", "label")
# Numbers outside are no MJD of this century: years, Julian dates, seconds.
_FIRST_MJD, _LAST_MJD = 51544.0, 88069.0


@dataclass(frozen=True, slots=True)
class Events:
    """Dated events in order of time.

    Attributes
    ----------
    mjd : ndarray of float64, shape (n_events,)
        Dates [MJD, UTC].
    label, kind : tuple of str, length n_events
        What happened, and of what kind it was; the kind may be empty.
    """

    mjd: np.ndarray
    label: tuple[str, ...]
    kind: tuple[str, ...]


def read_events(path: str | Path) -> Events:
    """Read a table of dated events.

    Parameters
    ----------
    path : str or Path
        ECSV, CSV or FITS table with the columns `date` (ISO text in UTC, MJD, or a Time column)
        and `label`, and optionally `kind`.

    Returns
    -------
    Events
        In order of date, then of label, whatever the order of the rows.

    Raises
    ------
    InputError
        The file is absent or unreadable, or a column is missing.
    DateError
        A date is empty, no date, or outside the years 2000 to 2099.
    """
    path = Path(path)
    advice = "give an ECSV, CSV or FITS table with the columns date and label"
    if not path.is_file():
        raise InputError(f"expected a table of events, found no file at {path}; {advice}")
    # Without it the Time columns of FITS come as pairs of numbers.
    options = {"astropy_native": True} if path.suffix.lower() == ".fits" else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of units and headers, which nothing here needs
            table = Table.read(path, **options)
    except Exception as error:  # astropy's readers raise whatever their parsers do
        raise InputError(
            f"expected a readable table of events, found {path}: "
            f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}; {advice}"
        ) from error
    missing = [name for name in _COLUMNS if name not in table.colnames]
    if missing:
        raise InputError(
            f"expected the columns date and label in {path}, found "
            f"{', '.join(table.colnames) or 'none'}; rename or add {', '.join(missing)}"
        )
    mjd = _read_dates(table["date"], path)
    label = _read_text(table["label"])
    kind = _read_text(table["kind"]) if "kind" in table.colnames else [""] * len(label)
    order = sorted(range(len(label)), key=lambda k: (mjd[k], label[k], kind[k]))
    log.info("%d events read from %s", len(order), path.name)
    return Events(mjd[order], tuple(label[k] for k in order), tuple(kind[k] for k in order))


def _read_dates(column: Any, path: Path) -> np.ndarray:
    """Dates as MJD (UTC)."""
    mjd: np.ndarray
    if isinstance(column, Time) or column.dtype.kind in "iuf":
        number = column.utc.mjd if isinstance(column, Time) else column
        mjd = np.ma.filled(np.ma.asarray(number, float), np.nan)
        given = [str(value) for value in column]
    else:
        given = _read_text(column)
        mjd = np.array([_parse_date(text) for text in given], float)
    wrong: np.ndarray = ~((mjd >= _FIRST_MJD) & (mjd < _LAST_MJD))
    if wrong.ndim > 1:
        wrong = np.ones(len(wrong), bool)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DateError(
            "expected dates of the years 2000 to 2099, as YYYY-MM-DD, YYYY-MM-DDThh:mm:ss (UTC) "
            f"or MJD, found {given[row]!r} in row {row + 1} of {path}; correct it"
        )
    return np.asarray(mjd, float)


def _parse_date(text: str) -> float:
    """Read an ISO date or an MJD; NaN where it is neither."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return float(Time(text, scale="utc").mjd)
    except ValueError:
        return np.nan


def _read_text(column: Any) -> list[str]:
    """Text of each row; FITS pads it and gives bytes, masked rows are empty."""
    values = np.ma.filled(np.ma.asarray(column).astype(str), "")
    return [str(value).strip() for value in values]
