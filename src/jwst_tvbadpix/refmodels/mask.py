"""Bad-pixel masks as JWST reference models: build, neutralise, read."""

import logging
import re
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import asdf
import numpy as np
from asdf.tags.core import AsdfObject, HistoryEntry, Software
from astropy.io import fits
from stdatamodels.jwst.datamodels import MaskModel
from stdatamodels.jwst.datamodels.dqflags import pixel

from .. import __version__
from ..atomic import find_creation_time
from ..detectors import Detector, get_detector
from ..errors import DateError, DetectorError, InputError, ProductError
from ..files import open_asdf
from .dq import dq_value
from .irs2 import IRS2_READPATTS, interleave_irs2, strip_irs2

__all__ = [
    "AUTHOR",
    "SOFTWARE",
    "build_mask",
    "build_neutral_mask",
    "check_filter",
    "check_useafter",
    "frame_flags",
    "read_mask_dq",
    "require_pedigree",
]

log = logging.getLogger(__name__)

AUTHOR = "The jwst_tvbadpix developers"

# What the history of every product names as its maker.
SOFTWARE = {
    "name": "jwst_tvbadpix",
    "author": AUTHOR,
    "homepage": "https://github.com/jwst-tvbadpix/jwst-tvbadpix",
    "version": __version__,
}

_ADVICE = "give a mask reference file (FITS or ASDF) as CRDS delivers them, or fetch it again"

# As crds certify requires it: a JWST date range after INFLIGHT, allowed after MODEL.
_PEDIGREE = re.compile(
    r"(GROUND|DUMMY|SIMULATION|MODEL|(?:INFLIGHT|MODEL) (\d{4}-\d\d-\d\d) (\d{4}-\d\d-\d\d))"
)


def build_mask(
    dq: np.ndarray,
    *,
    detector: str,
    useafter: str,
    description: str,
    history: Sequence[str],
    pedigree: str,
    author: str = AUTHOR,
    filter_name: str | None = None,
    readpatt: str | None = None,
    ngroups: tuple[int, int] | None = None,
) -> MaskModel:
    """Build the mask of one epoch, ready for `write_twins`.

    Parameters
    ----------
    dq : uint32 (ny, nx)
        Standard DQ bits of the full frame, reference pixels included.
    detector : str
        DETECTOR keyword.
    useafter : str
        First moment of validity, ``YYYY-MM-DDThh:mm:ss`` (UTC).
    description : str
        What the mask is, for DESCRIP.
    history : sequence of str
        At least one entry, each saying what was done with what.
    pedigree : str
        GROUND, DUMMY, SIMULATION, MODEL, or ``INFLIGHT YYYY-MM-DD YYYY-MM-DD``.
    author : str
        Who answers for it.
    filter_name : str, optional
        FILTER that the mask is for, such as ``"P750L"`` or ``"F560W|F770W"``. None: any filter.
    readpatt : str, optional
        READPATT that it is for, in the same form. None: any. A mask for ``IRS2_READPATTS`` is
        made in the frame with interleaved reference pixels.
    ngroups : tuple of int, optional
        Lowest NGROUPS that it is for, and the first above them. None: any.

    Returns
    -------
    MaskModel
        With a copy of `dq`, SUBARRAY GENERIC and the keywords that CRDS selects by. Several
        filters or patterns are in P_FILTER or P_READPA, the first of them in the keyword itself.

    Raises
    ------
    DetectorError
        When the detector is unknown or the shape of `dq` is not its full frame.
    DateError
        When `useafter` has another format.
    ProductError
        When `dq` is not uint32, a keyword is not one that JWST has, or `pedigree` or `history`
        would not pass crds certify.

    Notes
    -----
    Measured with crds 14.0.3 and its miri_mask rules (DETECTOR, FILTER, SUBARRAY, READPATT,
    NGROUPS): a keyword that is absent cannot be inserted. ``N/A`` matches every exposure, FULL
    and SLITLESSPRISM through SUBARRAY=GENERIC, with weight 0, so that a series for P750L is
    preferred to one for any filter where both exist. ``ANY`` matches as widely but counts as a
    match: three of them win over a P750L series, and one beside it is an error in certify.
    ``BETWEEN a b`` matches a <= NGROUPS < b and is preferred to N/A. N/A, BETWEEN and named
    values certify with 0 errors and 0 warnings, alone and together. P_FILTER, which the schema of
    masks does not have, is read by crds from FITS and, as meta.instrument.p_filter, from ASDF.
    """
    facts = get_detector(detector)
    dq = np.asarray(dq)
    _require_full_frame(dq, facts)
    if dq.dtype != np.uint32:
        raise ProductError(f"expected dq as uint32, found {dq.dtype}; convert it first")
    check_useafter(useafter)
    require_pedigree(pedigree)
    if not history:
        raise ProductError("expected at least one history entry, found none; CRDS requires one")
    if ngroups is not None and not 0 < ngroups[0] < ngroups[1]:
        raise ProductError(f"expected ngroups as (lowest, first above), found {ngroups}; swap them")
    filters, patterns = _split(filter_name), _split(readpatt)
    _require_one_kind(filters, patterns)
    framed = frame_flags(dq.copy(), facts, patterns[0])
    # Writers validate arrays and history: here it would take most of the time of a mask.
    entries = [_make_entry(text) for text in history]
    tree = AsdfObject({"dq": framed, "history": {"entries": entries}})
    model = MaskModel(tree, strict_validation=True)
    meta = model.meta
    try:
        meta.reftype, meta.author, meta.pedigree = "MASK", author, pedigree
        meta.description, meta.useafter = description, useafter
        meta.instrument.name, meta.instrument.detector = facts.instrument, facts.name
        for name in reversed(filters):  # all, so that the schema sees each of them
            meta.instrument.filter = name
        meta.exposure.readpatt = patterns[0]
        if len(filters) > 1:
            meta.instrument.p_filter = "|".join([*filters, ""])
        if len(patterns) > 1:
            meta.exposure.p_readpatt = "|".join([*patterns, ""])
        meta.exposure.ngroups = "BETWEEN {} {}".format(*ngroups) if ngroups else "N/A"
        subarray = meta.subarray
        subarray.name, subarray.xstart, subarray.ystart = "GENERIC", 1, 1
        subarray.ysize, subarray.xsize = facts.shape
        subarray.fastaxis, subarray.slowaxis = facts.fastaxis, facts.slowaxis
    except asdf.ValidationError as error:
        raise ProductError(
            f"expected keywords that the schema of masks allows, found: {error.message}; "
            "correct the filter, the readout pattern or the text"
        ) from error
    return model


def frame_flags(dq: np.ndarray, detector: Detector, readpatt: str) -> np.ndarray:
    """Put flags of the full frame into the frame of a READPATT; of several joined by ``|``."""
    irs2 = detector.irs2_shape is not None and readpatt.partition("|")[0] in IRS2_READPATTS
    return interleave_irs2(dq, detector) if irs2 else dq


def _make_entry(text: str) -> HistoryEntry:
    """Make an entry of HISTORY, as asdf does."""
    time = find_creation_time().replace(microsecond=0)
    return HistoryEntry(description=text, time=time, software=Software(SOFTWARE))


def build_neutral_mask(
    detector: str,
    *,
    base_dq: np.ndarray | None = None,
    useafter: str = "2021-12-25T00:00:00",
    readpatt: str | None = None,
) -> Any:
    """Build a mask with which Detector1 fits the pixels that the standard mask hides.

    Parameters
    ----------
    detector : str
        DETECTOR keyword.
    base_dq : uint32 (ny, nx), optional
        The standard mask in standard bits. Without it only the reference pixels are known.
    useafter : str
    readpatt : str, optional
        As `build_mask`.

    Returns
    -------
    MaskModel, or RomanMask for a detector of Roman
        REFERENCE_PIXEL and NON_SCIENCE as in `base_dq`, REFERENCE_PIXEL also where the detector
        has reference pixels; DO_NOT_USE on these pixels only where `base_dq` has it; nothing on
        all others.

    Raises
    ------
    DetectorError, DateError, ProductError
        As `build_mask`.

    Notes
    -----
    DO_NOT_USE is not added to reference pixels: the refpix step takes only those without it.
    """
    facts = get_detector(detector)
    kept_names = ("REFERENCE_PIXEL", "NON_SCIENCE")
    dq = np.zeros(facts.shape, np.uint32)
    if base_dq is not None:
        base_dq = np.asarray(base_dq)
        _require_full_frame(base_dq, facts)
        kept = base_dq & np.uint32(dq_value(*kept_names))
        dq |= np.where(kept != 0, kept | (base_dq & np.uint32(dq_value("DO_NOT_USE"))), 0).astype(
            np.uint32
        )
    dq[facts.reference_pixels()] |= np.uint32(dq_value("REFERENCE_PIXEL"))
    description = f"Neutral mask of {detector}: reference and non-science pixels only"
    history = (
        "Keeps only REFERENCE_PIXEL and NON_SCIENCE "
        + ("of a base mask" if base_dq is not None else "known of the detector")
        + ", so that slopes are fitted to every other pixel.",
    )
    if facts.telescope == "ROMAN":
        from .roman_mask import build_roman_mask

        return build_roman_mask(
            lambda: dq,
            detector=detector,
            useafter=useafter,
            description=description,
            history=history,
            pedigree="GROUND",
            name=f"neutral_{detector}",
        )
    return build_mask(
        dq,
        detector=detector,
        useafter=useafter,
        description=description,
        history=history,
        pedigree="GROUND",
        readpatt=readpatt,
    )


def check_filter(name: str) -> None:
    """Require one FILTER of JWST, several joined by ``|``, or N/A; raise ProductError otherwise."""
    filters = _split(name)
    _require_one_kind(filters)
    for part in filters:
        try:
            MaskModel(strict_validation=True).meta.instrument.filter = part
        except asdf.ValidationError as error:
            raise ProductError(
                "expected a FILTER of JWST, such as P750L, several as F560W|F770W, or N/A, found "
                f"{part!r} in {name!r}; correct it"
            ) from error


def _split(names: str | None) -> list[str]:
    """Split ``A|B`` or ``A|B|`` into names; None is N/A."""
    return (names or "N/A").removesuffix("|").split("|")


def _require_one_kind(*lists: Sequence[str]) -> None:
    """Refuse lists in which a name is twice, or beside one that stands for all."""
    for names in lists:
        if len(names) > 1 and (len(set(names)) < len(names) or {"N/A", "ANY"} & set(names)):
            raise ProductError(
                f"expected different names joined by |, and neither N/A nor ANY among them, found "
                f"{'|'.join(names)!r}; correct the list"
            )


def check_useafter(useafter: str) -> None:
    """Require the USEAFTER format YYYY-MM-DDThh:mm:ss; raise DateError otherwise."""
    form = "%Y-%m-%dT%H:%M:%S"
    try:
        valid = datetime.strptime(useafter, form).strftime(form) == useafter
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise DateError(
            f"expected USEAFTER as YYYY-MM-DDThh:mm:ss (UTC), found {useafter!r}; rewrite it"
        )


def require_pedigree(pedigree: str) -> None:
    """Require a PEDIGREE that crds certify allows; raise ProductError otherwise."""
    match = _PEDIGREE.fullmatch(str(pedigree))
    if match is None or (match[2] and match[2] > match[3]):
        raise ProductError(
            "expected PEDIGREE as GROUND, DUMMY, SIMULATION, MODEL or "
            f"'INFLIGHT YYYY-MM-DD YYYY-MM-DD' with the earlier date first, found {pedigree!r}; "
            "rewrite it"
        )


def _require_full_frame(dq: np.ndarray, detector: Detector) -> None:
    if dq.shape != detector.shape:
        raise DetectorError(
            f"expected the full frame of {detector.name}, {detector.shape} (ny, nx), found "
            f"{dq.shape}; give a full-frame mask of this detector"
        )


def read_mask_dq(path: str | Path) -> tuple[np.ndarray, str]:
    """Read the flags of a mask, in FITS or ASDF, whoever made it.

    Parameters
    ----------
    path : str or Path
        A full-frame mask reference file of JWST, with or without a DQ_DEF table, or of Roman.

    Returns
    -------
    dq : uint32 (ny, nx)
        Flags in standard bits, of the detector alone where the mask has the IRS2 frame.
    detector : str
        DETECTOR keyword.

    Raises
    ------
    InputError
        When the file is absent, truncated or no mask.
    DetectorError
        When its detector is unknown or its shape is not the full frame of this detector.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"expected a mask reference file, found no file at {path}; {_ADVICE}")
    try:
        detector, dq, flags = _read_raw(path)
        if dq.ndim != 2 or dq.dtype.kind not in "iu":
            raise InputError(
                f"expected a 2-D integer DQ array in {path}, found {dq.dtype} {dq.shape}; {_ADVICE}"
            )
        decoded = _decode(dq, flags, path)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"expected a readable mask with DQ, REFTYPE and DETECTOR in {path}, found "
            f"{type(error).__name__}: {error}; {_ADVICE}"
        ) from error
    try:
        facts = get_detector(detector)
        if decoded.shape == facts.irs2_shape:
            decoded = strip_irs2(decoded, facts)
        _require_full_frame(decoded, facts)
    except DetectorError as error:
        raise DetectorError(
            f"expected a full-frame mask of a known detector in {path}: {error}; {_ADVICE}"
        ) from error
    return decoded, facts.name


def _read_raw(path: Path) -> tuple[str | None, np.ndarray, list[tuple[int, str]]]:
    """Read detector, coded dq and the (value, name) pairs that code it."""
    with path.open("rb") as file:
        is_asdf = file.read(5) == b"#ASDF"
    if is_asdf:
        with open_asdf(path) as opened:
            tree = dict(opened.tree)
            if "roman" in tree:
                from .roman_mask import read_roman_mask

                return *read_roman_mask(tree["roman"], path), []
            _require_mask(tree["meta"].get("reftype"), path)
            detector = tree["meta"]["instrument"].get("detector")
            return detector, np.array(tree["dq"]), _list_flags(tree.get("dq_def"))
    # A handle of our own: astropy leaves its own open when the file is broken.
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*truncated.*")
        with fits.open(file, memmap=False) as hdus:
            _require_mask(hdus[0].header.get("REFTYPE"), path)
            flags = _list_flags(hdus["DQ_DEF"].data if "DQ_DEF" in hdus else None)
            return hdus[0].header.get("DETECTOR"), np.array(hdus["DQ"].data), flags


def _require_mask(reftype: Any, path: Path) -> None:
    if str(reftype).upper() != "MASK":
        raise InputError(f"expected REFTYPE MASK in {path}, found {reftype!r}; {_ADVICE}")


def _list_flags(dq_def: Any) -> list[tuple[int, str]]:
    """List the (value, name) pairs of a DQ_DEF table; none where there is no table."""
    if dq_def is None:
        return []
    # Column by column: the table as one array would lose the offset of unsigned FITS columns.
    values, names = np.asarray(dq_def["VALUE"]).tolist(), np.asarray(dq_def["NAME"]).tolist()
    texts = [name.decode("ascii") if isinstance(name, bytes) else str(name) for name in names]
    return [(int(v), text.strip().strip("\0")) for v, text in zip(values, texts, strict=True)]


def _decode(dq: np.ndarray, flags: list[tuple[int, str]], path: Path) -> np.ndarray:
    """Turn the bits of a file into standard bits."""
    coded = dq if dq.dtype == np.uint32 else (dq.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32)
    if not flags:
        return coded
    decoded = np.zeros(coded.shape, np.uint32)
    for value, name in flags:
        if value & (value - 1) or not 0 <= value < 2**32:
            raise InputError(
                f"expected each VALUE of DQ_DEF in {path} to be one bit, found {value} for "
                f"{name}; the table is corrupt, make the file again"
            )
        if name not in pixel:
            log.warning("Ignoring flag %s of %s: not a pixel flag of the pipeline", name, path)
        elif value:
            decoded[(coded & np.uint32(value)) != 0] |= np.uint32(pixel[name])
    return decoded
