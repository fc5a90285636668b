"""Spectra of standard stars from tables and from products of extract_1d."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import DateError, InputError
from ..fluxcal.aliases import Standard, find_calspec, find_star
from ..fluxcal.filters import check_mode
from ..fluxcal.modes import Mode
from ..fluxcal.spectra import StarSpectrum, smooth_model
from .files import Columns, Item
from .models import Models

__all__ = ["read_table_spectrum", "require_elements", "sample_model"]

log = logging.getLogger(__name__)

# Cards of the middle of an exposure, or near it [MJD].
_DATES = ("EXPMID", "MJD-AVG", "MJD", "MJD-OBS")
_UNKNOWN = Mode("N/A", "N/A", "unknown")


def name_mode(said: Mapping[str, Any], header: Mapping[str, Any]) -> Mode:
    """Name the mode of a spectrum: as said, else as its header has it; 'unknown' where neither."""
    cards = {"instrument": "INSTRUME", "detector": "DETECTOR", "mode": "MODE", "filter": "FILTER"}

    def find(key: str) -> str:
        return str(said.get(key) or header.get(cards.get(key, key.upper())) or "").strip()

    instrument, detector = find("instrument").upper(), find("detector").upper()
    kind = check_mode(instrument, find("mode"), detector)
    if instrument == "MIRI" and kind == "lrs":
        detector = detector or "MIRIMAGE"
    if not (instrument and detector and kind):
        return _UNKNOWN
    filter_ = find("filter").upper() or ("P750L" if kind == "lrs" else "N/A")
    others = {key: find(key).upper() or "N/A" for key in ("pupil", "grating", "slit", "band")}
    require_elements(instrument, filter_, others["grating"])
    return Mode(instrument, detector, kind, filter_, **others, order=int(find("order") or 0))


def require_elements(instrument: str, filter_: str, grating: str) -> None:
    """Refuse a spectrum of NIRSpec without filter or grating ('N/A').

    Raises
    ------
    InputError
        One of them is absent: each pair has a conversion of its own.
    """
    if instrument == "NIRSPEC" and "N/A" in (filter_, grating):
        raise InputError(
            f"expected filter and grating of a NIRSpec spectrum, found {filter_} and "
            f"{grating}: each pair has a conversion of its own; say them in the "
            "association's members, in the header or as parameters"
        )


def name_star(
    said: Mapping[str, Any], header: Mapping[str, Any], name: str
) -> tuple[str, Standard]:
    """Name the star of a spectrum: as said, by the target of its header, or by its model's file.

    Raises
    ------
    InputError
        Nothing says it.
    """
    for key in ("target", "TARGNAME", "TARGPROP", "TARGET", "OBJECT"):
        given = str(said.get(key) or header.get(key) or "").strip()
        if given:
            return given, find_star(given)
    for key in ("CALSPREF", "CALSPEC"):
        if header.get(key):
            return str(header[key]), find_calspec(str(header[key]))
    raise InputError(
        f"expected the star of {name} as target of the association's member, or as TARGNAME, "
        "CALSPREF or CALSPEC in its header, found none; add it"
    )


def read_table_spectrum(
    table: Columns, item: Item, models: Models, said: Mapping[str, Any]
) -> StarSpectrum:
    """Read a spectrum from a table.

    Parameters
    ----------
    table : Columns
        Columns wave or wavelength [um], data [DN/s], var or data_ivar or err, and model or
        calspec_model [uJy].
    item : Item
        Where it comes from.
    models : Models
        Where to look for a model that the table does not hold.
    said : mapping
        Target, time and mode where they are given.

    Returns
    -------
    StarSpectrum

    Raises
    ------
    InputError
        A column is missing or of another unit, or nothing says which star it is.
    """
    wave_key, data_key = table.find("wave", "wavelength"), table.find("data", "rate")
    if wave_key is None or data_key is None:
        raise InputError(
            f"expected columns wave (or wavelength) and data in {table.name}, found "
            f"{', '.join(table.values)}; add them"
        )
    given, star = name_star(said, table.header, table.name)
    wave, rate = table.convert(wave_key, "um"), table.convert(data_key, "DN/s")
    err = _read_error(table, data_key)
    wave, order = np.unique(wave[np.isfinite(wave)], return_index=True)
    order = np.flatnonzero(np.isfinite(table.convert(wave_key, "um")))[order]
    if len(order) < len(rate):
        log.warning(
            "%s: %d rows with no wavelength or one that is there already are left out",
            table.name,
            len(rate) - len(order),
        )
    rate, err = rate[order], err[order]
    model_key, reason = table.find("model", "calspec_model"), ""
    if model_key is not None:
        model = table.convert(model_key, "uJy")[order] * 1e-6
    else:
        model, reason = sample_model(models, star.name, given, wave)
    dates = (said.get("mjd"), *(table.header.get(card) for card in _DATES))
    mjd = next((date for date in dates if date not in (None, "")), np.nan)
    return StarSpectrum(
        mode=name_mode(said, table.header),
        star=star.name,
        star_class=star.star_class,
        given=given,
        visit=str(said.get("visit") or ""),
        subarray=str(said.get("subarray") or table.header.get("SUBARRAY") or "N/A"),
        mjd=_read_mjd(mjd, table.name),
        wave=wave,
        rate=rate,
        err=err,
        model_jy=model,
        source=item.name,
        reason=reason,
    )


def _read_mjd(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise DateError(
            f"expected the time of {name} as MJD, found {value!r}; correct it"
        ) from error


def sample_model(models: Models, star: str, given: str, wave: np.ndarray) -> tuple[np.ndarray, str]:
    """Sample a star's model at the pixels of a spectrum [Jy], or say why not."""
    spectrum = models.get_spectrum(star)
    if spectrum is None:
        return np.full(len(wave), np.nan), f"no model spectrum of {given}"
    return smooth_model(spectrum.wave, spectrum.flux_jy, wave), ""


def _read_error(table: Columns, data_key: str) -> np.ndarray:
    """Read the error of each pixel [DN/s]: from its variance, its inverse, or as it is.

    Without a unit of its own it goes with that of the data.
    """
    for names, power in (
        (("var", "variance"), 2),
        (("data_ivar", "ivar"), -2),
        (("err", "error", "data_err"), 1),
    ):
        key = table.find(*names)
        if key is not None:
            values = table.convert(key, "DN/s", power=power, like=data_key)
            with np.errstate(all="ignore"):
                error: np.ndarray = values ** (1 / power)
            return error
    raise InputError(
        f"expected a column var, data_ivar or err in {table.name}, found "
        f"{', '.join(table.values)}; add one"
    )
