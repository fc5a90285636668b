"""Whether the factors depend on what they should not: flux, rate, well depth, sky, time, class."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from .results import FluxFit
from .solver import (
    compute_precision,
    count_information,
    make_inverse,
    make_normal,
)

__all__ = ["FALSE_SHARE", "QUANTITIES", "Dependence", "measure_dependences"]

# Share of false ones among the dependences that are named.
FALSE_SHARE = 0.05
# Column of Measurements -> what ln(observed/model) is compared with.
QUANTITIES = {
    "flux_jy": "log10 flux [Jy]",
    "peak": "log10 peak [DN/s]",
    "well_depth": "well depth",
    "background": "log10 background [DN/s]",
    "exposure_s": "log10 integration time [s]",
}
_LINEAR = frozenset({"well_depth"})
# What goes up and down with the very measurement that is compared with it.
_MEASURED = frozenset({"peak", "well_depth"})
_LEAST_ROWS, _LEAST_VALUES = 6, 3
# A quantity that varies less than this many times the measurements, relatively, is one value.
_LEAST_SPREAD = 3.0
# A subarray whose prior variance the data lessen by a smaller share is not measured.
_LEAST_TAKEN = 1e-3


@dataclass(frozen=True, slots=True)
class Dependence:
    """Change of ln(observed/model) with a quantity.

    Attributes
    ----------
    group, quantity : str
        Modes, and what is compared: 'log10 flux [Jy]', 'subarray SUB256', 'class hot'.
    slope, error : float
        d ln(observed/model) per unit of the quantity; for a subarray ln of its response over the
        prior, for a class its offset from the mean of the classes.
    n_rows : int
    probability : float
        That no dependence gives a value as large, by chance alone.
    verdict : str
        'dependence' or 'none', with the share of false ones under control over all tested.
    """

    group: str
    quantity: str
    slope: float
    error: float
    n_rows: int
    probability: float
    verdict: str


def measure_dependences(
    fit: FluxFit, *, false_share: float = FALSE_SHARE
) -> tuple[Dependence, ...]:
    """Measure how the factors depend on the circumstances of the measurements.

    Parameters
    ----------
    fit : FluxFit
    false_share : float
        Share of false dependences among those named (Benjamini and Hochberg 1995).

    Returns
    -------
    tuple of Dependence
        For each group of modes and quantity that varies and is known.

    Notes
    -----
    Each quantity is added to the fit as one more parameter, with factors, throughput, subarrays,
    stars and visits free as before, so that the error holds what these may take. A quantity that
    only tells stars apart, as flux does, is judged by the scatter of the stars. The brightest pixel
    and the depth of its well are those that the fitted flux would have: as measured they would
    depend on the residual, not it on them.
    """
    found = [*_measure_slopes(fit), *_list_levels(fit)]
    named = _control([d.probability for d in found], false_share)
    return tuple(
        replace(d, verdict="dependence" if yes else "none")
        for d, yes in zip(found, named, strict=True)
    )


def _measure_slopes(fit: FluxFit) -> list[Dependence]:
    rows, problem, solution = fit.rows, fit.problem, fit.solution
    widths = count_information(problem, solution.widths)
    inverse = make_inverse(make_normal(problem, widths, solution.jacobian))
    precision = compute_precision(problem, widths)
    # The estimate has the weights of the fit, its error their information.
    gradient = compute_precision(problem, solution.widths)
    share = np.sum(precision) / np.sum(gradient)
    columns, labels = [], []
    for group in sorted(set(map(str, rows.group))):
        for name, title in QUANTITIES.items():
            x, mine = _centre(fit, name, rows.group == group)
            if _varies(fit, name, x, mine):
                columns.append(x)
                labels.append((group, title, int(mine.sum())))
    if not columns:
        return []
    x = np.array(columns).T
    cross = np.asarray(solution.jacobian.T @ (x * precision[:, None]))
    own = np.einsum("ij,ij,i->j", x, x, precision)
    information = own - np.einsum("ij,ij->j", cross, inverse(cross))
    # What units, stars and visits cannot be told from says nothing.
    told = information > 1e-9 * own
    slope = (x.T @ (gradient * solution.residual)) * share / np.where(told, information, np.inf)
    out = []
    for k, (group, title, count) in enumerate(labels):
        if not told[k]:
            continue
        error = float(1.0 / np.sqrt(information[k]))
        chance = float(2 * stats.norm.sf(abs(slope[k]) / error))
        out.append(Dependence(group, title, float(slope[k]), error, count, chance, ""))
    return out


def _centre(fit: FluxFit, name: str, mine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantity less its mean in each unit, 0 where unknown; and where it is known."""
    rows = fit.rows
    value = rows.take(name).astype(np.float64)
    if name in _MEASURED:
        value = value * _remove_residual(fit)
    known = mine & np.isfinite(value)
    if name not in _LINEAR:
        known &= value > 0
        value = np.log10(np.where(known, value, 1.0))
    count = np.bincount(rows.unit[known], minlength=len(rows.units))
    total = np.bincount(rows.unit[known], value[known], len(rows.units))
    mean = total / np.maximum(count, 1)
    return np.where(known, value - mean[rows.unit], 0.0), known


def _remove_residual(fit: FluxFit) -> np.ndarray:
    """Find what turns the brightest pixel into that of the fitted flux; its sky stays."""
    peak, sky = (fit.rows.take(name).astype(np.float64) for name in ("peak", "background"))
    with np.errstate(all="ignore"):
        share = np.clip(1.0 - sky / peak, 0.0, 1.0)
    share = np.where(np.isfinite(share), share, 1.0)
    return 1.0 + share * np.expm1(-fit.residual[fit.rows.index])


def _varies(fit: FluxFit, name: str, x: np.ndarray, mine: np.ndarray) -> bool:
    """Tell whether a quantity has values enough, and far enough apart, to compare with."""
    if mine.sum() < _LEAST_ROWS or len(np.unique(x[mine])) < _LEAST_VALUES:
        return False
    level = np.mean(np.abs(fit.rows.take(name).astype(np.float64)[mine]))
    relative = x[mine] / level if name in _LINEAR else x[mine] * np.log(10.0)
    return bool(np.std(relative) >= _LEAST_SPREAD * np.std(fit.residual[fit.rows.index][mine]))


def _list_levels(fit: FluxFit) -> list[Dependence]:
    """List subarrays against their priors, and classes against their mean."""
    rows, out = fit.rows, []
    subarray, star_class = rows.take("subarray").astype(str), rows.take("star_class").astype(str)
    for s in fit.subarrays:
        value = float(np.log(s.response / s.prior))
        # The posterior is drawn to the prior: what it moved has the variance it took away.
        before = (s.prior_error / s.prior) ** 2
        taken = before - (s.error / s.response) ** 2
        if taken <= _LEAST_TAKEN * before:
            continue
        error = float(np.sqrt(taken))
        n = int(np.sum((rows.group == s.group) & (subarray == s.subarray)))
        chance = float(2 * stats.norm.sf(abs(value) / error))
        out.append(Dependence(s.group, f"subarray {s.subarray}", value, error, n, chance, ""))
    for c in fit.classes:
        n = int(np.sum(star_class == c.star_class))
        chance = float(2 * stats.norm.sf(abs(c.offset) / c.error))
        out.append(Dependence("all", f"class {c.star_class}", c.offset, c.error, n, chance, ""))
    return out


def _control(probability: Sequence[float], false_share: float) -> np.ndarray:
    """Benjamini and Hochberg's step-up procedure, (n,) bool."""
    if not len(probability):
        return np.zeros(0, bool)
    return stats.false_discovery_control(np.array(probability)) <= false_share
