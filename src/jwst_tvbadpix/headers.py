"""What the header of an exposure says, checked: where it lies on the detector, and when."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from .dates import to_mjd
from .detectors import Detector, get_detector
from .errors import ContradictoryDateError, DateError, DetectorError, InputError

__all__ = ["KEYWORDS", "ExposureRecord", "make_record", "read_readout", "read_start"]

log = logging.getLogger(__name__)

_SECONDS_PER_DAY = 86400.0
_WHOLE = ("NGROUPS", "NINTS", "SUBSTRT1", "SUBSTRT2", "SUBSIZE1", "SUBSIZE2", "DISPAXIS")
_REAL = ("EFFEXPTM", "EXPSTART", "EXPMID", "EXPEND", "PHOTMJSR")
# Units of rate and of calibrated products, as written in BUNIT but for blanks and case.
_UNITS = {"dn/s": "DN/s", "mjy/sr": "MJy/sr"}

# Where each keyword lives in a data model.
KEYWORDS = {
    "TELESCOP": "meta.telescope",
    "DETECTOR": "meta.instrument.detector",
    "FILTER": "meta.instrument.filter",
    "GRATING": "meta.instrument.grating",
    "PUPIL": "meta.instrument.pupil",
    "CHANNEL": "meta.instrument.channel",
    "MODULE": "meta.instrument.module",
    "EXP_TYPE": "meta.exposure.type",
    "READPATT": "meta.exposure.readpatt",
    "NGROUPS": "meta.exposure.ngroups",
    "NINTS": "meta.exposure.nints",
    "EFFEXPTM": "meta.exposure.effective_exposure_time",
    "EXPSTART": "meta.exposure.start_time",
    "EXPMID": "meta.exposure.mid_time",
    "EXPEND": "meta.exposure.end_time",
    "DATE-OBS": "meta.observation.date",
    "TIME-OBS": "meta.observation.time",
    "SUBARRAY": "meta.subarray.name",
    "SUBSTRT1": "meta.subarray.xstart",
    "SUBSTRT2": "meta.subarray.ystart",
    "SUBSIZE1": "meta.subarray.xsize",
    "SUBSIZE2": "meta.subarray.ysize",
    "DISPAXIS": "meta.wcsinfo.dispersion_direction",
    "R_MASK": "meta.ref_file.mask.name",
    "CAL_VER": "meta.calibration_software_version",
    "FILENAME": "meta.filename",
    "EXSEGNUM": "meta.exposure.segment_number",
    "MSTR_RD1": "meta.subarray.multistripe_reads1",
    "BUNIT": "meta.bunit_data",
    "PHOTMJSR": "meta.photometry.conversion_megajanskys",
    "VISIT_ID": "meta.observation.visit_id",
    "TARG_RA": "meta.target.ra",
    "TARG_DEC": "meta.target.dec",
    "S_FLAT": "meta.cal_step.flat_field",
    "S_WCS": "meta.cal_step.assign_wcs",
    "CRPIX1": "meta.wcsinfo.crpix1",
    "CRPIX2": "meta.wcsinfo.crpix2",
    "CRVAL1": "meta.wcsinfo.crval1",
    "CRVAL2": "meta.wcsinfo.crval2",
    "CDELT1": "meta.wcsinfo.cdelt1",
    "CDELT2": "meta.wcsinfo.cdelt2",
    "PC1_1": "meta.wcsinfo.pc1_1",
    "PC1_2": "meta.wcsinfo.pc1_2",
    "PC2_1": "meta.wcsinfo.pc2_1",
    "PC2_2": "meta.wcsinfo.pc2_2",
    "V2_REF": "meta.wcsinfo.v2_ref",
    "V3_REF": "meta.wcsinfo.v3_ref",
    "RA_REF": "meta.wcsinfo.ra_ref",
    "DEC_REF": "meta.wcsinfo.dec_ref",
    "ROLL_REF": "meta.wcsinfo.roll_ref",
    "VA_SCALE": "meta.velocity_aberration.scale_factor",
}


@dataclass(frozen=True, slots=True)
class ExposureRecord:
    """What the header of one exposure says, checked.

    Attributes
    ----------
    filename, sha256 : str
        Name and checksum of the file (of the arrays for a model in memory).
    detector, exp_type, filter, subarray, readpatt, r_mask, cal_ver : str
        Keywords; "N/A" where absent.
    corner : tuple of int
        0-based (y, x) of the first pixel in the full frame.
    shape : tuple of int
        (ny, nx) that was read out.
    start_mjd, expstart_mjd, mid_mjd, end_mjd : float
        DATE-OBS + TIME-OBS (by which CRDS selects), EXPSTART, EXPMID, EXPEND [MJD, UTC];
        NaN for an undated exposure.
    exposure_s : float
        Effective exposure time [s]; NaN where absent.
    ngroups, nints : int
        0 where absent.
    dispersion_axis : int or None
        DISPAXIS: 1 along x, 2 along y, None = image.
    unit : str
        Unit of SCI: DN/s or MJy/sr.
    photmjsr : float
        What turns DN/s into `unit` [MJy/sr per DN/s]: PHOTMJSR of an image; NaN where it is
        absent or, as in spectra, only part of the conversion. 1 for DN/s.
    settled, unsettled : tuple of int
        0-based integrations that are used and that are not; () and () for a rate image.
    fallbacks : tuple of str
        What was taken from elsewhere because a keyword is absent.
    """

    filename: str
    sha256: str
    detector: str
    exp_type: str
    filter: str
    subarray: str
    readpatt: str
    r_mask: str
    cal_ver: str
    corner: tuple[int, int]
    shape: tuple[int, int]
    start_mjd: float
    expstart_mjd: float
    mid_mjd: float
    end_mjd: float
    exposure_s: float
    ngroups: int
    nints: int
    dispersion_axis: int | None
    unit: str
    photmjsr: float
    settled: tuple[int, ...] = ()
    unsettled: tuple[int, ...] = ()
    fallbacks: tuple[str, ...] = ()


def make_record(
    name: str,
    checksum: str,
    keywords: Mapping[str, Any],
    shape: tuple[int, ...],
    settled: tuple[int, ...],
) -> ExposureRecord:
    """Check the keywords of one exposure.

    Parameters
    ----------
    name, checksum : str
        Name and SHA-256 of the exposure.
    keywords : mapping
        The cards of `KEYWORDS`; None = absent.
    shape : tuple of int
        Of SCI, 2-D or 3-D.
    settled : tuple of int
        Integrations to use; () for a rate image.

    Returns
    -------
    ExposureRecord

    Raises
    ------
    InputError, DetectorError, DateError
        The exposure is no JWST rate or calibrated product, its place on the detector is unknown,
        or its dates cannot be read.
    ContradictoryDateError
        Its dates lie more than a day apart; the message does not name the exposure.
    """
    telescope = _read_telescope(name, keywords)
    if len(shape) not in (2, 3):
        raise InputError(
            f"expected a 2-D rate or 3-D rateints image in {name}, found SCI of shape "
            f"{shape}; run calwebb_detector1 first"
        )
    keywords = _read_numbers(name, keywords)
    fallbacks: list[str] = []
    try:
        detector = get_detector(keywords["DETECTOR"])
        if detector.telescope != telescope:
            raise DetectorError(f"expected a detector of {telescope}, found {detector.name}")
        corner = _find_corner(keywords, detector, shape[-2:], fallbacks)
    except DetectorError as error:
        raise DetectorError(f"{name}: {error}") from error
    exp_type = str(keywords["EXP_TYPE"] or "N/A")
    start, expstart, mid, end = _find_times(name, keywords, fallbacks)
    axis = _find_dispersion_axis(exp_type, keywords, fallbacks)
    unit, photmjsr = _find_unit(name, keywords, axis)
    return ExposureRecord(
        filename=name,
        sha256=checksum,
        detector=detector.name,
        exp_type=exp_type,
        **{
            key: str(keywords[card] or "N/A")
            for key, card in (
                ("filter", "FILTER"),
                ("subarray", "SUBARRAY"),
                ("readpatt", "READPATT"),
                ("r_mask", "R_MASK"),
                ("cal_ver", "CAL_VER"),
            )
        },
        corner=corner,
        shape=(shape[-2], shape[-1]),
        start_mjd=start,
        expstart_mjd=expstart,
        mid_mjd=mid,
        end_mjd=end,
        exposure_s=keywords["EFFEXPTM"] or np.nan,
        ngroups=keywords["NGROUPS"] or 0,
        nints=keywords["NINTS"] or 0,
        dispersion_axis=axis,
        unit=unit,
        photmjsr=photmjsr,
        settled=settled,
        unsettled=tuple(k for k in range(shape[0]) if k not in settled) if len(shape) == 3 else (),
        fallbacks=tuple(fallbacks),
    )


def _read_telescope(name: str, keywords: Mapping[str, Any]) -> str:
    """Read JWST or ROMAN."""
    telescope = str(keywords["TELESCOP"]).upper()
    if telescope not in ("JWST", "ROMAN"):
        raise InputError(
            f"expected TELESCOP = JWST or ROMAN in {name}, found {keywords['TELESCOP']!r}; "
            "give JWST _rate or _rateints products, or level-2 images of Roman"
        )
    return telescope


def _read_numbers(name: str, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Check the cards that hold numbers; the others are taken over."""
    checked = dict(keywords)
    for kind, cards in (("a whole number", _WHOLE), ("a number", _REAL)):
        for card in cards:
            value = checked[card]
            if value is None:
                continue
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = np.nan
            if not np.isfinite(number) or (card in _WHOLE and number != int(number)):
                raise InputError(
                    f"expected {kind} for {card} in {name}, found {value!r}; correct the header"
                )
            checked[card] = int(number) if card in _WHOLE else number
    if checked["DISPAXIS"] not in (None, 0, 1, 2) or (checked["EFFEXPTM"] or 0) < 0:
        raise InputError(
            f"expected DISPAXIS 1 (along x), 2 (along y) or none, and EFFEXPTM >= 0 in {name}, "
            f"found {checked['DISPAXIS']} and {checked['EFFEXPTM']}; correct the header"
        )
    return checked


def _find_unit(name: str, keywords: Mapping[str, Any], axis: int | None) -> tuple[str, float]:
    """Find the unit of SCI, and what turns DN/s into it."""
    found = keywords["BUNIT"]
    unit = "DN/s" if found is None else _UNITS.get(str(found).replace(" ", "").lower())
    if unit is None:
        raise InputError(
            f"expected BUNIT = DN/s or MJy/sr in {name}, found {found!r}; give products of "
            "calwebb_detector1, or _cal products in MJy/sr"
        )
    if unit == "DN/s":
        return unit, 1.0
    factor = keywords["PHOTMJSR"]
    if factor is not None and factor <= 0:
        raise InputError(
            f"expected PHOTMJSR > 0 in {name}, found {factor}; correct the header or give the "
            "_rate product"
        )
    # In spectra the scalar is multiplied by a response that varies with wavelength.
    return unit, np.nan if factor is None or axis is not None else factor


def _find_dispersion_axis(
    exp_type: str, keywords: Mapping[str, Any], fallbacks: list[str]
) -> int | None:
    """Find DISPAXIS, in the header or as the pipeline does; None = image."""
    axis: int | None = keywords["DISPAXIS"]
    if axis:
        return axis
    optics = (str(keywords[card] or "N/A") for card in ("GRATING", "FILTER", "PUPIL"))
    axis = _infer_dispersion_axis(exp_type, *optics)
    fallbacks.append(f"DISPAXIS is absent: {axis or 'none (image)'} follows from {exp_type}")
    return axis


@cache
def _infer_dispersion_axis(exp_type: str, grating: str, filter_: str, pupil: str) -> int | None:
    from jwst.lib.dispaxis import get_dispersion_direction

    # It warns of an error for every image.
    theirs = logging.getLogger(get_dispersion_direction.__module__)
    disabled, theirs.disabled = theirs.disabled, True
    try:
        axis: int | None = get_dispersion_direction(exp_type, grating, filter_, pupil)
    finally:
        theirs.disabled = disabled
    return axis


def _find_corner(
    keywords: Mapping[str, Any],
    detector: Detector,
    shape: tuple[int, ...],
    fallbacks: list[str],
) -> tuple[int, int]:
    """Find the 0-based (y, x) of the first pixel; the file's own corner rules."""
    name = keywords["SUBARRAY"]
    if keywords["MSTR_RD1"]:
        raise DetectorError(
            f"expected one rectangle of the detector, found SUBARRAY {name} read out in stripes "
            f"(MSTR_RD1 = {keywords['MSTR_RD1']}); leave the exposure out"
        )
    cards = [keywords[key] for key in ("SUBSTRT1", "SUBSTRT2", "SUBSIZE1", "SUBSIZE2")]
    known = detector.subarrays.get(name)
    if name not in detector.subarrays:
        if detector.subarrays_complete or None in cards:
            others = "" if detector.subarrays_complete else ", or another with SUBSTRT and SUBSIZE"
            raise DetectorError(
                f"expected SUBARRAY of {detector.name} to be one of "
                f"{', '.join(detector.subarrays)}{others}, found {name!r}; correct the keyword or "
                "leave the exposure out"
            )
        fallbacks.append(f"{name} is in no table of {detector.name}: its corner is the file's")
    elif None in cards:
        if known is None:
            raise DetectorError(
                f"expected SUBSTRT1/2 and SUBSIZE1/2 with SUBARRAY {name}, found {cards}; "
                "add the keywords"
            )
        fallbacks.append(
            f"SUBSTRT and SUBSIZE are absent: the corner of {name} is taken from the tables"
        )
        cards = list(known)
    x, y, nx, ny = cards
    full_ny, full_nx = detector.shape
    if shape != (ny, nx) or not (0 < x <= full_nx - nx + 1 and 0 < y <= full_ny - ny + 1):
        raise DetectorError(
            f"expected {nx} x {ny} pixels at ({x}, {y}) within {detector.name} of "
            f"{full_nx} x {full_ny} (SUBARRAY {name}), found an image of {shape[1]} x {shape[0]}; "
            "correct SUBSTRT and SUBSIZE"
        )
    return y - 1, x - 1


def _find_times(
    name: str, keywords: Mapping[str, Any], fallbacks: list[str]
) -> tuple[float, float, float, float]:
    """Find (DATE-OBS + TIME-OBS, EXPSTART, EXPMID, EXPEND)."""
    start = _read_date(name, keywords["DATE-OBS"], keywords["TIME-OBS"])
    expstart, mid, end = (keywords[key] or np.nan for key in ("EXPSTART", "EXPMID", "EXPEND"))
    half = (keywords["EFFEXPTM"] or 0) / 2 / _SECONDS_PER_DAY
    if abs(start - expstart) > 1:
        raise ContradictoryDateError(
            f"expected EXPSTART within a day of DATE-OBS, found MJD {expstart:.3f} and "
            f"{start:.3f}; correct the header"
        )
    if np.isfinite(start) and not keywords["TIME-OBS"]:
        used = "EXPSTART" if np.isfinite(expstart) else "midnight"
        fallbacks.append(f"TIME-OBS is absent: {used} is used")
        start = expstart if np.isfinite(expstart) else start

    def fill(value: float, card: str, *others: tuple[float, str]) -> float:
        for other, text in others:
            if np.isnan(value) and np.isfinite(other):
                fallbacks.append(f"{card} is absent: {text}")
                value = other
        return value

    mid = fill(
        mid,
        "EXPMID",
        ((expstart + end) / 2, "the middle of EXPSTART and EXPEND is used"),
        ((start + end) / 2, "the middle of DATE-OBS + TIME-OBS and EXPEND is used"),
        (expstart + half, "EXPSTART and half of EFFEXPTM are used"),
        (start + half, "DATE-OBS, TIME-OBS and half of EFFEXPTM are used"),
    )
    first = (mid - half, "EXPMID less half of EFFEXPTM is used")
    expstart = fill(expstart, "EXPSTART", (start, "DATE-OBS and TIME-OBS are used"), first)
    start = fill(start, "DATE-OBS", (expstart, "the start of the exposure is used"))
    end = fill(end, "EXPEND", (mid + half, "EXPMID and half of EFFEXPTM are used"))
    if abs(mid - start) > 1 or end < start - 1:
        raise ContradictoryDateError(
            f"expected EXPMID within a day of the start and EXPEND after it, found MJD "
            f"{start:.3f}, {mid:.3f} and {end:.3f}; correct the header"
        )
    return start, expstart, mid, end


def _read_date(name: str, date: str | None, time: str | None) -> float:
    """Read DATE-OBS + TIME-OBS [MJD]; NaN without a date, midnight without a time."""
    if not date:
        return np.nan
    try:
        return to_mjd(f"{date}T{time or '00:00:00'}")
    except ValueError as error:
        raise DateError(
            f"expected DATE-OBS and TIME-OBS as YYYY-MM-DD and hh:mm:ss in {name}, found "
            f"{date!r} and {time!r}; correct them"
        ) from error


def read_readout(path: Path) -> tuple[str | None, int | None]:
    """Read READPATT and NGROUPS of an exposure of any stage; None where absent."""
    header = fits.getheader(path)
    readpatt, ngroups = header.get("READPATT"), header.get("NGROUPS")
    return readpatt, ngroups if isinstance(ngroups, int) else None


def read_start(path: Path) -> tuple[str, str]:
    """Read when an exposure of any stage started, and on which detector.

    Parameters
    ----------
    path : Path
        A FITS file of JWST.

    Returns
    -------
    start, detector : str
        DATE-OBS + TIME-OBS as ISO text (UTC), and DETECTOR.

    Raises
    ------
    InputError
        The file cannot be read, or lacks a keyword.
    """
    try:
        header = fits.getheader(path)
        return f"{header['DATE-OBS']}T{header['TIME-OBS']}", str(header["DETECTOR"])
    except (OSError, KeyError) as error:
        raise InputError(
            f"expected a JWST FITS file with DATE-OBS, TIME-OBS and DETECTOR, found {path}: "
            f"{error}; give --date instead"
        ) from error
