"""Tables of photometry of standard stars, made into calibration factors."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InputError
from .aliases import CLASSES, find_star, spell
from .filters import infer_mode, read_pivot
from .gather import MIN_SNR, blank, check_dates, exclude, mark_duplicates, name_visits, require_used
from .measurements import Measurements
from .modes import Band, Mode

__all__ = ["APCORR_TOLERANCE", "COLUMNS", "check_apcorr", "measure_table"]

log = logging.getLogger(__name__)

# Columns of a table of photometry: our name, others that are accepted for it. The first of each
# list of others is that of the tables of the public recipe.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "name": ("star", "target", "targname"),
    "filter": (),
    "rate": ("aperture_sum_bkgsub_dn_s", "aperture_sum_bkgsub"),
    "rate_err": ("aperture_sum_bkgsub_err",),
    "apcorr": (),
    "pixarea_sr": ("pixarea",),
    "mjd": ("timemid_mjd", "timemid"),
    "srctype": ("star_class", "class"),
    "subarray": (),
    "instrument": ("instrume",),
    "detector": (),
    "mode": ("kind",),
    "pupil": (),
    "visit": ("visit_id",),
    "exposure": ("filename", "source"),
    "eefraction": ("ee",),
    "saturated": (),
    "peak": ("pix_max",),
    "well_depth": ("pixwelldepth",),
    "background": ("mean_bkg",),
    "exposure_s": ("effexptm",),
    "tgroup_s": ("tgroup",),
    "ngroups": (),
    "photmjsr": (),
    "model_flux_jy": ("flux_jy",),
    "pivot_um": (),
    "element": (),
    "reason": (),
}
_NEEDED = ("name", "filter", "rate", "rate_err", "apcorr", "pixarea_sr")
# How far an aperture correction may lie from 1/EE times what the sky annulus takes (1.0 to 1.2).
_APCORR_RANGE = (0.98, 1.2)
# Corrections of one filter that differ by more are of two apertures (relative).
APCORR_TOLERANCE = 0.02
# Areas of the pixels of JWST's imagers, and of mosaics of them, lie well within these [sr].
_AREA_RANGE = (1e-15, 1e-11)
# A factor this far from PHOTMJSR is of other units, not of another star.
_UNIT_FACTOR = 30.0


def check_apcorr(apcorr: float, ee: float, where: str) -> None:
    """Refuse an aperture correction that cannot be of an encircled energy.

    Raises
    ------
    InputError
        It is not 1/EE, with up to a fifth more for the star's light in the sky annulus.
    """
    if not 0 < ee < 1:
        raise InputError(
            f"expected an encircled energy between 0 and 1 in {where}, found {ee:g}; give a share"
        )
    low, high = (limit / ee for limit in _APCORR_RANGE)
    if not low <= apcorr <= high:
        raise InputError(
            f"expected an aperture correction of {low:.3f} to {high:.3f} for an encircled energy "
            f"of {ee:g} in {where}, found {apcorr:.4f}: it is of another aperture; give radius, "
            "annulus and correction of one encircled energy"
        )


def measure_table(
    columns: Mapping[str, np.ndarray],
    models: Mapping[str, Mapping[str, float]],
    *,
    name: str = "table",
    pivots: Mapping[str, float] | None = None,
    instrument: str = "",
    detector: str = "",
    kind: str = "",
    saturation: float = np.inf,
) -> Measurements:
    """Make calibration factors of a table of photometry.

    Parameters
    ----------
    columns : mapping of str to ndarray, shape (n,)
        Columns by the names in `COLUMNS`; rates [DN/s], pixel areas [sr], fluxes [Jy].
    models : mapping of str to mapping of str to float
        Flux density [Jy] at the pivot by star and filter.
    name : str
        Of the table, for messages and `source`.
    pivots : mapping of str to float, optional
        Pivot wavelengths by filter [um]; default, the one in the filter's name.
    instrument, detector, kind : str
        What the table does not say of its mode; see `infer_mode`.
    saturation : float
        Limit of the brightest pixel, in the unit of `peak`.

    Returns
    -------
    Measurements
        A row for each of the table; those left out say why.

    Raises
    ------
    InputError
        A column is missing, contradictory, or in another unit.
    EvidenceError
        No row is usable.

    Notes
    -----
    ``C = 1e-6 F / (N apcorr Omega)`` [MJy/sr per DN/s], its relative error that of N.
    """
    table = _rename(columns, name)
    n = len(table["name"])
    stars = [find_star(given) for given in table["name"].tolist()]
    star = np.array([s.name for s in stars], dtype=str)
    modes = _find_modes(table, instrument, detector, kind)
    reason = _refuse_rows(table)
    pivot = _find_pivots(table, pivots or {}, reason == "").tolist()
    per_row = [Band(mode, wave) for mode, wave in zip(modes, pivot, strict=True)]
    bands = tuple(sorted(set(per_row)))
    place = {band: index for index, band in enumerate(bands)}
    band = np.array([place[b] for b in per_row], np.int32)

    flux = _find_fluxes(table, star, models)
    rate, err = table["rate"], table["rate_err"]
    factor = blank(n)
    with np.errstate(all="ignore"):
        factor = 1e-6 * flux / (rate * table["apcorr"] * table["pixarea_sr"])
        sigma = err / rate
    _exclude_rows(reason, table, flux, saturation)
    _exclude_apertures(reason, table, band)
    mjd, subarray = table["mjd"], _text(table, "subarray", n, "FULL")
    mark_duplicates(reason, (star, band, subarray, mjd, rate, table["exposure"]))
    _check_units(factor, table, reason, name)
    good = np.asarray(reason == "", bool)
    exposure = table["exposure"]
    source = np.array([f"{name} {e}".strip() for e in exposure.tolist()], dtype=str)
    visit = table.get("visit")
    return require_used(
        Measurements(
            bands=bands,
            band=band,
            star=star,
            star_class=_find_classes(table, stars),
            visit=name_visits(star, mjd, source) if visit is None else _star_visits(star, visit),
            subarray=np.char.upper(subarray),
            mjd=mjd,
            factor=np.where(np.isfinite(factor), factor, np.nan),
            sigma=np.where(np.isfinite(sigma), sigma, np.nan),
            flux_jy=flux,
            peak=table.get("peak", blank(n)),
            well_depth=table.get("well_depth", blank(n)),
            background=table.get("background", blank(n)),
            exposure_s=table["exposure_s"],
            used=good,
            reason=reason.astype(str),
            source=source,
            given=np.array(table["name"], dtype=str),
        )
    )


_TEXT = (
    "name",
    "filter",
    "srctype",
    "subarray",
    "instrument",
    "detector",
    "mode",
    "pupil",
    "element",
    "reason",
    "visit",
    "exposure",
)


def _rename(columns: Mapping[str, np.ndarray], name: str) -> dict[str, Any]:
    """Take the columns by our names, numbers as float64 and text as str."""
    by_case = {key.lower(): key for key in columns}
    table: dict[str, Any] = {}
    for ours, others in COLUMNS.items():
        found = [by_case[key] for key in (ours, *others) if key in by_case]
        if found:
            table[ours] = np.asarray(columns[found[0]])
    missing = [ours for ours in _NEEDED if ours not in table]
    if missing:
        accepted = "; ".join(" or ".join((ours, *COLUMNS[ours])) for ours in missing)
        raise InputError(
            f"expected the columns {accepted} in {name}, found {', '.join(columns)}; add them"
        )
    n = len(table["name"])
    if not n:
        raise InputError(f"expected rows in {name}, found none; give a table with some")
    for key, values in table.items():
        if key in _TEXT:
            table[key] = np.array([str(v).strip() for v in values.tolist()], dtype=str)
        else:
            table[key] = _to_numbers(values, key, name)
    table.setdefault("mjd", blank(n))
    table.setdefault("exposure", np.full(n, "", dtype=str))
    for exposure in (None,) if name else np.unique(table["exposure"]).tolist():
        rows = slice(None) if exposure is None else table["exposure"] == exposure
        check_dates(table["mjd"][rows], exposure or name)
    if "exposure_s" not in table:
        both = "tgroup_s" in table and "ngroups" in table
        table["exposure_s"] = table["tgroup_s"] * table["ngroups"] if both else blank(n)
    return table


def _to_numbers(values: np.ndarray, key: str, name: str) -> np.ndarray:
    """Read a column of numbers; booleans may be written as words."""
    try:
        if values.dtype.kind in "US" and key == "saturated":
            return np.isin(np.char.lower(values.astype(str)), ("true", "t", "1", "yes")) * 1.0
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"expected numbers in the column {key} of {name}, found {error}; correct them"
        ) from error


def _text(table: Mapping[str, Any], key: str, n: int, default: str = "") -> np.ndarray:
    """Take a column of text, or a default for all rows."""
    values = table.get(key)
    return np.full(n, default, dtype=f"U{max(len(default), 1)}") if values is None else values


def _find_modes(table: Mapping[str, Any], instrument: str, detector: str, kind: str) -> list[Mode]:
    """Find the mode of each row: by its columns, what is given, and the filter."""
    n = len(table["name"])
    rows = zip(
        table.get("element", table["filter"]).tolist(),
        _text(table, "instrument", n).tolist(),
        _text(table, "detector", n).tolist(),
        _text(table, "mode", n).tolist(),
        _text(table, "pupil", n).tolist(),
        strict=True,
    )
    known: dict[tuple[str, ...], Mode] = {}
    modes = []
    for row in rows:
        if row not in known:
            known[row] = infer_mode(
                row[0],
                instrument=row[1] or instrument,
                detector=row[2] or detector,
                kind=row[3] or kind,
                pupil=row[4],
            )
        modes.append(known[row])
    unknown = sorted({mode.filter for mode in known.values() if mode.kind == "unknown"})
    if unknown:
        log.warning(
            "the instrument, detector or mode of %s is unknown; give them as columns or parameters",
            ", ".join(unknown),
        )
    return modes


def _refuse_rows(table: Mapping[str, Any]) -> np.ndarray:
    """Say which rows are of nothing: as the table says, or without a star or a filter."""
    reason = np.array(_text(table, "reason", len(table["name"])), dtype=object)
    exclude(reason, table["name"] == "", "no name of the star")
    exclude(reason, table["filter"] == "", "no filter")
    return reason


def _find_pivots(
    table: Mapping[str, Any], pivots: Mapping[str, float], good: np.ndarray
) -> np.ndarray:
    """Find the pivot wavelength of each row [um]: given, else what the filter's name says.

    It is 0 of rows that are out and have none.
    """
    said = table.get("pivot_um", blank(len(table["name"])))
    known = {f: pivots.get(f) or read_pivot(f) for f in np.unique(table["filter"]).tolist()}
    named = np.array([known[f] or np.nan for f in table["filter"].tolist()], float)
    found = np.where(np.isfinite(said), said, named)
    lost = ~(np.isfinite(found) & (found > 0))
    if (lost & good).any():
        raise InputError(
            "expected a pivot wavelength of every filter, found none for "
            f"{', '.join(np.unique(table['filter'][lost & good]).tolist())}; add a column "
            "pivot_um, or give bandpasses"
        )
    return np.where(lost, 0.0, found)


def _find_fluxes(
    table: Mapping[str, Any], star: np.ndarray, models: Mapping[str, Mapping[str, float]]
) -> np.ndarray:
    """Find the flux density of each row's model [Jy]; NaN without."""
    own = table.get("model_flux_jy")
    by_star = {spell(find_star(key).name): fluxes for key, fluxes in models.items()}
    pairs = zip(star.tolist(), table["filter"].tolist(), strict=True)
    flux = np.array([by_star.get(spell(s), {}).get(f.upper(), np.nan) for s, f in pairs], float)
    return flux if own is None else np.where(np.isfinite(own), own, flux)


def _find_classes(table: Mapping[str, Any], stars: list[Any]) -> np.ndarray:
    """Find the class of each star: the table of aliases', else that of the column."""
    said = _text(table, "srctype", len(stars))
    read = [CLASSES.get(spell(s).lower(), "") for s in said.tolist()]
    pairs = list(zip(stars, read, strict=True))
    other = sorted(
        {f"{s.name} ({r})" for s, r in pairs if s.star_class and r != s.star_class and r}
    )
    if other:
        log.warning("classes that are not those of the table of stars: %s", ", ".join(other))
    return np.array([s.star_class or r for s, r in pairs], dtype=str)


def _star_visits(star: np.ndarray, visit: np.ndarray) -> np.ndarray:
    """Name visits that the table numbers: one number may stand for a visit of each star."""
    return np.array([f"{s} {v}" for s, v in zip(star, visit, strict=True)], dtype=str)


def _exclude_rows(
    reason: np.ndarray, table: Mapping[str, Any], flux: np.ndarray, saturation: float
) -> None:
    """Exclude rows that are no measurement."""
    rate, err = table["rate"], table["rate_err"]
    exclude(reason, ~(np.isfinite(rate) & np.isfinite(err)), "rate or its error is no number")
    exclude(reason, rate <= 0, "rate is not positive")
    exclude(reason, err <= 0, "error of the rate is not positive")
    exclude(reason, rate < MIN_SNR * err, f"rate below {MIN_SNR:g} sigma")
    areas = table["pixarea_sr"]
    area = np.median(areas[areas > 0]) if (areas > 0).any() else 0.0
    if area and not _AREA_RANGE[0] < area < _AREA_RANGE[1]:
        raise InputError(
            f"expected areas of pixels in sr, 1e-13 or so, found {area:.3g}; give their unit"
        )
    for key in ("apcorr", "pixarea_sr"):
        exclude(reason, ~(np.isfinite(table[key]) & (table[key] > 0)), f"{key} is not positive")
    names = np.array(
        [
            f"no model flux of {s} in {f}"
            for s, f in zip(table["name"], table["filter"], strict=True)
        ]
    )
    exclude(reason, ~np.isfinite(flux), names)
    exclude(reason, flux <= 0, "model flux is not positive")
    if "saturated" in table:
        exclude(reason, np.nan_to_num(table["saturated"]) > 0, "saturated")
    if np.isfinite(saturation):
        if "peak" not in table:
            raise InputError(
                "expected a column peak (or pix_max) to compare with the saturation limit, found "
                "none; add it, or leave the limit out"
            )
        exclude(reason, table["peak"] >= saturation, f"saturated: peak above {saturation:g}")


def _exclude_apertures(reason: np.ndarray, table: Mapping[str, Any], band: np.ndarray) -> None:
    """Exclude rows whose aperture correction is of another aperture."""
    apcorr, usable = table["apcorr"], reason == ""
    if "eefraction" in table:
        ee = table["eefraction"]
        low, high = (limit / ee for limit in _APCORR_RANGE)
        exclude(
            reason,
            np.isfinite(ee) & ~((apcorr >= low) & (apcorr <= high)),
            "apcorr is not of the encircled energy of the aperture",
        )
        usable = reason == ""
    ee = np.nan_to_num(table.get("eefraction", np.zeros(len(apcorr))), nan=0.0)
    for b, share in sorted(set(zip(band[usable].tolist(), ee[usable].tolist(), strict=True))):
        rows = usable & (band == b) & (ee == share)
        middle = float(np.median(apcorr[rows]))
        far = rows & (np.abs(apcorr / middle - 1) > APCORR_TOLERANCE)
        exclude(reason, far, f"apcorr differs from the {middle:.4f} of the filter: of another EE")


def _check_units(
    factor: np.ndarray, table: Mapping[str, Any], reason: np.ndarray, name: str
) -> None:
    """Refuse factors that PHOTMJSR shows to be in other units."""
    if "photmjsr" not in table:
        return
    with np.errstate(all="ignore"):
        ratio = (factor / table["photmjsr"])[reason == ""]
    ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
    if len(ratio) and not 1 / _UNIT_FACTOR < np.median(ratio) < _UNIT_FACTOR:
        raise InputError(
            f"expected rates in DN/s, pixel areas in sr and model fluxes in Jy in {name}, found "
            f"factors {np.median(ratio):.3g} times PHOTMJSR; correct the units"
        )
