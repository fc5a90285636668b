"""A flux calibration as its products keep it: what figures and the page are drawn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import singledispatch
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from astropy.table import Table

from ..errors import InputError
from ..fluxcal import (
    QUANTITIES,
    Band,
    CalibrationCurve,
    ClassOffset,
    Dependence,
    FluxFit,
    Measurements,
    Mode,
    RatioMatrix,
    Repeatability,
    StarResult,
    SubarrayResponse,
    Throughput,
    Unit,
    compare_modes,
    measure_repeatability,
)
from ..refmodels.absflux import AbsFluxModel, AbsFluxNotes, build_absflux_model, read_absflux

__all__ = [
    "TABLES",
    "FluxRecord",
    "make_record",
    "read_flux_record",
    "read_table",
    "tabulate_visits",
    "take_record",
]

_Kind = TypeVar("_Kind")

# Tables beside NAME_absflux.asdf that figures are drawn from, and what they must hold.
TABLES: Mapping[str, str] = {
    kind: f"NAME_{kind}.ecsv" for kind in ("visits", "dependences", "leave_out", "recipe")
}
_COLUMNS: Mapping[str, frozenset[str]] = {
    "visits": frozenset(
        {"name", "srctype", "mode", "wave", "subarray", "visit", "mjd", "factor", "sigma"}
        | {"residual", "weight", "reason", "source", *QUANTITIES}
    ),
    "dependences": frozenset(Dependence.__dataclass_fields__),
    "leave_out": frozenset(("by", "name", "ln_shift", "n_sigma")),
    "recipe": frozenset(("filter", "recipe", "recipe_err", "joint", "joint_err")),
}

_MODE = ("instrument", "detector", "kind", "filter", "pupil", "grating", "slit", "band", "order")
# What a fit that is in memory alone is said to be.
_UNSAVED = AbsFluxNotes("2021-12-25T00:00:00", "GROUND", "in memory", (), (), {})


@dataclass(frozen=True, slots=True)
class FluxRecord:
    """What a flux calibration found.

    Attributes
    ----------
    model : AbsFluxModel
        The product; settings, files, notes and what else is shown as it is.
    units : tuple of Unit
    factor, error, scatter : ndarray
        Factors at ``t0_mjd``, 1-sigma errors, and departure of a star and visit not seen before
        [ln], (n_units,) float64.
    factor_units : tuple of str
    throughputs : tuple of Throughput
    curve : CalibrationCurve
    t0_mjd, first_mjd, last_mjd : float
        Epoch of the factors, first and last measurement [MJD]; the latter NaN without dates.
    stars, subarrays, classes, repeatability : tuple
        Of `StarResult`, `SubarrayResponse`, `ClassOffset` and `Repeatability`.
    ratios : RatioMatrix or None
    budget : mapping
        Source -> its share of the error of ln C of each unit, (n_units,) float64.
    visits : Table or None
        Every measurement, as `tabulate_visits` has it.
    unit : ndarray
        Unit of each row of `visits`, -1 where it is of none, (n_rows,) int64.
    left_out : Table or None
        The fit without each star, class and epoch.
    dependences : tuple of Dependence or None
    recipe : Table or None
        The published recipe beside the fit, where the references are its.
    """

    model: AbsFluxModel
    units: tuple[Unit, ...]
    factor: np.ndarray
    error: np.ndarray
    scatter: np.ndarray
    factor_units: tuple[str, ...]
    throughputs: tuple[Throughput, ...]
    curve: CalibrationCurve
    t0_mjd: float
    first_mjd: float
    last_mjd: float
    stars: tuple[StarResult, ...]
    subarrays: tuple[SubarrayResponse, ...]
    classes: tuple[ClassOffset, ...]
    repeatability: tuple[Repeatability, ...]
    ratios: RatioMatrix | None
    budget: Mapping[str, np.ndarray]
    visits: Table | None
    unit: np.ndarray
    left_out: Table | None
    dependences: tuple[Dependence, ...] | None
    recipe: Table | None

    @property
    def modes(self) -> dict[str, np.ndarray]:
        """Label of each mode (and subarray, where it has its own factor) -> its units, by wave."""
        found: dict[str, list[int]] = {}
        for k, unit in enumerate(self.units):
            own = "" if unit.subarray == "N/A" else unit.subarray
            label = f"{unit.band.mode.label} {own}".rstrip()
            found.setdefault(label, []).append(k)
        waves = np.array([unit.band.wave for unit in self.units])
        listed = {label: np.array(sorted(mine, key=waves.item)) for label, mine in found.items()}
        return dict(sorted(listed.items(), key=lambda item: waves[item[1][0]]))

    @property
    def departures(self) -> np.ndarray:
        """ln(observed/fitted) with stars, visits and classes left in, (n_rows,) float64.

        NaN where a measurement took no part.
        """
        assert self.visits is not None
        offset = {c.star_class: c.offset for c in self.classes}
        of_class = [offset.get(str(name), 0.0) for name in self.visits["srctype"]]
        return np.asarray(self.visits["residual"], float) + of_class

    def predict(self, unit: int, mjd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute the factor of a unit at dates [MJD] and its 1-sigma error, (n_times,) float64.

        The error is that of the curve of the product, NaN outside its dates.
        """
        factor = self.factor[unit] / self.throughputs[unit].evaluate(mjd)
        relative = self.curve.error[unit] / self.curve.factor[unit]
        if len(relative) == 1:
            return factor, factor * relative[0]
        known = np.interp(mjd, self.curve.mjd, relative, left=np.nan, right=np.nan)
        return factor, factor * known


@singledispatch
def take_record(given: Any) -> FluxRecord:
    """Bring a fit, or the product of one, to what figures are drawn from.

    Parameters
    ----------
    given : FluxRecord, FluxFit or AbsFluxModel
        A model brings no measurements: they are in the tables beside it (`read_flux_record`).

    Returns
    -------
    FluxRecord

    Raises
    ------
    InputError
        It is something else.
    """
    raise InputError(
        f"expected a FluxFit, a FluxRecord or an AbsFluxModel, found {type(given).__name__}; give "
        "what fit_factors, read_flux_record or read_absflux returned"
    )


@take_record.register
def _(given: FluxRecord) -> FluxRecord:
    return given


@take_record.register
def _(given: FluxFit) -> FluxRecord:
    model = build_absflux_model(
        given,
        _UNSAVED,
        ratios=compare_modes(given),
        repeatability=measure_repeatability(given),
    )
    return make_record(model, {"visits": tabulate_visits(given)})


@take_record.register
def _(given: AbsFluxModel) -> FluxRecord:
    return make_record(given, {})


def read_flux_record(path: str | Path) -> FluxRecord:
    """Read the product of a run, and the tables beside it.

    Parameters
    ----------
    path : str or Path
        ``NAME_absflux.asdf``; `TABLES` are looked for beside it.

    Returns
    -------
    FluxRecord

    Raises
    ------
    InputError
        It is no product of a flux calibration, or a table beside it cannot be read.
    """
    tables = {kind: read_table(Path(path), kind) for kind in TABLES}
    present = {kind: table for kind, table in tables.items() if table is not None}
    return make_record(read_absflux(path), present)


def read_table(path: Path, kind: str, among: Sequence[Path] | None = None) -> Table | None:
    """Read one of `TABLES` beside a fit; None where there is none, or it is not among files.

    Raises
    ------
    InputError
        It cannot be read, or lacks a column.
    """
    beside = path.with_name(TABLES[kind].replace("NAME", path.stem.rpartition("_")[0]))
    if not beside.is_file() or (among is not None and beside not in among):
        return None
    try:
        table = Table.read(beside, format="ascii.ecsv")
        problem = f"no column {', '.join(_COLUMNS[kind] - set(table.colnames))}"
        if _COLUMNS[kind] <= set(table.colnames):
            return _fill(table)
    except Exception as error:  # whatever astropy and yaml raise on what is no table
        problem = f"{type(error).__name__}: {error}"
    raise InputError(
        f"expected the table that abs_flux_ratio writes in {beside}, found {problem}; remove it, "
        "or make it again"
    )


def _fill(table: Table) -> Table:
    """Make text of what ECSV takes for missing: empty strings, and NaN where a number is."""
    for name in table.colnames:
        column = table[name]
        if getattr(column, "mask", None) is not None and column.dtype.kind in "OUSf":
            table[name] = column.filled(np.nan if column.dtype.kind == "f" else "")
    return table


def make_record(model: AbsFluxModel, tables: Mapping[str, Table]) -> FluxRecord:
    """Put together what a model and its tables hold.

    Parameters
    ----------
    model : AbsFluxModel
    tables : mapping of str to Table
        Those of `TABLES`; what is absent is None in the record.

    Returns
    -------
    FluxRecord
    """
    rows = model.units.instance
    units = tuple(
        Unit(Band(Mode(**{name: row[name] for name in _MODE}), row["wave"]), row["subarray"])
        for row in _list(rows, (*_MODE, "wave", "subarray"))
    )
    # The factor of FULL is that of all subarrays but those that have their own.
    units = tuple(Unit(u.band, "" if u.subarray == "FULL" else u.subarray) for u in units)
    curve, fit = model.curve.instance, model.fit.instance
    visits, dependences = tables.get("visits"), tables.get("dependences")
    return FluxRecord(
        model=model,
        units=units,
        factor=np.asarray(rows["factor"], float),
        error=np.asarray(rows["factor_err"], float),
        scatter=np.asarray(rows["scatter"], float),
        factor_units=tuple(rows["unit"]),
        throughputs=_list_as(Throughput, model.throughput.instance),
        curve=CalibrationCurve(
            *(np.asarray(curve[name]) for name in ("mjd", "factor", "factor_err", "extrapolated"))
        ),
        t0_mjd=float(fit["t0_mjd"]),
        first_mjd=float(fit["first_mjd"]),
        last_mjd=float(fit["last_mjd"]),
        stars=_list_as(StarResult, model.stars.instance),
        subarrays=_list_as(SubarrayResponse, model.subarrays.instance),
        classes=_list_as(ClassOffset, model.classes.instance),
        repeatability=_list_as(Repeatability, model.repeatability.instance),
        ratios=_unpack_ratios(model.instance.get("ratios")),
        budget={source: np.asarray(share) for source, share in model.budget.instance.items()},
        visits=visits,
        unit=_find_units(units, visits) if visits is not None else np.zeros(0, int),
        left_out=tables.get("leave_out"),
        dependences=None if dependences is None else _list_as(Dependence, dependences),
        recipe=tables.get("recipe"),
    )


def _unpack_ratios(kept: Mapping[str, Any] | None) -> RatioMatrix | None:
    if kept is None:
        return None
    names = list(RatioMatrix.__dataclass_fields__)
    return RatioMatrix(tuple(kept["label"]), *(np.asarray(kept[name]) for name in names[1:]))


def _list_as(kind: type[_Kind], columns: Any) -> tuple[_Kind, ...]:
    """Turn columns into results of a kind; columns that it does not know are left alone."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return tuple(kind(**row) for row in _list(columns, names))


def _list(columns: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """Turn columns into rows of plain values."""
    plain = [np.asarray(columns[name]).tolist() for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*plain, strict=True)]


def _find_units(units: tuple[Unit, ...], visits: Table) -> np.ndarray:
    """Find what each measurement is of, (n_rows,) int64; -1 for nothing that was fitted."""
    place = {(u.band.mode.label, u.band.wave, u.subarray): k for k, u in enumerate(units)}
    names = [np.asarray(visits[name]).tolist() for name in ("mode", "wave", "subarray")]
    rows = zip(*names, strict=True)
    found = [place.get((m, w, s), place.get((m, w, ""), -1)) for m, w, s in rows]
    return np.array(found, int)


def tabulate_visits(fit: FluxFit) -> Table:
    """Tabulate every measurement, used or not.

    Parameters
    ----------
    fit : FluxFit

    Returns
    -------
    Table
        One row per measurement: what it is of, circumstances, residual, weight, reason.
    """
    m: Measurements = fit.measurements
    modes = [band.mode for band in m.bands]
    wave = np.array([band.wave for band in m.bands], float)
    given = m.star if m.given is None else m.given
    columns: dict[str, Any] = {
        "name": m.star,
        "given": given,
        "srctype": m.star_class,
        "mode": _take([mode.label for mode in modes], m.band),
        "filter": _take([mode.filter for mode in modes], m.band),
        "wave": wave[m.band],
        "subarray": m.subarray,
        "visit": m.visit,
        "mjd": m.mjd,
        "factor": m.factor,
        "sigma": m.sigma,
        "flux_jy": m.flux_jy,
        "peak": m.peak,
        "well_depth": m.well_depth,
        "background": m.background,
        "exposure_s": m.exposure_s,
        "residual": fit.residual,
        "weight": fit.weight,
        "used": m.used,
        "reason": m.reason,
        "source": m.source,
    }
    units = {"wave": "um", "mjd": "d", "flux_jy": "Jy", "exposure_s": "s"}
    return Table(columns, units=units)


def _take(labels: list[str], index: np.ndarray) -> np.ndarray:
    """Label each row: str (n,)."""
    return np.array(labels, dtype=str)[index]
