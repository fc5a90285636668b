"""Spectra of standard stars in products of extract_1d."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import InputError
from ..fluxcal.aliases import find_star
from ..fluxcal.filters import check_mode, name_kind
from ..fluxcal.modes import Mode
from ..fluxcal.spectra import StarSpectrum
from ..programmes.targets import read_name
from ..refmodels.dq import dq_value
from .files import Item
from .keywords import find_mid_mjd, find_target, get
from .models import Models
from .photom import PhotomFiles
from .spectra import require_elements, sample_model

__all__ = ["read_x1d"]

log = logging.getLogger(__name__)

_FLUX_UNITS = {"dn/s": False, "jy": True}


def read_x1d(
    model: Any, item: Item, models: Models, photoms: PhotomFiles
) -> Iterator[StarSpectrum]:
    """Read the spectra of a product of extract_1d.

    Parameters
    ----------
    model : data model
        With `spec`; FLUX in DN/s (photom skipped) or Jy.
    item : Item
        Where it comes from, and what is said of it.
    models : Models
        Where the model spectrum of the star is.
    photoms : PhotomFiles
        Where R_PHOTOM is, for spectra in Jy.

    Yields
    ------
    StarSpectrum
        One for each order; the integrations of a time series are averaged.

    Raises
    ------
    InputError
        Nothing says the target, the unit is another, or R_PHOTOM is not there.
    """
    given = find_target(model, item)
    star = find_star(given)
    mjd = find_mid_mjd(model, item)
    background = get(model, "meta.observation.bkgdtarg")
    is_background = background or (background is None and read_name(given) == "background")
    for spec in _choose(model):
        mode = _name_mode(model, spec, item)
        wave, flux, err = _read_spec(spec, item.name)
        subarray = str(get(model, "meta.subarray.name") or "N/A")
        scale = np.ones(len(wave))
        if _is_flux(model, spec, item.name):
            conversion = photoms.convert(
                get(model, "meta.ref_file.photom.name"),
                mode,
                subarray,
                wave,
                mjd,
                get(model, "meta.photometry.pixelarea_steradians"),
            )
            scale = 1e-6 / conversion
        sampled, reason = sample_model(models, star.name, given, wave)
        yield StarSpectrum(
            mode=mode,
            star=star.name,
            star_class=star.star_class,
            given=given,
            visit=str(item.said.get("visit") or get(model, "meta.observation.visit_id") or ""),
            subarray=subarray,
            mjd=mjd,
            wave=wave,
            rate=flux * scale,
            err=err * scale,
            model_jy=sampled,
            source=item.name,
            exposure_s=float(get(model, "meta.exposure.effective_exposure_time") or np.nan),
            reason="the target is a background" if is_background else reason,
        )


def _choose(model: Any) -> list[Any]:
    """Choose the spectra of the star: of several slits, the one it was put in."""
    spectra = list(model.spec)
    slit = str(get(model, "meta.instrument.fixed_slit") or "")
    named = [spec for spec in spectra if str(get(spec, "name") or "") == slit]
    return named if slit and named else spectra


def _name_mode(model: Any, spec: Any, item: Item) -> Mode:
    """Name the mode of a spectrum."""
    said = {"name": item.said.get("instrument"), **item.said}
    cards = {
        key: str(get(model, f"meta.instrument.{key}") or said.get(key) or "N/A").upper()
        for key in ("name", "detector", "filter", "pupil", "grating", "band", "channel")
    }
    exp_type = str(get(model, "meta.exposure.type") or "")
    kind = name_kind(exp_type, cards["filter"])
    kind = check_mode("", str(item.said.get("mode") or "")) if kind == "unknown" else kind
    if kind in ("", "unknown", "imaging", "coronagraphy"):
        raise InputError(
            f"expected a spectroscopic EXP_TYPE in {item.name}, found {exp_type!r}; correct it"
        )
    detector = cards["detector"]
    if kind == "mrs" and not detector.startswith("MIRIFU"):
        detector = {"1": "MIRIFUSHORT", "2": "MIRIFUSHORT"}.get(cards["channel"][:1], "MIRIFULONG")
    if kind == "lrs":
        # There is one detector, and one disperser.
        cards["name"], detector, cards["filter"] = "MIRI", "MIRIMAGE", "P750L"
    if "N/A" in (cards["name"], detector):
        raise InputError(
            f"expected INSTRUME and DETECTOR in {item.name}, found {cards['name']} and {detector}; "
            "say them in the association's members or as parameters"
        )
    check_mode(cards["name"], kind, detector)
    require_elements(cards["name"], cards["filter"], cards["grating"])
    slit = str(get(spec, "name") or get(model, "meta.instrument.fixed_slit") or "N/A")
    return Mode(
        instrument=cards["name"],
        detector=detector,
        kind=kind,
        filter=cards["filter"],
        pupil=cards["pupil"] if kind in ("soss", "wfss") else "N/A",
        grating=cards["grating"] if cards["name"] == "NIRSPEC" else "N/A",
        slit=slit if kind == "fixed_slit" else "N/A",
        band=cards["band"] if kind == "mrs" else "N/A",
        order=int(get(spec, "spectral_order") or 0) if kind in ("soss", "wfss") else 0,
    )


def _is_flux(model: Any, spec: Any, name: str) -> bool:
    """Tell whether a spectrum is in Jy; by its unit, else by whether photom was run."""
    columns = getattr(spec.spec_table, "columns", None)
    units = {} if columns is None else {c.name.upper(): c.unit for c in columns}
    said = str(units.get("FLUX") or "").replace(" ", "").lower()
    if said in _FLUX_UNITS:
        return _FLUX_UNITS[said]
    if said:
        raise InputError(
            f"expected FLUX in DN/s or Jy in {name}, found {said!r}; give products of extract_1d"
        )
    return get(model, "meta.cal_step.photom") == "COMPLETE"


def _read_spec(spec: Any, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read wavelength [um], flux and error of one spectrum, sorted; NaN where flagged."""
    table = spec.spec_table
    names = {key.upper(): key for key in table.dtype.names}
    missing = [key for key in ("WAVELENGTH", "FLUX", "FLUX_ERROR") if key not in names]
    if missing:
        raise InputError(
            f"expected the columns {', '.join(missing)} in {name}, found "
            f"{', '.join(names.values())}; give products of extract_1d"
        )
    wave, flux, err = (
        np.array(table[names[key]], np.float64) for key in ("WAVELENGTH", "FLUX", "FLUX_ERROR")
    )
    if "DQ" in names:
        dq = np.asarray(table[names["DQ"]])
        flagged = (dq.astype(np.uint32) & np.uint32(dq_value("DO_NOT_USE"))) != 0
        flux[flagged] = np.nan
    err[~(err > 0)] = np.nan
    if wave.ndim == 2:
        wave, flux, err = wave[0], *_average(flux, err)
    order = np.argsort(wave, kind="stable")
    order = order[np.isfinite(wave[order]) & (wave[order] > 0)]
    return wave[order], flux[order], err[order]


def _average(flux: np.ndarray, err: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average integrations: mean of those that are good, and its error."""
    good = np.isfinite(flux) & np.isfinite(err)
    n = good.sum(axis=0)
    with np.errstate(all="ignore"):
        mean = np.where(good, flux, 0.0).sum(axis=0) / n
        sigma = np.sqrt(np.where(good, err**2, 0.0).sum(axis=0)) / n
    return np.where(n > 0, mean, np.nan), np.where(n > 0, sigma, np.nan)
