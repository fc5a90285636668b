"""Which forms the throughput of each detector has: given, or by an information criterion."""

import logging
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from ..errors import EvidenceError
from .effects import make_effects
from .model import count_epochs, make_layout, make_problem, take_rows
from .profile import fit_throughput, profile_linear
from .rows import Rows
from .solver import Problem, solve
from .timeforms import FORMS, allow_form, parse_form

__all__ = ["FormChoice", "choose_forms"]

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
# Sigma to which the fits that are compared are carried.
_ROUGH = 0.05


@dataclass(frozen=True, slots=True)
class FormChoice:
    """How well one set of forms describes a detector.

    Attributes
    ----------
    detector : str
    forms : tuple of str
    n_parameters : int
    bic : float
        Bayesian information criterion relative to the best; every form is judged with the widths
        of the random effects that the richest gave.
    chosen : bool
    """

    detector: str
    forms: tuple[str, ...]
    n_parameters: int
    bic: float
    chosen: bool


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
        All that were compared.

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
        log.info("%s: throughput %s", detector, " x ".join(forms[detector]) or "constant")
    if any("linear" in f for f in forms.values()):
        # The telescope's loss is every detector's that has a table for it.
        forms = {d: _list_allowed(rows, d, {"linear", *f}) for d, f in forms.items()}
    return forms, tuple(choices)


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
        if forms[detector] != asked:
            found = " x ".join(forms[detector]) or "constant"
            log.info("%s: throughput %s, not %s", detector, found, " x ".join(asked))
    if asked and not any(forms.values()):
        epochs = max(count_epochs(rows.days[rows.detector == d]) for d in detectors)
        raise EvidenceError(
            f"expected at least {1 + sum(_NEEDS[f] for f in asked)} epochs for time_form "
            f"{'+'.join(asked)}, found {epochs}; ask for time_form 'none' or give more visits"
        )
    if "linear" in asked:
        forms = {d: f or _list_allowed(rows, d, ("linear",)) for d, f in forms.items()}
    return forms


def _compare(
    rows: Rows, detector: str, share: str, subarray_err: float, class_err: float
) -> list[FormChoice]:
    """Fit all candidates to one detector."""
    epochs = count_epochs(rows.days)
    kinds = {u.band.mode.kind for u in rows.units}
    candidates = [
        c
        for c in _CANDIDATES
        if sum(_NEEDS[f] for f in c) < max(epochs, 1)
        and all(any(allow_form(k, f) for k in kinds) for f in c)
    ]
    if len(candidates) == 1:
        return [FormChoice(detector, (), 0, 0.0, True)]
    layout = make_layout(rows, subarray_err=subarray_err, class_err=class_err)
    effects = make_effects(rows)

    def make(forms: tuple[str, ...]) -> Problem:
        return make_problem(rows, layout, effects, {detector: forms}, share=share)

    fair = [c for c in candidates if len(c) < 3] or candidates
    rich = max(fair, key=lambda c: ("exponential" in c, "linear" in c, len(c)))
    first = solve(make(rich), tolerance=_ROUGH)
    n_linear, n_effects = layout.linear.shape[1], len(effects.family)
    linear = profile_linear(make(rich), first.widths)
    found = []
    for forms in candidates:
        problem = make(forms)
        start = first.values[n_linear:-n_effects] if forms == rich else problem.time.start
        objective = fit_throughput(problem, linear, start=start, tolerance=_ROUGH)
        count = len(problem.time.names)
        if np.isfinite(objective):
            found.append((forms, count, objective + count * np.log(len(rows.unit))))
    best = min(f[2] for f in found)
    return [FormChoice(detector, f, n, float(b - best), bool(b == best)) for f, n, b in found]
