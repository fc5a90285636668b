"""The published recipe for MIRI imaging, step by step, so that one sees what the joint fit changes.

References
----------
Gordon et al. 2025, AJ 169, 6; STScI-MIRI/ImagingFluxCal at 9e3dbea (2026-02-25).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from astropy.stats import sigma_clip
from scipy.optimize import least_squares

from ..errors import EvidenceError, InputError
from .factors import Factor
from .measurements import Measurements
from .modes import Band
from .rows import select_rows
from .throughput import YEAR_DAYS, Throughput

__all__ = ["RECIPE_SUBARRAYS", "RecipeFit", "fit_gordon2025"]

log = logging.getLogger(__name__)

# All of these are the recipe's, for all filters, by eye or by name.
RECIPE_SUBARRAYS: Mapping[str, float] = {
    "FULL": 1.0,
    "BRIGHTSKY": 1.005,
    "SUB256": 0.98,
    "SUB128": 1.0,
    "SUB64": 0.966,
}
_T0_MJD = 59720.0
_REPEATED, _APPENDED, _IGNORED = "BD+60 1753", ("HD 37962", "del UMi"), ("HD 180609",)
_FIXED_TAU = {"F560W", "F770W", "F1000W", "F1130W", "F1280W"}
_TAU_DAYS, _MOST_TAU_DAYS = 100.0, 400.0
_N_SIGMA, _N_SIGMA_F560W = 3.5, 3.0
# Days since t0 left out, and how many to either side: all filters; F1800W.
_BAD_DAY, _BAD_DAY_F1800W = (350.0, 5.0), (40.0, 3.0)
_LEAST_REPEATS = 6


@dataclass(frozen=True, slots=True)
class RecipeFit:
    """What the recipe derives.

    Attributes
    ----------
    bands : tuple of Band
    factor, uncertainty : ndarray
        Of FULL at `t0_mjd`, and the error of the weighted mean [MJy/sr per DN/s], (n,) float64.
    scatter, sum_weights : ndarray
        Weighted standard deviation, and the sum of the weights 1/n of each star, (n,) float64.
    n_clipped : ndarray
        Rows clipped, (n,) int64.
    throughputs : tuple of Throughput
        As written to photom, which multiplies what the recipe fitted as a sum.
    repeatability : ndarray
        rms about the fit of the repeated star [1], NaN where throughputs were given, (n,) float64.
    sum_minus_product : ndarray
        ln of what was fitted over what photom evaluates, at the last measurement and five years
        of 365 days later, (n, 2) float64.
    t0_mjd, last_mjd : float
    subarrays : mapping
        Response of each relative to FULL.
    measurements : Measurements
        Sorted, with `used` and `reason` as they came out.
    """

    bands: tuple[Band, ...]
    factor: np.ndarray
    uncertainty: np.ndarray
    scatter: np.ndarray
    sum_weights: np.ndarray
    n_clipped: np.ndarray
    throughputs: tuple[Throughput, ...]
    repeatability: np.ndarray
    sum_minus_product: np.ndarray
    t0_mjd: float
    last_mjd: float
    subarrays: Mapping[str, float]
    measurements: Measurements

    def list_factors(self) -> list[Factor]:
        """List the rows of a photom reference: each filter for FULL and all subarrays."""
        return [
            Factor(
                band.mode,
                name,
                float(self.factor[k] / response),
                float(self.uncertainty[k] / response),
                self.throughputs[k],
            )
            for k, band in enumerate(self.bands)
            for name, response in self.subarrays.items()
        ]


def fit_gordon2025(
    measurements: Measurements, *, throughputs: Mapping[str, Throughput] | None = None
) -> RecipeFit:
    """Follow the published recipe.

    Parameters
    ----------
    measurements : Measurements
        MIRI imaging; other modes are left out.
    throughputs : mapping, optional
        Filter -> throughput to use; fitted to the repeated star where None.

    Returns
    -------
    RecipeFit

    Raises
    ------
    EvidenceError
        No row of MIRI imaging, or too few of the repeated star.
    InputError
        A subarray that the recipe has no response for, or a filter without throughput.

    Notes
    -----
    ``1/C = A exp(-(t - t0)/tau) + b + s (t - t0)`` of BD+60 1753, unweighted, with the visits of
    two more stars scaled to its nearest one; then ``C f(t) s_subarray`` of all stars is averaged
    with weights 1/n of each star after clipping. HD 180609 is left out by name.
    """
    rows = select_rows(measurements, t0_mjd=_T0_MJD, dated=True)
    mine = rows.group == "MIRI imaging"
    if not mine.any():
        raise EvidenceError(
            "expected MIRI imaging for method 'gordon2025', found none; take method 'joint'"
        )
    if not mine.all():
        others = sorted(set(rows.group[~mine]))
        log.warning("method gordon2025 leaves out %s", ", ".join(others))
    subarray = rows.take("subarray").astype(str)
    unknown = sorted(set(subarray[mine]) - set(RECIPE_SUBARRAYS))
    if unknown:
        raise InputError(
            f"expected subarrays {', '.join(RECIPE_SUBARRAYS)} for method 'gordon2025', found "
            f"{', '.join(unknown)}; leave these rows out or take method 'joint'"
        )
    response = np.array([RECIPE_SUBARRAYS.get(s, 1.0) for s in subarray])
    star, factor = rows.take("star").astype(str), np.exp(-rows.ln_response)
    last = float(rows.days[mine].max())
    used_bands, results = [], []
    for k, unit in enumerate(rows.units):
        of = mine & (rows.unit == k)
        if not of.any():
            continue
        name = unit.band.mode.filter
        if throughputs is None:
            f, repeatability = _fit_time(name, rows.days[of], star[of], factor[of] * response[of])
        elif name in throughputs:
            f, repeatability = throughputs[name], np.nan
        else:
            raise InputError(f"expected a throughput for {name}, found none; give one")
        corrected = factor[of] * f.evaluate(rows.t0_mjd + rows.days[of]) * response[of]
        results.append((*_average(name, star[of], corrected), f, repeatability, _compare(f, last)))
        used_bands.append(unit.band)
    value, error, scatter, weights, clipped, given, repeat, difference = zip(*results, strict=True)
    return RecipeFit(
        tuple(used_bands),
        np.array(value),
        np.array(error),
        np.array(scatter),
        np.array(weights),
        np.array(clipped),
        tuple(given),
        np.array(repeat),
        np.array(difference),
        rows.t0_mjd,
        rows.t0_mjd + last,
        dict(RECIPE_SUBARRAYS),
        rows.measurements,
    )


def _fit_time(
    name: str, days: np.ndarray, star: np.ndarray, factor: np.ndarray
) -> tuple[Throughput, float]:
    """Fit the sum of an exponential and a line to 1/C of the repeated star."""
    x, y = _collect_repeats(name, days, star, factor)
    fixed = name in _FIXED_TAU
    scale = float(np.mean(y))

    def model(p: np.ndarray) -> np.ndarray:
        tau = _TAU_DAYS if fixed else 100.0 * p[3]
        return scale * (p[0] * np.exp(-x / tau) + p[1] + p[2] * x / YEAR_DAYS)

    lower, upper = [-np.inf, -np.inf, -np.inf], [np.inf, np.inf, 0.0]
    start = [0.1, 0.9, -0.005]
    if not fixed:
        lower, upper = [*lower, 0.1], [*upper, _MOST_TAU_DAYS / 100.0]
        start.append(2.0)
    tight = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15}
    p = least_squares(lambda p: (model(p) - y) / scale, start, bounds=(lower, upper), **tight).x
    total = p[0] + p[1]
    f = Throughput(
        _T0_MJD,
        loss_per_year=float(-p[2] / total),
        amplitude=float(p[0] / total),
        tau_days=_TAU_DAYS if fixed else float(100.0 * p[3]),
    )
    # The recipe counts four parameters, fixed or not.
    square = np.sum(((model(p) - y) / model(p)) ** 2) / (len(x) - 4)
    return f, float(np.sqrt(square))


def _collect_repeats(
    name: str, days: np.ndarray, star: np.ndarray, factor: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Days and 1/C of the repeated star, and of others scaled to its nearest visit."""
    mine = star == _REPEATED
    if mine.sum() < _LEAST_REPEATS:
        raise EvidenceError(
            f"expected at least {_LEAST_REPEATS} visits of {_REPEATED} in {name} for method "
            f"'gordon2025', found {mine.sum()}; take method 'joint'"
        )
    x, y = days[mine], factor[mine]
    out_x, out_y = [x], [y]
    for other in _APPENDED:
        which = np.flatnonzero(star == other)
        which = which[np.argsort(days[which], kind="stable")]
        if len(which) > 1:
            nearest = y[np.argmin(np.abs(days[which[-1]] - x))]
            out_x.append(days[which])
            out_y.append(factor[which] * nearest / factor[which[-1]])
    x, y = np.concatenate(out_x), np.concatenate(out_y)
    kept = np.abs(x - _BAD_DAY[0]) > _BAD_DAY[1]
    if name == "F1800W":
        kept &= np.abs(x - _BAD_DAY_F1800W[0]) > _BAD_DAY_F1800W[1]
    return x[kept], 1.0 / y[kept]


def _average(
    name: str, star: np.ndarray, factor: np.ndarray
) -> tuple[float, float, float, float, int]:
    """Mean, its error, scatter, sum of weights, and rows clipped."""
    names, which, counts = np.unique(star, return_inverse=True, return_counts=True)
    kept = ~np.isin(star, _IGNORED)
    values, weights = factor[kept], (1.0 / counts)[which][kept]
    n_sigma = _N_SIGMA_F560W if name == "F560W" else _N_SIGMA
    clipped = np.ma.getmaskarray(sigma_clip(values, sigma=n_sigma, maxiters=5))
    values, weights = values[~clipped], weights[~clipped]
    if len(names) < 2 or weights.sum() <= 1.0:
        raise EvidenceError(f"expected several stars in {name}, found {', '.join(names)}")
    total = weights.sum()
    mean = np.average(values, weights=weights)
    scatter = np.sqrt(np.sum(weights * (values - mean) ** 2) / (total - 1))
    error = scatter / np.sqrt(total)
    return float(mean), float(error), float(scatter), float(total), int(clipped.sum())


def _compare(f: Throughput, last: float) -> tuple[float, float]:
    """Ln of the sum that was fitted over the product that photom evaluates."""
    days = np.array([last, last + 5 * YEAR_DAYS])
    product = f.evaluate(f.t0_mjd + days)
    total = f.amplitude * np.exp(-days / f.tau_days) + 1.0 - f.amplitude
    total -= f.loss_per_year * days / YEAR_DAYS
    difference = np.log(np.maximum(total, 1e-9) / np.maximum(product, 1e-9))
    return float(difference[0]), float(difference[1])
