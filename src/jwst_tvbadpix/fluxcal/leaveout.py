"""What a fit says without one star, one class or one epoch, and how well it predicts that one."""

import logging
from dataclasses import dataclass, replace

import numpy as np

from ..errors import EvidenceError, InputError
from .fit import fit_unchecked
from .results import FluxFit

__all__ = ["LeftOut", "leave_out"]

log = logging.getLogger(__name__)

# Days within which visits are of one epoch.
_EPOCH_DAYS = 182.5


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A fit without a part of the measurements.

    Attributes
    ----------
    name : str
        The star, class or epoch left out.
    shift : ndarray
        ln C without it minus ln C with all, at the epoch of the factors; NaN for units that only
        it has, (n_units,) float64.
    error : ndarray
        1-sigma error of ln C without it, (n_units,) float64.
    rows : ndarray
        Rows of the fit's `measurements` that were left out and can be predicted, (n,) int64.
    residual : ndarray
        ln(observed/predicted) of these, (n,) float64.
    predicted_err : ndarray
        1-sigma error expected of `residual` for a star and visit not seen before, without its
        formal error, (n,) float64.
    """

    name: str
    shift: np.ndarray
    error: np.ndarray
    rows: np.ndarray
    residual: np.ndarray
    predicted_err: np.ndarray


def leave_out(fit: FluxFit, by: str) -> tuple[LeftOut, ...]:
    """Fit again without each star, class or epoch.

    Parameters
    ----------
    fit : FluxFit
    by : str
        'star', 'class' or 'epoch' (half a year).

    Returns
    -------
    tuple of LeftOut
        Without what leaves too little to fit.

    Raises
    ------
    InputError
        `by` is unknown.
    """
    rows = fit.rows
    if by == "epoch":
        known = np.isfinite(rows.days)
        number = np.floor(np.where(known, rows.days, 0.0) / _EPOCH_DAYS)
        begin = rows.t0_mjd + number * _EPOCH_DAYS
        keys = np.where(known, [f"MJD {b:.0f}" for b in begin], "")
    elif by in ("star", "class"):
        keys = rows.take("star" if by == "star" else "star_class").astype(str)
    else:
        raise InputError(f"expected by 'star', 'class' or 'epoch', found {by!r}")
    out = []
    for key in sorted(set(map(str, keys)) - {""}):
        try:
            out.append(_leave(fit, key, keys == key))
        except EvidenceError as error:
            log.info("without %s nothing can be fitted: %s", key, error)
    return tuple(out)


def _leave(fit: FluxFit, name: str, mine: np.ndarray) -> LeftOut:
    m = fit.measurements
    used, reason = m.used.copy(), m.reason.astype(object).copy()
    used[fit.rows.index[mine]], reason[fit.rows.index[mine]] = False, f"left out {name}"
    forms = {f for f in fit.forms.values() if f}
    longest = max(forms, key=len, default=())
    less = fit_unchecked(
        replace(m, used=used, reason=reason.astype(str)),
        {**fit.settings, "time_form": "+".join(longest) or "none"},
        t0_mjd=fit.t0_mjd,
    )
    place = {u: k for k, u in enumerate(less.units)}
    where = np.array([place.get(u, -1) for u in fit.units])
    shift = np.where(where >= 0, np.log(less.factor[where] / fit.factor), np.nan)
    error = np.where(where >= 0, less.error[where] / less.factor[where], np.nan)
    rows = np.flatnonzero(mine & (where[fit.rows.unit] >= 0))
    unit = where[fit.rows.unit[rows]]
    days = fit.rows.days[rows]
    ln_f = np.log(
        [
            float(less.throughputs[u].evaluate(less.t0_mjd + (d if np.isfinite(d) else 0.0)))
            for u, d in zip(unit, days, strict=True)
        ]
    )
    residual = fit.rows.ln_response[rows] + np.log(less.factor[unit]) - ln_f
    residual = residual - _find_subarrays(less, fit, rows)
    predicted = np.hypot(error[fit.rows.unit[rows]], less.predictive_scatter[unit])
    return LeftOut(name, shift, error, fit.rows.index[rows], residual, predicted)


def _find_subarrays(less: FluxFit, fit: FluxFit, rows: np.ndarray) -> np.ndarray:
    """Ln response of each row's subarray."""
    known = {(s.group, s.subarray): np.log(s.response) for s in (*fit.subarrays, *less.subarrays)}
    subarray = fit.rows.take("subarray").astype(str)[rows]
    own = np.array([bool(fit.units[k].subarray) for k in fit.rows.unit[rows]])
    value = [
        known.get((str(g), s), 0.0) for g, s in zip(fit.rows.group[rows], subarray, strict=True)
    ]
    return np.where(own, 0.0, value)
