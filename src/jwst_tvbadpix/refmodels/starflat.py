"""The parts of flats as a product: P, L, area, ratio, errors, covariance, gauge, stability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from asdf.tags.core import AsdfObject

from .._integration import SCHEMA_URI_PREFIX
from ..detectors import get_detector
from .flat import FlatSelection
from .history import as_scalar
from .mask import AUTHOR, SOFTWARE, check_useafter
from .product import ProductModel
from .reading import read_model

if TYPE_CHECKING:
    from ..flatfield import BuiltFlat, Distortion, MatchedStars, MergedFlat, Monitors, StarFlat

__all__ = ["StarFlatModel", "build_star_flat_model", "list_tables", "read_star_flat"]

# 1.1.0: residuals, series, distortion, gauge.shares and gauge.combinations.
_SCHEMA_VERSION = "1.1.0"
_PACKAGES = (
    "jwst-tvbadpix",
    "jwst",
    "stdatamodels",
    "numpy",
    "scipy",
    "Bottleneck",
    "astropy",
    "photutils",
)
_SHARED = ("p_flat", "l_sky", "area", "coverage")
# Combinations of modes of the least information that are kept.
_N_COMBINATIONS = 4
_OF_EACH = ("l_flat", "ratio", "ratio_err", "err_random", "err_systematic")


class StarFlatModel(ProductModel):
    """What the flats of one set of exposures are made of.

    Attributes
    ----------
    maps, exposures, drifts, series, flats : object
    star, stars, residuals, gauge, distortion, check : object
        See the schema; the latter are there only where they are known.
    settings, versions : object
        Settings of the run and versions of the software, by name.
    notes : list of str
        What the user should know.
    area : str
        'distorted' or 'constant': whether the pixel area is in the flats.
    """

    schema_url = f"{SCHEMA_URI_PREFIX}/starflat.schema"


def build_star_flat_model(
    built: BuiltFlat,
    *,
    selection: FlatSelection,
    flats: Mapping[str, Sequence[str]],
    exposures: Mapping[str, Any],
    settings: Mapping[str, Any],
    notes: Sequence[str],
    area: str,
    pedigree: str,
    description: str,
) -> StarFlatModel:
    """Build the product that keeps the parts of the flats apart.

    Parameters
    ----------
    built : BuiltFlat
    selection : FlatSelection
        Of the first flat.
    flats : mapping
        ``filename`` and ``useafter`` of each flat.
    exposures : mapping of str to sequence
        Columns of the exposures table of the schema.
    settings : mapping of str to bool, int, float, str or None
    notes : sequence of str
    area : str
        Of the pixels: 'distorted' as the optics make it, or 'constant' for want of a distortion.
    pedigree, description : str
        As `build_mask`.

    Returns
    -------
    StarFlatModel
        Ready for `write_asdf`.
    """
    facts = get_detector(selection.detector)
    check_useafter(selection.useafter)
    tree: dict[str, Any] = {
        "schema_version": _SCHEMA_VERSION,
        "flats": {name: list(values) for name, values in flats.items()},
        "maps": _collect_maps(built.flats),
        "exposures": dict(exposures),
        "drifts": _tabulate_drifts(built.monitors),
        "series": _list_series(built.monitors),
        "settings": {key: as_scalar(key, value) for key, value in settings.items()},
        "versions": {name: version(name) for name in _PACKAGES},
        "notes": list(notes),
        "area": area,
    }
    if built.star is not None:
        tree |= {"star": _describe_star(built.star), "gauge": _describe_gauge(built.star)}
    if built.star is not None and built.matched is not None:
        tree["stars"] = _list_stars(built.star, built.matched)
        tree["residuals"] = _list_residuals(built.star)
    if built.monitors.distortion is not None:
        tree["distortion"] = _describe_distortion(built.monitors.distortion)
    if built.check is not None:
        known = {key: value for key, value in asdict(built.check).items() if np.isfinite(value)}
        tree["check"] = known
    ny, nx = built.stack.flat.shape
    tree["meta"] = {
        "reftype": "STARFLAT",
        "author": AUTHOR,
        "pedigree": pedigree,
        "description": description,
        "useafter": selection.useafter,
        "instrument": {"name": facts.instrument, "detector": facts.name},
        "subarray": {
            "name": selection.subarray,
            "xstart": selection.corner[1] + 1,
            "ystart": selection.corner[0] + 1,
            "xsize": nx,
            "ysize": ny,
        },
    }
    if facts.telescope == "JWST":  # Roman's files say nothing of the read-out
        tree["meta"]["subarray"] |= {"fastaxis": facts.fastaxis, "slowaxis": facts.slowaxis}
    model = StarFlatModel(AsdfObject(tree))
    for note in (f"Built from {built.stack.n_used} exposures of {facts.name}.", *notes):
        model.add_history_entry(note, SOFTWARE)
    return model


def read_star_flat(path: str | Path) -> StarFlatModel:
    """Read the parts of flats.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    StarFlatModel
        In memory; of any 1.x layout, so some groups may be absent.

    Raises
    ------
    InputError
        It cannot be read, is something else, or has another layout.
    """
    return read_model(
        path,
        StarFlatModel,
        reftype="STARFLAT",
        layout=_SCHEMA_VERSION,
        what="the parts of flats (*_starflat.asdf)",
        maker="external_flat_builder",
    )


def list_tables(model: StarFlatModel) -> dict[str, dict[str, Any]]:
    """List what reads best as tables: kind -> columns of exposures, drifts, stars and modes."""
    tree = model._instance
    tables = {kind: dict(tree[kind]) for kind in ("exposures", "drifts", "stars") if kind in tree}
    del tables["drifts"]["verdicts"]
    if "star" in tree:
        star = tree["star"]
        tables["modes"] = {
            "degree": star["degree"],
            "coefficient": star["coefficients"],
            "err": np.sqrt(np.diag(star["covariance"])),
        }
    return tables


def _collect_maps(flats: Sequence[MergedFlat]) -> dict[str, np.ndarray]:
    """Collect the images, those that differ from flat to flat stacked."""
    maps = {name: np.array(getattr(flats[0], name)) for name in _SHARED}
    maps |= {name: np.stack([getattr(flat, name) for flat in flats]) for name in _OF_EACH}
    if any(not np.array_equal(f.p_flat, flats[0].p_flat, equal_nan=True) for f in flats[1:]):
        maps["p_flats"] = np.stack([flat.p_flat for flat in flats])
    return maps


def _describe_star(star: StarFlat) -> dict[str, Any]:
    return {
        "order": int(star.order),
        "bounds": [float(value) for value in star.basis.bounds],
        "transform": np.array(star.basis.transform, np.float64),
        "degree": np.array(star.basis.degree, np.int32),
        "coefficients": np.array(star.coefficients, np.float64),
        "covariance": np.array(star.covariance, np.float64),
        "epoch_coefficients": np.atleast_2d(np.array(star.epoch_coefficients, np.float64)),
        "epoch_covariance": np.atleast_2d(np.array(star.epoch_covariance, np.float64)),
        "zero_point_scatter": float(star.zero_point_scatter),
        "noise_scale": float(star.noise.scale),
        "noise_floor": float(star.noise.floor),
        "n_used": int(star.n_used),
        "n_outliers": int(star.n_outliers),
    }


def _list_stars(star: StarFlat, matched: MatchedStars) -> dict[str, np.ndarray]:
    """List the stars in order of their numbers."""
    order = np.argsort(star.star_id)
    number = star.star_id[order].astype(int)
    counts = np.bincount(matched.observations.star, minlength=len(matched.ra))
    return {
        "ra": matched.ra[number],
        "dec": matched.dec[number],
        "ln_flux": star.star_ln_flux[order],
        "ln_flux_err": star.star_ln_flux_err[order],
        "excess": star.star_excess[order],
        "n_exposures": counts[number].astype(np.int32),
    }


def _list_residuals(star: StarFlat) -> dict[str, np.ndarray]:
    """List what each measurement is off, its star as a row of the stars."""
    seen = star.residuals
    columns = {name: getattr(seen, name) for name in ("x", "y", "value", "sigma")}
    return {
        "exposure": seen.exposure.astype(np.int32),
        "star": np.searchsorted(star.star_id, seen.star).astype(np.int32),
        **{name: values.astype(np.float32) for name, values in columns.items()},
        "outlier": np.array(seen.outlier, bool),
    }


def _list_series(monitors: Monitors) -> dict[str, dict[str, Any]]:
    """List what the verdicts on stability were found in."""
    return {
        what: {
            "name": list(drifts.names),
            "mid_mjd": np.array(drifts.mid_mjd, np.float64),
            "visit": np.array(drifts.visit, np.int32),
            "values": np.array(drifts.values, np.float64),
            "errors": np.array(drifts.errors, np.float64),
        }
        for what, drifts in monitors.drifts.items()
    }


def _describe_distortion(distortion: Distortion) -> dict[str, Any]:
    basis = distortion.basis
    return {
        "order": int(basis.order),
        "bounds": [float(value) for value in basis.bounds],
        "transform": np.array(basis.transform, np.float64),
        "degree": np.array(basis.degree, np.int32),
        "coefficients": np.array(distortion.coefficients, np.float64),
        "errors": np.array(distortion.errors, np.float64),
        "noise_floor": float(distortion.noise.floor),
        "n_stars": int(distortion.n_stars),
        "n_used": int(distortion.n_used),
        "n_outliers": int(distortion.n_outliers),
    }


def _describe_gauge(star: StarFlat) -> dict[str, Any]:
    gauge = star.gauge
    return {
        "n_null": int(gauge.n_null),
        "n_components": int(gauge.n_components),
        "gradient_sigma": float(gauge.gradient_sigma),
        "gradient_sigma_free": float(gauge.gradient_sigma_free),
        "weakest": float(gauge.weakest),
        "ill_determined": bool(gauge.ill_determined),
        "shares": np.array(gauge.shares, np.float64),
        "combinations": np.array(gauge.combinations[:, :_N_COMBINATIONS], np.float64),
        "component": np.array(gauge.component, np.int32),
        "n_links": np.array(gauge.n_links, np.int32),
    }


def _tabulate_drifts(monitors: Monitors) -> dict[str, Any]:
    """Tabulate what changes: columns of the schema's `drifts`."""
    rows = list(monitors.list_changes())
    texts = ("what", "term", "series", "reason")
    numbers = ("value", "err", "upper_limit")
    return {
        "verdicts": monitors.verdicts,
        **{name: [getattr(row, name) for row in rows] for name in texts},
        **{name: np.array([getattr(row, name) for row in rows], np.float64) for name in numbers},
        "significant": np.array([row.significant for row in rows], bool),
    }
