"""Flats and photom of Roman in memory: what the steps return, written by `roman`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from ..errors import ProductError
from .flat import FlatSelection
from .roman import RomanHeader, roman_pixel_flags, write_roman_flat, write_roman_photom

__all__ = ["RomanFlat", "RomanPhotom", "build_roman_flat"]


class _Product:
    """What stpipe and the steps ask of a data model."""

    __slots__ = ()
    crds_observatory: ClassVar[str] = "roman"
    reftype: ClassVar[str]
    filename: str
    header: RomanHeader

    @property
    def meta(self) -> SimpleNamespace:
        """What the models of JWST have under the same names."""
        header = self.header
        return SimpleNamespace(
            filename=self.filename,
            reftype=self.reftype,
            useafter=header.useafter,
            pedigree=header.pedigree,
            description=header.description,
            author=header.author,
            instrument=SimpleNamespace(name="WFI", detector=header.detector),
        )

    def get_crds_parameters(self) -> dict[str, str]:
        """List what CRDS selects references of Roman by."""
        return {
            "roman.meta.instrument.name": "WFI",
            "roman.meta.instrument.detector": self.header.detector,
            "roman.meta.exposure.start_time": self.header.useafter,
        }


@dataclass(frozen=True, slots=True)
class RomanFlat(_Product):
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
class RomanPhotom(_Product):
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
