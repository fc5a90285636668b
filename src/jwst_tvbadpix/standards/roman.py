"""Level-2 images of Roman as `read_image` takes images."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..roman import is_roman_file
from ..sources import scan_exposures
from .files import Item

__all__ = ["RomanImage", "is_roman", "open_roman"]


class RomanImage(SimpleNamespace):
    """What is read of an image, under the names that models of JWST have."""

    def hasattr(self, name: str) -> bool:
        """Whether it has something."""
        return getattr(self, name, None) is not None


def is_roman(what: Any) -> bool:
    """Tell whether an input is of Roman: a model in memory, or an ASDF file of another kind."""
    if not isinstance(what, Path):
        return getattr(what, "crds_observatory", None) == "roman"
    return is_roman_file(what)


def open_roman(item: Item) -> tuple[RomanImage, str]:
    """Read a level-2 image.

    Parameters
    ----------
    item : Item

    Returns
    -------
    image : RomanImage
        For `read_image`. Where its target lies is ``meta.pointing.target_ra`` and ``target_dec``;
        what the target is only the association says.
    sha256 : str

    Raises
    ------
    InputError
        It is no such image, or of an unknown version.
    """
    (scan,) = scan_exposures([item.what])
    cards, ny = scan.keywords, scan.source.shape[0]
    data, dq = scan.source.read(slice(0, ny))
    wcs = scan.load_wcs() if cards["S_WCS"] == "COMPLETE" else None
    ra, dec = cards["TARG_RA"], cards["TARG_DEC"]
    meta = SimpleNamespace(
        telescope=cards["TELESCOP"],
        filename=scan.name,
        bunit_data=cards["BUNIT"],
        wcs=wcs,
        instrument=SimpleNamespace(name="WFI", detector=cards["DETECTOR"], filter=cards["FILTER"]),
        exposure=SimpleNamespace(
            type=cards["EXP_TYPE"],
            mid_time=cards["EXPMID"],
            effective_exposure_time=cards["EFFEXPTM"],
        ),
        subarray=SimpleNamespace(name=cards["SUBARRAY"]),
        observation=SimpleNamespace(visit_id=cards["VISIT_ID"]),
        target=SimpleNamespace(ra=ra, dec=dec),
    )
    err = scan.source.read_err(slice(0, ny))
    return RomanImage(data=np.asarray(data), dq=dq, err=err, meta=meta), scan.sha256
