"""What files of Roman say of themselves, under the names that the headers of JWST have."""

import re
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..roman import KNOWN_IMAGES, follow, read_header, read_start
from .scan import Observation, convert_card

__all__ = ["scan_roman"]

# What a kind of file is, its version left out; others are named as they are.
_STAGES = {"wfi_image": "cal", "wfi_science_raw": "uncal"}
_UNKNOWN = (None, "?", -999999)
_FIELDS = {
    "filename": "filename",
    "telescope": "telescope",
    "reftype": "reftype",
    "instrument": "instrument.name",
    "detector": "instrument.detector",
    "exp_type": "exposure.type",
    "filter": "instrument.optical_element",
    "readpatt": "exposure.ma_table_name",
    "ngroups": "exposure.nresultants",
    "exposure_s": "exposure.effective_exposure_time",
    "program": "observation.program",
    "observation": "observation.observation",
    "visit": "observation.visit",
    "flat_field": "cal_step.flat_field",
    "assign_wcs": "cal_step.assign_wcs",
}
_ARCHIVED = re.compile(r"r\d{19}_\d{4}_wfi\d{2}")


def scan_roman(path: Path) -> Observation:
    """Read what one ASDF file of Roman is; pixels are not read, and roman_datamodels is not needed.

    Parameters
    ----------
    path : Path

    Returns
    -------
    Observation
        ``stage`` is "cal" for a level-2 image of a known version of RAD, "uncal" for level 1, else
        the kind of file with its version, such as "wfi_mosaic-1.3.0".

    Raises
    ------
    InputError
        It is no file of Roman, or holds text where a number or a date belongs.
    """
    kind, meta = read_header(path)
    if follow(meta, "telescope") != "ROMAN":
        raise InputError(
            f"expected meta.telescope = ROMAN in {path}, found {follow(meta, 'telescope')!r}; "
            "leave the file out"
        )
    found = {name: follow(meta, place) for name, place in _FIELDS.items()}
    values: dict[str, Any] = {
        name: None if value in _UNKNOWN else convert_card(path, name, value)
        for name, value in found.items()
    }
    if (values["program"] or "").isdecimal():
        values["program"] = values["program"].zfill(5)
    stage = _STAGES.get(kind.partition("-")[0], kind)
    if stage == "cal" and kind not in KNOWN_IMAGES:
        stage = kind
    if stage in ("cal", "uncal"):
        values["date"], values["time"] = read_start(path)[0].split("T")
    match = _ARCHIVED.match(path.name)
    root = re.sub(rf"_{stage}$", "", path.name.removesuffix(".asdf"))
    exposure_id = match[0] if match else str(path.parent / root)
    return Observation(path=path, stage=stage, exposure_id=exposure_id, **values)
