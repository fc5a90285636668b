"""The page of a flux calibration and its photom references."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from ..errors import InputError
from ..refmodels.absflux import read_absflux
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
from .flux_verdicts import count_reasons, judge_flux
from .page import Item, Page, Section, try_item
from .products import pick_products, read_product

__all__ = ["make_flux_page"]

# Files that are named one by one.
_MOST_FILES = 20


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
    photom = pick_products(paths, "PHOTOM")
    model = try_item(missing, "Fit", lambda: read_absflux(path))
    if model is None:
        return _make_reference_page(path, photom, missing)
    record = make_record(model, _read_tables(path, paths, int(model.fit.n_measurements), missing))
    if record.visits is None:
        missing.append(
            f"Single measurements, residuals and what was left out: no readable {TABLES['visits']} "
            f"beside {path.name}"
        )
    present = {other.stem for other in photom}
    sections = (
        _show_factors(record, missing),
        _show_stars(record, missing),
        _show_residuals(record, missing),
        _show_errors(record, missing),
        _show_inputs(record, missing),
    )
    return Page(
        _title(path),
        judge_flux(record, present, missing),
        _tell_provenance(record, path.name),
        tuple(section for section in sections if section.items or section.text),
        tuple(missing),
    )


def _title(path: Path) -> str:
    return f"Absolute flux calibration: {path.stem.rpartition('_')[0]}"


def _make_reference_page(path: Path, photom: Sequence[Path], missing: list[str]) -> Page:
    """Make what can be said without the fit: which photom references there are."""
    heads = [read_product(each) for each in photom]
    columns = [each.name for each in photom], [head.useafter for head in heads]
    table = Table(columns, names=("photom", "valid from (USEAFTER)"), dtype=(str, str))
    items = (Item("", "", table),) if photom else ()
    text = f"Photom references: {len(photom)}."
    return Page(_title(path), (), {}, (Section("References", text, items),), tuple(missing))


def _read_tables(
    path: Path, paths: Sequence[Path], n_rows: int, missing: list[str]
) -> dict[str, Table]:
    """Read the tables that are among the files of a run, and of no other run."""
    tables = {}
    for kind in TABLES:
        try:
            table = read_table(path, kind, paths)
        except InputError as error:
            missing.append(str(error))
            continue
        if table is not None and kind == "visits" and len(table) != n_rows:
            missing.append(
                f"{TABLES[kind]}: of another run, with {len(table)} measurements and not {n_rows}"
            )
        elif table is not None:
            tables[kind] = table
    return tables


def _show_factors(record: FluxRecord, missing: list[str]) -> Section:
    """Factors: table, with time, by star and class, by wavelength."""
    n_modes = len(record.modes)
    few = f" Of {n_modes} modes the first {MOST_PANELS}." if n_modes > MOST_PANELS else ""
    caption = "At t0; of spectra that of the middle bin. Errors by source are in the last section."
    items = [
        try_item(missing, "Factors", lambda: Item("Factors", caption, _tabulate_modes(record))),
        *_show_times(record, missing, few),
    ]
    if record.visits is not None:
        caption = (
            "C at t0 that each star gives, change with time taken away, with the fit and its "
            f"1-sigma band (grey) and the median of each class (dashed). Of spectra all bins.{few}"
        )
        draw_all = partial(plot_star_factors, record)
        title = "Factors by star and class"
        items.append(_try_figure(missing, title, caption, draw_all, "star_factors"))
    if len(record.units) > 1:
        caption = "With 1-sigma errors; spectra over their median."
        draw = partial(plot_response, record)
        items.append(_try_axes(missing, "Factors by wavelength", caption, draw, "response", (9, 5)))
    if record.recipe is not None:
        caption = "The photom references hold the recipe; all else here is of the joint fit."
        table = record.recipe
        items.append(Item("The published recipe beside the fit", caption, _shorten_recipe(table)))
    return _make_section("Factors", "", items)


def _show_times(record: FluxRecord, missing: list[str], few: str) -> list[Item | None]:
    """Factors with time, where there are dates."""
    if not np.isfinite(record.last_mjd):
        missing.append("Factors with time: no measurement has a date")
        return []
    items = []
    if record.visits is not None:
        items.append(try_item(missing, "Every measurement", partial(_explore, record)))
    caption = (
        "C by class, scaled to FULL, with the fit and its 1-sigma band; dotted: the year beyond "
        f"the last measurement. Open symbols have little say.{few}"
    )
    draw_all = partial(plot_factors, record)
    items.append(_try_figure(missing, "Factors with time", caption, draw_all, "factors"))
    if record.last_mjd == record.first_mjd:
        missing.append("Throughput: all measurements are of one date")
        return items
    caption = (
        "What is left of the light at t0, moved apart mode by mode, with the 1-sigma band; "
        f"points: visits less the mean of their star.{few}"
    )
    draw = partial(plot_throughput, record)
    items.append(_try_axes(missing, "Throughput", caption, draw, "throughput", (9, 6)))
    return items


def _show_stars(record: FluxRecord, missing: list[str]) -> Section:
    height = max(3.0, 0.16 * len(record.stars) + 1)
    items = [
        try_item(
            missing,
            "Stars",
            lambda: Item(
                "Stars",
                "In groups of modes, against all others; chi2 of visits, per degree of freedom.",
                _tabulate_stars(record),
            ),
        ),
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
        caption = (
            "What the same stars give in two modes, after both factors; 0 where they agree. Odd "
            "stars count too."
        )
        title = "Modes against each other"
        items.append(_try_axes(missing, title, caption, draw, "ratios", (side + 1.5, side)))
    else:
        missing.append("Modes against each other: there is one mode")
    return _make_section("Errors", "", items)


def _show_inputs(record: FluxRecord, missing: list[str]) -> Section:
    items: list[Item | None] = []
    reasons = count_reasons(record)
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


def _shorten_recipe(table: Table) -> Table:
    """Take the factors of the recipe and of the fit, and how far apart they are [ln]."""
    ratios = [name for name in table.colnames if name.startswith("ln_recipe_over_joint")]
    factors = ["recipe", "recipe_err", "joint", "joint_err"]
    short = table[["filter", *factors, *ratios]]
    return _set_formats(short, dict.fromkeys(factors, ".5g") | dict.fromkeys(ratios, "+.4f"))


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
        )
        for star in sorted(record.stars, key=lambda star: (star.verdict == "ok", star.name))
    ]
    names = ("star", "class", "modes", "visits", "offset", "offset_err", "slope", "slope_err")
    units = {"offset": "%", "offset_err": "%", "slope": "% / um", "slope_err": "% / um"}
    table = Table(rows=rows, names=(*names, "chi2", "verdict"), units=units)
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
