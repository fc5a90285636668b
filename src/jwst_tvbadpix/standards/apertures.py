"""Apertures of images, read from an APCORR reference or given."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from ..errors import EvidenceError, InputError
from ..files import compute_sha256
from ..fluxcal.photometry import Aperture
from .files import FileUsed, read_columns

__all__ = ["find_aperture", "read_apcorr"]

log = logging.getLogger(__name__)

_CLASSES = {
    "MIRI": "MirImgApcorrModel",
    "NIRCAM": "NrcImgApcorrModel",
    "NIRISS": "NisImgApcorrModel",
}
# How far the encircled energy of a row may lie from the one that is asked for.
_SAME_EE = 0.005
_COLUMNS = ("filter", "eefraction", "radius", "apcorr", "skyin", "skyout")
_GIVEN = ("ee", "radius", "apcorr", "sky_in", "sky_out")


def read_apcorr(path: Path) -> tuple[Any, FileUsed]:
    """Read the apertures of an imager: an APCORR reference, or a table with its columns.

    Parameters
    ----------
    path : Path
        Reference (FITS, ASDF), or ECSV or CSV with the columns filter, eefraction, radius, apcorr,
        skyin and skyout [pixel], and subarray or pupil where they matter. A table is of the
        instrument that its header (``instrument``) or its only column of that name says, else of
        all.

    Returns
    -------
    table : structured array
        Columns filter, subarray or pupil, eefraction, radius, apcorr, skyin, skyout.
    used : FileUsed

    Raises
    ------
    InputError
        The file is no such reference.
    """
    if path.suffix.lower() in (".ecsv", ".csv"):
        return _read_table(path)
    from stdatamodels.jwst import datamodels

    try:
        with datamodels.open(path) as model:
            instrument = str(model.meta.instrument.name).upper()
            name = type(model).__name__
            if name not in _CLASSES.values() and instrument in _CLASSES:
                with getattr(datamodels, _CLASSES[instrument])(path) as typed:
                    table = np.array(typed.apcorr_table)
            else:
                table = np.array(model.apcorr_table)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(
            f"expected an APCORR reference of an imager (apcorr_table), found {path}: {error}; "
            "give such a file, or radius, annulus and correction"
        ) from error
    if table.dtype.names is None or "eefraction" not in table.dtype.names:
        raise InputError(
            f"expected the columns eefraction, radius, apcorr, skyin and skyout in {path}, found "
            f"{table.dtype.names}; give the APCORR reference of an imager"
        )
    return table, FileUsed("apcorr", path.name, compute_sha256(path), instrument)


def _read_table(path: Path) -> tuple[Any, FileUsed]:
    """Read apertures from a plain table."""
    columns = read_columns(path)
    keys = {name: columns.find(name) for name in _COLUMNS}
    missing = [name for name, key in keys.items() if key is None]
    if missing:
        raise InputError(
            f"expected the columns {', '.join(_COLUMNS)} in {path}, found no {', '.join(missing)}; "
            "add them: they must be of one encircled energy"
        )
    keys |= {name: columns.find(name) for name in ("subarray", "pupil")}
    found = {name: columns.values[key] for name, key in keys.items() if key is not None}
    key = columns.find("instrument")
    said = np.unique(columns.values[key]).tolist() if key else [columns.header.get("instrument")]
    if len(said) > 1:
        raise InputError(
            f"expected apertures of one instrument in {path}, found {', '.join(map(str, said))}; "
            "give a table for each"
        )
    table = Table(found).as_array()
    return table, FileUsed("apcorr", path.name, compute_sha256(path), str(said[0] or "").upper())


def find_aperture(
    table: Any | Mapping[str, float], keywords: Mapping[str, str], ee: float
) -> Aperture:
    """Find the aperture of an image.

    Parameters
    ----------
    table : structured array or mapping
        Table of an APCORR reference, or given ``ee``, ``radius``, ``apcorr``, ``sky_in`` and
        ``sky_out`` [pixel].
    keywords : mapping
        FILTER, PUPIL and SUBARRAY of the image.
    ee : float
        Encircled energy of the aperture.

    Returns
    -------
    Aperture

    Raises
    ------
    InputError
        There is no such encircled energy, or a given value is missing.
    EvidenceError
        There is no row of this filter; the message is short enough for a table.
    """
    if isinstance(table, Mapping):
        missing = [key for key in _GIVEN if key not in table]
        if missing:
            raise InputError(
                f"expected {', '.join(_GIVEN)} of the aperture, found no {', '.join(missing)}; "
                "give them all: they must be of one encircled energy"
            )
        return Aperture(**{key: float(table[key]) for key in _GIVEN})
    rows = _match(table, "filter", keywords["FILTER"])
    if "pupil" in table.dtype.names:
        pupil = keywords.get("PUPIL", "N/A")
        rows &= _match(table, "pupil", pupil) | _match(table, "pupil", "N/A")
    if "subarray" in table.dtype.names:
        own = rows & _match(table, "subarray", keywords.get("SUBARRAY", "FULL"))
        full = rows & (_match(table, "subarray", "FULL") | _match(table, "subarray", "GENERIC"))
        rows = own if own.any() else full
    if not rows.any():
        raise EvidenceError(f"no row of {keywords['FILTER']} in the APCORR reference")
    found = np.asarray(table["eefraction"], np.float64)
    near = np.flatnonzero(rows & (np.abs(found - ee) <= _SAME_EE))
    if not len(near):
        known = ", ".join(f"{value:.2f}" for value in np.unique(found[rows]))
        raise InputError(
            f"expected an aperture of encircled energy {ee:g} for {keywords['FILTER']} in the "
            f"APCORR reference, found {known}; choose one of these"
        )
    row = table[near[0]]
    return Aperture(
        ee=float(row["eefraction"]),
        radius=float(row["radius"]),
        apcorr=float(row["apcorr"]),
        sky_in=float(row["skyin"]),
        sky_out=float(row["skyout"]),
    )


def _match(table: Any, key: str, value: str) -> np.ndarray:
    """Find the rows with a word in a column, as bytes or as text."""
    words = [v.decode() if isinstance(v, bytes) else str(v) for v in table[key].tolist()]
    return np.array([word.strip().upper() == value.upper() for word in words], dtype=bool)
