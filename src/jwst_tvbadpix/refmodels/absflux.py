"""The fit behind photom references as a product: factors, covariance, C(t), stars, ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from asdf.tags.core import AsdfObject
from stdatamodels.jwst.datamodels.reference import ReferenceFileModel

from .._integration import SCHEMA_URI_PREFIX
from ..errors import ProductError
from .closure import Closure
from .history import as_scalar
from .mask import AUTHOR, SOFTWARE, check_useafter, require_pedigree
from .reading import read_model

if TYPE_CHECKING:
    from ..fluxcal import FluxFit, RatioMatrix, Repeatability

__all__ = ["AbsFluxModel", "AbsFluxNotes", "build_absflux_model", "read_absflux"]

_SCHEMA_VERSION = "1.0.0"
_PACKAGES = (
    "jwst-tvbadpix",
    "jwst",
    "stdatamodels",
    "numpy",
    "scipy",
    "astropy",
    "photutils",
    "synphot",
)
_MODE = ("instrument", "detector", "kind", "filter", "pupil", "grating", "slit", "band")
_THROUGHPUT = (
    "t0_mjd",
    "loss_per_year",
    "amplitude",
    "tau_days",
    "alpha",
    "tsoft_days",
    "year1value",
)
_STAR = (
    "name",
    "star_class",
    "group",
    "n_visits",
    "n_rows",
    "offset",
    "offset_err",
    "slope_per_um",
    "slope_err",
    "offset_scatter",
    "slope_scatter",
    "chi2",
    "weight",
    "verdict",
    "reason",
)
_SUBARRAY = ("group", "subarray", "response", "error", "prior", "prior_error", "n_stars")
_REPEATS = (
    "mode",
    "subset",
    "name",
    "n_rows",
    "n_stars",
    "n_visits",
    "rms",
    "rms_formal",
    "rms_excess",
)
_RATIO = ("ln_factor", "covariance", "ln_ratio", "error", "star_ratio", "star_error")
# Dates of the curve of C(t): from the start of science operations (2022-07-12), every 30 days.
_FIRST_MJD, _STEP_DAYS = 59772.0, 30.0
# How far the curve goes beyond the last measurement [day]; five years.
_BEYOND_DAYS = 1826.0


class AbsFluxModel(ReferenceFileModel):
    """What is known about the calibration factors of one run.

    Attributes
    ----------
    units, throughput, parameters, curve, stars, subarrays, classes, repeatability, forms, files, \
    closure
        Tables, name of the column -> values; see the schema.
        ``closure`` is absent where there is no reference.
    ratios : object
        Modes against each other; absent where they were not compared.
    share_test : object
        Whether all modes have one loss; absent where that was not asked for.
    widths, budget, fit, settings, versions : object
        By name.
    references, notes : list of str
    """

    schema_url = f"{SCHEMA_URI_PREFIX}/absflux.schema"


@dataclass(frozen=True, slots=True)
class AbsFluxNotes:
    """What belongs to a run beside its fit.

    Attributes
    ----------
    useafter, pedigree, description : str
        As `build_mask`.
    files : sequence of (str, str, str)
        Role, name and sha256 of everything that was read.
    references : sequence of str
        Roots of the names of the photom references.
    settings : mapping of str to bool, int, float, str or None
        Of the run.
    notes : sequence of str
    closures : sequence of (str, Closure)
        Root of the name of each photom reference, and how closely the photom step follows it.
    """

    useafter: str
    pedigree: str
    description: str
    files: Sequence[tuple[str, str, str]]
    references: Sequence[str]
    settings: Mapping[str, Any]
    notes: Sequence[str] = ()
    closures: Sequence[tuple[str, Closure]] = ()


def build_absflux_model(
    fit: FluxFit,
    about: AbsFluxNotes,
    *,
    ratios: RatioMatrix | None = None,
    repeatability: Sequence[Repeatability] = (),
    mjd: np.ndarray | None = None,
) -> AbsFluxModel:
    """Build the product that keeps the fit.

    Parameters
    ----------
    fit : FluxFit
    about : AbsFluxNotes
    ratios : RatioMatrix, optional
        Modes against each other.
    repeatability : sequence of Repeatability
        Scatter of visits.
    mjd : ndarray, optional
        Dates of the curve [MJD]; default every 30 days from the start of science operations, or
        the first measurement, to five years after the last.

    Returns
    -------
    AbsFluxModel
        Ready for `write_asdf`.

    Raises
    ------
    DateError, ProductError
        The USEAFTER, the pedigree or a setting is none.
    """
    check_useafter(about.useafter)
    require_pedigree(about.pedigree)
    tree: dict[str, Any] = {
        "schema_version": _SCHEMA_VERSION,
        "units": _tabulate_units(fit),
        "throughput": _columns(fit.throughputs, _THROUGHPUT),
        "parameters": {
            "name": list(fit.parameter_names),
            "value": _reals(fit.parameters),
            "independent": _reals(fit.parameter_covariance.independent),
            "factor": _reals(fit.parameter_covariance.factor),
        },
        "curve": _tabulate_curve(fit, mjd),
        "stars": _columns(fit.stars, _STAR),
        "subarrays": _columns(fit.subarrays, _SUBARRAY),
        "classes": _columns(fit.classes, ("star_class", "offset", "error", "n_stars")),
        "repeatability": _columns(repeatability, _REPEATS),
        "widths": {name: float(width) for name, width in fit.widths.items()},
        "budget": {source: _reals(share) for source, share in fit.budget.items()},
        "forms": _tabulate_forms(fit),
        "fit": _summarise(fit),
        "settings": {
            key: as_scalar(key, value) for key, value in {**fit.settings, **about.settings}.items()
        },
        "files": {
            name: [row[k] for row in about.files]
            for k, name in enumerate(("role", "name", "sha256"))
        },
        "references": list(about.references),
        "versions": {name: version(name) for name in _PACKAGES},
        "notes": list(about.notes),
    }
    if fit.share_test is not None:
        tree["share_test"] = asdict(fit.share_test)
    if about.closures:
        tree["closure"] = {
            "reference": [name for name, _ in about.closures],
            "n_rows": np.array([closure.n_rows for _, closure in about.closures], np.int32),
            "worst": _reals([closure.worst for _, closure in about.closures]),
            "row": [closure.row for _, closure in about.closures],
        }
    if ratios is not None:
        tree["ratios"] = _describe_ratios(ratios)
    tree["meta"] = _describe(fit, about)
    model = AbsFluxModel(AsdfObject(tree))
    said = f"Fit of {len(fit.units)} factors to {tree['fit']['n_used']} measurements."
    for note in (said, *about.notes):
        model.add_history_entry(note, SOFTWARE)
    return model


def _summarise(fit: FluxFit) -> dict[str, Any]:
    used = fit.measurements.used
    return {
        "t0_mjd": float(fit.t0_mjd),
        "first_mjd": float(fit.first_mjd),
        "last_mjd": float(fit.last_mjd),
        "n_measurements": len(used),
        "n_used": int(np.sum(used)),
        "n_iterations": int(fit.n_iterations),
        "converged": bool(fit.converged),
    }


def _describe(fit: FluxFit, about: AbsFluxNotes) -> dict[str, Any]:
    instruments = sorted({unit.band.mode.instrument for unit in fit.units})
    detectors = sorted({unit.band.mode.detector for unit in fit.units})
    return {
        "reftype": "ABSFLUX",
        "author": AUTHOR,
        "pedigree": about.pedigree,
        "description": about.description,
        "useafter": about.useafter,
        "instrument": {
            "name": instruments[0] if len(instruments) == 1 else "ANY",
            "detector": detectors[0] if len(detectors) == 1 else "MULTIPLE",
        },
    }


def read_absflux(path: str | Path) -> AbsFluxModel:
    """Read the product of a run.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    AbsFluxModel
        In memory.

    Raises
    ------
    InputError
        It cannot be read, is something else, or has another layout.
    """
    return read_model(
        path,
        AbsFluxModel,
        reftype="ABSFLUX",
        layout=_SCHEMA_VERSION,
        what="the fit of a flux calibration (*_absflux.asdf)",
        maker="abs_flux_ratio",
    )


def _reals(values: Any) -> np.ndarray:
    return np.array(values, np.float64)


def _columns(rows: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    """Turn objects into columns: text in lists, numbers in arrays."""
    columns: dict[str, Any] = {}
    for name in names:
        values = [getattr(row, name) for row in rows]
        if name in _TEXTS:
            columns[name] = [str(value) for value in values]
        else:
            columns[name] = np.array(values, np.int32 if name.startswith("n_") else np.float64)
    return columns


_TEXTS = frozenset(
    {"name", "star_class", "group", "subarray", "verdict", "reason", "mode", "subset"}
)


def _tabulate_units(fit: FluxFit) -> dict[str, Any]:
    modes = [unit.band.mode for unit in fit.units]
    return {
        "label": [mode.label for mode in modes],
        **{name: [str(getattr(mode, name)) for mode in modes] for name in _MODE},
        "order": np.array([mode.order for mode in modes], np.int32),
        "wave": _reals([unit.band.wave for unit in fit.units]),
        "subarray": [unit.reference for unit in fit.units],
        "factor": _reals(fit.factor),
        "factor_err": _reals(fit.error),
        "scatter": _reals(fit.predictive_scatter),
        "unit": [_UNITS.get(mode.kind, "MJy / (DN/s)") for mode in modes],
    }


# Units of the factors of a kind; of others, spectra of point sources, MJy per DN/s.
_UNITS = {
    "imaging": "(MJy/sr) / (DN/s)",
    "coronagraphy": "(MJy/sr) / (DN/s)",
    "mrs": "ratio to the template",
    "unknown": "as given",
}


def _tabulate_curve(fit: FluxFit, mjd: np.ndarray | None) -> dict[str, np.ndarray]:
    """Evaluate C(t); where nothing has a date, at the epoch of the factors alone."""
    if mjd is None:
        if np.isfinite(fit.first_mjd):
            first = min(_FIRST_MJD, float(np.floor(fit.first_mjd)))
            mjd = np.arange(first, fit.last_mjd + _BEYOND_DAYS, _STEP_DAYS)
        else:
            mjd = np.array([fit.t0_mjd])
    curve = fit.predict(mjd)
    return {
        "mjd": _reals(curve.mjd),
        "factor": _reals(curve.factor),
        "factor_err": _reals(curve.error),
        "extrapolated": np.array(curve.extrapolated, bool),
    }


def _tabulate_forms(fit: FluxFit) -> dict[str, Any]:
    choices = fit.choices
    return {
        "detector": [choice.detector for choice in choices],
        "forms": ["+".join(choice.forms) or "none" for choice in choices],
        "n_parameters": np.array([choice.n_parameters for choice in choices], np.int32),
        "aic": _reals([choice.aic for choice in choices]),
        "chosen": np.array([choice.chosen for choice in choices], bool),
    }


def _describe_ratios(ratios: RatioMatrix) -> dict[str, Any]:
    n = len(ratios.labels)
    described: dict[str, Any] = {"label": list(ratios.labels), "wave": _reals(ratios.wave)}
    described |= {name: _reals(getattr(ratios, name)) for name in _RATIO}
    described["n_stars"] = np.array(ratios.n_stars, np.int32)
    if any(np.shape(described[name]) != (n, n) for name in (*_RATIO[1:], "n_stars")):
        raise ProductError(
            f"expected matrices of {n} by {n} modes, found others; compare the modes again"
        )
    return described
