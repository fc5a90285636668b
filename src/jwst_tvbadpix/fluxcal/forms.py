"""Which forms the throughput of each detector has: given, or by an information criterion."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import EvidenceError
from .effects import make_effects
from .model import count_epochs, make_layout, make_problem, take_rows
from .profile import Profiled, fit_throughput, profile_linear
from .rows import Rows, Unit
from .solver import Problem, solve
from .timeforms import FORMS, TimeModel, allow_form, parse_form

__all__ = ["FormChoice", "choose_forms", "compare_given", "measure_spread"]

log = logging.getLogger(__name__)

_CANDIDATES = (
    (),
    ("linear",),
    ("exponential",),
    ("powerlaw",),
    ("linear", "exponential"),
    ("linear", "powerlaw"),
    ("exponential", "powerlaw"),
    ("linear", "exponential", "powerlaw"),
)
# Epochs that each form needs beyond the first.
_NEEDS = {"linear": 1, "exponential": 2, "powerlaw": 2}
# Stars that were each seen once tell of a linear loss from this number on: an odd one among fewer
# would pass for it. Of steeper forms they tell nothing, for the first or last star alone is one.
_STARS_FOR_LOSS = 8
# Sigma to which the fits that are compared are carried.
_ROUGH = 0.05
# Least weight of a form that counts for the spread.
_LEAST_WEIGHT = 1e-4


@dataclass(frozen=True, slots=True)
class FormChoice:
    """How well one set of forms describes a detector.

    Attributes
    ----------
    detector : str
    forms : tuple of str
    n_parameters : int
    aic : float
        Akaike's information criterion relative to the best, which is the one for predictions;
        every form is judged with the widths of the random effects that the richest gave.
    chosen : bool
        Whether it was taken: the best, or what was given.
    units : tuple of Unit
        Of the detector.
    time : TimeModel
    fitted : Profiled
        What is linear begins with ln C of each unit at t0.
    """

    detector: str
    forms: tuple[str, ...]
    n_parameters: int
    aic: float
    chosen: bool
    units: tuple[Unit, ...]
    time: TimeModel
    fitted: Profiled

    def predict(self, days: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predict ln C of each unit at dates since t0 [day].

        Returns
        -------
        value, variance : ndarray
            (n_units, n_times) float64; variance is that of the throughput alone.
        """
        n = len(self.units)
        shape = (n, len(days))
        unit = np.repeat(np.arange(n), len(days))
        ln_f, slope = self.time.evaluate(
            self.fitted.values, self.time.expand(unit), np.tile(days, n)
        )
        if not len(self.fitted.values):
            return np.broadcast_to(self.fitted.best[:n, None], shape), np.zeros(shape)
        gradient = self.fitted.response[unit] - slope.toarray()
        with np.errstate(invalid="ignore"):
            variance = np.einsum("ij,ij->i", gradient @ self.fitted.covariance, gradient)
        return self.fitted.best[:n, None] - ln_f.reshape(shape), variance.reshape(shape)


def choose_forms(
    rows: Rows, *, time_form: str, share: str, subarray_err: float, class_err: float
) -> tuple[dict[str, tuple[str, ...]], tuple[FormChoice, ...]]:
    """Choose the forms of every detector.

    Parameters
    ----------
    rows : Rows
    time_form : str
        'auto', 'none' or forms joined by '+'.
    share : str
    subarray_err, class_err : float

    Returns
    -------
    dict
        Detector -> forms.
    tuple of FormChoice
        All that were compared; none where they are given.

    Raises
    ------
    EvidenceError
        A form is asked for and no detector was seen at enough epochs.
    """
    detectors = sorted(set(map(str, rows.detector)))
    if time_form != "auto":
        return _give_forms(rows, detectors, parse_form(time_form)), ()
    forms: dict[str, tuple[str, ...]] = {}
    choices: list[FormChoice] = []
    for detector in detectors:
        part = take_rows(rows, rows.detector == detector)
        found = _compare(part, detector, share, subarray_err, class_err)
        forms[detector] = next(c.forms for c in found if c.chosen)
        choices += found
    found_alone = forms
    if any("linear" in f for f in forms.values()):
        # The telescope's loss is every detector's that has a table for it.
        forms = {d: _list_allowed(rows, d, {"linear", *f}) for d, f in forms.items()}
    for detector, mine in forms.items():
        log.info(
            "%s: throughput %s%s",
            detector,
            " x ".join(mine) or "constant",
            "" if mine == found_alone[detector] else ", linear being the telescope's",
        )
    return forms, tuple(choices)


def compare_given(
    rows: Rows,
    forms: Mapping[str, tuple[str, ...]],
    *,
    share: str,
    subarray_err: float,
    class_err: float,
) -> tuple[FormChoice, ...]:
    """Compare the forms that were given with those the measurements could have.

    Parameters
    ----------
    rows : Rows
    forms : mapping
        Detector -> forms, which are the chosen ones.
    share : str
    subarray_err, class_err : float

    Returns
    -------
    tuple of FormChoice
        Of the detectors that were seen at some date.
    """
    choices: list[FormChoice] = []
    for detector, given in forms.items():
        dated = (rows.detector == detector) & np.isfinite(rows.days)
        if dated.any():
            part = take_rows(rows, dated)
            choices += _compare(part, detector, share, subarray_err, class_err, given=given)
    return tuple(choices)


def _list_allowed(rows: Rows, detector: str, among: Collection[str]) -> tuple[str, ...]:
    """List the forms for which photom has a table in some mode of a detector."""
    units = np.unique(rows.unit[rows.detector == detector])
    kinds = {rows.units[k].band.mode.kind for k in units}
    return tuple(f for f in FORMS if f in among and any(allow_form(k, f) for k in kinds))


def _give_forms(
    rows: Rows, detectors: list[str], asked: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    forms = {}
    for detector in detectors:
        epochs = count_epochs(rows.days[rows.detector == detector])
        mine = _list_allowed(rows, detector, asked)
        if asked and not mine:
            # The MRS has tables of power laws alone.
            mine = _list_allowed(rows, detector, FORMS)[:1]
        forms[detector] = mine if epochs > sum(_NEEDS[f] for f in mine) else ()
    if asked and not any(forms.values()):
        epochs = max(count_epochs(rows.days[rows.detector == d]) for d in detectors)
        raise EvidenceError(
            f"expected at least {1 + sum(_NEEDS[f] for f in asked)} epochs for time_form "
            f"{'+'.join(asked)}, found {epochs}; ask for time_form 'none' or give more visits"
        )
    if "linear" in asked:
        forms = {d: f or _list_allowed(rows, d, ("linear",)) for d, f in forms.items()}
    for detector, mine in forms.items():
        if mine != asked:
            found = " x ".join(mine) or "constant"
            log.info("%s: throughput %s, not %s", detector, found, " x ".join(asked))
    return forms


def _compare(
    rows: Rows,
    detector: str,
    share: str,
    subarray_err: float,
    class_err: float,
    *,
    given: tuple[str, ...] | None = None,
) -> list[FormChoice]:
    """Fit all candidates, and the given form, to one detector."""
    star, epochs = rows.take("star").astype(str), count_epochs(rows.days)
    # Looks at a star that had been seen before; an undated one is none.
    seen = [count_epochs(rows.days[star == name]) for name in np.unique(star)]
    looks = min(sum(max(n - 1, 0) for n in seen), max(epochs - 1, 0))
    many = np.count_nonzero(seen) >= _STARS_FOR_LOSS and epochs > 1
    kinds = {u.band.mode.kind for u in rows.units}
    allowed = [c for c in _CANDIDATES if all(any(allow_form(k, f) for k in kinds) for f in c)]
    candidates = [
        c
        for c in allowed
        if c == given or sum(_NEEDS[f] for f in c) <= looks or (c == ("linear",) and many)
    ]
    layout = make_layout(rows, subarray_err=subarray_err, class_err=class_err)
    effects = make_effects(rows)

    def make(forms: tuple[str, ...]) -> Problem:
        return make_problem(rows, layout, effects, {detector: forms}, share=share)

    fair = [c for c in candidates if len(c) < 3] or candidates
    rich = max(fair, key=lambda c: ("exponential" in c, "linear" in c, len(c)))
    if len(candidates) == 1:
        n = len(rows.units)
        none = np.zeros(0), np.zeros((0, 0)), np.zeros(n), np.zeros((n, 0))
        nothing = Profiled(0.0, *none)
        return [FormChoice(detector, (), 0, 0.0, True, rows.units, make(()).time, nothing)]
    first = solve(make(rich), tolerance=_ROUGH)
    n_linear, n_effects = layout.linear.shape[1], len(effects.family)
    linear = profile_linear(make(rich), first.widths)
    found = []
    for forms in candidates:
        problem = make(forms)
        start = first.values[n_linear:-n_effects] if forms == rich else problem.time.start
        fitted = fit_throughput(problem, linear, start=start, tolerance=_ROUGH)
        if np.isfinite(fitted.objective):
            aic = fitted.objective + 2 * len(problem.time.names)
            found.append((aic, forms, problem.time, fitted))
    best = min(f[0] for f in found)
    taken = next(f[1] for f in found if f[0] == best) if given is None else given
    return [
        FormChoice(
            detector,
            forms,
            len(fitted.values),
            aic - best,
            forms == taken,
            rows.units,
            time,
            fitted,
        )
        for aic, forms, time, fitted in found
    ]


def measure_spread(
    choices: Sequence[FormChoice], units: Sequence[Unit], days: np.ndarray
) -> np.ndarray:
    """Measure how the forms that were compared differ from the chosen one.

    Parameters
    ----------
    choices : sequence of FormChoice
    units : sequence of Unit
    days : ndarray
        Dates since t0 [day], (n_times,) float64.

    Returns
    -------
    ndarray
        Variance of ln C(t) beyond that of the chosen form: mean square difference and what others
        are less certain by, each form by its weight, exp(-aic/2), (n_units, n_times) float64; 0
        for units of which no form was compared.
    """
    place = {unit: k for k, unit in enumerate(units)}
    out = np.zeros((len(units), len(days)))
    for detector in dict.fromkeys(c.detector for c in choices):
        mine = [c for c in choices if c.detector == detector]
        weights = np.exp(-0.5 * np.array([c.aic for c in mine]))
        best = next(c for c in mine if c.chosen)
        at = [place[unit] for unit in best.units]
        level, sure = best.predict(days)
        for choice, weight in zip(mine, weights / weights.sum(), strict=True):
            if choice is not best and weight > _LEAST_WEIGHT:
                value, variance = choice.predict(days)
                with np.errstate(invalid="ignore"):
                    square = (value - level) ** 2 + np.maximum(variance - sure, 0.0)
                # No form has a value everywhere: before its t0 - tsoft a power law has none.
                out[at] += weight * np.where(np.isfinite(square), square, 0.0)
    return out
