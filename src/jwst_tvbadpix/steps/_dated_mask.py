"""The mask that is valid for an exposure: out of a history, a series of masks, or CRDS."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from jwst.lib import reffile_utils
from stdatamodels.jwst.datamodels import JwstDataModel, MaskModel
from stpipe import crds_client

from ..dates import to_isot
from ..detectors import get_detector
from ..errors import DateError, DetectorError, InputError, TvBadPixError
from ..files import compute_sha256, open_asdf
from ..refmodels import build_mask_at, read_history
from ..refmodels.irs2 import interleave_irs2, strip_irs2
from ._base import ask_crds, has_crds

__all__ = [
    "DatedMask",
    "choose_dated_mask",
    "cut_dq",
    "find_reference_file",
    "fit_frame",
    "name_exposure",
    "read_mask",
]

# Shown, and kept in cal_logs, where the step is a hook: a pipeline handles the loggers of jwst.
log = logging.getLogger(f"jwst.{__name__}")

# Keyword -> place in a model, of what a mask is selected by, and of the list that it may have.
_SELECTED_BY = {
    "FILTER": ("meta.instrument.filter", "P_FILTER", "meta.instrument.p_filter"),
    "READPATT": ("meta.exposure.readpatt", "P_READPA", "meta.exposure.p_readpatt"),
    "NGROUPS": ("meta.exposure.ngroups", "", ""),
    "SUBARRAY": ("meta.subarray.name", "", ""),
}
_ALSO_READ = {
    "REFTYPE": "meta.reftype",
    "USEAFTER": "meta.useafter",
    "DETECTOR": "meta.instrument.detector",
}
# Values that stand for all.
_ANY = ("", "N/A", "ANY", "GENERIC")


@dataclass(frozen=True, slots=True)
class DatedMask:
    """The mask of an exposure.

    Attributes
    ----------
    model : MaskModel
        Full frame, in memory.
    name : str
        What R_MASK says where this mask was used: a file name, or ``crds://`` and one.
    useafter : str
        First moment of its validity (UTC).
    source : str
        File it comes from, and the SHA-256 of this file.
    folder : Path
        Where this file is: other masks of the series lie there too.
    """

    model: MaskModel
    name: str
    useafter: str
    source: str
    folder: Path

    def __str__(self) -> str:
        """Say which state was used, for log and HISTORY."""
        return f"state of USEAFTER {self.useafter} ({self.name}) from {self.source}"


def choose_dated_mask(
    exposure: JwstDataModel, *, history: str | None, masks: Sequence[str] | None
) -> DatedMask:
    """Choose the mask by the start of the exposure, as CRDS does.

    Parameters
    ----------
    exposure : JwstDataModel
        Ramp, rate or calibrated product of JWST.
    history : str or None
        File of a history, or the folder that holds one; ``.asdf`` may be left out.
    masks : sequence of str or None
        Mask files, FITS or ASDF, or folders of them; or ``crds`` alone. With neither of both
        there is nothing to choose from.

    Returns
    -------
    DatedMask
        With the newest USEAFTER at or before DATE-OBS + TIME-OBS among those that are for the
        DETECTOR, FILTER, READPATT, NGROUPS and SUBARRAY of the exposure; those made for the value
        itself go before those made for any.

    Raises
    ------
    InputError
        Not an exposure of JWST; no history or mask where one is said to be; none that is for the
        exposure; both or neither of `history` and `masks`.
    DetectorError
        The detector is unknown, or another than that of the history or the masks.
    DateError
        The exposure has no start, or lies before the first mask.
    """
    name = name_exposure(exposure)
    # A .cfg file can say None only as text.
    history = None if history == "None" else history
    masks = [text for text in masks or () if text not in ("", "None")]
    if bool(history) == bool(masks):
        raise InputError(
            f"expected one of history and masks to choose the mask of {name} from, found "
            f"{'both' if history else 'neither'}; give a *_badpixhistory.asdf, or the masks of a "
            "series, or masks='crds' for that of the CRDS context"
        )
    start = _read_start(exposure, name)
    try:
        if history:
            return _build_from_history(exposure, start, _find_history(history))
        if masks == ["crds"]:
            return _get_from_crds(exposure)
        return _choose_file(exposure, start, list(_list_masks(masks)))
    except TvBadPixError as error:
        raise type(error)(f"{name}: {error}") from error


def name_exposure(exposure: JwstDataModel) -> str:
    """Name an exposure in messages."""
    return str(exposure.meta.filename or "the exposure")


def _read_start(exposure: JwstDataModel, name: str) -> str:
    """Read the start of an exposure of JWST as ISO text, to the millisecond."""
    telescope, detector, date, time = (
        _get(exposure.meta, place)
        for place in ("telescope", "instrument.detector", "observation.date", "observation.time")
    )
    if str(telescope).upper() != "JWST":
        raise InputError(
            f"expected TELESCOP = JWST in {name}, found {telescope!r}; give exposures of JWST"
        )
    try:
        get_detector(detector)
    except DetectorError as error:
        raise DetectorError(f"{name}: {error}") from error
    try:
        if not date or not time:
            raise ValueError("absent")
        return to_isot(f"{date}T{time}")
    except ValueError as error:
        raise DateError(
            f"expected DATE-OBS and TIME-OBS as YYYY-MM-DD and hh:mm:ss in {name}, found {date!r} "
            f"and {time!r}; correct the header"
        ) from error


def _expand(path: str | Path) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(path)))


def _hash(path: Path) -> str:
    return f"{path.name} (sha256 {compute_sha256(path)})"


def _find_history(given: str) -> Path:
    """Find the file of a history, or the one in a folder."""
    path = _expand(given)
    if path.is_dir():
        found = sorted(path.glob("*_badpixhistory.asdf"))
        if len(found) != 1:
            raise InputError(
                f"expected one *_badpixhistory.asdf in {path}, found {len(found)}; name the file"
            )
        return found[0]
    return path if path.is_file() else path.with_name(path.name.removesuffix(".asdf") + ".asdf")


def _build_from_history(exposure: JwstDataModel, start: str, path: Path) -> DatedMask:
    """Build the mask that the series of the history has for the exposure."""
    history = read_history(path)
    meta, own = exposure.meta, history.meta.instrument.detector
    mask = build_mask_at(
        history,
        start,
        detector=meta.instrument.detector,
        readpatt=meta.exposure.readpatt,
        ngroups=meta.exposure.ngroups,
        name=path.stem.removesuffix(f"_{own}_badpixhistory"),
    )
    selection = {
        key: str(_get(mask, several) or _get(mask, alone) or "")
        for key, (alone, _, several) in _SELECTED_BY.items()
    }
    if _weigh(selection, exposure) is None:
        # Not refused: a pixel is bad whatever the filter, and nothing is asked of CRDS.
        named = [f"{key} {value}" for key, value in selection.items() if value not in _ANY]
        log.warning(
            "%s: the masks of %s are for %s, but the exposure is one of %s",
            name_exposure(exposure),
            path,
            ", ".join(named),
            _describe(exposure),
        )
    useafter, source = str(mask.meta.useafter), f"history {_hash(path)}"
    return DatedMask(mask, mask.meta.filename, useafter, source, path.parent)


def _get_from_crds(exposure: JwstDataModel) -> DatedMask:
    """Get the mask that the CRDS context has for the exposure."""
    name = name_exposure(exposure)
    path = ask_crds("mask", exposure.get_crds_parameters(), name)
    if str(path) == "N/A":
        raise InputError(
            f"expected a mask reference of CRDS for {name}, found: N/A; give history or masks"
        )
    mask = read_mask(path)
    useafter, source = str(mask.meta.useafter), f"CRDS, {_hash(path)}"
    return DatedMask(mask, f"crds://{path.name}", useafter, source, path.parent)


def read_mask(path: Path) -> MaskModel:
    """Read a mask into memory as dq_init does.

    Raises
    ------
    InputError
        The file is absent, or no mask.
    """
    try:
        with MaskModel(str(path)) as opened:
            if opened.dq is None or str(opened.meta.reftype).upper() != "MASK":
                raise InputError(f"REFTYPE {opened.meta.reftype}, DQ {np.shape(opened.dq)}")
            return opened.copy()
    except Exception as error:
        raise InputError(
            f"expected a mask reference file, found {path}: {error}; give a mask as CRDS delivers "
            "them"
        ) from error


def _list_masks(given: Sequence[str]) -> Iterator[Path]:
    """List the files: those of a folder are its masks; of twins one."""
    for text in given:
        path = _expand(text)
        if not path.is_dir():
            if not path.is_file():
                raise InputError(f"expected masks, found no file or folder at {path}; check it")
            yield path
            continue
        found = sorted(path.glob("*_mask_*.asdf"))
        stems = {file.stem for file in found}
        found += [file for file in sorted(path.glob("*_mask_*.fits")) if file.stem not in stems]
        if not found:
            raise InputError(
                f"expected the masks of a series (*_mask_*.asdf or .fits) in {path}, found none; "
                "give the folder that time_variable_bad_pixel wrote"
            )
        yield from found


def _choose_file(exposure: JwstDataModel, start: str, paths: Sequence[Path]) -> DatedMask:
    """Choose among mask files."""
    detector = exposure.meta.instrument.detector
    keywords = {path: _read_keywords(path) for path in dict.fromkeys(paths)}
    own = {path: keys for path, keys in keywords.items() if keys["DETECTOR"] == detector}
    if not own:
        found = ", ".join(sorted({keys["DETECTOR"] for keys in keywords.values()}))
        raise DetectorError(
            f"expected masks of {detector}, found those of {found} ({paths[0]}, ...); give the "
            "masks of the exposure's detector"
        )
    weights = {path: _weigh(keys, exposure) for path, keys in own.items()}
    fitting = [path for path, weight in weights.items() if weight is not None]
    if not fitting:
        raise InputError(
            f"expected masks for {_describe(exposure)}, found none among {len(own)} of {detector} "
            f"({paths[0]}, ...); give a series for this mode, or for any"
        )
    dated = [path for path in fitting if _second(own[path]["USEAFTER"], path) <= start]
    if not dated:
        first = min(own[path]["USEAFTER"] for path in fitting)
        raise DateError(
            f"expected an exposure from {first} on, the first USEAFTER of the masks, found one of "
            f"{start}; the masks say nothing earlier"
        )
    best = max(dated, key=lambda path: (weights[path], own[path]["USEAFTER"]))
    rivals = [
        path
        for path in dated
        if weights[path] == weights[best] and own[path]["USEAFTER"] == own[best]["USEAFTER"]
    ]
    if len(rivals) > 1:
        raise InputError(
            f"expected one mask of USEAFTER {own[best]['USEAFTER']}, found {len(rivals)}: "
            f"{', '.join(map(str, rivals))}; leave only one of them"
        )
    useafter, source = own[best]["USEAFTER"], f"mask {_hash(best)}"
    return DatedMask(read_mask(best), best.name, useafter, source, best.parent)


def _second(useafter: str, path: Path) -> str:
    """Read a USEAFTER to the millisecond, so that it compares with the start."""
    try:
        return to_isot(useafter)
    except ValueError as error:
        raise DateError(
            f"expected USEAFTER as YYYY-MM-DDThh:mm:ss in {path}, found {useafter!r}; correct it"
        ) from error


def _read_keywords(path: Path) -> dict[str, str]:
    """Read what a mask is selected by; of a list with | the list."""
    try:
        if path.suffix == ".asdf":
            with open_asdf(path) as opened:
                meta = {"meta": opened.tree["meta"]}
                found = {key: _get(meta, place) for key, place in _ALSO_READ.items()}
                for key, (alone, _, several) in _SELECTED_BY.items():
                    found[key] = _get(meta, several) or _get(meta, alone)
        else:
            header = fits.getheader(path)
            found = {key: header.get(key) for key in _ALSO_READ}
            for key, (_, several, _) in _SELECTED_BY.items():
                found[key] = (header.get(several) if several else None) or header.get(key)
    except Exception as error:
        raise InputError(
            f"expected a mask reference file (FITS or ASDF), found {path}: {error}; give a mask as "
            "CRDS delivers them"
        ) from error
    keywords = {key: str(value or "") for key, value in found.items()}
    if keywords["REFTYPE"].upper() != "MASK" or not keywords["USEAFTER"]:
        raise InputError(
            f"expected REFTYPE MASK and a USEAFTER in {path}, found {keywords['REFTYPE']!r} and "
            f"{keywords['USEAFTER']!r}; leave the file out"
        )
    return keywords


def _get(node: Any, place: str) -> Any:
    """Look up a dotted name in a model or a tree; None where absent."""
    for part in filter(None, place.split(".")):
        node = node.get(part) if isinstance(node, dict) else getattr(node, part, None)
        if node is None:
            return None
    return node if place else None


def _weigh(selection: dict[str, str], exposure: JwstDataModel) -> int | None:
    """Count the keywords that name the exposure's own value; None where one names another."""
    weight = 0
    for key, (place, _, _) in _SELECTED_BY.items():
        value, wanted = selection[key], _get(exposure, place)
        if value in _ANY:
            continue
        if key == "NGROUPS" and value.startswith("BETWEEN"):
            low, high = map(int, value.split()[1:])
            fits_it = wanted is not None and low <= int(wanted) < high
        else:
            fits_it = str(wanted) in value.split("|")
        if not fits_it:
            return None
        weight += 1
    return weight


def _describe(exposure: JwstDataModel) -> str:
    """Say what selects the mask of an exposure."""
    values = ((key, _get(exposure, place)) for key, (place, _, _) in _SELECTED_BY.items())
    return ", ".join(f"{key} {value}" for key, value in values)


def find_reference_file(name: str | None, *folders: Path) -> Path | None:
    """Find the file that a header names as a reference.

    Parameters
    ----------
    name : str or None
        As in R_MASK: ``crds://`` and a name in the CRDS cache, or the path of an override.
    *folders : Path
        Where a bare name may be.

    Returns
    -------
    Path or None
        None where there is no such file.
    """
    if not name or name == "N/A":
        return None
    if not name.startswith("crds://"):
        places = [Path(name), *(folder / Path(name).name for folder in folders)]
        return next((place for place in places if place.is_file()), None)
    if not has_crds():
        return None
    try:
        path = Path(crds_client.reference_uri_to_cache_path(name, "jwst"))
    except (Exception, SystemExit) as error:  # crds exits where it finds no cache
        log.info("%s is not in the CRDS cache: %s", name, error)
        return None
    return path if path.is_file() else None


def cut_dq(exposure: JwstDataModel, mask: MaskModel) -> np.ndarray:
    """Cut the flags of a mask as the exposure was read out.

    Parameters
    ----------
    exposure : JwstDataModel
        With the arrays `data` and SUBSTRT, SUBSIZE.
    mask : MaskModel
        Of the same detector.

    Returns
    -------
    ndarray of uint32, the last two axes of `data`
        In the frame of the exposure, IRS2 or not.

    Raises
    ------
    DetectorError
        The exposure does not lie within the mask.
    """
    framed = fit_frame(exposure, mask)
    try:
        if not reffile_utils.ref_matches_sci(exposure, framed):
            framed = reffile_utils.get_subarray_model(exposure, framed)
        dq: np.ndarray = np.asarray(framed.dq)
        if dq.shape != exposure.data.shape[-2:]:
            raise ValueError(f"{dq.shape} of the mask for {exposure.data.shape}")
    except (ValueError, AttributeError, TypeError) as error:
        raise DetectorError(
            f"expected {name_exposure(exposure)} to be a rectangle of the mask "
            f"{mask.meta.filename or ''} of {np.shape(mask.dq)}, found: {error}; check SUBSTRT and "
            "SUBSIZE, or leave the exposure out"
        ) from error
    return dq


def fit_frame(exposure: JwstDataModel, mask: MaskModel) -> MaskModel:
    """Put a mask into the IRS2 frame, or take it out, where the exposure has the other one."""
    facts = get_detector(exposure.meta.instrument.detector)
    full, irs2 = facts.shape, facts.irs2_shape
    if irs2 is None or (mask.dq.shape, exposure.data.shape[-2]) not in (
        (irs2, full[0]),
        (full, irs2[0]),
    ):
        return mask
    dq, framed = np.asarray(mask.dq), mask.copy()
    framed.dq = strip_irs2(dq, facts) if dq.shape == irs2 else interleave_irs2(dq, facts)
    return framed
