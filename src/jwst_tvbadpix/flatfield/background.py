"""How the background varies: zodiacal season, thermal trend, transients."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import bottleneck as bn
import numpy as np
from scipy.stats import chi2, f

from ..errors import EvidenceError
from .drifts import TIME_CONSTANT_DAY, YEAR_DAY
from .sky import Transients, find_transients
from .visits import (
    NOTHING,
    ColumnFit,
    Visits,
    average_visits,
    find_scatter,
    fit_columns,
    judge_families,
    name_trend,
)

__all__ = ["BackgroundTerm", "BackgroundTrend", "find_background_trend"]

log = logging.getLogger(__name__)

# Baseline from which season and trend are told apart [yr], and visits beyond the number of fields.
_LEAST_YEARS, _LEAST_VISITS = 0.75, 6
# Most that columns of a fit may be alike (condition number): visits at one season of each year do
# not tell the season from the level. The second is for limits only.
_MOST_ALIKE, _ALL_ALIKE = 50.0, 1e5
# Exposures further than this from the median of their visit are left out [sigma of all visits],
# where a visit has so many; sigma of the median modulus of deviations from a median of five.
_N_SIGMA, _LEAST_CLIPPED, _TO_SIGMA = 6.0, 5, 1.8
_NAMES = ("within visit", "between visits", "season", "slope", "exponential")
# Terms that are judged together.
_FAMILIES = ((0,), (1,), (2,), (3, 4))


@dataclass(frozen=True, slots=True)
class BackgroundTerm:
    """One kind of change.

    Attributes
    ----------
    name : str
        'within visit', 'between visits' (scatter about the mean of each field), 'season',
        'slope' or 'exponential'.
    value, err : float
        rms, amplitude of the season, slope per year, amplitude at the first visit, and its
        1-sigma error [unit of the level]; NaN = no evidence.
    upper_limit : float
        On the absolute value, with a probability of 95 % or more; inf = none.
    p_value : float
        Chance of this much without any change; NaN = not measurable.
    significant : bool
        Whether it is believed.
    reason : str
        Why it is not measurable; empty where it is.
    """

    name: str
    value: float
    err: float
    upper_limit: float
    p_value: float
    significant: bool
    reason: str


@dataclass(frozen=True, slots=True)
class BackgroundTrend:
    """Background of one filter in time.

    Attributes
    ----------
    within_visit, between_visits, season, slope, exponential : BackgroundTerm
        Season and slope were fitted together, and season and exponential.
    maximum_mjd, maximum_err_day : float
        When the season is brightest, first after the first visit, and its error [day]; NaN where
        there is no believed season.
    kind : str
        Of the trend: 'slope', 'exponential', 'slope or exponential' or 'none'.
    field_id : ndarray of str, shape (n_fields,)
    field_level, field_level_err : ndarray of float64, shape (n_fields,)
        Mean level of each field; where season or trend is believed, without both: at the middle
        of the visits for a slope, long after for an exponential.
    seasonal, thermal : ndarray of float64, shape (n_exp,)
        Believed parts of the level of each exposure [unit of the level].
    transient : ndarray of float64, shape (n_exp,)
        Decaying part [unit of the level].
    transients : Transients
        How it was found.
    used : ndarray of bool, shape (n_exp,)
        Exposures that the trend comes from: level known, no large transient, no outlier.
    n_visits : int
    baseline_day : float
    """

    within_visit: BackgroundTerm
    between_visits: BackgroundTerm
    season: BackgroundTerm
    slope: BackgroundTerm
    exponential: BackgroundTerm
    maximum_mjd: float
    maximum_err_day: float
    kind: str
    field_id: np.ndarray
    field_level: np.ndarray
    field_level_err: np.ndarray
    seasonal: np.ndarray
    thermal: np.ndarray
    transient: np.ndarray
    transients: Transients
    used: np.ndarray
    n_visits: int
    baseline_day: float

    @property
    def terms(self) -> tuple[BackgroundTerm, ...]:
        """All terms."""
        return self.within_visit, self.between_visits, self.season, self.slope, self.exponential

    @property
    def verdict(self) -> str:
        """'DRIFT', 'SEASON', 'VARIES', 'STABLE' or 'NOT MEASURABLE'."""
        if self.kind != "none":
            return "DRIFT"
        if self.season.significant:
            return "SEASON"
        if self.between_visits.significant or self.within_visit.significant:
            return "VARIES"
        return "NOT MEASURABLE" if self.between_visits.reason else "STABLE"

    def describe(self, *, unit: str = "") -> tuple[str, ...]:
        """Say what was found, in lines, the unit of the level given."""
        ending = f" {unit}".rstrip()
        decays = int(np.sum(self.transient > 0))
        lines = [
            f"{self.verdict}: {int(self.used.sum())} of {len(self.used)} exposures in "
            f"{self.n_visits} visits over {self.baseline_day:.1f} days, transient in {decays}"
        ]
        for term in self.terms:
            per = ending + (" per year" if term.name == "slope" else "")
            if term.reason:
                limit = (
                    f"below {term.upper_limit:.2g}{per}"
                    if np.isfinite(term.upper_limit)
                    else "no limit"
                )
                lines.append(f"{term.name}: not measurable ({term.reason}), {limit}")
            elif term.significant and (term.name not in _NAMES[3:] or term.name in self.kind):
                lines.append(f"{term.name}: {term.value:.3g} +- {term.err:.2g}{per}")
        if np.isfinite(self.maximum_mjd):
            lines.append(
                f"brightest at MJD {self.maximum_mjd:.0f} +- {self.maximum_err_day:.0f} days"
            )
        return tuple(lines)


def find_background_trend(
    level: np.ndarray,
    level_err: np.ndarray,
    mid_mjd: np.ndarray,
    visit: Sequence[object],
    *,
    field: Sequence[object] | None = None,
    sets: Sequence[int] | None = None,
    false_discovery_rate: float = 0.01,
    time_constant_day: float = TIME_CONSTANT_DAY,
) -> BackgroundTrend:
    """Find season, trend and transients in the background of one filter.

    Parameters
    ----------
    level, level_err : ndarray of float64, shape (n_exp,)
        Background of each exposure and its 1-sigma error [any one unit]; NaN = unknown.
    mid_mjd : ndarray of float64, shape (n_exp,)
        Mid-times [MJD].
    visit : sequence, length n_exp
        What the caller calls the visits.
    field : sequence, length n_exp, optional
        Part of the sky: each has a level of its own; all one where it is not given.
    sets : sequence of int, length n_exp, optional
        Exposures taken without a change of filter in between, see `find_transients`; those of
        one visit and field where it is not given.
    false_discovery_rate : float
        Where nothing changes, the chance that any term is believed.
    time_constant_day : float
        Of the exponential [day].

    Returns
    -------
    BackgroundTrend

    Raises
    ------
    EvidenceError
        When lists differ in length, no level is known, or an error is not above 0.

    Notes
    -----
    Decays after something brighter are fitted set by set and taken off; exposures with a large one
    are left out. Visits are averaged with the scatter that their exposures show. Their means are
    ``field + C cos + S sin + trend`` with the sine and cosine of the year, and with either a
    slope or an exponential; what they leave is their scatter. The season is that beside the trend
    which fits better. Within three quarters of a year season and trend are not told apart: all are
    then not measurable, and the limits hold for each alone.
    """
    level, level_err, mid_mjd = (np.asarray(a, float) for a in (level, level_err, mid_mjd))
    label = _number(visit)
    sky = _number(field) if field is not None else np.zeros(len(label), int)
    known = _check(level, level_err, mid_mjd, label, sky, false_discovery_rate, time_constant_day)
    group = np.unique(np.column_stack([label, sky]), axis=0, return_inverse=True)[1].ravel()
    transients = find_transients(
        np.where(known, level, np.nan), mid_mjd, group if sets is None else sets
    )
    settled = level / (1 + transients.excess)
    used = _leave_out(settled, known & ~transients.rejected, group)
    names, number = np.unique(group[used], return_inverse=True)
    visits = average_visits(settled[used], np.diag(level_err[used] ** 2), mid_mjd[used], number)
    of_visit = np.array([sky[group == name][0] for name in names])
    fields, place = np.unique(of_visit, return_inverse=True)
    constants = np.eye(len(fields))[place]
    baseline = float(np.ptp(visits.mid_mjd))
    reasons = _list_reasons(int(used.sum()), visits.mid_mjd, constants, time_constant_day)
    found, fits = _fit(visits, constants, time_constant_day, all_terms=not reasons[2])
    terms, kind = _judge(found, reasons, false_discovery_rate)
    shapes = _make_templates(visits.mid_mjd, mid_mjd, time_constant_day)
    fit, template = _choose(fits, shapes, kind)
    seasonal, thermal = np.zeros(len(level)), np.zeros(len(level))
    maximum, maximum_err = np.nan, np.nan
    if terms[2].significant and fit is not None:
        seasonal = shapes[0] @ fit.parameters[:2]
        maximum, maximum_err = _find_maximum(fit, visits.mid_mjd)
    if kind != "none" and fit is not None:
        thermal = fit.parameters[2] * template
    mean = _average_fields(visits, constants, fit, bool(terms[2].significant), kind != "none")
    trend = BackgroundTrend(
        *(terms[0], terms[1], terms[2], terms[3], terms[4]),
        maximum,
        maximum_err,
        kind,
        np.array(_list_names(field, sky, fields)),
        *mean,
        seasonal,
        thermal,
        settled * transients.excess,
        transients,
        used,
        len(names),
        baseline,
    )
    for line in trend.describe():
        log.info("Background: %s", line)
    return trend


def _number(labels: Sequence[object]) -> np.ndarray:
    """Give labels numbers in the order of their names."""
    return np.unique([str(label) for label in labels], return_inverse=True)[1]


def _list_names(field: Sequence[object] | None, sky: np.ndarray, fields: np.ndarray) -> list[str]:
    """Names of fields, by their numbers."""
    if field is None:
        return ["all"]
    return [str(field[int(np.flatnonzero(sky == number)[0])]) for number in fields]


def _check(
    level: np.ndarray,
    level_err: np.ndarray,
    mid_mjd: np.ndarray,
    label: np.ndarray,
    sky: np.ndarray,
    rate: float,
    time_constant_day: float,
) -> np.ndarray:
    """Tell which levels are known; refuse what cannot be meant."""
    if len({a.shape for a in (level, level_err, mid_mjd, label, sky)}) != 1:
        raise EvidenceError(
            "expected a level, an error, a time, a visit and a field for each exposure, found "
            f"{[len(a) for a in (level, level_err, mid_mjd, label, sky)]}; give as many"
        )
    known = np.isfinite(level) & np.isfinite(level_err) & np.isfinite(mid_mjd)
    if not known.any() or not (level_err[known] > 0).all():
        raise EvidenceError(
            f"expected levels with errors above 0, found {int(known.sum())} finite ones, "
            f"{int(np.sum(level_err[known] > 0))} of them with an error above 0; set the others "
            "to NaN"
        )
    if not 0 < rate < 1 or not time_constant_day > 0:
        raise EvidenceError(
            "expected a false_discovery_rate between 0 and 1 and a time_constant_day above 0, "
            f"found {rate} and {time_constant_day}; correct them"
        )
    return known


def _leave_out(level: np.ndarray, known: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Leave out exposures that are far from all others of their visit."""
    used = known.copy()
    distance = np.full(level.shape, np.nan)
    for number in np.unique(group[known]):
        rows = np.flatnonzero(known & (group == number))
        if len(rows) >= _LEAST_CLIPPED:
            distance[rows] = np.abs(level[rows] - bn.median(level[rows]))
    if np.isfinite(distance).any():
        # Medians of few values: the scatter of all visits together.
        used &= ~(distance > _N_SIGMA * _TO_SIGMA * bn.nanmedian(distance))
    return used


def _list_reasons(
    n_used: int, visit_mjd: np.ndarray, constants: np.ndarray, tau: float
) -> list[str]:
    """Say why each term is not measurable; '' where it is."""
    n_visits, n_fields = constants.shape
    within = "" if n_used > n_visits else "no visit has two exposures"
    between = "" if n_visits > n_fields else "one visit only for each field"
    least, days = n_fields + _LEAST_VISITS, _LEAST_YEARS * YEAR_DAY
    baseline = float(np.ptp(visit_mjd))
    season, *trends = _make_templates(visit_mjd, visit_mjd, tau)
    long = ""
    if n_visits < least:
        long = f"{n_visits} visits, {least} are needed"
    elif baseline < days:
        long = f"{baseline:.0f} days, {days:.0f} are needed"
    elif any(_measure_alikeness(season, trend, constants) > _MOST_ALIKE for trend in trends):
        long = "the dates of the visits do not tell season, trend and level apart"
    return [within, between, long, long, long]


def _measure_alikeness(*columns: np.ndarray) -> float:
    """Condition number of columns of length 1; inf where they are not fewer than visits."""
    matrix = np.column_stack(columns)
    length = np.linalg.norm(matrix, axis=0)
    if matrix.shape[1] >= len(matrix) or not length.all():
        return np.inf
    return float(np.linalg.cond(matrix / length))


def _make_templates(
    visit_mjd: np.ndarray, mjd: np.ndarray, tau: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Season (n, 2), slope (n,) and exponential (n,) at times, with the visits' origins."""
    phase = 2 * np.pi * mjd / YEAR_DAY
    season = np.column_stack([np.cos(phase), np.sin(phase)])
    return season, (mjd - visit_mjd.mean()) / YEAR_DAY, np.exp(-(mjd - visit_mjd.min()) / tau)


def _fit(
    visits: Visits, constants: np.ndarray, tau: float, *, all_terms: bool
) -> tuple[list[tuple[float, float, float, float]], list[ColumnFit]]:
    """(value, err, limit, p) of each term, and the fits with slope and exponential."""
    found = [visits.scatter, find_scatter(visits, constants), NOTHING, NOTHING, NOTHING]
    season, slope, exponential = _make_templates(visits.mid_mjd, visits.mid_mjd, tau)
    if all_terms:
        fits = [
            fit_columns(visits, np.column_stack([season, trend, constants]))
            for trend in (slope, exponential)
        ]
        found[2] = _test_season(min(fits, key=lambda fit: fit.chi2))
        found[3:] = [fit.test(2) for fit in fits]
        return found, fits
    for k, template in ((3, slope), (4, exponential)):
        if _measure_alikeness(template, constants) < _ALL_ALIKE:
            found[k] = fit_columns(visits, np.column_stack([template, constants])).test(0)
    if _measure_alikeness(season, constants) < _ALL_ALIKE:
        found[2] = _test_season(fit_columns(visits, np.column_stack([season, constants])))
    return found, []


def _test_season(fit: ColumnFit) -> tuple[float, float, float, float]:
    """Amplitude, its error, upper limit and p."""
    wave, covariance = fit.parameters[:2], fit.covariance[:2, :2]
    amplitude = float(np.hypot(*wave))
    along = wave / amplitude if amplitude else np.array([1.0, 0.0])
    err = float(np.sqrt(along @ covariance @ along))
    # A projection on the true phase is no longer than the amplitude.
    widest = float(np.sqrt(np.linalg.eigvalsh(covariance)[-1]))
    power = float(wave @ np.linalg.solve(covariance, wave))
    p_value = chi2.sf(power, 2) if np.isinf(fit.freedom) else f.sf(power / 2, 2, fit.freedom)
    return amplitude, err, amplitude + fit.compute_margin(widest), float(p_value)


def _judge(
    found: Sequence[tuple[float, float, float, float]], reasons: Sequence[str], rate: float
) -> tuple[list[BackgroundTerm], str]:
    """Decide which terms are believed, and name the trend."""
    p_value = np.array(
        [np.nan if reason else term[3] for term, reason in zip(found, reasons, strict=True)]
    )
    significant = judge_families(p_value[None], _FAMILIES, rate)[0]
    terms = [
        BackgroundTerm(name, *found[k][:3], float(p_value[k]), bool(significant[k]), reasons[k])
        for k, name in enumerate(_NAMES)
    ]
    line, fall = (
        (0.0 if term.reason else term.value / term.err, term.significant) for term in terms[3:]
    )
    return terms, name_trend(line, fall)


def _choose(
    fits: Sequence[ColumnFit], shapes: tuple[np.ndarray, np.ndarray, np.ndarray], kind: str
) -> tuple[ColumnFit | None, np.ndarray]:
    """Fit and template of the trend that was named; of the better where it may be either."""
    if not fits:
        return None, shapes[1]
    better = int(fits[1].chi2 < fits[0].chi2)
    number = {"slope": 0, "exponential": 1}.get(kind, better)
    return fits[number], shapes[1 + number]


def _find_maximum(fit: ColumnFit, visit_mjd: np.ndarray) -> tuple[float, float]:
    """When the season is brightest [MJD], and its error [day]."""
    cosine, sine = fit.parameters[:2]
    first = float(visit_mjd.min())
    day = np.arctan2(sine, cosine) / (2 * np.pi) * YEAR_DAY
    across = np.array([-sine, cosine]) / np.hypot(sine, cosine)
    error = np.sqrt(across @ fit.covariance[:2, :2] @ across) / np.hypot(sine, cosine)
    return first + (day - first) % YEAR_DAY, float(error / (2 * np.pi) * YEAR_DAY)


def _average_fields(
    visits: Visits, constants: np.ndarray, fit: ColumnFit | None, season: bool, trend: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Level of each field, and its error."""
    n = constants.shape[1]
    if fit is None or not (season or trend):
        fit = fit_columns(visits, constants)
    return fit.parameters[-n:], np.sqrt(np.diag(fit.covariance)[-n:])
