"""Exposures of one detector: headers first, then row blocks placed in the full frame."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import bottleneck as bn
import numpy as np

from .detectors import Detector, get_detector
from .errors import (
    ContradictoryDateError,
    DateError,
    DetectorError,
    EvidenceError,
    InputError,
    StoreError,
)
from .headers import ExposureRecord, make_record
from .refmodels.dq import dq_value
from .robust import find_settled
from .sources import Scan, Source, scan_exposures

__all__ = [
    "ExcludedExposure",
    "ExposureRecord",
    "ExposureStack",
    "RowBlock",
    "extend_exposures",
    "open_exposures",
    "refuse_duplicates",
]

log = logging.getLogger(__name__)

# Most values of one exposure that are held at once where only a sample of its rows is needed.
_SAMPLE_VALUES = 20_000_000
# No detector counts so fast; the square of such a number leaves float32.
_ABSURD = 1e9


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Rows of all looks with the halo that local medians need.

    Attributes
    ----------
    rate : ndarray of float32, shape (n_looks, ny, nx)
        Count rates within the stack's window, in the unit of the stack; NaN = no evidence.
    y, x : int
        Full-frame row and column of ``rate[:, 0, 0]``.
    core : slice
        Rows of `rate` that belong to this block; the others are halo.
    hidden : ndarray of int64, shape (n_looks,)
        Number of core pixels that were read out and are NaN or DO_NOT_USE, in all integrations of
        the look, though they neither saturated nor are reference or NON_SCIENCE pixels: a mask
        hid them, so the exposure is not neutral.
    """

    rate: np.ndarray
    y: int
    x: int
    core: slice
    hidden: np.ndarray


@dataclass(frozen=True, slots=True)
class ExcludedExposure:
    """An exposure that was given and is not used.

    Attributes
    ----------
    filename, sha256 : str
        Name and checksum of the file.
    reason : str
        What was expected, what was found, what to do.
    """

    filename: str
    sha256: str
    reason: str


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
    unit : str
        Unit of the rates: DN/s, or MJy/sr where calibrated products cannot be turned back.
    excluded : tuple of ExcludedExposure
        Exposures that were given and are not used, by name.
    """

    detector: Detector
    records: tuple[ExposureRecord, ...]
    looks: tuple[tuple[int, tuple[int, ...]], ...]
    window: tuple[int, int, int, int]
    unit: str
    excluded: tuple[ExcludedExposure, ...]
    _sources: tuple[Source, ...] = field(repr=False)
    _pedestals: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

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

    def read_rows(self, start: int, stop: int, looks: Sequence[int] | None = None) -> np.ndarray:
        """Read full-frame rows of looks, all or some: float32 (n_looks, rows, nx).

        Notes
        -----
        NaN = no evidence. Where the detector has a pedestal, its level in each integration, which
        is drift of the dark current and no light, is subtracted.
        """
        return self._read(start, stop, slice(0, 0), looks)[0]

    def read_look(
        self, look: int, rows: slice | None = None, core: slice | None = None
    ) -> tuple[np.ndarray, int]:
        """Read one look: rates as `read_rows`, and what a mask hid (see `RowBlock`).

        Parameters
        ----------
        look : int
        rows : slice, optional
            Rows of the full frame; all of the window by default.
        core : slice, optional
            Those of them in which what is hidden is counted; all by default.
        """
        rows = rows or slice(*self.window[:2])
        core = core or slice(0, rows.stop - rows.start)
        rate, hidden = self._read(rows.start, rows.stop, core, (look,))
        return rate[0], int(hidden[0])

    def _read(
        self, start: int, stop: int, core: slice, looks: Sequence[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read the rows as `read_rows`; count in those of `core` what a mask hid."""
        chosen = self.looks if looks is None else [self.looks[k] for k in looks]
        x0, x1 = self.window[2:]
        rate = np.full((len(chosen), stop - start, x1 - x0), np.nan, np.float32)
        hidden = np.zeros(len(chosen), np.int64)
        reference = self.detector.reference_pixels()[start:stop]
        for k, (index, integrations) in enumerate(chosen):
            (cy, cx), (ny, nx) = self.records[index].corner, self.records[index].shape
            first, last = max(start, cy), min(stop, cy + ny)
            if first >= last:
                continue
            data, quality = self._read_rate(index, slice(first - cy, last - cy))
            if self.detector.pedestal:
                data -= self._measure_pedestal(index)[..., None, None]
            own = reference[first - start : last - start, cx : cx + nx]
            counted = slice(max(0, core.start + start - first), max(0, core.stop + start - first))
            hidden[k] = _count_hidden(data, quality, own, counted, integrations)
            if data.ndim == 3:
                # Without a settled integration an exposure holds no evidence.
                settled = data[list(integrations)] if integrations else np.full_like(data, np.nan)
                data = bn.nanmedian(settled, axis=0)
            placed = rate[k, first - start : last - start, cx - x0 : cx - x0 + nx]
            np.copyto(placed, data, where=~own)
        return rate, hidden

    def _read_rate(self, index: int, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Read the rates of one exposure in the unit of the stack, and their DQ."""
        record = self.records[index]
        data, quality = _read_evidence(self._sources[index], rows)
        if record.unit != self.unit:
            data /= record.photmjsr
        return data, quality

    def _measure_pedestal(self, index: int) -> np.ndarray:
        """Measure the pedestal of each integration, once: (n_int,), or () for a rate image."""
        if index not in self._pedestals:
            record = self.records[index]
            (cy, cx), (ny, _) = record.corner, record.shape
            y0, y1, x0, x1 = self.detector.pedestal or (0, 0, 0, 0)
            columns = slice(max(0, x0 - cx), max(0, x1 - cx))
            parts = [
                self._read_rate(index, slice(y, min(y + 64, y1 - cy, ny)))[0][..., columns]
                for y in range(max(0, y0 - cy), min(y1 - cy, ny), 64)
            ]
            values = np.concatenate(parts, axis=-2) if parts else np.empty((1, 0))
            flat = values.reshape(*values.shape[:-2], -1)
            level = np.asarray(bn.nanmedian(flat, axis=-1) if flat.shape[-1] else np.nan)
            self._pedestals[index] = np.nan_to_num(level.astype(np.float32))
        return self._pedestals[index]

    def row_blocks(self, *, halo: int, max_bytes: int = 12_000_000) -> Iterator[RowBlock]:
        """Read the window in blocks of rows, each array of a block within `max_bytes`.

        Parameters
        ----------
        halo : int
            Rows added on each side (cut at the edges of the window).
        max_bytes : int
            Size of one float32 array of a block, or of all integrations of an exposure within it,
            halo left aside; at least eight rows are read.

        Yields
        ------
        RowBlock
        """
        y0, y1, x0, x1 = self.window
        depth = max(len(self.looks), *(len(r.settled) + len(r.unsettled) for r in self.records))
        n_rows = max(8, max_bytes // (4 * depth * (x1 - x0)))
        for start in range(y0, y1, n_rows):
            stop = min(y1, start + n_rows)
            first, last = max(y0, start - halo), min(y1, stop + halo)
            core = slice(start - first, stop - first)
            rate, hidden = self._read(first, last, core)
            yield RowBlock(rate, first, x0, core, hidden)


def open_exposures(inputs: Iterable[Any] | Any) -> ExposureStack:
    """Read the headers of exposures of one detector and order them in time.

    Parameters
    ----------
    inputs : path, association (.json), data model, ModelLibrary, or a sequence of these
        ``_rate``, ``_rateints``, ``_cal`` or ``_calints`` products (2-D or 3-D SCI, with DQ).

    Returns
    -------
    ExposureStack
        Headers are checked and checksums taken; of the pixels, only a few rows of each product
        with integrations have been looked at. Calibrated images are turned back into DN/s by
        their PHOTMJSR; where it is absent or only part of the conversion (spectra), all
        exposures must be calibrated. An exposure whose dates contradict each other is left out,
        with a warning.

    Raises
    ------
    InputError
        A file is unreadable, truncated, no such JWST product, or given twice; or units are mixed.
    DetectorError
        Detectors are mixed, or the detector or subarray is unknown.
    DateError
        An exposure has no date where one is needed.
    EvidenceError
        Nothing usable is left, or fewer than two independent looks.
    """
    scans = scan_exposures(inputs)
    if not scans:
        raise EvidenceError("expected exposures, found none; give rate files or an association")
    _refuse_mixed_detectors(scans)
    found, excluded = _check(scans)
    records = tuple(record for record, _ in found)
    refuse_duplicates(records)
    looks = _choose_looks(records, excluded)
    unit = _choose_unit(records)
    corners = np.array([(*r.corner, *np.add(r.corner, r.shape)) for r in records])
    y0, x0 = (int(v) for v in corners[:, :2].min(axis=0))
    y1, x1 = (int(v) for v in corners[:, 2:].max(axis=0))
    detector = get_detector(records[0].detector)
    _report(records, len(looks), detector)
    sources = tuple(source for _, source in found)
    return ExposureStack(detector, records, looks, (y0, y1, x0, x1), unit, excluded, sources)


@dataclass(frozen=True, slots=True)
class _AbsentSource:
    """Planes of an exposure whose evidence is kept, and whose file was not given."""

    name: str
    shape: tuple[int, ...]

    def read(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        raise StoreError(
            f"expected the evidence of {self.name} in the store, found it absent or damaged; give "
            "its file too, so that it can be made again"
        )

    def read_err(self, rows: slice) -> np.ndarray | None:
        return None


def extend_exposures(
    inputs: Iterable[Any] | Any,
    known: Sequence[ExposureRecord],
    *,
    window: tuple[int, int, int, int],
    unit: str,
) -> ExposureStack:
    """Open exposures beside others whose pixels need not be read.

    Parameters
    ----------
    inputs : path, association (.json), data model, ModelLibrary, or a sequence of these
        As for `open_exposures`.
    known : sequence of ExposureRecord
        Of the others. One of the same name or times as one of the inputs is replaced by it.
    window : tuple of int
        (y0, y1, x0, x1) within which all must lie.
    unit : str
        Unit in which all are given.

    Returns
    -------
    ExposureStack

    Raises
    ------
    InputError, DetectorError, DateError, EvidenceError
        As `open_exposures`; or an input lies outside the window, or is in another unit.
    """
    scans = scan_exposures(inputs)
    _refuse_mixed_detectors(scans)
    found, excluded = _check(scans)
    refuse_duplicates([record for record, _ in found])
    for record, _ in found:
        _require_fit(record, known, window, unit)
    pairs = list(found)
    for record in known:
        later = [one for one, _ in found if _is_same(one, record)]
        if not later:
            pairs.append((record, _AbsentSource(record.filename, record.shape)))
        elif later[0].sha256 != record.sha256:
            log.info("%s replaces an earlier version of it", later[0].filename)
    pairs.sort(key=lambda pair: (pair[0].mid_mjd, pair[0].filename, pair[0].sha256))
    records = tuple(record for record, _ in pairs)
    refuse_duplicates(records)
    # One alone has only itself as a look: whether that is enough is for the caller to say.
    one = ((0, records[0].settled),)
    looks = _choose_looks(records, excluded) if len(records) > 1 else one
    detector = get_detector(records[0].detector)
    _report(records, len(looks), detector)
    sources = tuple(source for _, source in pairs)
    return ExposureStack(detector, records, looks, window, unit, excluded, sources)


def _is_same(record: ExposureRecord, other: ExposureRecord) -> bool:
    """Whether both are the same observation, perhaps in versions of different content."""
    times = [(r.start_mjd, r.mid_mjd, r.subarray) for r in (record, other)]
    return record.filename == other.filename or times[0] == times[1]


def _require_fit(
    record: ExposureRecord,
    known: Sequence[ExposureRecord],
    window: tuple[int, int, int, int],
    unit: str,
) -> None:
    """Raise where an exposure cannot be added to others."""
    y0, y1, x0, x1 = window
    (cy, cx), (ny, nx) = record.corner, record.shape
    if known and record.detector != known[0].detector:
        raise DetectorError(
            f"expected exposures of {known[0].detector}, found {record.filename} of "
            f"{record.detector}; give it to the history of its own detector"
        )
    if not (y0 <= cy and cy + ny <= y1 and x0 <= cx and cx + nx <= x1):
        raise InputError(
            f"expected exposures within rows {y0}:{y1} and columns {x0}:{x1}, which the history "
            f"covers, found {record.filename} with {cy}:{cy + ny}, {cx}:{cx + nx}; recalibrate"
        )
    if record.unit != unit and not (unit == "DN/s" and np.isfinite(record.photmjsr)):
        raise InputError(
            f"expected exposures in {unit}, as the history has them, found {record.filename} in "
            f"{record.unit}; give products of the same stage"
        )


def _refuse_mixed_detectors(scans: Sequence[Scan]) -> None:
    """Raise when the exposures are not of one detector, with an example of each."""
    examples = {str(scan.keywords["DETECTOR"]): scan.name for scan in reversed(scans)}
    if len(examples) > 1:
        raise DetectorError(
            "expected exposures of one detector, found "
            + ", ".join(f"{name} ({example})" for name, example in sorted(examples.items()))
            + "; run the step once per detector"
        )


def _check(
    scans: Iterable[Scan],
) -> tuple[list[tuple[ExposureRecord, Source]], tuple[ExcludedExposure, ...]]:
    """Check all headers: what is used, in order of time, and what is left out."""
    found, excluded = [], []
    for scan in scans:
        settled = _find_settled(scan.source) if len(scan.source.shape) == 3 else ()
        try:
            record = make_record(scan.name, scan.sha256, scan.keywords, scan.source.shape, settled)
        except ContradictoryDateError as error:
            excluded.append(ExcludedExposure(scan.name, scan.sha256, str(error)))
            log.warning("%s is left out: %s", scan.name, error)
        else:
            found.append((record, scan.source))
    found.sort(key=lambda pair: (pair[0].mid_mjd, pair[0].filename, pair[0].sha256))
    excluded.sort(key=lambda exposure: (exposure.filename, exposure.sha256))
    if not found:
        raise EvidenceError(
            f"expected usable exposures, found none; correct or replace {_list_excluded(excluded)}"
        )
    return found, tuple(excluded)


def _list_excluded(excluded: Iterable[ExcludedExposure]) -> str:
    return ", ".join(f"{exposure.filename} ({exposure.reason})" for exposure in excluded)


def _read_evidence(source: Source, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """Read rates and DQ of some rows; NaN where no number or DO_NOT_USE: no evidence."""
    data, quality = source.read(rows)
    bad = (quality & np.uint32(dq_value("DO_NOT_USE"))) != 0
    with np.errstate(invalid="ignore"):
        return np.where((np.abs(data) < _ABSURD) & ~bad, data, np.nan), quality


def _count_hidden(
    data: np.ndarray,
    quality: np.ndarray,
    reference: np.ndarray,
    rows: slice,
    integrations: tuple[int, ...],
) -> int:
    """Count the pixels of some rows that are lost for no reason but a mask."""
    harmless = np.uint32(dq_value("SATURATED", "REFERENCE_PIXEL", "NON_SCIENCE"))
    hidden = np.isnan(data[..., rows, :]) & ((quality[..., rows, :] & harmless) == 0)
    if hidden.ndim == 3:
        hidden = hidden[list(integrations)].all(axis=0) if integrations else hidden.all(axis=0)
    return int(np.count_nonzero(hidden & ~reference[rows]))


def _find_settled(source: Source) -> tuple[int, ...]:
    """List the integrations whose level has settled, from the middle rows."""
    n, ny, nx = source.shape
    middle, half = ny // 2, min(32, max(2, _SAMPLE_VALUES // (2 * n * nx)))
    data = _read_evidence(source, slice(max(0, middle - half), middle + half))[0]
    level = bn.nanmedian(data.reshape(len(data), -1), axis=1)
    scatter = 1.4826 * bn.nanmedian(
        np.abs(data - level[:, None, None]).reshape(len(data), -1), axis=1
    )
    return find_settled(level, scatter)


def refuse_duplicates(records: Sequence[ExposureRecord]) -> None:
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


def _choose_looks(
    records: Sequence[ExposureRecord], excluded: Sequence[ExcludedExposure]
) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Choose what is compared: exposures, or the integrations of a single one."""
    if len(records) == 1:
        settled = records[0].settled
        if len(settled) < 3:
            without = f", without {_list_excluded(excluded)}" if excluded else ""
            raise EvidenceError(
                "expected at least two independent looks, found one exposure "
                f"({records[0].filename}) with {len(settled)} settled integrations{without}; give "
                "more exposures, or one _rateints with three or more settled integrations for a "
                "static mask"
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


def _choose_unit(records: Sequence[ExposureRecord]) -> str:
    """Choose the unit all exposures can be given in."""
    calibrated = [record for record in records if record.unit != "DN/s"]
    fixed = [record for record in calibrated if np.isnan(record.photmjsr)]
    if not fixed:
        if calibrated:
            log.info("%d calibrated exposures are divided by their PHOTMJSR", len(calibrated))
        return "DN/s"
    unit = fixed[0].unit
    others = [record for record in records if record.unit != unit]
    if others:
        raise InputError(
            f"expected exposures in one unit, found {fixed[0].filename} in {unit}, whose PHOTMJSR "
            f"is absent or that of a spectrum, and {others[0].filename} in {others[0].unit}; give "
            "the _rate products of all"
        )
    log.warning("the exposures are calibrated: amplitudes are in %s, not DN/s", unit)
    return unit


def _report(records: Sequence[ExposureRecord], n_looks: int, detector: Detector) -> None:
    """Say what is read, and what was taken from elsewhere or left out."""
    log.info(
        "%d exposures of %s (%s), %d looks",
        len(records),
        detector.name,
        ", ".join(sorted({r.subarray for r in records})),
        n_looks,
    )
    for text, count in Counter(text for r in records for text in r.fallbacks).items():
        example = next(r.filename for r in records if text in r.fallbacks)
        log.info("%s (%d exposures, %s the first)", text, count, example)
    for record in records:
        if record.unsettled:
            log.info(
                "%s: integrations %s have not settled or are empty, and are left out",
                record.filename,
                ", ".join(str(k + 1) for k in record.unsettled),
            )
    if detector.pedestal:
        log.info("the level of rows %d:%d, columns %d:%d is subtracted", *detector.pedestal)
    masks = sorted({record.r_mask for record in records})
    if len(masks) > 1:
        log.warning(
            "the exposures were made with different masks (R_MASK %s); what a mask hid is no "
            "evidence, neither good nor bad",
            ", ".join(masks),
        )
