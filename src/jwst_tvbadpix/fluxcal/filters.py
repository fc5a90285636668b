"""Filters, and which instrument and kind of mode they alone belong to."""

import re

from ..errors import InputError
from .modes import KINDS, Mode

__all__ = ["check_mode", "infer_mode", "name_bandpass", "name_kind", "read_pivot"]

_INSTRUMENTS = ("MIRI", "NIRCAM", "NIRISS", "NIRSPEC", "FGS", "WFI")
_MIRI = "F560W F770W F1000W F1130W F1280W F1500W F1800W F2100W F2550W F2550WR"
_MIRI_CORON = "F1065C F1140C F1550C F2300C FND"
_NIRCAM = (
    "F070W F150W2 F322W2 F162M F182M F187N F164N F210M F212N F250M F300M F323N F335M F360M F405N "
    "F410M F460M F466N F470N WLP4"
)
_NIRISS = "F158M F380M"
# Optical elements of Roman; no filter of JWST has a name without a letter at the end.
_WFI = "F062 F087 F106 F129 F146 F158 F184 F213"
# Filters that only one instrument has; F090W to F480M of NIRCam and NIRISS are not among them.
_OWNERS = {
    **dict.fromkeys(_MIRI.split(), ("MIRI", "MIRIMAGE", "imaging")),
    **dict.fromkeys(_MIRI_CORON.split(), ("MIRI", "MIRIMAGE", "coronagraphy")),
    **dict.fromkeys(_NIRCAM.split(), ("NIRCAM", "", "imaging")),
    **dict.fromkeys(_NIRISS.split(), ("NIRISS", "NIS", "imaging")),
    **dict.fromkeys(_WFI.split(), ("WFI", "", "imaging")),
    "P750L": ("MIRI", "MIRIMAGE", "lrs"),
}
# Filters of NIRISS in the pupil wheel, with FILTER CLEAR; the others have PUPIL CLEARP. Those of
# NIRCam in the pupil wheel, and the filter they are used with.
_NIRISS_PUPILS = ("F090W", "F115W", "F140M", "F150W", "F158M", "F200W")
_NIRCAM_PUPILS = {
    "F162M": "F150W2",
    "F164N": "F150W2",
    "F323N": "F322W2",
    "F405N": "F444W",
    "F466N": "F444W",
    "F470N": "F444W",
}
_FILTER = re.compile(r"F\d{3,4}[WMNCR0-9]*$")
# Pivot wavelengths that the name does not tell [um] (JWST user documentation).
_PIVOTS = {"FND": 13.0, "WLP4": 2.14, "GUIDER1": 2.5, "GUIDER2": 2.5}
# How the names of their detectors begin.
_DETECTORS = {
    "MIRI": "MIR",
    "NIRCAM": "NRC",
    "NIRISS": "NIS",
    "NIRSPEC": "NRS",
    "FGS": "GUIDER",
    "WFI": "WFI",
}
# Instruments of one detector (of images).
_ONLY_DETECTOR = {"NIRISS": "NIS", "MIRI": "MIRIMAGE"}
_KIND_BY_EXP_TYPE = {
    "MIR_IMAGE": "imaging",
    "MIR_TACQ": "imaging",
    "MIR_TACONFIRM": "imaging",
    "MIR_FLATIMAGE-EXT": "coronagraphy",
    "MIR_4QPM": "coronagraphy",
    "MIR_LYOT": "coronagraphy",
    "MIR_CORONCAL": "coronagraphy",
    "MIR_LRS-FIXEDSLIT": "lrs",
    "MIR_LRS-SLITLESS": "lrs",
    "MIR_MRS": "mrs",
    "MIR_WFSS": "wfss",
    "NRC_IMAGE": "imaging",
    "NRC_TSIMAGE": "imaging",
    "NRC_TACQ": "imaging",
    "NRC_TACONFIRM": "imaging",
    "NRC_FOCUS": "imaging",
    "NRC_CORON": "coronagraphy",
    "NRC_WFSS": "wfss",
    "NRC_TSGRISM": "wfss",
    "NIS_IMAGE": "imaging",
    "NIS_TACQ": "imaging",
    "NIS_TACONFIRM": "imaging",
    "NIS_AMI": "imaging",
    "NIS_SOSS": "soss",
    "NIS_WFSS": "wfss",
    "NRS_FIXEDSLIT": "fixed_slit",
    "NRS_BRIGHTOBJ": "fixed_slit",
    "NRS_IFU": "ifu",
    "FGS_IMAGE": "imaging",
    "WFI_IMAGE": "imaging",
}


def name_kind(exp_type: str, filter_: str) -> str:
    """Name the kind of mode of an exposure; 'unknown' where its EXP_TYPE is none of those.

    Notes
    -----
    MIR_FLATIMAGE-EXT stands for two: through the coronagraph's filters it is coronagraphy, whose
    rows photom takes for it; through the imager's filters it is imaging. Likewise for any image
    of MIRI: the filter tells.
    """
    kind = _KIND_BY_EXP_TYPE.get(exp_type.upper(), "unknown")
    owner = _OWNERS.get(filter_)
    images = ("imaging", "coronagraphy")
    if owner and owner[0] == "MIRI" and kind in images and owner[2] in images:
        return owner[2]
    return kind


def check_mode(instrument: str, kind: str, detector: str = "") -> str:
    """Return the kind of a mode, in lower case; refuse instruments, kinds and detectors of none.

    Raises
    ------
    InputError
        One of them is not '' and not one that is known, or the detector is of another instrument.
    """
    kind = kind.strip().lower()
    kind = "" if kind in ("n/a", "nan", "none") else kind
    if kind and kind not in KINDS:
        raise InputError(f"expected a mode out of {', '.join(KINDS)}, found {kind!r}; correct it")
    if instrument and instrument.upper() not in _INSTRUMENTS:
        raise InputError(
            f"expected an instrument out of {', '.join(_INSTRUMENTS)}, found {instrument!r}; "
            "correct it"
        )
    start = _DETECTORS.get(instrument.upper(), "")
    if detector and not detector.upper().startswith(start):
        raise InputError(
            f"expected a detector of {instrument}, found {detector}; correct one of them"
        )
    return kind


def infer_mode(
    filter_: str,
    *,
    instrument: str = "",
    detector: str = "",
    kind: str = "",
    pupil: str = "",
) -> Mode:
    """Complete what is said of a mode by what its filter alone tells.

    Parameters
    ----------
    filter_ : str
        As in FILTER.
    instrument, detector, kind, pupil : str
        What is known; '' for not.

    Returns
    -------
    Mode
        Of kind 'unknown', with the filter alone, where instrument, detector or kind stay unknown.

    Raises
    ------
    InputError
        The instrument or kind is none, or the filter is of another instrument.
    """
    names = [value.strip().upper() for value in (filter_, instrument, detector, pupil)]
    filter_, instrument, detector, pupil = (
        "" if value in ("N/A", "NONE", "NAN") else value for value in names
    )
    kind = check_mode(instrument, kind, detector)
    owner = _OWNERS.get(filter_)
    if owner and instrument not in ("", owner[0]):
        raise InputError(
            f"expected {filter_} with {owner[0]}, which alone has it, found {instrument}; correct "
            "the instrument or the filter"
        )
    images = ("imaging", "coronagraphy")
    if (
        owner
        and owner[0] == "MIRI"
        and kind not in ("", "unknown")
        and (kind in images) != (owner[2] in images)
    ):
        raise InputError(
            f"expected the mode {owner[2]} of {filter_}, found {kind}; correct one of them"
        )
    if owner:
        instrument, detector, kind = owner[0], detector or owner[1], kind or owner[2]
        check_mode(instrument, kind, detector)
    if kind in (*images, ""):
        detector = detector or _ONLY_DETECTOR.get(instrument, "")
        kind = kind or ("imaging" if filter_ and detector else "")
    if not (instrument and detector and kind in KINDS and kind != "unknown"):
        return Mode("N/A", "N/A", "unknown", filter_ or "N/A")
    if kind in images:
        filter_, pupil = _complete(instrument, kind, filter_, pupil)
    return Mode(instrument, detector, kind, filter_ or "N/A", pupil or "N/A")


def _complete(instrument: str, kind: str, filter_: str, pupil: str) -> tuple[str, str]:
    """Complete FILTER and PUPIL where the name of the filter alone is given."""
    if pupil:
        return filter_, pupil
    if instrument == "NIRISS":
        return ("CLEAR", filter_) if filter_ in _NIRISS_PUPILS else (filter_, "CLEARP")
    if instrument == "NIRCAM" and filter_ in _NIRCAM_PUPILS:
        return _NIRCAM_PUPILS[filter_], filter_
    return filter_, "CLEAR" if instrument == "NIRCAM" and kind == "imaging" else ""


def name_bandpass(filter_: str, pupil: str, detector: str) -> str:
    """Name the filter that shapes the light: that of the pupil wheel, if any, else FILTER.

    FGS has none: its bandpass is named after its detector.
    """
    for name in (pupil.upper(), filter_.upper()):
        if _FILTER.match(name) or name == "FND":
            return name
    return filter_.upper() if filter_.upper() not in ("", "N/A") else detector.upper()


def read_pivot(filter_: str) -> float | None:
    """Read the wavelength in a filter's name [um], F770W: 7.7, F158: 1.58; None without one."""
    found = re.match(r"F(\d{3,4})([WMNCL]|$)", filter_.upper())
    return int(found[1]) / 100 if found else _PIVOTS.get(filter_.upper())
