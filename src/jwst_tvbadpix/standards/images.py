"""Photometry of standard stars in images: rate, cal and i2d products."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import EvidenceError, InputError
from ..fluxcal.aliases import find_star
from ..fluxcal.filters import name_bandpass, name_kind, read_pivot
from ..fluxcal.measurements import Measurements
from ..fluxcal.photometry import Aperture, measure_star
from ..fluxcal.tables import measure_table
from ..headers import KEYWORDS
from ..imaging import build_wcs
from ..programmes.targets import read_name
from ..refmodels.dq import dq_value
from .apertures import find_aperture
from .files import Item
from .keywords import find_mid_mjd, find_target, get
from .models import Models

__all__ = ["StarImage", "measure_images", "photometer", "read_image"]

log = logging.getLogger(__name__)

# The WCS and PIXAR_SR may differ by this, relatively.
_AREA_TOLERANCE = 1e-3
# Top of the analogue-to-digital converters [DN]: what a well is a share of.
_FULL_DN = 65535.0


@dataclass(frozen=True, slots=True)
class StarImage:
    """An image of a standard star, and what its header says.

    Attributes
    ----------
    rate, err : ndarray, shape (ny, nx)
        [DN/s]; NaN where the pixel is not to be used.
    saturated : ndarray of bool, shape (ny, nx)
    position : tuple of float or None
        Where the WCS puts the target: 0-based (x, y).
    pixarea_sr : float
        Area of a pixel at the target [sr].
    scale : float
        Size of a pixel of the detector in those of the image.
    cards : mapping of str to str
        INSTRUME, DETECTOR, EXP_TYPE, FILTER, PUPIL, SUBARRAY, VISIT_ID, target and kind.
    mjd, exposure_s, integration_s : float
        NaN where unknown.
    source : str
    """

    rate: np.ndarray
    err: np.ndarray
    saturated: np.ndarray
    position: tuple[float, float] | None
    pixarea_sr: float
    scale: float
    cards: Mapping[str, str]
    mjd: float
    exposure_s: float
    integration_s: float
    source: str


def read_image(model: Any, item: Item) -> StarImage:
    """Read an image of a standard star.

    Parameters
    ----------
    model : data model
        With 2-D data and err.
    item : Item
        Where it comes from, and what is said of it.

    Returns
    -------
    StarImage

    Raises
    ------
    InputError
        It is no image of a known unit, or nothing says its target, instrument or pixel area.
    """
    data = np.asarray(model.data, np.float64)
    if data.ndim != 2 or not model.hasattr("err") or np.shape(model.err) != data.shape:
        raise InputError(
            f"expected an image (2-D) with its errors in {item.name}, found {data.shape}; give "
            "_rate, _cal or _i2d products"
        )
    factor = _find_factor(model, item.name)
    dq = np.asarray(model.dq) if model.hasattr("dq") else np.zeros(data.shape, np.uint32)
    if dq.shape != data.shape:
        dq = np.zeros(data.shape, np.uint32)
    saturated = (dq & np.uint32(dq_value("SATURATED"))) != 0
    unusable = (dq & np.uint32(dq_value("DO_NOT_USE"))) != 0
    cards = {
        "instrument": get(model, "meta.instrument.name"),
        "detector": get(model, "meta.instrument.detector"),
        "exp_type": get(model, "meta.exposure.type"),
        "FILTER": get(model, "meta.instrument.filter"),
        "PUPIL": get(model, "meta.instrument.pupil"),
        "SUBARRAY": get(model, "meta.subarray.name"),
        "visit": get(model, "meta.observation.visit_id"),
        "target": find_target(model, item),
        "background": get(model, "meta.observation.bkgdtarg"),
    }
    cards = {key: str(value if value is not None else "N/A") for key, value in cards.items()}
    for key in ("instrument", "detector"):
        if cards[key] == "N/A":
            cards[key] = str(item.said.get(key) or "N/A")
    cards["kind"] = name_kind(cards["exp_type"], cards["FILTER"])
    if cards["kind"] == "unknown":
        # Without EXP_TYPE the filter may tell.
        none = "" if cards["exp_type"] == "N/A" else "unknown"
        cards["kind"] = str(item.said.get("mode") or none)
    position, area = _locate(model, item.name)
    ratio = get(model, "meta.resample.pixel_scale_ratio")
    return StarImage(
        rate=np.where(unusable, np.nan, data / factor),
        err=np.asarray(model.err, np.float64) / factor,
        saturated=saturated,
        position=position,
        pixarea_sr=area,
        scale=1.0 if ratio is None else 1 / float(ratio),
        cards=cards,
        mjd=find_mid_mjd(model, item),
        exposure_s=float(get(model, "meta.exposure.effective_exposure_time") or np.nan),
        integration_s=float(get(model, "meta.exposure.integration_time") or np.nan),
        source=item.name,
    )


def _find_factor(model: Any, name: str) -> float:
    """Find what turns the image into DN/s: 1, or PHOTMJSR, which holds the change with time."""
    unit = str(get(model, "meta.bunit_data") or "").replace(" ", "").lower()
    if unit == "dn/s":
        return 1.0
    photmjsr = get(model, "meta.photometry.conversion_megajanskys")
    if unit != "mjy/sr":
        raise InputError(
            f"expected BUNIT DN/s or MJy/sr in {name}, found "
            f"{get(model, 'meta.bunit_data')!r}; give _rate, _cal or _i2d products"
        )
    if photmjsr is None or not (np.isfinite(photmjsr) and photmjsr > 0):
        raise InputError(
            f"expected PHOTMJSR in {name}, whose BUNIT is MJy/sr, found {photmjsr!r}; give the "
            "_rate product"
        )
    return float(photmjsr)


def _locate(model: Any, name: str) -> tuple[tuple[float, float] | None, float]:
    """Find where the WCS puts the target, and the area of a pixel there [sr]."""
    said = get(model, "meta.photometry.pixelarea_steradians")
    project, invert = _find_wcs(model)
    ra, dec = get(model, "meta.target.ra"), get(model, "meta.target.dec")
    position = None
    if invert is not None and ra is not None and dec is not None:
        x, y = (float(value) for value in invert(ra, dec))
        position = (x, y) if np.isfinite([x, y]).all() else None
    area = np.nan
    if project is not None:
        ny, nx = np.shape(model.data)
        area = _compute_area(project, *(position or ((nx - 1) / 2, (ny - 1) / 2)))
    if np.isfinite(area) and said and abs(area / said - 1) > _AREA_TOLERANCE:
        log.warning(
            "%s: the WCS gives pixels of %.6g sr, PIXAR_SR %.6g sr (%+.2f %%): the WCS counts",
            name,
            area,
            said,
            100 * (said / area - 1),
        )
    area = area if np.isfinite(area) else float(said or np.nan)
    if not area > 0:
        raise InputError(
            f"expected a WCS or PIXAR_SR in {name}, found neither; add PIXAR_SR to its "
            "header, or give images after assign_wcs"
        )
    return position, area


def _find_wcs(model: Any) -> tuple[Any, Any]:
    """Find functions from pixels to the sky and back: of the gwcs, else of the keywords."""
    gwcs = get(model, "meta.wcs")
    if gwcs is not None:
        return (
            lambda x, y: gwcs(x, y, with_bounding_box=False)[:2],
            lambda ra, dec: gwcs.invert(ra, dec, with_bounding_box=False)[:2],
        )
    cards = {
        card: get(model, KEYWORDS[card]) for card in KEYWORDS if card[:2] in ("CR", "CD", "PC")
    }
    if cards["CRPIX1"] is None or cards["CRVAL1"] is None:
        return None, None
    wcs = build_wcs(cards)
    return (
        lambda x, y: wcs.wcs_pix2world(x, y, 0),
        lambda ra, dec: wcs.wcs_world2pix(ra, dec, 0),
    )


def _compute_area(project: Any, x: float, y: float) -> float:
    """Compute the area of a pixel on the sky [sr]."""
    ra, dec = project(x + np.array([-0.5, 0.5, 0.0, 0.0]), y + np.array([0.0, 0.0, -0.5, 0.5]))
    ra, dec = np.radians(np.asarray(ra, float)), np.radians(np.asarray(dec, float))
    east = (np.remainder(np.diff(ra)[::2] + np.pi, 2 * np.pi) - np.pi) * np.cos(dec.mean())
    north = np.diff(dec)[::2]
    return float(abs(east[0] * north[1] - east[1] * north[0]))


def photometer(image: StarImage, apertures: Any, ee: float) -> dict[str, Any]:
    """Measure the star of an image.

    Parameters
    ----------
    image : StarImage
    apertures, ee
        See `find_aperture`.

    Returns
    -------
    dict
        A row of the table that `measure_table` takes; what cannot be measured has a `reason`.

    Raises
    ------
    InputError
        The aperture is contradictory or of another encircled energy.
    """
    cards = image.cards
    row: dict[str, Any] = {
        "name": cards["target"],
        "filter": name_bandpass(cards["FILTER"], cards["PUPIL"], cards["detector"]),
        "instrument": cards["instrument"],
        "detector": cards["detector"],
        "mode": cards["kind"],
        "subarray": cards["SUBARRAY"],
        "element": cards["FILTER"],
        "pupil": cards["PUPIL"],
        "visit": cards["visit"],
        "mjd": image.mjd,
        "exposure": image.source,
        "exposure_s": image.exposure_s,
        "apcorr": 1.0,
        "eefraction": np.nan,
        "pixarea_sr": image.pixarea_sr,
        **dict.fromkeys(("rate", "rate_err", "peak", "background", "well_depth"), np.nan),
        "reason": _refuse(cards),
    }
    if row["reason"]:
        return row
    try:
        aperture = find_aperture(apertures, cards, ee)
    except EvidenceError as error:
        row["reason"] = str(error)
        return row
    row.update(apcorr=aperture.apcorr, eefraction=aperture.ee)
    sized = Aperture(
        aperture.ee,
        aperture.radius * image.scale,
        aperture.apcorr,
        aperture.sky_in * image.scale,
        aperture.sky_out * image.scale,
    )
    try:
        found = measure_star(
            image.rate, image.err, sized, position=image.position, saturated=image.saturated
        )
    except EvidenceError as error:
        row["reason"] = str(error)
        return row
    row.update(
        rate=found.rate,
        rate_err=found.rate_err,
        peak=found.peak,
        background=found.background,
        well_depth=found.peak * image.integration_s / _FULL_DN,
    )
    return row


def _refuse(cards: Mapping[str, str]) -> str:
    """Say why an exposure is no image of its star; '' where it is."""
    said = cards["background"]
    if said == "True" or (said != "False" and read_name(cards["target"]) == "background"):
        return "the target is a background"
    if "N/A" == cards["FILTER"] == cards["PUPIL"] and cards["instrument"].upper() != "FGS":
        return "no filter"
    if cards["kind"] in ("imaging", "coronagraphy") or cards["exp_type"] == "N/A":
        return ""
    return f"EXP_TYPE {cards['exp_type']} is no image of the sky"


def measure_images(rows: Sequence[Mapping[str, Any]], models: Models) -> Measurements:
    """Compare the photometry of images with the models.

    Parameters
    ----------
    rows : sequence of mapping
        What `photometer` gives.
    models : Models

    Returns
    -------
    Measurements

    Raises
    ------
    InputError
        A filter has no bandpass or no pivot wavelength.
    EvidenceError
        No image is usable.
    """
    stars = [find_star(row["name"]).name for row in rows]
    keys = [row["filter"] for row in rows]
    columns = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    columns["model_flux_jy"] = np.array(
        [
            np.nan if row["reason"] else models.get_flux(star, key)
            for row, star, key in zip(rows, stars, keys, strict=True)
        ]
    )
    pivots = {key: models.get_pivot(key) or read_pivot(key) or np.nan for key in set(keys)}
    columns["pivot_um"] = np.array([pivots[key] for key in keys])
    return measure_table(columns, {}, name="")
