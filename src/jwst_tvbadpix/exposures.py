"""Exposures of one detector: headers first, then row blocks placed in the full frame."""

import hashlib
import json
import logging
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import bottleneck as bn
import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from .detectors import Detector, get_detector
from .errors import DateError, DetectorError, EvidenceError, InputError
from .headers import KEYWORDS, ExposureRecord, make_record
from .refmodels.dq import dq_value
from .robust import find_settled

__all__ = ["ExposureRecord", "ExposureStack", "RowBlock", "open_exposures"]

log = logging.getLogger(__name__)

# Association members that are looks at the detector; the rest (target acquisition, source
# catalogues) say nothing about pixels of a blank field.
_MEMBER_TYPES = ("science", "background", "dark")


class _Source(Protocol):
    """Lazy access to SCI and DQ of one exposure, all integrations."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self, rows: slice) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True, slots=True)
class _FitsSource:
    path: Path
    shape: tuple[int, ...]

    def read(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        with fits.open(self.path, memmap=False) as hdus:
            return hdus["SCI"].section[..., rows, :], hdus["DQ"].section[..., rows, :]


@dataclass(frozen=True, slots=True)
class _ArraySource:
    arrays: Mapping[str, np.ndarray]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.arrays["SCI"].shape

    def read(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        return self.arrays["SCI"][..., rows, :], self.arrays["DQ"][..., rows, :]


class _SpooledSource:
    """Copies of the planes in a temporary folder, which goes when this object does."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.shape: tuple[int, ...] = arrays["SCI"].shape
        self._folder = Path(tempfile.mkdtemp(prefix="tvbadpix-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        for name, plane in arrays.items():
            np.save(self._folder / f"{name}.npy", plane)

    def read(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Read rows of SCI and DQ, all integrations."""
        science, quality = (
            np.array(np.load(self._folder / f"{plane}.npy", mmap_mode="r")[..., rows, :])
            for plane in ("SCI", "DQ")
        )
        return science, quality


@dataclass(frozen=True, slots=True)
class _JoinedSource:
    """Segments of one exposure, their integrations one after the other."""

    parts: tuple[_Source, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return sum(_count_integrations(p.shape) for p in self.parts), *self.parts[0].shape[-2:]

    def read(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        planes = zip(*(part.read(rows) for part in self.parts), strict=True)
        science, quality = (
            np.concatenate([plane[None] if plane.ndim == 2 else plane for plane in kind])
            for kind in planes
        )
        return science, quality


def _count_integrations(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) == 3 else 1


@dataclass(frozen=True, slots=True)
class _Scan:
    """One exposure as found: its keywords unchecked, its planes unread."""

    name: str
    sha256: str
    keywords: Mapping[str, Any]
    source: _Source

    @property
    def settled(self) -> tuple[int, ...]:
        """Integrations whose level has settled, from the middle rows; () for a rate."""
        shape = self.source.shape
        return _find_settled(self.source) if len(shape) == 3 else ()


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Rows of all looks with the halo that local medians need.

    Attributes
    ----------
    rate : ndarray of float32, shape (n_looks, ny, nx)
        Count rates [DN/s] within the stack's window; NaN = no evidence.
    y, x : int
        Full-frame row and column of ``rate[:, 0, 0]``.
    core : slice
        Rows of `rate` that belong to this block; the others are halo.
    """

    rate: np.ndarray
    y: int
    x: int
    core: slice


@dataclass(frozen=True, slots=True)
class ExposureStack:
    """Exposures of one detector in order of time, read in row blocks.

    Attributes
    ----------
    detector : Detector
        The detector they share.
    records : tuple of ExposureRecord
        One per exposure, in order of EXPMID.
    looks : tuple of (int, tuple of int)
        What is compared in time: index into `records`, and the integrations whose median is
        taken (() for a rate image). One per exposure; with a single exposure of at least three
        settled integrations, one per integration.
    window : tuple of int
        Bounding box (y0, y1, x0, x1) of all that was read out.
    """

    detector: Detector
    records: tuple[ExposureRecord, ...]
    looks: tuple[tuple[int, tuple[int, ...]], ...]
    window: tuple[int, int, int, int]
    _sources: tuple[_Source, ...] = field(repr=False)

    @property
    def dated(self) -> bool:
        """Whether the looks differ in time, so that changes can be dated."""
        return len(self.records) > 1

    @property
    def look_records(self) -> tuple[ExposureRecord, ...]:
        """The record behind each look."""
        return tuple(self.records[k] for k, _ in self.looks)

    @property
    def row_ranges(self) -> tuple[tuple[int, int], ...]:
        """Ranges of rows (first, last + 1) that were read out together, each once."""
        return tuple(sorted({(r.corner[0], r.corner[0] + r.shape[0]) for r in self.records}))

    def read_out(self) -> np.ndarray:
        """Mark the pixels that some exposure read out: bool, shape of the full frame."""
        read = np.zeros(self.detector.shape, bool)
        for (y, x), (ny, nx) in {(r.corner, r.shape) for r in self.records}:
            read[y : y + ny, x : x + nx] = True
        return read

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        """Read full-frame rows of every look: float32 (n_looks, rows, nx), NaN = no evidence."""
        x0, x1 = self.window[2:]
        rate = np.full((len(self.looks), stop - start, x1 - x0), np.nan, np.float32)
        reference = self.detector.reference_pixels()[start:stop, x0:x1]
        for out, (index, integrations) in zip(rate, self.looks, strict=True):
            record, source = self.records[index], self._sources[index]
            (cy, cx), (ny, nx) = record.corner, record.shape
            first, last = max(start, cy), min(stop, cy + ny)
            if first >= last:
                continue
            rows = slice(first - cy, last - cy)
            data = _read_evidence(source, rows)
            if data.ndim == 3:
                # Without a settled integration an exposure holds no evidence.
                settled = data[list(integrations)] if integrations else np.full_like(data, np.nan)
                data = bn.nanmedian(settled, axis=0)
            out[first - start : last - start, cx - x0 : cx - x0 + nx] = data
            out[reference] = np.nan
        return rate

    def row_blocks(self, *, halo: int, max_bytes: int = 12_000_000) -> Iterator[RowBlock]:
        """Read the window in blocks of rows, each array of a block within `max_bytes`.

        Parameters
        ----------
        halo : int
            Rows added on each side (cut at the edges of the window).
        max_bytes : int
            Size of one float32 array of a block, halo left aside; at least eight rows are read.

        Yields
        ------
        RowBlock
        """
        y0, y1, x0, x1 = self.window
        n_rows = max(8, max_bytes // (4 * len(self.looks) * (x1 - x0)))
        for start in range(y0, y1, n_rows):
            stop = min(y1, start + n_rows)
            first, last = max(y0, start - halo), min(y1, stop + halo)
            yield RowBlock(
                self.read_rows(first, last), first, x0, slice(start - first, stop - first)
            )


def open_exposures(inputs: Iterable[Any] | Any) -> ExposureStack:
    """Read the headers of exposures of one detector and order them in time.

    Parameters
    ----------
    inputs : path, association (.json), data model, ModelLibrary, or a sequence of these
        ``_rate`` or ``_rateints`` products (2-D or 3-D SCI, with DQ).

    Returns
    -------
    ExposureStack
        Headers are checked and checksums taken; of the pixels, only a few rows of each
        ``_rateints`` have been looked at.

    Raises
    ------
    InputError
        A file is unreadable, truncated, not a JWST rate product, or given twice.
    DetectorError
        Detectors are mixed, or the detector or subarray is unknown.
    DateError
        An exposure has no date where one is needed.
    EvidenceError
        Fewer than two independent looks.
    """
    scans = _join_segments(_scan(item) for item in _expand(inputs))
    if not scans:
        raise EvidenceError("expected exposures, found none; give rate files or an association")
    examples = {str(scan.keywords["DETECTOR"]): scan.name for scan in reversed(scans)}
    if len(examples) > 1:
        raise DetectorError(
            "expected exposures of one detector, found "
            + ", ".join(f"{name} ({example})" for name, example in sorted(examples.items()))
            + "; run the step once per detector"
        )
    found = [
        (make_record(s.name, s.sha256, s.keywords, s.source.shape, s.settled), s.source)
        for s in scans
    ]
    found.sort(key=lambda pair: (pair[0].mid_mjd, pair[0].filename, pair[0].sha256))
    records = tuple(record for record, _ in found)
    _refuse_duplicates(records)
    looks = _choose_looks(records)
    corners = np.array([(*r.corner, *np.add(r.corner, r.shape)) for r in records])
    window = (*corners[:, :2].min(axis=0), *corners[:, 2:].max(axis=0))
    log.info(
        "%d exposures of %s (%s), %d looks",
        len(records),
        records[0].detector,
        ", ".join(sorted({r.subarray for r in records})),
        len(looks),
    )
    _report_masks(records)
    y0, x0, y1, x1 = (int(v) for v in window)
    return ExposureStack(
        get_detector(records[0].detector),
        records,
        looks,
        (y0, y1, x0, x1),
        tuple(s for _, s in found),
    )


def _expand(inputs: Any) -> Iterator[Any]:
    """Flatten associations, lists and libraries into paths and models."""
    if isinstance(inputs, (str, Path)):
        if Path(inputs).suffix.lower() == ".json":
            yield from _read_association(Path(inputs))
        else:
            yield Path(inputs)
    elif hasattr(inputs, "borrow"):
        yield from _spool_library(inputs)
    elif hasattr(inputs, "meta"):
        yield inputs
    elif isinstance(inputs, Iterable):
        for item in inputs:
            yield from _expand(item)
    else:
        raise InputError(
            f"expected paths, associations, data models or a ModelLibrary, found "
            f"{type(inputs).__name__}; give one of these"
        )


def _read_association(path: Path) -> list[Path]:
    """List the exposures of every product of an association, beside the file, each once."""
    try:
        members = []
        for product in json.loads(path.read_text())["products"]:
            if not product["name"]:
                raise KeyError("name")
            members += [
                path.parent / member["expname"]
                for member in product["members"]
                if member["exptype"].lower() in _MEMBER_TYPES
            ]
    except OSError as error:
        raise InputError(
            f"expected a readable association, found {path}: {error.strerror}; check the path"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"expected a JWST association with named products and members in {path}, found "
            f"{error!r}; make it with asn_from_list"
        ) from error
    if not members:
        raise InputError(
            f"expected members of type {', '.join(_MEMBER_TYPES)} in {path}, found none; "
            "add the rate files as science members"
        )
    return list(dict.fromkeys(members))  # products may share a background


def _spool_library(library: Any) -> Iterator[_Scan]:
    """Take the models of a ModelLibrary one at a time, and leave the library as it was."""
    with library:
        for model in library:
            yield _scan_model(model, spool=True)
            library.shelve(model, modify=False)


def _scan(item: Any) -> _Scan:
    """Read the header of one exposure."""
    if isinstance(item, _Scan):
        return item
    return _scan_fits(item) if isinstance(item, Path) else _scan_model(item)


def _join_segments(scans: Iterable[_Scan]) -> list[_Scan]:
    """Join the segments into which a long exposure was cut: they are one look at the detector."""
    exposures: dict[Any, dict[Any, _Scan]] = {}
    for scan in scans:
        cards = scan.keywords
        same = ("DETECTOR", "SUBARRAY", "EXPSTART", "DATE-OBS", "TIME-OBS")
        key: Any = (*(cards[card] for card in same), scan.source.shape[-2:], len(scan.source.shape))
        number = cards["EXPSEGNM"]
        if not isinstance(number, int) or number in exposures.get(key, {}):
            key = object()  # no segment, or one given twice: it stands for itself
        exposures.setdefault(key, {})[number] = scan
    joined = []
    for segments in exposures.values():
        ordered = [segments[number] for number in sorted(segments)]
        if len(ordered) == 1:
            joined += ordered
            continue
        log.info("%s and %d more segments are one exposure", ordered[0].name, len(ordered) - 1)
        checksum = hashlib.sha256("".join(scan.sha256 for scan in ordered).encode()).hexdigest()
        source = _JoinedSource(tuple(scan.source for scan in ordered))
        name = " + ".join(scan.name for scan in ordered)
        joined.append(_Scan(name, checksum, ordered[0].keywords, source))
    return joined


def _scan_fits(path: Path) -> _Scan:
    try:
        size = path.stat().st_size
        with warnings.catch_warnings(), fits.open(path, memmap=False) as hdus:
            # A truncated file is an error below, with better words than the warning's.
            warnings.simplefilter("ignore", AstropyUserWarning)
            compressed = hdus._file.compression not in (None, "")
            needed = max(info["datLoc"] + info["datSpan"] for info in (h.fileinfo() for h in hdus))
            planes = {hdu.name: hdu.shape for hdu in hdus[1:] if hdu.is_image}
            keywords = {key: hdus[0].header.get(key) for key in KEYWORDS}
            integer = "DQ" not in planes or hdus["DQ"].header["BITPIX"] > 0
            if "SCI" in planes:
                header = hdus["SCI"].header
                keywords["BUNIT"] = header.get("BUNIT")
                keywords["DISPAXIS"] = keywords["DISPAXIS"] or header.get("DISPAXIS")
        with path.open("rb") as stream:
            checksum = hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError, TypeError, KeyError, fits.VerifyError) as error:
        raise InputError(
            f"expected a FITS rate product, found {path}: {error}; check the path and the download"
        ) from error
    if needed > size and not compressed:
        raise InputError(
            f"expected {needed} bytes in {path}, found {size}: the file is truncated; "
            "download it again"
        )
    if not {"SCI", "DQ"} <= set(planes):
        raise InputError(
            f"expected SCI and DQ images in {path}, found {', '.join(planes) or 'none'}; "
            "give _rate or _rateints products"
        )
    if not integer:
        raise InputError(
            f"expected DQ as integers in {path}, found floating point; make the product again"
        )
    if planes["DQ"] != planes["SCI"]:
        raise InputError(
            f"expected SCI and DQ of one shape in {path}, found {planes['SCI']} and {planes['DQ']};"
            " make the product again"
        )
    return _Scan(path.name, checksum, keywords, _FitsSource(path, planes["SCI"]))


def _scan_model(model: Any, *, spool: bool = False) -> _Scan:
    """Read one model; `spool` copies its arrays to temporary files."""
    keywords = {
        key: _get(model, name) for key, name in (*KEYWORDS.items(), ("BUNIT", "meta.bunit_data"))
    }
    name = str(keywords["FILENAME"] or "model in memory")
    arrays = {"SCI": _get(model, "data"), "DQ": _get(model, "dq")}
    if any(plane is None for plane in arrays.values()):
        raise InputError(
            f"expected a rate model with data and dq, found {type(model).__name__} ({name}); "
            "give ImageModel or CubeModel"
        )
    arrays = {key: np.ascontiguousarray(plane) for key, plane in arrays.items()}
    checksum = hashlib.sha256()
    for plane in arrays.values():
        checksum.update(plane)
    source = _SpooledSource(arrays) if spool else _ArraySource(arrays)
    return _Scan(name, checksum.hexdigest(), keywords, source)


def _get(model: Any, path: str) -> Any:
    """Follow a dotted path through a data model; None where it ends."""
    for part in path.split("."):
        model = getattr(model, part, None)
    return model


def _read_evidence(source: _Source, rows: slice) -> np.ndarray:
    """Read the rates of some rows; NaN where they are not finite or DO_NOT_USE: no evidence."""
    data, quality = source.read(rows)
    bad = (quality & np.uint32(dq_value("DO_NOT_USE"))) != 0
    return np.where(np.isfinite(data) & ~bad, data, np.nan)


def _find_settled(source: _Source) -> tuple[int, ...]:
    """List the integrations whose level has settled, from the middle rows."""
    middle = source.shape[1] // 2
    rows = slice(max(0, middle - 32), middle + 32)
    data = _read_evidence(source, rows)
    level = bn.nanmedian(data.reshape(len(data), -1), axis=1)
    scatter = 1.4826 * bn.nanmedian(
        np.abs(data - level[:, None, None]).reshape(len(data), -1), axis=1
    )
    return find_settled(level, scatter)


def _refuse_duplicates(records: Sequence[ExposureRecord]) -> None:
    """Raise when two exposures have the same content, or the same time and place."""
    seen: dict[Any, str] = {}
    for record in records:
        identities = [record.sha256]
        if np.isfinite(record.mid_mjd):
            identities.append(str((record.start_mjd, record.mid_mjd, record.subarray)))
        for identity in identities:
            if identity in seen:
                raise InputError(
                    f"expected each exposure once, found {seen[identity]} and {record.filename} "
                    "with the same content or the same times (a copy, or its _rateints); leave one "
                    "of them out"
                )
            seen[identity] = record.filename


def _choose_looks(records: Sequence[ExposureRecord]) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Choose what is compared: exposures, or the integrations of a single one."""
    if len(records) == 1:
        settled = records[0].settled
        if len(settled) < 3:
            raise EvidenceError(
                "expected at least two independent looks, found one exposure "
                f"({records[0].filename}) with {len(settled)} settled integrations; give more "
                "exposures, or one _rateints with three or more settled integrations for a static "
                "mask"
            )
        log.warning(
            "one exposure: its %d settled integrations give a static mask, no dates", len(settled)
        )
        return tuple((0, (k,)) for k in settled)
    for record in records:
        if np.isnan(record.mid_mjd):
            raise DateError(
                f"expected EXPMID, EXPSTART and EXPEND, or DATE-OBS in {record.filename}, found "
                "none; add one of them"
            )
    return tuple((k, record.settled) for k, record in enumerate(records))


def _report_masks(records: Sequence[ExposureRecord]) -> None:
    masks = sorted({record.r_mask for record in records})
    if len(masks) > 1:
        log.warning(
            "the exposures were made with different masks (R_MASK %s); what a mask hid is no "
            "evidence, neither good nor bad",
            ", ".join(masks),
        )
