"""Flats and photom of Roman in memory: what the steps return, written by `roman`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from asdf.exceptions import AsdfWarning

from ..dates import allow_far_dates
from ..errors import ProductError
from .flat import FlatSelection
from .roman import (
    RomanHeader,
    RomanProduct,
    as_plain,
    require_rad,
    roman_pixel_flags,
    write_roman_flat,
    write_roman_photom,
)

if TYPE_CHECKING:
    from ..fluxcal import Factor
    from .photom import PhotomHeader

__all__ = [
    "RomanFlat",
    "RomanPhotom",
    "build_roman_flat",
    "build_roman_photom",
    "read_roman_photom",
]


@dataclass(frozen=True, slots=True)
class RomanFlat(RomanProduct):
    """The flat of one epoch, detector and optical element.

    Attributes
    ----------
    filename : str
        Ending in ``.asdf``.
    header : RomanHeader
    optical_element : str
        Such as F158.
    data, err : float32 (4088, 4088)
    dq : uint32 (4088, 4088)
        In the bits of Roman.
    """

    filename: str
    header: RomanHeader
    optical_element: str
    data: np.ndarray
    err: np.ndarray
    dq: np.ndarray
    reftype: ClassVar[str] = "FLAT"

    def save(self, path: str | Path) -> Path:
        """Write the file; see `write_roman_flat`."""
        return write_roman_flat(
            path,
            self.data,
            self.err,
            self.dq,
            header=self.header,
            optical_element=self.optical_element,
        )


@dataclass(frozen=True, slots=True)
class RomanPhotom(RomanProduct):
    """The flux conversions of one detector.

    Attributes
    ----------
    filename : str
        Ending in ``.asdf``.
    header : RomanHeader
    rows : mapping of str to mapping
        As `write_roman_photom`.
    """

    filename: str
    header: RomanHeader
    rows: Mapping[str, Mapping[str, Any]]
    reftype: ClassVar[str] = "PHOTOM"

    def save(self, path: str | Path) -> Path:
        """Write the file; see `write_roman_photom`."""
        return write_roman_photom(path, self.rows, header=self.header)


@allow_far_dates()
def read_roman_photom(path: str | Path) -> RomanPhotom:
    """Read a photom reference of Roman.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    RomanPhotom
        In memory.

    Raises
    ------
    ProductError
        It is no such reference, or not valid by RAD.
    """
    model_type = require_rad().WfiImgPhotomRefModel
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AsdfWarning)  # made with another version of RAD
            with model_type(str(path), lazy_load=False, memmap=False) as model:
                model.validate()
                meta = model.meta
                header = RomanHeader(
                    str(meta.instrument.detector),
                    str(meta.useafter.isot)[:19],
                    str(meta.description),
                    str(meta.pedigree),
                    (),
                    str(meta.author),
                    str(meta.origin),
                )
                return RomanPhotom(Path(path).name, header, as_plain(model.phot_table))
    except Exception as error:  # whatever asdf and RAD say
        raise ProductError(
            f"expected a photom reference of WFI in {path}, found {type(error).__name__}: {error}; "
            "give one as CRDS delivers it"
        ) from error


def build_roman_photom(
    factors: Sequence[Factor],
    header: PhotomHeader,
    *,
    template: RomanPhotom | None,
    filename: str,
) -> RomanPhotom:
    """Build the photom reference of one WFI detector.

    Parameters
    ----------
    factors : sequence of Factor
        Of one detector, each of its own optical element and constant in time.
    header : PhotomHeader
    template : RomanPhotom or None
        All its rows are kept; those of the factors get a new conversion.
    filename : str

    Returns
    -------
    RomanPhotom

    Raises
    ------
    ProductError
        There is no template, or it lacks an element: nothing else knows the effective area; or an
        element has two factors.
    """
    detector = factors[0].mode.detector.upper()
    if template is None:
        raise ProductError(
            f"expected the photom reference in use for {detector}, whose effective areas are kept, "
            "found none; give it as template_photom"
        )
    rows = {element: dict(row) for element, row in template.rows.items()}
    elements = [factor.mode.filter.upper() for factor in factors]
    lacking = sorted(set(elements) - set(rows))
    if lacking or len(set(elements)) < len(elements):
        raise ProductError(
            f"expected one factor for each of {', '.join(rows)}, of {template.filename}, found "
            f"{', '.join(elements)}; give a template with the rows of all"
        )
    for element, factor in zip(elements, factors, strict=True):
        rows[element] |= {"photmjsr": float(factor.value), "uncertainty": float(factor.uncertainty)}
        if detector in header.pixel_area_sr:
            rows[element]["pixelareasr"] = float(header.pixel_area_sr[detector])
    others = sorted(set(rows) - set(elements))
    kept = "Effective areas" + (f" and all of {', '.join(others)}" if others else "")
    about = RomanHeader(
        detector,
        header.useafter,
        header.description,
        header.pedigree,
        (*header.history, f"{kept} are those of {template.filename}."),
        header.author,
    )
    return RomanPhotom(filename, about, rows)


def build_roman_flat(
    flat: np.ndarray,
    err: np.ndarray,
    flags: Mapping[str, np.ndarray],
    *,
    selection: FlatSelection,
    filename: str,
    pedigree: str,
    description: str,
    history: Sequence[str],
) -> RomanFlat:
    """Build a flat of Roman in memory; the parameters are those of `build_flat_model`.

    Returns
    -------
    RomanFlat

    Raises
    ------
    ProductError
        A flag is none of Roman.
    """
    known = roman_pixel_flags()
    unknown = sorted(set(flags) - set(known))
    if unknown:
        raise ProductError(
            f"expected flags of roman_datamodels, found {', '.join(unknown)}; leave them out"
        )
    dq = np.zeros(np.shape(flat), np.uint32)
    for name, marked in flags.items():
        dq[marked] |= np.uint32(known[name])
    header = RomanHeader(
        selection.detector, selection.useafter, description, pedigree, tuple(history)
    )
    data, error = (np.array(array, np.float32) for array in (flat, err))
    return RomanFlat(filename, header, selection.filter, data, error, dq)
