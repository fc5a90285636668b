"""What the page of a flux calibration checks, with the limits that the fit went by."""

from collections import Counter

import numpy as np

from ..dates import to_isot
from ..fluxcal.checks import LEAST_CHANCE, MUCH_WORSE
from ..fluxcal.dependences import FALSE_SHARE
from ..fluxcal.results import MOST_SHORTFALL
from ..fluxcal.stars import CHANCE, N_SIGMA
from ..refmodels.closure import CLOSURE
from .flux_figures import MOST_PANELS
from .flux_record import FluxRecord
from .page import Verdict

__all__ = ["count_reasons", "judge_flux"]

_YEAR = 365.0
_NO_REFERENCE = "No photom reference"


def judge_flux(record: FluxRecord, present: set[str], missing: list[str]) -> tuple[Verdict, ...]:
    """List what was checked.

    Parameters
    ----------
    record : FluxRecord
    present : set of str
        Roots of the names of the photom references beside the fit.
    missing : list of str
        What cannot be checked is appended to it.

    Returns
    -------
    tuple of Verdict
    """
    fit = record.model.fit
    verdicts = [
        Verdict("Measurements used", _count_used(record), "", None),
        Verdict(
            "Fit converged",
            f"{'yes' if fit.converged else 'no'}, {fit.n_iterations} iterations",
            "yes",
            bool(fit.converged),
        ),
        *_judge_scatter(record, missing),
        *_judge_stars(record),
        *_judge_references(record, present, missing),
        *_tell_forms(record),
        *_tell_share(record),
        *_tell_extrapolation(record),
    ]
    if record.dependences is not None:
        named = [f"{d.group}: {d.quantity}" for d in record.dependences if d.verdict != "none"]
        n_tried = len(record.dependences)
        verdicts.append(
            Verdict(
                "Dependence on flux, rate, well, sky, time, subarray, class",
                f"{'; '.join(named) or 'none'}, of {n_tried} tried",
                f"none; share of false ones {FALSE_SHARE:g}",
                not named if n_tried else None,
            )
        )
    return tuple(verdicts)


def _count_used(record: FluxRecord) -> str:
    fit = record.model.fit
    text = f"{fit.n_used} of {fit.n_measurements}"
    reasons = count_reasons(record)
    return (
        f"{text}; left out: " + "; ".join(f"{n} {why}" for why, n in reasons) if reasons else text
    )


def count_reasons(record: FluxRecord) -> list[tuple[str, int]]:
    """Count the measurements that took no part by their reasons, the most frequent first."""
    if record.visits is None:
        return []
    out = ~np.isfinite(np.asarray(record.visits["residual"], float))
    return Counter(np.asarray(record.visits["reason"]).astype(str)[out].tolist()).most_common()


def _judge_scatter(record: FluxRecord, missing: list[str]) -> list[Verdict]:
    """Say how the scatter of each mode compares with what was stated and what was found."""
    if record.visits is None:
        return []
    left, sigma = (np.asarray(record.visits[name], float) for name in ("residual", "sigma"))
    odd = {star.name for star in record.stars if star.verdict in ("offset", "slope")}
    left[np.isin(np.asarray(record.visits["name"]).astype(str), list(odd))] = np.nan
    verdicts = []
    for label, units in record.modes.items():
        mine = np.isin(record.unit, units) & np.isfinite(left)
        scatter = record.scatter[record.unit[mine]]
        chi2 = np.mean(left[mine] ** 2 / (scatter**2 + sigma[mine] ** 2))
        ratio = np.median(scatter / sigma[mine])
        verdicts.append(
            Verdict(
                f"Scatter, {label}",
                f"chi2 {chi2:.2f} (n = {mine.sum()}, odd stars apart); {ratio:.1f} times the "
                "stated errors",
                f"{MOST_SHORTFALL:g} times; beyond, the jitter found counts instead",
                None,
            )
        )
    if len(verdicts) > MOST_PANELS:
        missing.append(f"Scatter of {len(verdicts) - MOST_PANELS} more modes: in the tables")
    return verdicts[:MOST_PANELS]


def _judge_stars(record: FluxRecord) -> list[Verdict]:
    odd = [star for star in record.stars if star.verdict != "ok"]
    alone = sum(not np.isfinite(star.offset) for star in record.stars)
    words = [f"{star.name} in {star.group}: {star.verdict}, {star.reason}" for star in odd]
    n_stars = len({star.name for star in record.stars})
    value = "; ".join(words) or f"none of {n_stars}"
    if alone:
        value += f"; not judged, with no other to compare with: {alone}"
    return [
        Verdict(
            "Stars that are off, sloped or variable",
            value,
            f"none beyond {N_SIGMA:g} sigma; visits: chance {CHANCE:g}",
            None if alone == len(record.stars) else not odd,
        )
    ]


def _judge_references(record: FluxRecord, present: set[str], missing: list[str]) -> list[Verdict]:
    """Say which references there are, and how closely the photom step follows them."""
    model = record.model
    names, modes = list(model.references), len(record.modes)
    lacking = [note for note in model.notes if note.startswith(_NO_REFERENCE)]
    kinds = {label: record.units[mine[0]].band.mode.kind for label, mine in record.modes.items()}
    unknown = [label for label, kind in kinds.items() if kind == "unknown"]
    if unknown:
        lacking.append(f"the mode is not known of {', '.join(unknown)}")
    value = f"modes: {modes}; files: {', '.join(names) or 'none'}"
    gone = [name for name in names if name not in present]
    if gone:
        missing.append(f"Photom references that are not beside the fit: {', '.join(gone)}")
        lacking.append(f"not beside the fit: {len(gone)}")
    verdicts = [
        Verdict(
            "Modes and their photom references",
            "; ".join([value, *lacking]),
            "one for each instrument and kind of mode",
            bool(names) and not lacking,
        )
    ]
    kept = model.instance.get("closure")
    # The photom step of Roman has no rows to choose from: nothing is measured.
    roman = any(unit.band.mode.instrument == "WFI" for unit in record.units)
    if kept is None and names and not roman:
        missing.append("Closure of the photom references: the product, of an earlier version, "
                       "does not keep it")  # fmt: skip
    for k, name in enumerate(kept["reference"] if kept else ()):
        worst = float(kept["worst"][k])
        verdicts.append(
            Verdict(
                f"Closure of {name}",
                f"photom step within {worst:.1e} of the factors, {int(kept['n_rows'][k])} rows",
                f"{CLOSURE:g}",
                worst <= CLOSURE,
            )
        )
    return verdicts


def _tell_forms(record: FluxRecord) -> list[Verdict]:
    """Say which change with time was taken for each detector, and by how much."""
    given = str(record.model.settings.instance.get("time_form", "none"))
    kept = record.model.forms.instance
    rows = list(zip(kept["detector"], kept["forms"], kept["aic"], kept["chosen"], strict=True))
    if not rows:
        return [Verdict("Form of throughput", f"{given}, as given", "", None)]
    return [
        _tell_form(detector, [row[1:] for row in rows if row[0] == detector], given != "auto")
        for detector in dict.fromkeys(row[0] for row in rows)
    ]


def _tell_form(detector: str, forms: list[tuple[str, float, bool]], is_given: bool) -> Verdict:
    """Say which form was taken for a detector: chosen by AIC, or given and compared by it."""
    forms.sort(key=lambda form: form[1])
    taken = next(form for form in forms if form[2])
    others = [f"{form} {aic:+.1f}" for form, aic, chosen in forms if not chosen]
    check = f"Form of throughput, {detector}"
    if is_given:
        value = f"{taken[0]}, as given: AIC {taken[1]:+.1f} from the least"
        limit = f"at most {MUCH_WORSE:g}"
        return Verdict(check, value, limit, bool(taken[1] <= MUCH_WORSE))
    if others:
        value = f"{taken[0]}; next: {', '.join(others[:3])}"
    else:
        value = f"{taken[0]}; no other can be told apart at these dates"
    return Verdict(check, value, "least information criterion", None)


def _tell_share(record: FluxRecord) -> list[Verdict]:
    """Say whether the modes lose as one where they were said to."""
    if not record.model.hasattr("share_test"):
        return []
    test = record.model.share_test
    value = f"chi2 {test.chi2:.1f} for {test.n_degrees} degrees, chance {test.probability:.2g}"
    limit = f"chance at least {LEAST_CHANCE:g}"
    return [Verdict("One loss for all modes", value, limit, bool(test.probability >= LEAST_CHANCE))]


def _tell_extrapolation(record: FluxRecord) -> list[Verdict]:
    """Say how far the dates reach and how the error grows beyond them."""
    if not np.isfinite(record.last_mjd):
        return [Verdict("Dates", "none: one factor for all time", "", None)]
    first, last = (to_isot(t)[:10] for t in (record.first_mjd, record.last_mjd))
    value = f"measured {first} to {last}"
    if not record.curve.extrapolated.any():
        value += "; no change with time is fitted"
    else:
        relative = record.curve.error / record.curve.factor
        ends = [record.last_mjd, record.last_mjd + _YEAR, float(record.curve.mjd[-1])]
        worst = [max(np.interp(t, record.curve.mjd, row) for row in relative) for t in ends]
        years = (ends[2] - ends[0]) / _YEAR
        value += (
            f"; largest 1-sigma error {100 * worst[0]:.2f} % then, {100 * worst[1]:.2f} % a year "
            f"later, {100 * worst[2]:.2f} % {years:.1f} years later"
        )
    return [Verdict("Dates and extrapolation", value, "", None)]
