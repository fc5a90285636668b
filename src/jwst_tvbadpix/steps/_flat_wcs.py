"""The WCS of images that assign_wcs has not seen: from the distortion of the optics."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

from jwst.assign_wcs.assign_wcs import load_wcs
from stdatamodels.jwst.datamodels import DistortionModel, ImageModel

from ..detectors import get_detector
from ..errors import InputError
from ..headers import KEYWORDS, ExposureRecord
from ._base import find_reference, has_crds

__all__ = ["DistortionFinder"]

log = logging.getLogger(__name__)

# The pointing, without which pixels have no place on the sky.
_POINTING = ("V2_REF", "V3_REF", "RA_REF", "DEC_REF", "ROLL_REF")
_OPTICS = ("FILTER", "PUPIL", "CHANNEL", "MODULE")


class DistortionFinder:
    """Assigns the WCS of images as assign_wcs does, of one distortion file or those of CRDS.

    Parameters
    ----------
    distortion : str or Path
        Distortion reference, or ``"crds"``.

    Attributes
    ----------
    used : list of (str, str)
        Type and name of each reference that was used.

    Raises
    ------
    InputError
        The file is no distortion reference, or there is no CRDS set-up.
    """

    def __init__(self, distortion: str | Path) -> None:
        self.used: list[tuple[str, str]] = []
        self._path = None if Path(distortion).name.lower() == "crds" else Path(distortion)
        self._detector = _read_detector(self._path) if self._path else ""
        if self._path is None and not has_crds():
            raise InputError(
                "expected a CRDS set-up (CRDS_PATH, CRDS_SERVER_URL) for the distortion, found "
                "none; set CRDS up, or give a file"
            )

    def assign(self, record: ExposureRecord, keywords: Mapping[str, Any]) -> Any:
        """Make the gwcs of an exposure from its pointing.

        Parameters
        ----------
        record : ExposureRecord
        keywords : mapping
            The cards of `KEYWORDS`.

        Raises
        ------
        InputError
            The pointing is incomplete, or there is no distortion for this exposure.
        """
        missing = [card for card in _POINTING if not isinstance(keywords[card], int | float)]
        if missing:
            raise InputError(
                f"expected a pointing to put the distortion on, found no {', '.join(missing)}; run "
                "calwebb_detector1 with pointing information, or leave the exposure out"
            )
        # jwst 3.0 knows no WCS of MIR_FLATIMAGE-EXT.
        exp_type = "MIR_IMAGE" if record.exp_type.startswith("MIR_") else record.exp_type
        record = replace(record, exp_type=exp_type)
        files = self._find_files(record, keywords)
        for reftype, path in files.items():
            if path != "N/A" and (reftype, Path(path).name) not in self.used:
                self.used.append((reftype, Path(path).name))
        with _build_model(record, keywords) as model:
            try:
                load_wcs(model, files)
            except Exception as error:  # whatever the reference makes the transforms do
                raise InputError(
                    f"expected a distortion that assign_wcs can use, found {error!r}; give the "
                    f"one of {record.detector}"
                ) from error
            return model.meta.wcs

    def _find_files(self, record: ExposureRecord, keywords: Mapping[str, Any]) -> dict[str, str]:
        """Find the references of one exposure; without a filter offset the image is but moved."""
        if self._path is not None:
            if self._detector not in ("N/A", record.detector):
                raise InputError(
                    f"expected a distortion of {record.detector}, found that of {self._detector} "
                    f"({self._path.name}); give its own, or crds"
                )
            return {"distortion": str(self._path), "filteroffset": "N/A"}
        optics = {name.lower(): str(keywords[name] or "N/A") for name in _OPTICS}
        instrument = get_detector(record.detector).instrument
        files = {
            kind: str(find_reference(kind, record, instrument, optics))
            for kind in ("distortion", "filteroffset")
        }
        if files["distortion"] == "N/A":
            raise InputError("expected a distortion reference of CRDS, found N/A; give a file")
        return files


def _read_detector(path: Path) -> str:
    """Read whose distortion a file holds.

    Raises
    ------
    InputError
        It holds none.
    """
    try:
        with DistortionModel(path) as reference:
            n_inputs, n_outputs = reference.model.n_inputs, reference.model.n_outputs
            reftype, detector = reference.meta.reftype, reference.meta.instrument.detector
    except Exception as error:  # whatever is wrong with it
        raise InputError(
            f"expected a distortion reference (.asdf) or crds, found {path}: {error}; correct "
            "the parameter distortion"
        ) from error
    if (n_inputs, n_outputs) != (2, 2) or str(reftype).lower() != "distortion":
        raise InputError(
            f"expected a distortion of two coordinates in {path}, found {reftype} of {n_inputs}; "
            "give the distortion of an imager"
        )
    return str(detector or "N/A")


def _build_model(record: ExposureRecord, keywords: Mapping[str, Any]) -> ImageModel:
    """Build a model that says what assign_wcs asks, without the pixels."""
    model = ImageModel(record.shape)
    for card in (*_POINTING, *_OPTICS, "VA_SCALE"):
        if keywords[card] is not None:
            *groups, name = KEYWORDS[card].split(".")
            setattr(reduce(getattr, groups, model), name, keywords[card])
    model.meta.instrument.name = get_detector(record.detector).instrument
    model.meta.instrument.detector = record.detector
    model.meta.exposure.type = record.exp_type
    subarray = model.meta.subarray
    subarray.ystart, subarray.xstart = (place + 1 for place in record.corner)
    subarray.ysize, subarray.xsize = record.shape
    return model
