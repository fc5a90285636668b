"""The linear part of the fit: factors, subarrays and classes of stars."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import linalg, sparse

from .effects import Effects
from .rows import Rows
from .solver import Problem
from .timeforms import TimeModel, allow_form, make_time_model

__all__ = ["SUBARRAY_PRIORS", "Layout", "count_epochs", "make_layout", "make_problem", "take_rows"]

# Responses of MIRI's subarrays relative to FULL that Gordon et al. (2025, AJ 169, 6) adopted from
# transfer visits, without errors; 0.3 % here is
# the repeatability of a transfer visit.
SUBARRAY_PRIORS: Mapping[tuple[str, str], tuple[float, float]] = {
    ("MIRI imaging", "BRIGHTSKY"): (1.005, 0.003),
    ("MIRI imaging", "SUB256"): (0.98, 0.003),
    ("MIRI imaging", "SUB128"): (1.0, 0.003),
    ("MIRI imaging", "SUB64"): (0.966, 0.003),
    ("MIRI coronagraphy", "MASK1065"): (1.0, 0.003),
    ("MIRI coronagraphy", "MASK1140"): (1.0, 0.003),
    ("MIRI coronagraphy", "MASK1550"): (1.0, 0.003),
    ("MIRI coronagraphy", "MASKLYOT"): (1.0, 0.003),
}
_WHOLE_ARRAY = ("FULL", "GENERIC", "N/A", "")
# Dates within this many days are one epoch.
_EPOCH_DAYS = 10.0
# Epochs at which a filter must have been seen to carry a knot of amplitude over wavelength.
_WELL_SEEN = 4


@dataclass(frozen=True, slots=True)
class Layout:
    """Linear parameters: ln C of the units, ln response of subarrays, contrasts of classes.

    Attributes
    ----------
    linear : sparse matrix
        (n_rows, n_linear).
    names : tuple of str
    subarrays : mapping
        Column -> (group, subarray).
    classes : tuple of str
        Classes that are told apart; none with fewer than two.
    contrasts : ndarray
        Offsets of the classes are ``contrasts @ parameters``, (n_classes, n_classes - 1).
    class_columns : slice
    prior_mean, prior_sigma : ndarray
        (n_linear,) float64; sigma inf for none.
    """

    linear: sparse.csr_matrix
    names: tuple[str, ...]
    subarrays: Mapping[int, tuple[str, str]]
    classes: tuple[str, ...]
    contrasts: np.ndarray
    class_columns: slice
    prior_mean: np.ndarray
    prior_sigma: np.ndarray


def make_layout(rows: Rows, *, subarray_err: float, class_err: float) -> Layout:
    """Lay out the linear parameters of the rows that take part.

    Parameters
    ----------
    rows : Rows
    subarray_err : float
        Prior of responses that are not in `SUBARRAY_PRIORS`.
    class_err : float
        Prior of the offset of a class.

    Returns
    -------
    Layout
    """
    n, n_units = len(rows.unit), len(rows.units)
    every = np.arange(n)
    blocks = [sparse.csr_matrix((-np.ones(n), (every, rows.unit)), (n, n_units))]
    names = [f"ln C {u.band.mode.label} {u.band.wave:.6g} um {u.reference}" for u in rows.units]
    mean, sigma = [0.0] * n_units, [np.inf] * n_units
    subarray = rows.take("subarray").astype(str)
    own = np.array([bool(rows.units[k].subarray) for k in rows.unit])
    scaled = ~own & ~np.isin(subarray, _WHOLE_ARRAY)
    keys = sorted(set(zip(rows.group[scaled], subarray[scaled], strict=True)))
    columns: dict[int, tuple[str, str]] = {}
    for group, name in keys:
        columns[len(names)] = (str(group), str(name))
        mine = scaled & (rows.group == group) & (subarray == name)
        blocks.append(sparse.csr_matrix(mine[:, None].astype(float)))
        value, error = SUBARRAY_PRIORS.get((str(group), str(name)), (1.0, subarray_err))
        names.append(f"ln response {group} {name}")
        mean.append(float(np.log(value)))
        sigma.append(error / value)
    star_class = rows.take("star_class").astype(str)
    known = np.array([rows.units[k].band.mode.kind != "unknown" for k in rows.unit])
    classes = tuple(sorted(set(map(str, star_class[known])) - {""}))
    classes = classes if len(classes) > 1 else ()
    contrasts = _make_contrasts(len(classes))
    begin = len(names)
    if classes:
        place = {c: k for k, c in enumerate(classes)}
        each = np.array(
            [contrasts[place[c]] if c in place else contrasts[0] * 0 for c in star_class]
        )
        blocks.append(sparse.csr_matrix(each * known[:, None]))
        extra = contrasts.shape[1]
        names += [f"class contrast {k}" for k in range(extra)]
        mean += [0.0] * extra
        sigma += [class_err * np.sqrt(len(classes) / extra)] * extra
    linear = sparse.hstack(blocks, format="csr")
    part = slice(begin, len(names))
    arrays = np.array(mean), np.array(sigma)
    return Layout(linear, tuple(names), columns, classes, contrasts, part, *arrays)


def _make_contrasts(n: int) -> np.ndarray:
    """Orthonormal columns that sum to zero, (n, n - 1)."""
    if n < 2:
        return np.zeros((n, 0))
    return linalg.null_space(np.ones((1, n)))


def count_epochs(days: np.ndarray) -> int:
    """Count dates that lie apart."""
    known = np.sort(days[np.isfinite(days)])
    count, last = 0, -np.inf
    for day in known:
        if day - last > _EPOCH_DAYS:
            count, last = count + 1, day
    return count


def make_problem(
    rows: Rows,
    layout: Layout,
    effects: Effects,
    forms: Mapping[str, tuple[str, ...]],
    *,
    share: str,
) -> Problem:
    """Join all that is fitted.

    Parameters
    ----------
    rows : Rows
    layout : Layout
    effects : Effects
    forms : mapping
        Detector -> forms of the throughput.
    share : str

    Returns
    -------
    Problem
    """
    time = _make_time(rows, forms, share)
    return Problem(
        rows.ln_response,
        rows.sigma,
        layout.linear,
        time,
        time.expand(rows.unit),
        rows.unit,
        rows.days,
        effects,
        layout.prior_mean,
        layout.prior_sigma,
        *_find_jitters(rows),
        np.zeros(len(effects.family), bool),
    )


def _make_time(rows: Rows, forms: Mapping[str, tuple[str, ...]], share: str) -> TimeModel:
    n = len(rows.units)
    first = np.full(n, -1)
    first[rows.unit[::-1]] = np.arange(len(rows.unit))[::-1]
    detector = [str(d) for d in rows.detector[first]]
    wave = rows.time_wave[first]
    # Units of one wavelength, as the bins of a spectrum, stand for one another.
    dated = np.isfinite(rows.days)
    # Pairs of wavelength and epoch, which are quicker to sort as complex numbers.
    pairs = np.unique(rows.time_wave[dated] + 1j * np.floor(rows.days[dated] / _EPOCH_DAYS))
    values, counts = np.unique(pairs.real, return_counts=True)
    seen = np.isin(wave, values[counts >= _WELL_SEEN])
    each = [
        tuple(f for f in forms.get(d, ()) if allow_form(u.band.mode.kind, f))
        for u, d in zip(rows.units, detector, strict=True)
    ]
    known = rows.days[np.isfinite(rows.days)]
    return make_time_model(
        detector,
        wave,
        each,
        share=share,
        t0_mjd=rows.t0_mjd,
        well_seen=seen,
        first_day=float(known.min()) if len(known) else 0.0,
    )


def _find_jitters(rows: Rows) -> tuple[np.ndarray, tuple[str, ...]]:
    """Rows that share a jitter: those of a filter, or of a piece of spectrum."""
    names, index = np.unique(rows.cell, return_inverse=True)
    return index, tuple(map(str, names))


def take_rows(rows: Rows, chosen: np.ndarray) -> Rows:
    """Keep some of the rows and the units they have, (n,) bool."""
    kept = np.unique(rows.unit[chosen])
    place = np.full(len(rows.units), -1)
    place[kept] = np.arange(len(kept))
    columns = {
        name: getattr(rows, name)[chosen]
        for name in ("index", "wave", "time_wave", "ln_response", "sigma", "days", "group")
    }
    return replace(
        rows,
        units=tuple(rows.units[k] for k in kept),
        unit=place[rows.unit[chosen]],
        detector=rows.detector[chosen],
        cell=rows.cell[chosen],
        **columns,
    )
