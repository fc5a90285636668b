"""Flats as JWST reference models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asdf
import numpy as np
from stdatamodels.jwst.datamodels import FlatModel

from ..detectors import get_detector
from ..errors import ProductError
from .dq import dq_value
from .mask import AUTHOR, SOFTWARE, check_useafter, require_pedigree

__all__ = ["FlatSelection", "build_flat_model"]


@dataclass(frozen=True, slots=True)
class FlatSelection:
    """What a flat is selected by.

    Attributes
    ----------
    detector, filter, pupil : str
        Keywords; "N/A" where the instrument has none.
    subarray : str
        SUBARRAY of a flat for this one only; GENERIC = the full frame, of which all are cut.
    corner : tuple of int
        0-based (y, x) of its first pixel in the full frame.
    readpatt : str
        READPATT of a flat for this one only; "N/A" = all.
    useafter : str
        YYYY-MM-DDThh:mm:ss (UTC).
    """

    detector: str
    filter: str
    pupil: str
    subarray: str
    corner: tuple[int, int]
    readpatt: str
    useafter: str


def build_flat_model(
    flat: np.ndarray,
    err: np.ndarray,
    flags: Mapping[str, np.ndarray],
    *,
    selection: FlatSelection,
    exp_type: str,
    pedigree: str,
    description: str,
    history: Sequence[str],
    author: str = AUTHOR,
) -> FlatModel:
    """Build a flat reference file in memory, ready for `write_twins`.

    Parameters
    ----------
    flat, err : ndarray of float32, shape (ny, nx)
        Response, mean 1, and its total 1-sigma error; NaN only where DO_NOT_USE.
    flags : mapping of str to ndarray of bool, shape (ny, nx)
        Pixels by mnemonic; see `flatfield.make_flags`.
    selection : FlatSelection
    exp_type : str
        EXP_TYPE of the exposures that the flat serves.
    pedigree, description, author : str
        As `build_mask`.
    history : sequence of str
        At least one entry.

    Returns
    -------
    FlatModel
        In standard bits, without DQ_DEF; `write_twins` adds the one of FITS.

    Raises
    ------
    ProductError
        A pixel that would be applied has no positive finite response or no finite error, shapes
        differ, or a keyword is invalid.
    DetectorError, DateError
        The detector or the date is not one.
    """
    facts = get_detector(selection.detector)
    check_useafter(selection.useafter)
    require_pedigree(pedigree)
    if not history:
        raise ProductError("expected at least one history entry, found none; CRDS requires one")
    ny, nx = (int(n) for n in np.shape(flat))
    dq = np.zeros((ny, nx), np.uint32)
    for name, marked in flags.items():
        if np.shape(marked) != dq.shape:
            raise ProductError(
                f"expected flags {name} of shape {dq.shape}, found {np.shape(marked)}; give one "
                "value per pixel"
            )
        dq[marked] |= np.uint32(dq_value(name))
    _require_applicable(flat, err, dq)
    model = FlatModel(
        data=np.array(flat, np.float32),
        dq=dq,
        err=np.array(err, np.float32),
        strict_validation=True,
    )
    meta = model.meta
    try:
        meta.reftype, meta.author, meta.pedigree = "FLAT", author, pedigree
        meta.description, meta.useafter = description, selection.useafter
        meta.instrument.name, meta.instrument.detector = facts.instrument, facts.name
        meta.instrument.filter = selection.filter
        if facts.instrument == "MIRI":
            meta.instrument.band = "N/A"
        elif selection.pupil != "N/A":
            meta.instrument.pupil = selection.pupil
        meta.exposure.type, meta.exposure.readpatt = exp_type, selection.readpatt
        subarray = meta.subarray
        subarray.name = selection.subarray
        subarray.ystart, subarray.xstart = selection.corner[0] + 1, selection.corner[1] + 1
        subarray.ysize, subarray.xsize = ny, nx
        subarray.fastaxis, subarray.slowaxis = facts.fastaxis, facts.slowaxis
    except asdf.ValidationError as error:
        raise ProductError(
            f"expected keywords that the schema of flats allows, found: {error.message}; correct "
            "the filter, the read-out pattern or the text"
        ) from error
    for entry in history:
        model.add_history_entry(entry, SOFTWARE)
    return model


def _require_applicable(flat: np.ndarray, err: np.ndarray, dq: np.ndarray) -> None:
    """Refuse what the flat_field step would apply without a word, or make NaN of good pixels."""
    used = (dq & np.uint32(dq_value("DO_NOT_USE", "NO_FLAT_FIELD"))) == 0
    if np.shape(err) != dq.shape:
        raise ProductError(
            f"expected err of shape {dq.shape}, found {np.shape(err)}; give one value per pixel"
        )
    with np.errstate(invalid="ignore"):
        wrong = used & ~((flat > 0) & (flat < np.inf) & (err >= 0) & (err < np.inf))
    if wrong.any():
        y, x = (int(k[0]) for k in np.nonzero(wrong))
        raise ProductError(
            f"expected a positive finite flat and a finite error wherever it is used, found "
            f"{flat[y, x]} +- {err[y, x]} at row {y}, column {x} ({int(wrong.sum())} pixels); "
            "flag them NO_FLAT_FIELD and DO_NOT_USE"
        )
