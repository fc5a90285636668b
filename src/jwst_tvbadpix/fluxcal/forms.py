"""Which forms the throughput of each detector has: given, or by an information criterion."""

import logging
from dataclasses import dataclass

import numpy as np

from ..errors import EvidenceError
from .effects import make_effects
from .model import count_epochs, make_layout, make_problem, take_rows
from .rows import Rows
from .solver import Problem, solve
from .timeforms import allow_form, parse_form

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
# Stars that were each seen once tell of a linear loss from this number on: an odd one among fewer
# would pass for it. Of steeper forms they tell nothing, for the first or last star alone is one.
_STARS_FOR_LOSS = 8


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
        # The telescope's loss is every detector's.
        forms = {d: ("linear", *(x for x in f if x != "linear")) for d, f in forms.items()}
    return forms, tuple(choices)


def _give_forms(
    rows: Rows, detectors: list[str], asked: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    forms = {}
    for detector in detectors:
        epochs = count_epochs(rows.days[rows.detector == detector])
        forms[detector] = asked if epochs > sum(_NEEDS[f] for f in asked) else ()
    if asked and not any(forms.values()):
        epochs = max(count_epochs(rows.days[rows.detector == d]) for d in detectors)
        raise EvidenceError(
            f"expected at least {1 + sum(_NEEDS[f] for f in asked)} epochs for time_form "
            f"{'+'.join(asked)}, found {epochs}; ask for time_form 'none' or give more visits"
        )
    if "linear" in asked:
        forms = {d: f or ("linear",) for d, f in forms.items()}
    return forms


def _compare(
    rows: Rows, detector: str, share: str, subarray_err: float, class_err: float
) -> list[FormChoice]:
    """Fit all candidates to one detector."""
    star, epochs = rows.take("star").astype(str), count_epochs(rows.days)
    # Looks at a star that had been seen before; an undated one is none.
    seen = [count_epochs(rows.days[star == name]) for name in np.unique(star)]
    looks = min(sum(max(n - 1, 0) for n in seen), max(epochs - 1, 0))
    many = np.count_nonzero(seen) >= _STARS_FOR_LOSS and epochs > 1
    kinds = {u.band.mode.kind for u in rows.units}
    candidates = [
        c
        for c in _CANDIDATES
        if (sum(_NEEDS[f] for f in c) <= looks or (c == ("linear",) and many))
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
    first = solve(make(rich))
    n_linear, n_effects = layout.linear.shape[1], len(effects.family)
    found = []
    for forms in candidates:
        problem = make(forms)
        # Levels and effects are those of the richest, nearly.
        parts = [first.values[:n_linear], problem.time.start, first.values[-n_effects:]]
        start = first.values if forms == rich else np.concatenate(parts)
        try:
            solution = solve(problem, widths=first.widths, hold=True, start=start, tolerance=0.2)
        except EvidenceError:
            # A power law has no value before t0 - tsoft.
            continue
        count = len(problem.time.names)
        found.append((forms, count, solution.objective + count * np.log(len(rows.unit))))
    best = min(f[2] for f in found)
    return [FormChoice(detector, f, n, float(b - best), bool(b == best)) for f, n, b in found]
