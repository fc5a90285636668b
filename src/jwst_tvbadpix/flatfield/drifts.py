"""What changes in time, and how: within a visit, between visits, by year, by exponential."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import EvidenceError
from .visits import average_visits, find_scatter, fit_columns, judge_families, name_trend

__all__ = ["Drifts", "Epochs", "Term", "find_drifts", "make_epochs"]

# Time constant of MIRI's count-rate loss [day]: Gordon et al. 2025, arXiv:2409.10443.
TIME_CONSTANT_DAY = 200.0
YEAR_DAY = 365.25
# Visits and baseline without which a term is not measurable: a quarter of a year for a slope per
# year, half of the time constant for an exponential.
_LEAST_VISITS, _LEAST_YEARS, _LEAST_TIME_CONSTANTS = 4, 0.25, 0.5
# Names of the terms, in order.
_TERMS = ("within visit", "between visits", "slope", "exponential")
# Terms that are judged together.
_FAMILIES = ((0,), (1,), (2, 3))


@dataclass(frozen=True, slots=True)
class Epochs:
    """Groups of exposures that are each taken to be of one state.

    Attributes
    ----------
    number : ndarray of int, shape (n_exposures,)
        Epoch of each exposure, rising with time.
    mid_mjd : ndarray of float64, shape (n_epochs,)
        Mean of the exposures' mid-times [MJD].
    visit : ndarray of int, shape (n_epochs,)
        Number of the visit that each epoch is part of.
    """

    number: np.ndarray
    mid_mjd: np.ndarray
    visit: np.ndarray


@dataclass(frozen=True, slots=True)
class Term:
    """One kind of change, in every series.

    Attributes
    ----------
    name : str
        'within visit', 'between visits', 'slope' or 'exponential'.
    value : ndarray of float64, shape (n_series,)
        rms of the scatter within visits and of that between them; slope per year; exponential's
        amplitude at the first visit [unit of the series]. NaN = no evidence.
    err : ndarray of float64, shape (n_series,)
        1-sigma error; of a scatter, half of its central 68 % interval.
    upper_limit : ndarray of float64, shape (n_series,)
        On the absolute value, with a probability of 95 % or more; inf = none.
    p_value : ndarray of float64, shape (n_series,)
        Chance of this much without any change; NaN = not measurable.
    significant : ndarray of bool, shape (n_series,)
        Whether the change is believed, see `find_drifts`.
    reason : str
        Why the term is not measurable, also where a value is given: it is then good for its
        upper limit only. Empty where it is measurable.
    """

    name: str
    value: np.ndarray
    err: np.ndarray
    upper_limit: np.ndarray
    p_value: np.ndarray
    significant: np.ndarray
    reason: str

    @property
    def measurable(self) -> bool:
        """Whether visits and baseline suffice."""
        return not self.reason

    @property
    def tested(self) -> np.ndarray:
        """Tell which series have values that it could be tested with: bool (n_series,)."""
        return np.isfinite(self.p_value)


@dataclass(frozen=True, slots=True)
class Drifts:
    """Changes of several series.

    Attributes
    ----------
    names : tuple of str
        Of the series.
    within_visit, between_visits, slope, exponential : Term
    kind : tuple of str
        Of each series: 'slope', 'exponential' or 'slope or exponential' where one of the two is
        believed, else 'between visits', 'within visit', 'stable' or 'not measurable'.
    n_epochs, n_visits : int
    baseline_day : float
        First to last visit [day].
    false_discovery_rate, time_constant_day : float
        Settings.
    mid_mjd : ndarray of float64, shape (n_epochs,)
        Times [MJD].
    visit : ndarray of int, shape (n_epochs,)
    values, errors : ndarray of float64, shape (n_epochs, n_series)
        What was judged, with its 1-sigma errors.
    """

    names: tuple[str, ...]
    within_visit: Term
    between_visits: Term
    slope: Term
    exponential: Term
    kind: tuple[str, ...]
    n_epochs: int
    n_visits: int
    baseline_day: float
    false_discovery_rate: float
    time_constant_day: float
    mid_mjd: np.ndarray
    visit: np.ndarray
    values: np.ndarray
    errors: np.ndarray

    @property
    def terms(self) -> tuple[Term, ...]:
        """All terms, quickest first."""
        return self.within_visit, self.between_visits, self.slope, self.exponential

    @property
    def drifting(self) -> np.ndarray:
        """Tell which series changed from visit to visit: bool (n_series,)."""
        return np.any([term.significant for term in self.terms[1:]], axis=0)

    @property
    def verdict(self) -> str:
        """'DRIFT', 'VARIES WITHIN VISITS', 'STABLE' or 'NOT MEASURABLE'."""
        if self.drifting.any():
            return "DRIFT"
        if self.within_visit.significant.any():
            return "VARIES WITHIN VISITS"
        return "STABLE" if self.between_visits.tested.any() else "NOT MEASURABLE"

    def describe(self, *, scale: float = 1.0, unit: str = "") -> tuple[str, ...]:
        """Say what was found, in lines: the verdict, each believed change, each lacking term.

        Parameters
        ----------
        scale : float
            Factor on the values, 100 for per cent.
        unit : str
            Their unit then.
        """
        lines = [
            f"{self.verdict}: {len(self.names)} series, {self.n_epochs} epochs in {self.n_visits} "
            f"visits over {self.baseline_day:.1f} days"
        ]
        for term in self.terms:
            ending = f" {unit}".rstrip() + (" per year" if term.name == "slope" else "")
            lines += [
                f"{self.names[k]}, {term.name}: {scale * term.value[k]:.3g} +- "
                f"{scale * term.err[k]:.2g}{ending}"
                for k in np.flatnonzero(term.significant)
                # Of two forms of a trend only the one that it was given the name of.
                if term.name not in _TERMS[2:] or term.name in self.kind[k]
            ]
            if term.reason:
                limit = np.max(term.upper_limit) if len(self.names) else np.inf
                lines.append(
                    f"{term.name}: not measurable ({term.reason}), "
                    + (f"below {scale * limit:.2g}{ending}" if np.isfinite(limit) else "no limit")
                )
        return tuple(lines)


def make_epochs(mid_mjd: np.ndarray, visit: Sequence[object], *, parts: int = 2) -> Epochs:
    """Split each visit into parts of consecutive exposures.

    Parameters
    ----------
    mid_mjd : ndarray of float64, shape (n_exposures,)
        Mid-times [MJD].
    visit : sequence, length n_exposures
        What the caller calls the visit of each exposure.
    parts : int
        Epochs of a visit, where it has three exposures or more for each; else fewer, at least
        one.

    Returns
    -------
    Epochs

    Raises
    ------
    EvidenceError
        When times are not finite, or there are not as many visits as times.
    """
    mid_mjd = np.asarray(mid_mjd, float)
    if mid_mjd.ndim != 1 or len(visit) != len(mid_mjd) or not np.isfinite(mid_mjd).all():
        raise EvidenceError(
            f"expected the time and the visit of each exposure, found {mid_mjd.size} times, "
            f"{int(np.isfinite(mid_mjd).sum())} of them finite, and {len(visit)} visits; give both"
        )
    names = [str(name) for name in visit]
    labels = np.unique(names)
    member = [np.flatnonzero(np.array(names) == label) for label in labels]
    groups = []
    for rows in sorted(member, key=lambda rows: (mid_mjd[rows].min(), rows.min())):
        ordered = rows[np.lexsort((rows, mid_mjd[rows]))]
        groups.append(np.array_split(ordered, max(1, min(parts, len(rows) // 3))))
    number = np.zeros(len(mid_mjd), int)
    epochs = [part for visit_parts in groups for part in visit_parts]
    for k, part in enumerate(epochs):
        number[part] = k
    return Epochs(
        number,
        np.array([mid_mjd[part].mean() for part in epochs]),
        np.repeat(np.arange(len(groups)), [len(visit_parts) for visit_parts in groups]),
    )


def find_drifts(
    values: np.ndarray,
    covariance: np.ndarray,
    mid_mjd: np.ndarray,
    visit: np.ndarray,
    *,
    names: Sequence[str] | None = None,
    false_discovery_rate: float = 0.01,
    time_constant_day: float = TIME_CONSTANT_DAY,
) -> Drifts:
    """Find how series change in time.

    Parameters
    ----------
    values : ndarray of float64, shape (n_epochs, n_series)
        One series per column, with an arbitrary constant; NaN = not measured.
    covariance : ndarray of float64, shape (n_series, n_epochs, n_epochs)
        Of the epochs of each series; it may be singular for a common constant.
    mid_mjd : ndarray of float64, shape (n_epochs,)
        Times [MJD].
    visit : ndarray of int, shape (n_epochs,)
        Visit of each epoch.
    names : sequence of str, optional
        Of the series.
    false_discovery_rate : float
        Where nothing changes, the chance that any change is believed. Where something does, a third
        of it is the expected share of false ones among the believed scatters within visits, among
        those between visits, and among the trends, of all series.
    time_constant_day : float
        Of the exponential [day].

    Returns
    -------
    Drifts

    Raises
    ------
    EvidenceError
        When shapes do not fit, an error is negative, or a setting makes no sense.

    Notes
    -----
    Only differences between epochs count. The scatter within visits solves Q(s) = degrees of
    freedom with Q(s) = r' (V + s^2)^-1 r of the differences r within visits and their covariance
    V; as Q at the true s follows chi2 exactly, so do its interval and limit (Paule & Mandel
    1982; Viechtbauer 2007). It is added to V before the visits are averaged; the means of the
    visits give the scatter between them in the same way. Slope and exponential are each fitted to
    these means with a constant and a scatter of their own, from what they leave. As far as the
    noise is such a scatter, Student's and Fisher's distributions replace the normal one and chi2.
    The p values of scatter within visits, scatter between visits and trends are each judged by
    Benjamini & Hochberg (1995): a real scatter must not make a trend more easily believed.
    """
    values, covariance, mid_mjd, visit = _check(
        values, covariance, mid_mjd, visit, false_discovery_rate, time_constant_day
    )
    n_series = values.shape[1]
    found = np.full((n_series, len(_TERMS), 4), np.nan)
    found[..., 2] = np.inf
    for k in range(n_series):
        used = np.isfinite(values[:, k])
        if used.sum() > 1:
            found[k] = _fit_series(
                values[used, k],
                covariance[k][np.ix_(used, used)],
                mid_mjd[used],
                np.unique(visit[used], return_inverse=True)[1],
                time_constant_day,
            )
    n_visits = len(np.unique(visit))
    means = [mid_mjd[visit == label].mean() for label in np.unique(visit)]
    baseline = float(np.ptp(means)) if means else 0.0
    reasons = _list_reasons(len(mid_mjd), n_visits, baseline, time_constant_day)
    p_value = np.where([bool(reason) for reason in reasons], np.nan, found[..., 3])
    significant = judge_families(p_value, _FAMILIES, false_discovery_rate)
    terms = [
        Term(
            name,
            found[:, i, 0],
            found[:, i, 1],
            found[:, i, 2],
            p_value[:, i],
            significant[:, i],
            reasons[i],
        )
        for i, name in enumerate(_TERMS)
    ]
    return Drifts(
        tuple(names) if names is not None else tuple(f"series {k + 1}" for k in range(n_series)),
        *(terms[0], terms[1], terms[2], terms[3]),
        tuple(_tell_kind(terms, k) for k in range(n_series)),
        len(mid_mjd),
        n_visits,
        baseline,
        false_discovery_rate,
        time_constant_day,
        mid_mjd,
        visit,
        values,
        np.sqrt(np.einsum("kjj->jk", covariance)),
    )


def _check(
    values: np.ndarray,
    covariance: np.ndarray,
    mid_mjd: np.ndarray,
    visit: np.ndarray,
    rate: float,
    time_constant_day: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Refuse what cannot be meant; take the rest as arrays."""
    values, covariance, mid_mjd = (np.asarray(a, float) for a in (values, covariance, mid_mjd))
    visit = np.asarray(visit)
    n = len(mid_mjd)
    n_series = values.shape[1] if values.ndim == 2 else -1
    if values.shape != (n, n_series) or visit.shape != (n,):
        raise EvidenceError(
            f"expected one row of values and one visit for each of {n} epochs, found shapes "
            f"{values.shape} and {visit.shape}; give (n_epochs, n_series) and (n_epochs,)"
        )
    if covariance.shape != (n_series, n, n):
        raise EvidenceError(
            f"expected a covariance of shape {(n_series, n, n)}, found {covariance.shape}; give "
            "that of the epochs of each series"
        )
    known = np.isfinite(values).T
    variance = np.einsum("kjj->kj", covariance)
    sound = (variance > 0) & np.isfinite(variance)
    pairs = known[:, :, None] & known[:, None, :]
    if not np.isfinite(mid_mjd).all() or not sound[known].all():
        raise EvidenceError(
            "expected finite times and a finite variance above 0 for each value, found "
            f"{int(np.sum(~np.isfinite(mid_mjd)))} times and {int(np.sum(~sound & known))} "
            "variances that are not; set values without an error to NaN"
        )
    if not np.isfinite(covariance[pairs]).all():
        raise EvidenceError(
            f"expected finite covariances, found {int(np.sum(~np.isfinite(covariance[pairs])))} "
            "that are not; give 0 where epochs are independent"
        )
    if not 0 < rate < 1 or not time_constant_day > 0:
        raise EvidenceError(
            "expected a false_discovery_rate between 0 and 1 and a time_constant_day above 0, "
            f"found {rate} and {time_constant_day}; correct them"
        )
    return values, covariance, mid_mjd, visit


def _list_reasons(
    n_epochs: int, n_visits: int, baseline: float, time_constant_day: float
) -> tuple[str, ...]:
    """Say why each term is not measurable; '' where it is."""
    within = "" if n_epochs > n_visits else "no visit has two epochs"
    between = "" if n_visits > 1 else "one visit only"
    least = _LEAST_YEARS * YEAR_DAY, _LEAST_TIME_CONSTANTS * time_constant_day
    few = "" if n_visits >= _LEAST_VISITS else f"{n_visits} visits, {_LEAST_VISITS} are needed"
    slow = (
        few or (f"{baseline:.0f} days, {days:.0f} are needed" if baseline < days else "")
        for days in least
    )
    return within, between, *slow


def _fit_series(
    value: np.ndarray, covariance: np.ndarray, mjd: np.ndarray, visit: np.ndarray, tau: float
) -> np.ndarray:
    """(value, err, limit, p) of each term for one series: shape (4, 4)."""
    found = np.full((len(_TERMS), 4), np.nan)
    found[:, 2] = np.inf
    # A common constant is no concern of any term; this makes the covariance regular.
    covariance = covariance + np.mean(np.diag(covariance))
    visits = average_visits(value, covariance, mjd, visit)
    found[0] = visits.scatter
    n_visits = len(visits.mean)
    if n_visits < 2:
        return found
    constant = np.ones((n_visits, 1))
    found[1] = find_scatter(visits, constant)
    for i, template in (
        (2, (visits.mid_mjd - visits.mid_mjd.mean()) / YEAR_DAY),
        (3, np.exp(-(visits.mid_mjd - visits.mid_mjd.min()) / tau)),
    ):
        if np.ptp(template):
            found[i] = fit_columns(visits, np.column_stack([template, constant])).test(0)
    return found


def _tell_kind(terms: Sequence[Term], k: int) -> str:
    """Name the change of one series."""
    within, between, *trends = terms
    line, fall = (
        (float(term.value[k] / term.err[k]) if term.measurable else 0.0, bool(term.significant[k]))
        for term in trends
    )
    trend = name_trend(line, fall)
    if trend != "none":
        return trend
    if between.significant[k]:
        return between.name
    if within.significant[k]:
        return within.name
    return "stable" if between.tested[k] else "not measurable"
