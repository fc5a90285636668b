"""The masks of a history: one series, or one per depth or frame, and the mask of any date."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import bottleneck as bn
import numpy as np

from ..badpix import MaskSpan, group_depths, plan_masks, select_counted, select_masked
from ..dates import to_isot, to_isots, to_mjd
from ..detectors import get_detector
from ..errors import DateError, DetectorError, InputError
from .badpix import KEPT, describe_self_test
from .dq import dq_value
from .history import BadPixHistoryModel, unpack_residuals
from .irs2 import IRS2_READPATTS
from .mask import build_mask, frame_flags
from .roman_mask import build_roman_mask

__all__ = [
    "MaskSeries",
    "PlannedMask",
    "build_mask_at",
    "build_mask_series",
    "compose_dq",
    "format_useafter",
    "iterate_masks",
    "list_series",
    "list_useafter",
    "plan_mask_series",
]

_LISTED_INPUTS = 50
_TRADITIONAL_READPATTS = ("NRS", "NRSRAPID", "NRSRAPIDD1", "NRSRAPIDD2", "NRSRAPIDD6")
# Additive defects: only their size tells whether they matter at a depth.
_DEPTH_EFFECT = 3.0  # sigma of one exposure; the MRS masks of three depths take 3 to 5
_ADDITIVE = ("HOT", "WARM", "OTHER_BAD_PIXEL")


@dataclass(frozen=True, slots=True)
class MaskSeries:
    """What the masks of one series are for.

    Attributes
    ----------
    depth : str
        SHALLOW, MEDIUM or DEEP; empty for any.
    readpatt : str
        READPATT, several joined by ``|``; empty for any.
    ngroups : tuple of int or None
        Lowest NGROUPS, and the first above them; None for any.
    """

    depth: str = ""
    readpatt: str = ""
    ngroups: tuple[int, int] | None = None

    def __str__(self) -> str:
        """Say what the series is for."""
        parts = [self.depth, self.readpatt.replace("|", ", ")]
        if self.ngroups:
            parts.append(f"NGROUPS {self.ngroups[0]} to {self.ngroups[1] - 1}")
        return " ".join(filter(None, parts)) or "all exposures"


def format_useafter(mjd: float) -> str:
    """Write a date as USEAFTER has it: YYYY-MM-DDThh:mm:ss (UTC)."""
    return _format_useafters([mjd])[0]


def _format_useafters(mjd: Sequence[float]) -> list[str]:
    # Half a second is added because MJD in float64 may lie a microsecond below the full second.
    return [text[:19] for text in to_isots([date + 0.5 / 86400 for date in mjd])]


def list_series(history: BadPixHistoryModel) -> tuple[MaskSeries, ...]:
    """List the series of masks of a history.

    Parameters
    ----------
    history : BadPixHistoryModel

    Returns
    -------
    tuple of MaskSeries
        With the setting depth=auto one per depth class of its exposures. Otherwise one; for
        NIRSpec one per frame, IRS2 and traditional, in which exposures were read out.

    Raises
    ------
    InputError
        See `group_depths`.
    """
    used = np.asarray(history.exposures.instance["used"], bool)
    exposures = history.exposures.instance
    patterns = [name for name, is_used in zip(exposures["readpatt"], used, strict=True) if is_used]
    if history.settings.instance.get("depth") == "auto":
        classes = group_depths(patterns, np.asarray(exposures["ngroups"])[used].tolist())
        return tuple(MaskSeries(c.depth, c.readpatt, c.ngroups) for c in classes)
    if get_detector(history.meta.instrument.detector).irs2_shape is None:
        return (MaskSeries(),)
    is_irs2 = [pattern in IRS2_READPATTS for pattern in patterns]
    frames = (_TRADITIONAL_READPATTS, not all(is_irs2)), (IRS2_READPATTS, any(is_irs2))
    return tuple(MaskSeries(readpatt="|".join(names)) for names, there in frames if there)


def compose_dq(history: BadPixHistoryModel, mjd: float) -> np.ndarray:
    """Compose the mask of a date, every change counted.

    Parameters
    ----------
    history : BadPixHistoryModel
    mjd : float
        Date [MJD, UTC].

    Returns
    -------
    ndarray of uint32, shape of the full frame
        Standard DQ bits. TELEGRAPH pixels are bad at every date, PENDING ones at none.
    """
    rows = history.intervals.instance
    canvas = _Canvas.prepare(history, rows)
    return canvas.paint(select_masked(rows, mjd), np.zeros(len(rows["y"]), bool))


@dataclass(frozen=True, slots=True)
class _Canvas:
    """What all masks of a series are painted with.

    Attributes
    ----------
    order : ndarray of intp, shape (n_rows,)
        Rows of the intervals in row-major order of their pixels.
    place : ndarray of intp, shape (n_rows,)
        Their pixels in the flat frame, in this order.
    flags : ndarray of uint32, shape (n_rows,)
        What their classes are called, in this order.
    base : ndarray of uint32, shape of the full frame
        What is left of the base mask.
    checksum : bytes
        Of `base`.
    """

    order: np.ndarray
    place: np.ndarray
    flags: np.ndarray
    base: np.ndarray
    checksum: bytes

    @classmethod
    def prepare(cls, history: BadPixHistoryModel, rows: Mapping[str, Any]) -> "_Canvas":
        """Look up what the rows say, once for all masks."""
        names, number = np.unique(np.asarray(rows["class"]), return_inverse=True)
        flags = np.array([dq_value(str(name)) for name in names], np.uint32)[number]
        base = _compose_base(history)
        place = np.asarray(rows["y"]).astype(np.intp) * base.shape[1] + rows["x"]
        order = np.argsort(place, kind="stable")
        checksum = hashlib.sha256(base.tobytes()).digest()
        return cls(order, place[order], flags[order], base, checksum)

    def paint(self, flagged: np.ndarray, advised: np.ndarray) -> np.ndarray:
        """Put rows with and without DO_NOT_USE upon what is left of the base mask."""
        dq = self.base.copy()
        for rows, more in ((flagged, ("DO_NOT_USE",)), (advised, ())):
            chosen = rows[self.order]
            flags = self.flags[chosen] | np.uint32(dq_value(*more))
            np.bitwise_or.at(dq.reshape(-1), self.place[chosen], flags)
        return dq

    def list_changes(self, span: MaskSpan) -> np.ndarray:
        """List what a span changes of the base mask: places and flags there, (2, n_pixels)."""
        chosen = (span.flagged | span.advised)[self.order]
        flagged, place = span.flagged[self.order][chosen], self.place[chosen]
        flags = self.flags[chosen] | flagged * np.uint32(dq_value("DO_NOT_USE"))
        first = np.flatnonzero(np.diff(place, prepend=-1))
        place, before = place[first], self.base.reshape(-1)[place[first]]
        flags = before | (np.bitwise_or.reduceat(flags, first) if first.size else flags)
        return np.stack([place, flags])[:, flags != before]


def _compose_base(history: BadPixHistoryModel) -> np.ndarray:
    """Keep of the base mask what the data and the policy leave of it."""
    detector = get_detector(history.meta.instrument.detector)
    base, rows = history.base.instance, history.intervals.instance
    dq = np.zeros(detector.shape, np.uint32)
    dq[base["y"], base["x"]] = base["dq"]
    policy = history.settings.instance["base_policy"]
    drop = np.full(dq.shape, policy == "replace")
    if policy == "arbitrate":
        judged = select_counted(rows) | (rows["state"] == 0)
        drop[rows["y"][judged], rows["x"][judged]] = True
    drop &= (dq & np.uint32(dq_value(*KEPT))) == 0
    dq[drop] = 0
    dq[detector.reference_pixels()] |= np.uint32(dq_value("REFERENCE_PIXEL"))
    return dq


def _judge_depth(history: BadPixHistoryModel, series: MaskSeries) -> dict[str, np.ndarray]:
    """Take the rows of the intervals with DO_NOT_USE where they matter at the series' depth.

    Additive defects of less than three times the noise of one look of this depth at the
    pixel (the median over its exposures) are advisory: WARM, or OTHER_BAD_PIXEL, only.
    """
    rows = {name: np.asarray(values) for name, values in history.intervals.instance.items()}
    if not series.depth or not series.ngroups or not len(history.residuals.instance["y"]):
        return rows
    exposures, residuals = history.exposures.instance, history.residuals.instance
    ngroups = np.asarray(exposures["ngroups"])
    own = np.asarray(exposures["readpatt"]) == series.readpatt
    own &= (ngroups >= series.ngroups[0]) & (ngroups < series.ngroups[1])
    noise = unpack_residuals(history)[1]
    sigma = bn.nanmedian(noise[:, own], axis=1)
    places = residuals["y"].astype(np.int64) * 2**16 + residuals["x"]
    order = np.argsort(places)
    wanted = rows["y"].astype(np.int64) * 2**16 + rows["x"]
    found = order[np.searchsorted(places, wanted, sorter=order).clip(max=order.size - 1)]
    # Where no exposure of this depth saw the pixel nothing says that it is small.
    limit = np.where(places[found] == wanted, sigma[found], np.nan)
    limit = limit * _DEPTH_EFFECT
    small = select_counted(rows) & np.isin(rows["class"], _ADDITIVE)
    small &= np.abs(rows["amplitude"]) < limit
    rows["dnu"] = rows["dnu"] & ~small
    rows["advisory"] = small
    rows["class"] = np.where(small & (rows["class"] == "HOT"), "WARM", rows["class"])
    return rows


def _plan(
    history: BadPixHistoryModel, series: MaskSeries
) -> tuple[dict[str, np.ndarray], list[MaskSpan]]:
    """Judge the rows for a series, and plan its masks."""
    rows = _judge_depth(history, series)
    settings, exposures = history.settings.instance, history.exposures.instance
    first = to_mjd(settings["first_useafter"])
    used = np.asarray(exposures["used"], bool)
    times = [exposures[name][used] for name in ("expstart_mjd", "expend_mjd")]
    dated = bool(used.any() and np.isfinite(times).all())
    observed = (float(times[0].min()), float(times[1].max())) if dated else (first, first)
    spans = plan_masks(rows, first, observed, max_masks=int(settings.get("max_masks", 0)))
    return rows, spans


def list_useafter(history: BadPixHistoryModel, series: MaskSeries | None = None) -> list[str]:
    """List the USEAFTER dates of a series (the first one), the first date included."""
    spans = _plan(history, series or list_series(history)[0])[1]
    return _format_useafters([span.start_mjd for span in spans])


def build_mask_at(
    history: BadPixHistoryModel,
    date: str,
    *,
    detector: str | None = None,
    depth: str | None = None,
    readpatt: str | None = None,
    ngroups: int | None = None,
    name: str = "tvbadpix",
) -> Any:
    """Build the mask that is valid at a date.

    Parameters
    ----------
    history : BadPixHistoryModel
    date : str
        ISO date, with or without time (UTC).
    detector : str, optional
        DETECTOR of the exposure that the mask is for.
    depth, readpatt, ngroups : str, str, int, optional
        SHALLOW, MEDIUM or DEEP, READPATT and NGROUPS of the exposure: which of several series.
    name : str
        Product name, with which ``meta.filename`` begins.

    Returns
    -------
    MaskModel, or RomanMask for a detector of Roman
        Of the epoch that holds the date: the same as that epoch's file of the series.

    Raises
    ------
    DateError
        The date is unreadable or lies before the first epoch.
    DetectorError
        The history is of another detector.
    InputError
        The history has no such series, or several.
    """
    own = history.meta.instrument.detector
    if detector not in (None, own):
        raise DetectorError(
            f"expected a history of {detector}, found one of {own}; give the history of the "
            "exposure's detector"
        )
    try:
        wanted = to_isot(str(date))[:19]
    except ValueError as error:
        raise DateError(
            f"expected a date as YYYY-MM-DD or YYYY-MM-DDThh:mm:ss (UTC), found {date!r}; "
            "rewrite it"
        ) from error
    planned = _plan_masks(history, _choose_series(history, depth, readpatt, ngroups), name)
    first = planned[0].useafter
    if wanted < first:
        raise DateError(
            f"expected a date from {first} on, found {date}; the history says nothing earlier"
        )
    return [mask for mask in planned if mask.useafter <= wanted][-1].build()


def _choose_series(
    history: BadPixHistoryModel, depth: str | None, readpatt: str | None, ngroups: int | None
) -> MaskSeries:
    """Choose the one series for a depth, READPATT and NGROUPS."""
    every = list_series(history)
    fitting = [
        series
        for series in every
        if depth in (None, series.depth)
        and (readpatt is None or not series.readpatt or readpatt in series.readpatt.split("|"))
        and (None in (ngroups, series.ngroups) or ngroups in range(*(series.ngroups or ())))
    ]
    if len(fitting) != 1:
        raise InputError(
            f"expected one series of masks for depth {depth or 'any'} and READPATT "
            f"{readpatt or 'any'}, found {len(fitting)} of those in the history "
            f"({'; '.join(map(str, every))}); choose one by depth and READPATT"
        )
    return fitting[0]


def build_mask_series(history: BadPixHistoryModel, name: str = "tvbadpix") -> list[Any]:
    """Build all masks: series by series, each in order of USEAFTER.

    Parameters
    ----------
    history : BadPixHistoryModel
    name : str
        Product name, with which ``meta.filename`` of each begins.

    Returns
    -------
    list of MaskModel, or of RomanMask for a detector of Roman
    """
    return list(iterate_masks(history, name))


def iterate_masks(history: BadPixHistoryModel, name: str = "tvbadpix") -> Iterator[Any]:
    """Build the masks of `build_mask_series` one by one: a series may not fit in memory."""
    return (planned.build() for planned in plan_mask_series(history, name))


@dataclass(frozen=True, slots=True)
class PlannedMask:
    """A mask that is not built yet.

    Attributes
    ----------
    filename : str
        Of its ASDF file.
    useafter : str
        First moment of its validity (UTC).
    series : MaskSeries
        The masks of one series differ in nothing but dates, flags and the first entry of HISTORY.
    """

    filename: str
    useafter: str
    series: MaskSeries
    _n_masks: int
    _history: BadPixHistoryModel
    _canvas: _Canvas
    _span: MaskSpan

    def is_like(self, other: "PlannedMask") -> bool:
        """Whether another has the same flags; on the same base mask neither is painted."""
        if self._canvas.checksum != other._canvas.checksum:
            return np.array_equal(self.paint(), other.paint())
        own, others = (mask._canvas.list_changes(mask._span) for mask in (self, other))
        return np.array_equal(own, others)

    def paint(self) -> np.ndarray:
        """Make its flags: uint32, shape of the full frame, without the columns that IRS2 adds."""
        return self._canvas.paint(self._span.flagged, self._span.advised)

    def fill(self) -> tuple[np.ndarray, str]:
        """Make its flags in its own frame, and the first entry of HISTORY."""
        dq, detector = self.paint(), get_detector(self._history.meta.instrument.detector)
        return frame_flags(dq, detector, self.series.readpatt), self._describe(dq)

    def _describe(self, dq: np.ndarray) -> str:
        """Say in HISTORY what the flags are."""
        bad = np.count_nonzero(dq & np.uint32(dq_value("DO_NOT_USE")))
        n_used = np.count_nonzero(self._history.exposures.instance["used"])
        software = self._history.versions.instance["jwst-tvbadpix"]
        return (
            f"{bad} pixels DO_NOT_USE from {self.useafter} until the next epoch, from {n_used} "
            f"exposures by TimeVariableBadPixel of jwst_tvbadpix {software}."
        )

    def build(self) -> Any:
        """Build its model: MaskModel, or RomanMask for a detector of Roman."""
        history, series, dq = self._history, self.series, self.paint()
        detector, settings = history.meta.instrument.detector, history.settings.instance
        purpose = "" if series == MaskSeries() else f" ({series})"
        description = (
            f"Time-variable bad-pixel mask of {detector}{purpose}, one of {self._n_masks} epochs"
        )
        common = {
            "detector": detector,
            "useafter": self.useafter,
            "description": description,
            "history": [self._describe(dq), *_tell_origin(history, series)],
            "pedigree": history.meta.pedigree,
        }
        if get_detector(detector).telescope == "ROMAN":
            name = self.filename.rpartition("_mask_")[0]
            return build_roman_mask(self.paint, name=name, **common)
        mask_filter = settings["mask_filter"]
        mask = build_mask(
            dq,
            filter_name=None if mask_filter == "N/A" else mask_filter,
            readpatt=series.readpatt or None,
            ngroups=series.ngroups,
            **common,
        )
        mask.meta.filename = self.filename
        return mask


def plan_mask_series(history: BadPixHistoryModel, name: str = "tvbadpix") -> list[PlannedMask]:
    """List the masks of `build_mask_series` without building them."""
    return [mask for series in list_series(history) for mask in _plan_masks(history, series, name)]


def _plan_masks(history: BadPixHistoryModel, series: MaskSeries, name: str) -> list[PlannedMask]:
    """List the masks of a series, in order of USEAFTER."""
    rows, spans = _plan(history, series)
    canvas = _Canvas.prepare(history, rows)
    dates = _format_useafters([span.start_mjd for span in spans])
    return [
        PlannedMask(
            _name_mask(history, series, useafter, name),
            useafter,
            series,
            len(spans),
            history,
            canvas,
            span,
        )
        for span, useafter in zip(spans, dates, strict=True)
    ]


def _tell_origin(history: BadPixHistoryModel, series: MaskSeries) -> list[str]:
    """Say in HISTORY where the masks of a series come from."""
    exposures, settings = history.exposures.instance, history.settings.instance
    names = [
        name.encode("ascii", "backslashreplace").decode()  # FITS headers hold nothing else
        for name, used in zip(exposures["filename"], exposures["used"], strict=True)
        if used
    ]
    shown = names[:_LISTED_INPUTS]
    return [
        f"False flags expected: {settings['expected_false']:.3g} of {settings['flags']} "
        f"(pixel, exposure), {settings['fdr']:g} allowed, from {settings['n_decoys']} decoys.",
        *_explain(series, settings),
        *_name_base(history),
        "Inputs: " + ", ".join(shown) + (", ..." if len(names) > len(shown) else ""),
        *history.warnings,
        *describe_self_test(history),
    ]


def _name_base(history: BadPixHistoryModel) -> list[str]:
    """Say in HISTORY which mask was started from, and what became of its bad pixels."""
    base = history.base.instance
    if not base["file"]:
        return []
    return [f"Base mask {base['file']}, policy {history.settings.instance['base_policy']}."]


def _explain(series: MaskSeries, settings: Mapping[str, Any]) -> list[str]:
    """Say in HISTORY what is not one mask per change for any depth."""
    entries = []
    if settings.get("max_masks", 0):
        entries.append(
            f"At most {settings['max_masks']} masks: pixels are in one when bad for most of its "
            "span of validity; the changes at which masks begin lose least pixel time."
        )
    if series.depth:
        entries.append(
            f"For {series}: additive defects below {_DEPTH_EFFECT:g} sigma of one exposure "
            "of this depth carry no DO_NOT_USE. Other READPATTs need masks of their own."
        )
    return entries


def _name_mask(history: BadPixHistoryModel, series: MaskSeries, useafter: str, stem: str) -> str:
    """Name the ASDF file of a mask: what it is specific to, and its USEAFTER."""
    filters = history.settings.instance["mask_filter"].removesuffix("|").replace("|", "-")
    parts = [filters, series.depth, series.readpatt.partition("|")[0]]
    parts = [part for part in parts if part not in ("", "N/A")]
    stamp = useafter.replace("-", "").replace(":", "")
    return "_".join([stem, history.meta.instrument.detector, *parts, "mask", stamp]) + ".asdf"
