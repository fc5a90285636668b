"""Tables of a flux calibration: stars, modes, visits, repeatability, dependences, ratios."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import combinations
from typing import Any

import numpy as np
from astropy.table import Table

from ..fluxcal import (
    Dependence,
    FluxFit,
    LeftOut,
    RatioMatrix,
    RecipeFit,
    Repeatability,
    StarResult,
)
from ..report import tabulate_visits
from ._flux_columns import describe_columns

__all__ = ["compare_recipe", "tabulate_all", "tabulate_left_out"]

_PER_UM = {"slope_per_um": "1 / um", "slope_err": "1 / um", "slope_scatter": "1 / um"}
_UNITS = {"flux": "MJy s / DN", "brightness": "MJy s / (DN sr)"}


def tabulate_all(
    fit: FluxFit,
    repeatability: Sequence[Repeatability],
    dependences: Sequence[Dependence],
    ratios: RatioMatrix,
) -> dict[str, Table]:
    """Tabulate what a fit and what was derived of it say.

    Parameters
    ----------
    fit : FluxFit
    repeatability : sequence of Repeatability
    dependences : sequence of Dependence
    ratios : RatioMatrix

    Returns
    -------
    dict of str to Table
        Ending of the file's name -> table.
    """
    tables = {
        "stars": _tabulate_stars(fit.stars),
        "modes": _tabulate_modes(fit, repeatability),
        "visits": tabulate_visits(fit),
        "repeatability": _tabulate(Repeatability, repeatability),
        "dependences": _tabulate(Dependence, dependences),
        "ratios": _tabulate_ratios(ratios),
    }
    return {kind: describe_columns(kind, table) for kind, table in tables.items()}


def tabulate_left_out(fit: FluxFit, left_out: Mapping[str, Sequence[LeftOut]]) -> Table:
    """Tabulate, mode by mode, how the fit without each part differs and how well it predicts it.

    Parameters
    ----------
    fit : FluxFit
    left_out : mapping
        'star', 'class' or 'epoch' -> what `leave_out` gave.

    Returns
    -------
    Table
        ``ln_shift``: ln C without the part minus ln C with all, mean over the filters or bins of
        the mode; ``n_sigma``: the largest of them in sigma of the fit. Of the measurements that
        were left out: how many can be predicted, their mean ln(observed/predicted), and the error
        predicted for one of a star and visit not seen before.
    """
    labels = np.array([unit.band.mode.label for unit in fit.units])
    row_labels = np.array([band.mode.label for band in fit.measurements.bands])
    relative = fit.error / fit.factor
    names = ("by", "name", "mode", "ln_shift", "ln_err", "n_sigma", "n_rows", "ln_residual")
    rows = []
    for by, parts in left_out.items():
        for part in parts:
            of_row = row_labels[fit.measurements.band[part.rows]]
            for mode in dict.fromkeys(labels.tolist()):
                mine = (labels == mode) & np.isfinite(part.shift)
                seen = of_row == mode
                if not mine.any():
                    continue
                left = part.residual[seen].mean() if seen.any() else np.nan
                error = np.median(part.predicted_err[seen]) if seen.any() else np.nan
                n_sigma = np.abs(part.shift[mine] / relative[mine]).max()
                shift, ln_err = part.shift[mine].mean(), np.median(part.error[mine])
                rows.append((by, part.name, mode, shift, ln_err, n_sigma, seen.sum(), left, error))
    kinds = [str, str, str, float, float, float, int, float, float]
    columns = zip(*rows, strict=True) if rows else [[] for _ in kinds]
    return Table(
        {
            name: np.array(column, kind)
            for name, column, kind in zip((*names, "predicted_err"), columns, kinds, strict=True)
        }
    )


def compare_recipe(fit: FluxFit, recipe: RecipeFit) -> Table:
    """Tabulate the published recipe beside the joint fit, filter by filter.

    Factors are those of FULL at the recipe's t0; ``sum_over_product`` is ln of the sum that the
    recipe fits over the product that photom evaluates, at the last date and five years later.
    """
    mjd = np.array([recipe.t0_mjd, recipe.last_mjd, recipe.last_mjd + 5 * 365.0])
    curve = fit.predict(mjd)
    place = {unit.band: k for k, unit in enumerate(fit.units)}
    rows = []
    for k, band in enumerate(recipe.bands):
        joint = place[band]
        recipe_now = recipe.factor[k] / recipe.throughputs[k].evaluate(mjd)
        off = np.log(recipe_now / curve.factor[joint])
        error = curve.error[joint] / curve.factor[joint]
        rows.append(
            (
                band.mode.filter,
                recipe.factor[k],
                recipe.uncertainty[k],
                curve.factor[joint][0],
                curve.error[joint][0],
                *off,
                *error,
                *recipe.sum_minus_product[k],
            )
        )
    names = ["filter", "recipe", "recipe_err", "joint", "joint_err"]
    for what in ("ln_recipe_over_joint", "joint_ln_err"):
        names += [f"{what}_{when}" for when in ("t0", "last", "in_5_yr")]
    names += [f"sum_over_product_{when}" for when in ("last", "in_5_yr")]
    table = Table(rows=rows, names=names)
    for name in ("recipe", "recipe_err", "joint", "joint_err"):
        table[name].unit = _UNITS["brightness"]
    return describe_columns("recipe", table)


def _tabulate(kind: type, results: Sequence[Any], columns: Sequence[str] = ()) -> Table:
    """Tabulate results of one kind, a column for each of their fields."""
    names = columns or [field.name for field in fields(kind)]
    return Table(
        {
            name: np.array([getattr(result, name) for result in results], dtype=None)
            if results
            else np.array([], str)
            for name in names
        }
    )


def _tabulate_stars(stars: Sequence[StarResult]) -> Table:
    """Tabulate how each star fared in each group of modes."""
    table = _tabulate(StarResult, stars)
    table.rename_columns(["star_class", "group"], ["srctype", "mode"])
    first = ["name", "srctype", "mode", "n_visits", "offset", "offset_err", "slope_per_um"]
    first += ["slope_err", "chi2", "verdict", "reason"]
    table = table[[*first, *(name for name in table.colnames if name not in first)]]
    for name, unit in _PER_UM.items():
        table[name].unit = unit
    return table


def _tabulate_modes(fit: FluxFit, repeatability: Sequence[Repeatability]) -> Table:
    """Tabulate the factors at t0: a row for each filter or bin of a spectrum, and subarray."""
    scatter = {r.mode: r for r in repeatability if r.subset == "all"}
    rows, star = fit.rows, fit.rows.take("star")
    visit, subarray = fit.rows.take("visit"), fit.rows.take("subarray")
    waves = {unit.band.mode: unit.band.wave for unit in fit.units if _is_image(unit.band.mode.kind)}
    place = {(unit.band.mode, unit.subarray or ""): k for k, unit in enumerate(fit.units)}
    listed: list[tuple[Any, str, int, float, float, float]] = []
    for factor in fit.list_factors():
        mode = factor.mode
        if not _is_image(mode.kind):
            continue
        own = place.get((mode, factor.subarray), place.get((mode, ""), -1))
        row = (mode, factor.subarray, own, waves[mode], factor.value, factor.uncertainty)
        listed.append(row)
    for k, unit in enumerate(fit.units):
        if not _is_image(unit.band.mode.kind):
            row = (unit.band.mode, unit.reference, k, unit.band.wave, fit.factor[k], fit.error[k])
            listed.append(row)
    table: dict[str, list[Any]] = {
        name: [] for name in ("mode", "filter", "subarray", "wave", "factor", "factor_err", "unit")
    }
    table |= {name: [] for name in ("n_stars", "n_visits", "rms", "rms_formal", "rms_excess")}
    for mode, name, unit_index, wave, value, error in listed:
        image = _is_image(mode.kind)
        mine = rows.unit == unit_index
        mine &= (subarray == name) if image else True
        found = scatter[mode.label]
        values = [mode.label, mode.filter, name, wave, value, error]
        values += [_UNITS["brightness" if image else "flux"]]
        values += [len(set(star[mine])), len(set(visit[mine]))]
        values += [found.rms, found.rms_formal, found.rms_excess]
        for column, item in zip(table, values, strict=True):
            table[column].append(item)
    return Table(table, units={"wave": "um"})


def _is_image(kind: str) -> bool:
    return kind in ("imaging", "coronagraphy")


def _tabulate_ratios(ratios: RatioMatrix) -> Table:
    """Tabulate each pair of modes once."""
    pairs = list(combinations(range(len(ratios.labels)), 2))
    first, second = (
        (np.array(part, int) for part in zip(*pairs, strict=True))
        if pairs
        else (
            np.zeros(0, int),
            np.zeros(0, int),
        )
    )
    labels = np.array(ratios.labels, dtype=str)
    columns: dict[str, Any] = {"mode": labels[first], "other": labels[second]}
    for name in ("ln_ratio", "error", "star_ratio", "star_error", "n_stars"):
        columns[name] = getattr(ratios, name)[first, second]
    return Table(columns)
