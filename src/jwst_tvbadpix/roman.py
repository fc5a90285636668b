"""Exposures of Roman's Wide Field Instrument: level-2 images in ASDF, read lazily."""

import logging
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import asdf
import numpy as np
from asdf.util import load_yaml
from astropy.time import Time
from stdatamodels.jwst.datamodels.dqflags import pixel

from .dates import allow_far_dates
from .detectors import get_detector
from .errors import DetectorError, InputError, ProductError
from .files import compute_sha256, require_plain_tree
from .headers import KEYWORDS
from .planes import find_planes
from .refmodels.roman import map_dq_from_roman, roman_pixel_flags
from .sources import Scan

__all__ = [
    "KNOWN_IMAGES",
    "follow",
    "is_roman_file",
    "list_unmatched_flags",
    "read_header",
    "read_model",
    "read_start",
    "scan_asdf",
]

log = logging.getLogger(__name__)

# Tags of a level-2 image, and the version of RAD that has them: those that are tested.
KNOWN_IMAGES = {"wfi_image-2.1.0": "1.1", "wfi_image-2.2.0": "1.2"}
_TAGS = "asdf://stsci.edu/datamodels/roman/tags/"
_SPECTRAL = ("GRISM", "PRISM")
# What RAD writes where nothing is known.
_UNKNOWN = (None, "?", -999999)

# Where a card of JWST has its counterpart beneath meta of a level-2 image.
_CARDS = {
    "TELESCOP": "telescope",
    "DETECTOR": "instrument.detector",
    "FILTER": "instrument.optical_element",
    "EXP_TYPE": "exposure.type",
    "READPATT": "exposure.ma_table_name",
    "NGROUPS": "exposure.nresultants",
    "EFFEXPTM": "exposure.effective_exposure_time",
    "R_MASK": "ref_file.mask",
    "CAL_VER": "calibration_software_version",
    "FILENAME": "filename",
    "VISIT_ID": "observation.visit_id",
    "TARG_RA": "pointing.target_ra",
    "TARG_DEC": "pointing.target_dec",
    "S_FLAT": "cal_step.flat_field",
    "S_WCS": "cal_step.assign_wcs",
    "V2_REF": "wcsinfo.v2_ref",
    "V3_REF": "wcsinfo.v3_ref",
    "RA_REF": "wcsinfo.ra_ref",
    "DEC_REF": "wcsinfo.dec_ref",
    "ROLL_REF": "wcsinfo.roll_ref",
    "VA_SCALE": "velocity_aberration.scale_factor",
}
_PLANES = {"SCI": "data", "DQ": "dq", "ERR": "err"}

_ADVICE = "give level-2 images of romancal (_cal.asdf), or download the file again"


class _RomanSource:
    """Planes of a level-2 image."""

    def __init__(self, path: Path, tree: Mapping[str, Any]) -> None:
        keys = ["data", "dq", *(["err"] if "err" in tree else [])]
        planes = find_planes(path, tree, "roman", keys)
        self._data, self._dq, *self._err = planes
        self.shape: tuple[int, ...] = self._data.shape
        if len({plane.shape for plane in planes}) > 1:
            raise InputError(
                f"expected data, dq and err of one shape in {path}, found "
                f"{', '.join(str(plane.shape) for plane in planes)}; make the product again"
            )
        if self._dq.dtype.kind != "u" or self._data.dtype.kind != "f":
            raise InputError(
                f"expected data as floating point and dq as unsigned integers in {path}, found "
                f"{self._data.dtype} and {self._dq.dtype}; make the product again"
            )

    def read(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Read rows of the data [DN/s], and of the DQ in the bits of JWST."""
        return self._data.read(rows), map_dq_from_roman(self._dq.read(rows))[0]

    def read_err(self, rows: slice) -> np.ndarray | None:
        """Read rows of the error; float16 in the file."""
        return self._err[0].read(rows).astype(np.float32) if self._err else None


def _read_tree(path: Path) -> Mapping[str, Any]:
    """Read what an ASDF file has under ``roman``, without its arrays."""
    try:
        require_plain_tree(path)
        tree = load_yaml(path, tagged=True)
    except InputError:
        raise
    except Exception as error:  # yaml and asdf raise what they like on what is no ASDF
        raise InputError(
            f"expected an ASDF file, found {path}: {type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}; {_ADVICE}"
        ) from error
    roman = tree.get("roman") if isinstance(tree, Mapping) else None
    if not isinstance(roman, Mapping) or not isinstance(roman.get("meta"), Mapping):
        raise InputError(
            f"expected a level-2 image of Roman or a FITS product of JWST, found {path}, an ASDF "
            "file of another kind; give _rate products, or _cal.asdf of romancal"
        )
    return roman


def is_roman_file(path: Path) -> bool:
    """Tell whether a file is ASDF of Roman; one of JWST has our own layout beneath its tree."""
    with path.open("rb") as stream:
        return stream.read(5) == b"#ASDF" and b"datamodels/roman" in stream.read(2**20)


def read_header(path: Path) -> tuple[str, Mapping[str, Any]]:
    """Read what kind of file of Roman it is ("wfi_image-2.1.0"; "" = untagged), and its ``meta``.

    Raises
    ------
    InputError
        It is no file of Roman.
    """
    roman = _read_tree(path)
    kind = str(getattr(roman, "_tag", "")).rpartition("/")[2]
    meta: Mapping[str, Any] = roman["meta"]
    return kind, meta


def scan_asdf(path: Path) -> Scan:
    """Read the header of a level-2 image; see `scan_exposures`."""
    roman = _read_tree(path)
    _require_image(str(path), str(getattr(roman, "_tag", "")))
    keywords = _read_cards(str(path), roman["meta"])
    checksum = compute_sha256(path)
    return Scan(path.name, checksum, keywords, _RomanSource(path, roman), partial(_load_wcs, path))


@allow_far_dates()
def read_model(model: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read the cards and planes of a data model of Roman, the DQ in the bits of JWST.

    Parameters
    ----------
    model : roman_datamodels.datamodels.ImageModel

    Returns
    -------
    keywords : dict
        The cards of `KEYWORDS`; None = absent.
    planes : dict of str to ndarray
        SCI float32, DQ uint32 and, where it is there, ERR float32.

    Raises
    ------
    InputError
        The model is no level-2 image, or one of an unknown version or a spectral mode.
    """
    name = str(model.meta.get("filename", "a model in memory"))
    _require_image(name, str(getattr(model._instance, "_read_tag", None) or model.tag))
    keywords = _read_cards(name, model.meta)
    planes = {key: np.asarray(model[plane]) for key, plane in _PLANES.items() if plane in model}
    if not {"SCI", "DQ"} <= set(planes):
        raise InputError(
            f"expected data and dq in {name}, found {', '.join(planes) or 'neither'}; {_ADVICE}"
        )
    planes["DQ"] = map_dq_from_roman(planes["DQ"])[0]
    if "ERR" in planes:
        planes["ERR"] = planes["ERR"].astype(np.float32)
    return keywords, planes


@allow_far_dates()
def read_start(path: Path) -> tuple[str, str]:
    """Read when an exposure of Roman of level 1 or 2 started, and on which detector.

    Parameters
    ----------
    path : Path
        An ASDF file.

    Returns
    -------
    start, detector : str
        ISO date and time (UTC), WFI01 to WFI18.

    Raises
    ------
    InputError
        The file is no exposure of Roman.
    """
    meta = _read_tree(path)["meta"]
    start = _read_time(str(path), meta, "exposure.start_time")
    return str(start.isot), str(follow(meta, "instrument.detector"))


def _require_image(name: str, tag: str) -> None:
    """Require a level-2 image of a known version of RAD, and what is needed to read it."""
    kind = tag.removeprefix(_TAGS)
    known = ", ".join(f"{one} (RAD {rad})" for one, rad in KNOWN_IMAGES.items())
    if not kind.startswith("wfi_image-"):
        raise InputError(
            f"expected a level-2 image of Roman in {name}, found {kind or 'no tag'}, another kind "
            "(level 1, guide window, mosaic, catalogue); give _cal.asdf of romancal"
        )
    if kind not in KNOWN_IMAGES:
        raise InputError(
            f"expected one of {known} in {name}, found {kind}, a version of RAD that this "
            "jwst_tvbadpix does not know; use a newer one, or process the exposure again with "
            "romancal 1.1 or later"
        )
    try:
        roman_pixel_flags()
    except ProductError as error:
        raise InputError(f"{name} is an exposure of Roman: {error}") from error


def list_unmatched_flags() -> list[str]:
    """List the pixel flags of Roman that JWST has no flag of the same name for."""
    return sorted(set(roman_pixel_flags()) - set(pixel))


def _read_cards(name: str, meta: Any) -> dict[str, Any]:
    """Read the cards of JWST from the metadata of a level-2 image."""
    cards: dict[str, Any] = dict.fromkeys(KEYWORDS)
    for card, path in _CARDS.items():
        value = follow(meta, path)
        cards[card] = None if value in _UNKNOWN else value
    element, exp_type = str(cards["FILTER"]), str(cards["EXP_TYPE"])
    if exp_type != "WFI_IMAGE" or element in _SPECTRAL:
        raise InputError(
            f"expected exposures of type WFI_IMAGE through an imaging filter, found {name} with "
            f"{exp_type} and {element}; leave spectral, dark and calibration exposures out"
        )
    start, end = (_read_time(name, meta, f"exposure.{edge}_time") for edge in ("start", "end"))
    date, time = start.isot.split("T")
    cards |= {"EXPSTART": start.mjd, "EXPMID": (start.mjd + end.mjd) / 2, "EXPEND": end.mjd}
    cards |= {"DATE-OBS": date, "TIME-OBS": time, "BUNIT": "DN/s", "SUBARRAY": "FULL"}
    try:
        detector = get_detector(cards["DETECTOR"])
    except DetectorError as error:
        raise DetectorError(f"{name}: {error}") from error
    # The level-2 image lies within the reference pixels of its detector.
    (left, right), (bottom, top) = detector.reference_columns, detector.reference_rows
    ny, nx = detector.shape
    cards |= {"SUBSTRT1": left + 1, "SUBSIZE1": nx - left - right}
    cards |= {"SUBSTRT2": bottom + 1, "SUBSIZE2": ny - bottom - top}
    return cards


def _read_time(name: str, meta: Any, path: str) -> Time:
    """Read a time (UTC), which the tree has as text, or as a mapping with its format."""
    value = follow(meta, path)
    try:
        if isinstance(value, Time):
            return value.utc
        node = value if isinstance(value, Mapping) else {"value": value}
        time = node["value"]
        return Time(
            str(time) if isinstance(time, str) else time,
            format=node.get("format"),
            scale=str(node.get("scale", "utc")),
        ).utc
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"expected a date and time (UTC) in meta.{path} of {name}, found {value!r}; {_ADVICE}"
        ) from error


def follow(node: Any, path: str) -> Any:
    """Follow a dotted path through nested mappings; None where it ends."""
    for part in path.split("."):
        node = node.get(part) if hasattr(node, "get") else None
    return node


def _load_wcs(path: Path) -> Any:
    """Read the WCS object of a level-2 image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of versions: the tag has been looked at
        with asdf.open(path, memmap=False) as file:
            return file["roman"]["meta"]["wcs"]
