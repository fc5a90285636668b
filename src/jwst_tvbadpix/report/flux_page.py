"""The page of a flux calibration and its photom references."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from astropy.time import Time

from ..errors import InputError
from ..fluxcal.dependences import FALSE_SHARE
from ..fluxcal.results import MOST_SHORTFALL
from ..fluxcal.stars import CHANCE, N_SIGMA
from ..refmodels.absflux import read_absflux
from ..refmodels.closure import CLOSURE
from .flux_errors import (
    plot_budget,
    plot_dependences,
    plot_left_out,
    plot_ratios,
    plot_repeatability,
    sum_budget,
)
from .flux_explorer import make_explorer
from .flux_figures import (
    MOST_PANELS,
    RESIDUALS,
    plot_factors,
    plot_residuals,
    plot_response,
    plot_slopes,
    plot_star_factors,
    plot_stars,
    plot_throughput,
)
from .flux_record import TABLES, FluxRecord, make_record, read_table
from .page import Item, Page, Section, Verdict, try_item
from .products import pick_products

__all__ = ["make_flux_page"]

# Files that are named one by one.
_MOST_FILES = 20
_YEAR = 365.0
_NO_REFERENCE = "No photom reference"


def make_flux_page(paths: Sequence[Path]) -> Page:
    """Make the page of a run's fit, photom references and tables.

    Parameters
    ----------
    paths : sequence of Path
        All files of one run.

    Returns
    -------
    Page

    Raises
    ------
    InputError
        There is no fit among them, or more than one.
    """
    found = pick_products(paths, "ABSFLUX")
    if len(found) != 1:
        raise InputError(
            f"expected one fit (*_absflux.asdf), found {len(found)}: the page of photom references "
            "is made from the fit beside them; give that"
        )
    (path,) = found
    missing: list[str] = []
    tables = {}
    for kind in TABLES:
        try:
            table = read_table(path, kind)
        except InputError as error:
            missing.append(str(error))
            continue
        if table is not None:
            tables[kind] = table
    record = make_record(read_absflux(path), tables)
    if "visits" not in tables:
        missing.append(
            f"Single measurements, residuals and what was left out: no readable {TABLES['visits']} "
            f"beside {path.name}"
        )
    present = {other.stem for other in pick_products(paths, "PHOTOM")}
    sections = (
        _show_factors(record, missing),
        _show_stars(record, missing),
        _show_residuals(record, missing),
        _show_errors(record, missing),
        _show_inputs(record, missing),
    )
    return Page(
        f"Absolute flux calibration: {path.stem.rpartition('_')[0]}",
        _judge(record, present, missing),
        _tell_provenance(record, path.name),
        tuple(section for section in sections if section.items or section.text),
        tuple(missing),
    )


def _judge(record: FluxRecord, present: set[str], missing: list[str]) -> tuple[Verdict, ...]:
    """List what was checked, with the limits that the fit went by."""
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
        *_tell_extrapolation(record),
    ]
    if record.dependences is not None:
        named = [f"{d.group}: {d.quantity}" for d in record.dependences if d.verdict != "none"]
        said = "; ".join(named) or "none"
        verdicts.append(
            Verdict(
                "Dependence on flux, rate, well, sky, time, subarray, class",
                f"{said}, of {len(record.dependences)} tried",
                f"none; share of false ones {FALSE_SHARE:g}",
                not named,
            )
        )
    return tuple(verdicts)


def _count_used(record: FluxRecord) -> str:
    fit = record.model.fit
    text = f"{fit.n_used} of {fit.n_measurements}"
    reasons = _count_reasons(record)
    return (
        f"{text}; left out: " + "; ".join(f"{n} {why}" for why, n in reasons) if reasons else text
    )


def _count_reasons(record: FluxRecord) -> list[tuple[str, int]]:
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
    unknown = [label for label in record.modes if "unknown" in label.split()[:2]]
    if unknown:
        lacking.append(f"the mode is not known of {', '.join(unknown)}")
    value = f"modes: {modes}; files: {', '.join(names) or 'none'}"
    verdicts = [
        Verdict(
            "Modes and their photom references",
            "; ".join([value, *lacking]),
            "one for each instrument and kind of mode",
            bool(names) and not lacking,
        )
    ]
    gone = [name for name in names if name not in present]
    if gone:
        missing.append(f"Photom references that are not beside the fit: {', '.join(gone)}")
    kept = model.instance.get("closure")
    if kept is None and names:
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
    kept = record.model.forms.instance
    rows = list(zip(kept["detector"], kept["forms"], kept["aic"], kept["chosen"], strict=True))
    verdicts = []
    for detector in dict.fromkeys(row[0] for row in rows):
        mine = sorted((row for row in rows if row[0] == detector), key=lambda row: row[2])
        taken = next(row for row in mine if row[3])
        others = [f"{form} {aic:+.1f}" for _, form, aic, chosen in mine if not chosen]
        value = f"{taken[1]}; next: {', '.join(others[:3])}" if others else taken[1]
        if not others:
            value += "; no other can be told apart at these dates"
        verdicts.append(
            Verdict(f"Form of throughput, {detector}", value, "least information criterion", None)
        )
    if not rows:
        given = str(record.model.settings.instance.get("time_form", "none"))
        verdicts.append(Verdict("Form of throughput", f"{given}, as given", "", None))
    return verdicts


def _tell_extrapolation(record: FluxRecord) -> list[Verdict]:
    """Say how far the dates reach and how the error grows beyond them."""
    if not np.isfinite(record.last_mjd):
        return [Verdict("Dates", "none: one factor for all time", "", None)]
    first, last = (
        str(Time(t, format="mjd").isot)[:10] for t in (record.first_mjd, record.last_mjd)
    )
    value = f"measured {first} to {last}"
    if len(record.curve.mjd) > 1:
        relative = record.curve.error / record.curve.factor
        ends = [record.last_mjd, record.last_mjd + _YEAR, float(record.curve.mjd[-1])]
        worst = [max(np.interp(t, record.curve.mjd, row) for row in relative) for t in ends]
        years = (ends[2] - ends[0]) / _YEAR
        value += (
            f"; largest 1-sigma error {100 * worst[0]:.2f} % then, {100 * worst[1]:.2f} % a year "
            f"later, {100 * worst[2]:.2f} % {years:.1f} years later"
        )
    return [Verdict("Dates and extrapolation", value, "", None)]


def _show_factors(record: FluxRecord, missing: list[str]) -> Section:
    """Factors: table, with time, by star and class, by wavelength."""
    n_modes = len(record.modes)
    few = f" Of {n_modes} modes the first {MOST_PANELS}." if n_modes > MOST_PANELS else ""
    items = [
        try_item(
            missing,
            "Factors",
            lambda: Item(
                "Factors",
                "At t0; of spectra that of the middle bin. Errors by source are in the last "
                "section.",
                _tabulate_modes(record),
            ),
        )
    ]
    dated = np.isfinite(record.last_mjd)
    if not dated:
        missing.append("Factors with time: no measurement has a date")
    else:
        items += [
            try_item(missing, "Every measurement", partial(_explore, record)),
            _try_figure(
                missing,
                "Factors with time",
                "C by class, scaled to FULL, with the fit and its 1-sigma band; dotted: the year "
                f"beyond the last measurement. Open symbols have little say.{few}",
                lambda: plot_factors(record),
                "factors",
            ),
            _try_axes(
                missing,
                "Throughput",
                "What is left of the light at t0, moved apart mode by mode, with the 1-sigma band; "
                f"points: visits less the mean of their star.{few}",
                partial(plot_throughput, record),
                "throughput",
                (9, 6),
            ),
        ]
    if record.visits is not None:
        items.append(
            _try_figure(
                missing,
                "Factors by star and class",
                "C at t0 that each star gives, change with time taken away, with the fit and its "
                f"1-sigma band (grey) and the median of each class (dashed).{few}",
                lambda: plot_star_factors(record),
                "star_factors",
            )
        )
    if len(record.units) > 1:
        items.append(
            _try_axes(
                missing,
                "Factors by wavelength",
                "With 1-sigma errors; spectra over their median.",
                partial(plot_response, record),
                "response",
                (9, 5),
            )
        )
    return _make_section("Factors", "", items)


def _show_stars(record: FluxRecord, missing: list[str]) -> Section:
    height = max(3.0, 0.16 * len(record.stars) + 1)
    items = [
        try_item(missing, "Stars", lambda: Item("Stars", "", _tabulate_stars(record))),
        _try_axes(
            missing,
            "Offsets",
            "Each star against all others; beyond the grey it is odd and has no say in the fit.",
            partial(plot_stars, record),
            "stars",
            (9, height),
        ),
    ]
    if any(np.isfinite(star.slope_per_um) for star in record.stars):
        items.append(
            _try_axes(
                missing,
                "Slopes",
                "Change with wavelength of each star against its model; odd beyond the grey.",
                partial(plot_slopes, record),
                "slopes",
                (9, height),
            )
        )
    else:
        missing.append("Slopes of stars: none was seen at several wavelengths beside others")
    if record.left_out is not None and len(record.left_out):
        n_parts = len(set(zip(record.left_out["by"], record.left_out["name"], strict=True)))
        items.append(
            _try_axes(
                missing,
                "Without each star, class and epoch",
                "How far the factors move; one point for each mode.",
                partial(plot_left_out, record),
                "left_out",
                (9, max(3.0, 0.13 * n_parts + 1)),
            )
        )
    elif record.visits is not None:
        missing.append("Fits without each star, class and epoch: not made (see the log), or "
                       "NAME_leave_out.ecsv is gone")  # fmt: skip
    return _make_section("Stars", "", items)


def _show_residuals(record: FluxRecord, missing: list[str]) -> Section:
    items = []
    for name, title in RESIDUALS.items():
        if record.visits is None:
            break
        values = np.asarray(record.visits[name], float)
        known = values[np.isfinite(values)]
        if len(known) and np.ptp(known) > 0:
            caption = "Stars and visits left in; lines: median and 16 to 84 per cent."
            draw = partial(plot_residuals, record, name)
            heading = "Against time" if name == "mjd" else f"Against {title.partition(' [')[0]}"
            items.append(_try_axes(missing, heading, caption, draw, f"residuals_{name}", (9, 4)))
        else:
            missing.append(f"Residuals against {title}: one value, or none is known")
    if record.dependences is None:
        missing.append(f"Dependences: no readable {TABLES['dependences']} beside the fit")
    else:
        caption = "Lines have the slope that the fit finds beside stars and visits."
        draw_all = partial(plot_dependences, record)
        if record.visits is not None:
            items.append(_try_figure(missing, "Dependences", caption, draw_all, "dependences"))
        table = Table([_as_row(d) for d in record.dependences] or None)
        if len(table):
            _set_formats(table, {"slope": ".5f", "error": ".5f", "probability": ".3g"})
            items.append(Item("All that was tried", "", table))
    return _make_section("Residuals", "", items)


def _show_errors(record: FluxRecord, missing: list[str]) -> Section:
    n = len(record.modes)
    height = max(3.0, 0.35 * n + 1.5)
    pieces = 0 if record.ratios is None else len(record.ratios.labels)
    items = [
        _try_axes(
            missing,
            "Error budget",
            "Sources add up to the error of C at t0; diamonds: the error of C a year beyond the "
            "last measurement.",
            partial(plot_budget, record),
            "budget",
            (9, height),
        ),
        try_item(
            missing,
            "Budget",
            lambda: Item(
                "Shares [%]",
                "1-sigma errors of C at t0 by source; their squares add up. Last: C a year later.",
                _tabulate_budget(record),
            ),
        ),
        _try_axes(
            missing,
            "Repeatability",
            "Of stars seen more than once.",
            partial(plot_repeatability, record),
            "repeatability",
            (9, height),
        ),
    ]
    if pieces > 1:
        side = float(np.clip(0.55 * pieces + 2, 5, 10))
        draw = partial(plot_ratios, record)
        caption = "What the same stars give in two modes, after both factors; 0 where they agree."
        title = "Modes against each other"
        items.append(_try_axes(missing, title, caption, draw, "ratios", (side + 1.5, side)))
    else:
        missing.append("Modes against each other: there is one mode")
    return _make_section("Errors", "", items)


def _show_inputs(record: FluxRecord, missing: list[str]) -> Section:
    items: list[Item | None] = []
    reasons = _count_reasons(record)
    if reasons and record.visits is not None:
        visits, why = record.visits, np.asarray(record.visits["reason"]).astype(str)
        out = ~np.isfinite(np.asarray(visits["residual"], float))
        names = np.asarray(visits["name"]).astype(str)
        rows = [
            (reason, n, _join(sorted(set(names[out & (why == reason)])))) for reason, n in reasons
        ]
        table = Table(rows=rows, names=("reason", "measurements", "stars"))
        items.append(Item("Left out", "", table))
    files = record.model.files.instance
    table = Table({name: list(files[name]) for name in ("role", "name", "sha256")})
    items.append(Item("Files", "", table[:_MOST_FILES]))
    if len(table) > _MOST_FILES:
        missing.append(f"{len(table) - _MOST_FILES} of {len(table)} files: named in the fit itself")
    return _make_section("Inputs", "\n".join(record.model.notes), items)


def _explore(record: FluxRecord) -> Item:
    found = make_explorer(record)
    caption = (
        "Point at a measurement to see its star, visit and file; click a name in the legend to "
        "hide or show it; choose a mode. The shaded dates lie beyond the last measurement. Of "
        "spectra the middle bin."
    )
    if found.n_shown < found.n_rows:
        caption += (
            f" {found.n_shown} of {found.n_rows} measurements are shown: those with the least "
            "weight, and every so many of the others."
        )
    return Item("Every measurement", caption, found.layout)


def _try_axes(
    missing: list[str],
    title: str,
    caption: str,
    draw: Callable[[Any], Any],
    name: str,
    size: tuple[float, float],
) -> Item | None:
    """Draw on axes of a figure of its own."""

    def make() -> Any:
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        return figure

    return _try_figure(missing, title, caption, make, name)


def _try_figure(
    missing: list[str], title: str, caption: str, make: Callable[[], Any], name: str
) -> Item | None:
    return try_item(missing, title, lambda: Item(title, caption, make(), name))


def _make_section(title: str, text: str, items: Sequence[Item | None]) -> Section:
    return Section(title, text, tuple(item for item in items if item is not None))


def _tabulate_modes(record: FluxRecord) -> Table:
    rows = []
    for label, units in record.modes.items():
        k = units[len(units) // 2]
        mine = np.isin(record.unit, units)
        if record.visits is not None:
            mine &= np.isfinite(np.asarray(record.visits["residual"], float))
        rows.append(
            (
                label,
                len(units),
                record.units[k].band.wave,
                record.factor[k],
                100 * record.error[k] / record.factor[k],
                record.factor_units[k],
                100 * record.scatter[k],
                int(mine.sum()),
            )
        )
    names = ("mode", "factors", "wave", "C", "error", "unit", "scatter", "measurements")
    table = Table(rows=rows, names=names, units={"wave": "um", "error": "%", "scatter": "%"})
    if record.visits is None:
        table.remove_column("measurements")
    return _set_formats(table, {"wave": ".3f", "C": ".6g", "error": ".3f", "scatter": ".2f"})


def _tabulate_stars(record: FluxRecord) -> Table:
    rows = [
        (
            star.name,
            star.star_class,
            star.group,
            star.n_visits,
            100 * star.offset,
            100 * star.offset_err,
            100 * star.slope_per_um,
            100 * star.slope_err,
            star.chi2,
            star.verdict,
            star.reason,
        )
        for star in sorted(record.stars, key=lambda star: (star.verdict == "ok", star.name))
    ]
    names = ("star", "class", "modes", "visits", "offset", "offset_err", "slope", "slope_err")
    units = {"offset": "%", "offset_err": "%", "slope": "% / um", "slope_err": "% / um"}
    table = Table(rows=rows, names=(*names, "chi2", "verdict", "reason"), units=units)
    return _set_formats(
        table,
        {"offset": ".2f", "offset_err": ".2f", "slope": ".3f", "slope_err": ".3f", "chi2": ".2f"},
    )


def _tabulate_budget(record: FluxRecord) -> Table:
    parts = sum_budget(record)
    table = Table({"mode": list(record.modes), **{k: 100 * part for k, part in parts.items()}})
    return _set_formats(table, dict.fromkeys(parts, ".3f"))


def _set_formats(table: Table, formats: dict[str, str]) -> Table:
    for name, form in formats.items():
        table[name].info.format = form
    return table


def _as_row(found: Any) -> dict[str, Any]:
    names = ("group", "quantity", "slope", "error", "n_rows", "probability", "verdict")
    return {name: getattr(found, name) for name in names}


def _tell_provenance(record: FluxRecord, name: str) -> dict[str, str]:
    """Say what the product says of itself."""
    model = record.model
    files = list(zip(model.files.instance["role"], model.files.instance["name"], strict=True))
    settings, versions = model.settings.instance, model.versions.instance
    told = {
        "fit": name,
        "made": str(model.meta.date),
        "description": str(model.meta.description),
        "USEAFTER": str(model.meta.useafter),
        "PEDIGREE": str(model.meta.pedigree),
        "epoch of the factors": f"MJD {record.t0_mjd:g}" if record.t0_mjd else "none: no dates",
        "files": _join([f"{role}: {file}" for role, file in files]),
        "settings": ", ".join(f"{key}={value}" for key, value in settings.items() if value != ""),
        "versions": ", ".join(f"{key} {value}" for key, value in versions.items()),
    }
    if record.subarrays:
        told["responses of subarrays"] = _join(
            [f"{s.group} {s.subarray} {s.response:.4f} +- {s.error:.4f}" for s in record.subarrays]
        )
    return told


def _join(names: Sequence[str]) -> str:
    """Join names, the first twenty of many."""
    more = f" and {len(names) - _MOST_FILES} more" if len(names) > _MOST_FILES else ""
    return ", ".join(names[:_MOST_FILES]) + more
