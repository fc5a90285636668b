"""Results of the bad-pixel search as products: the history, and from it the mask of any date."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from astropy.time import Time
from stdatamodels.jwst.datamodels import MaskModel

from ..badpix import (
    DatedIntervals,
    Intervals,
    PixelHistories,
    SelfTest,
    list_epochs,
    pool_histories,
    select_counted,
    select_masked,
)
from ..detectors import get_detector
from ..errors import DateError, DetectorError
from ..events import Events
from .dq import dq_value
from .history import BadPixHistoryModel, build_history, pack_residuals
from .mask import build_mask

__all__ = [
    "BASE_POLICIES",
    "BaseMask",
    "build_badpix_history",
    "build_mask_at",
    "build_mask_series",
    "compose_dq",
    "describe_self_test",
    "format_useafter",
    "list_useafter",
    "name_mask",
]

log = logging.getLogger(__name__)

BASE_POLICIES = ("arbitrate", "union", "replace")
# Looks with evidence that a base-mask pixel needs before the data may release it.
_RELEASE_LOOKS = 3
# Flags of a base mask that no exposure can overrule.
_KEPT = ("REFERENCE_PIXEL", "NON_SCIENCE")
_PACKAGES = ("jwst-tvbadpix", "jwst", "stdatamodels", "numpy", "scipy", "Bottleneck", "astropy")
# JWST was launched on this day; exposures before it come from ground tests.
_LAUNCH_MJD = 59573.0
_LISTED_INPUTS = 50


@dataclass(frozen=True, slots=True)
class BaseMask:
    """The mask that a run starts from.

    Attributes
    ----------
    file, sha256 : str
        Its name and checksum.
    dq : ndarray of uint32, shape of the full frame
        Standard bits.
    policy : {'arbitrate', 'union', 'replace'}
        Whether its bad pixels stay until the data show otherwise, stay always, or count for
        nothing; REFERENCE_PIXEL and NON_SCIENCE stay always.
    """

    file: str
    sha256: str
    dq: np.ndarray
    policy: str = "arbitrate"


def format_useafter(mjd: float) -> str:
    """Write a date as USEAFTER has it: YYYY-MM-DDThh:mm:ss (UTC)."""
    # Half a second is added because MJD in float64 may lie a microsecond below the full second.
    return Time(mjd + 0.5 / 86400, format="mjd", scale="utc").isot[:19]


def build_badpix_history(
    exposures: Mapping[str, Sequence[Any]],
    look_rows: Sequence[int],
    histories: PixelHistories,
    intervals: Intervals,
    dated: DatedIntervals,
    *,
    detector: str,
    base: BaseMask | None,
    settings: Mapping[str, Any],
    warnings: Sequence[str],
    first_useafter: str,
    events: Events | None = None,
    self_test: SelfTest | None = None,
) -> BadPixHistoryModel:
    """Build the history of a run.

    Parameters
    ----------
    exposures : mapping of str to sequence
        Columns of the exposures table, see `history_columns`.
    look_rows : sequence of int, length n_looks
        Row of `exposures` behind each look.
    histories, intervals, dated
        Results of `find_histories`, `extract_intervals` and `date_intervals`.
    detector : str
    base : BaseMask or None
    settings : mapping
        Parameters of the run; scalars.
    warnings : sequence of str
        What the user of the products must know.
    first_useafter : str
        USEAFTER of the first mask.
    events : Events, optional
        Dated events, to be drawn.
    self_test : SelfTest, optional
        How the run does on known defects; told in the HISTORY of every mask.

    Returns
    -------
    BadPixHistoryModel
        From which `compose_dq` makes the mask of any date.
    """
    columns = _tabulate_intervals(intervals, dated, histories)
    released = _list_released(base, histories, columns)
    for name, values in released.items():
        columns[name] = np.concatenate([columns[name], values])
    model = build_history(
        detector=detector,
        exposures=exposures,
        intervals=columns,
        residuals=_pack_residuals(histories, look_rows, len(exposures["filename"])),
        base=None if base is None else _pack_base(base),
        events=None if events is None else asdict(events),
        self_test=None if self_test is None else _pack_self_test(self_test),
        settings={
            **asdict(histories.settings),
            **settings,
            "first_useafter": first_useafter,
            "base_policy": base.policy if base else None,
            "sigma_offset": histories.noise.sigma_offset,
            "sigma_response": histories.noise.sigma_response,
        },
        versions={name: version(name) for name in _PACKAGES},
        warnings=warnings,
        useafter=first_useafter,
        pedigree=_make_pedigree(np.asarray(exposures["expmid_mjd"], float)[list(look_rows)]),
        description=f"History of bad pixels of {detector}",
    )
    for text in warnings:
        model.add_history_entry(text)
    return model


def _make_pedigree(mid_mjd: np.ndarray) -> str:
    """PEDIGREE of products made from exposures at these times."""
    if not np.isfinite(mid_mjd).all() or mid_mjd.min() < _LAUNCH_MJD:
        return "GROUND"
    first, last = Time([mid_mjd.min(), mid_mjd.max()], format="mjd").isot
    return f"INFLIGHT {first[:10]} {last[:10]}"


def _tabulate_intervals(
    intervals: Intervals, dated: DatedIntervals, histories: PixelHistories
) -> dict[str, np.ndarray]:
    """Columns of the bad intervals."""
    rows = intervals.y.size
    return {
        "y": intervals.y,
        "x": intervals.x,
        "state": np.ones(rows, np.uint8),
        "class": intervals.name,
        **asdict(dated),
        **{
            name: getattr(intervals, name)
            for name in (
                "amplitude",
                "amplitude_err",
                "response",
                "log_odds",
                "n_looks",
                "pending",
            )
        },
        "dnu": ~intervals.pending,
    }


def _list_released(
    base: BaseMask | None, histories: PixelHistories, columns: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Rows of base-mask pixels that the data show to be good at every look, the last included."""
    if base is None or base.policy != "arbitrate":
        return {}
    y0, y1, x0, x1 = histories.window
    kept = np.uint32(dq_value(*_KEPT))
    flagged = (base.dq != 0) & (base.dq & kept == 0)
    evidence = np.zeros(base.dq.shape, np.int32)
    evidence[y0:y1, x0:x1] = histories.n_evidence
    flagged[columns["y"], columns["x"]] = False
    odds = np.zeros(base.dq.shape, np.float32)
    odds[histories.candidates.y, histories.candidates.x] = histories.states.log_odds
    y, x = np.nonzero(flagged & (evidence >= _RELEASE_LOOKS) & (odds <= 0))
    n = y.size
    log.info("%d pixels of the base mask are shown good and released", n)
    return {
        "y": y.astype(np.int16),
        "x": x.astype(np.int16),
        "state": np.zeros(n, np.uint8),
        "class": np.full(n, "GOOD"),
        **{name: np.full(n, -np.inf) for name in ("start_mjd", "start_lo", "start_hi")},
        **{name: np.full(n, np.inf) for name in ("end_mjd", "end_lo", "end_hi")},
        "amplitude": np.zeros(n),
        "amplitude_err": np.zeros(n),
        "response": np.ones(n),
        "log_odds": -odds[y, x],
        "n_looks": evidence[y, x],
        "pending": np.zeros(n, bool),
        "dnu": np.zeros(n, bool),
    }


def _pack_residuals(
    histories: PixelHistories, look_rows: Sequence[int], n_rows: int
) -> dict[str, np.ndarray]:
    """Columns of the evidence of the candidates."""
    candidates = histories.candidates
    residual, noise = candidates.residual.T, np.sqrt(candidates.variance.T)
    packed = pack_residuals(residual, noise, look_rows, n_rows)
    return {"y": candidates.y, "x": candidates.x, **packed}


def _pack_base(base: BaseMask) -> dict[str, Any]:
    y, x = np.nonzero(base.dq)
    return {"file": base.file, "sha256": base.sha256, "y": y, "x": x, "dq": base.dq[y, x]}


def _pack_self_test(self_test: SelfTest) -> dict[str, Any]:
    columns = asdict(self_test)
    return {"class": columns.pop("name"), **columns}


def describe_self_test(history: BadPixHistoryModel) -> list[str]:
    """Say in a line per class how complete and pure the masks are; nothing without a self-test."""
    if not history.hasattr("self_test"):
        return []
    group = history.self_test.instance
    rows = pool_histories(group)
    lines = [
        f"Self-test: {sum(row['n_injected'] for row in rows)} known defects put into the "
        "exposures; completeness = flagged share of their bad pixel-exposures, by size in sigma "
        f"of one exposure; {group['new_flags']:.2f} new flags per exposure elsewhere."
    ]
    lines += [f"Self-test left out: {text}" for text in group["left_out"]]
    for name in dict.fromkeys(row["class"] for row in rows):
        own = [row for row in rows if row["class"] == name]
        shares = ", ".join(
            f"{row['completeness']:.2f}+-{row['completeness_err']:.2f} at {row['amplitude']:.3g}"
            for row in own
        )
        purity = f"{own[0]['purity']:.2f}+-{own[0]['purity_err']:.2f}"
        lines.append(f"Self-test {name}: completeness {shares}; purity {purity}")
    return lines


def compose_dq(history: BadPixHistoryModel, mjd: float) -> np.ndarray:
    """Compose the mask of a date.

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
    names = np.asarray(rows["class"])
    active = select_masked(rows, mjd)
    dq = _compose_base(history, select_counted(rows) | (rows["state"] == 0))
    for name in np.unique(names[active]):
        chosen = active & (names == name)
        dq[rows["y"][chosen], rows["x"][chosen]] |= np.uint32(dq_value("DO_NOT_USE", str(name)))
    return dq


def _compose_base(history: BadPixHistoryModel, judged: np.ndarray) -> np.ndarray:
    """Keep of the base mask what the rows `judged` and the policy leave of it."""
    detector = get_detector(history.meta.instrument.detector)
    base = history.base.instance
    dq = np.zeros(detector.shape, np.uint32)
    dq[base["y"], base["x"]] = base["dq"]
    policy = history.settings.instance["base_policy"]
    drop = np.full(dq.shape, policy == "replace")
    if policy == "arbitrate":
        rows = history.intervals.instance
        drop[rows["y"][judged], rows["x"][judged]] = True
    drop &= (dq & np.uint32(dq_value(*_KEPT))) == 0
    dq[drop] = 0
    dq[detector.reference_pixels()] |= np.uint32(dq_value("REFERENCE_PIXEL"))
    return dq


def list_useafter(history: BadPixHistoryModel) -> list[str]:
    """List the USEAFTER dates at which the mask changes, the first included."""
    rows = history.intervals.instance
    counts = select_counted(rows)
    counts &= np.asarray(rows["class"]) != "TELEGRAPH"
    first = history.settings.instance["first_useafter"]
    dates = [format_useafter(t) for t in list_epochs(rows["start_mjd"], rows["end_mjd"], counts)]
    return [first, *(date for date in dates if date > first)]


def build_mask_at(
    history: BadPixHistoryModel, date: str, *, detector: str | None = None
) -> MaskModel:
    """Build the mask that is valid at a date.

    Parameters
    ----------
    history : BadPixHistoryModel
    date : str
        ISO date, with or without time (UTC).
    detector : str, optional
        DETECTOR of the exposure that the mask is for.

    Returns
    -------
    MaskModel
        Of the epoch that holds the date: the same as that epoch's file of the series.

    Raises
    ------
    DateError
        The date is unreadable or lies before the first epoch.
    DetectorError
        The history is of another detector.
    """
    own = history.meta.instrument.detector
    if detector not in (None, own):
        raise DetectorError(
            f"expected a history of {detector}, found one of {own}; give the history of the "
            "exposure's detector"
        )
    try:
        wanted = Time(date, scale="utc").isot[:19]
    except ValueError as error:
        raise DateError(
            f"expected a date as YYYY-MM-DD or YYYY-MM-DDThh:mm:ss (UTC), found {date!r}; "
            "rewrite it"
        ) from error
    epochs = list_useafter(history)
    if wanted < epochs[0]:
        raise DateError(
            f"expected a date from {epochs[0]} on, found {date}; the history says nothing earlier"
        )
    return _build_epoch(history, max(epoch for epoch in epochs if epoch <= wanted), len(epochs))


def name_mask(stem: str, mask: MaskModel) -> str:
    """Name the ASDF file of a mask: what it is specific to, and its USEAFTER."""
    filter_name = str(mask.meta.instrument.filter)
    part = "" if filter_name == "N/A" else f"_{filter_name}"
    stamp = str(mask.meta.useafter).replace("-", "").replace(":", "")
    return f"{stem}_{mask.meta.instrument.detector}{part}_mask_{stamp}.asdf"


def build_mask_series(history: BadPixHistoryModel) -> list[MaskModel]:
    """Build one mask per epoch, in order of USEAFTER."""
    epochs = list_useafter(history)
    return [_build_epoch(history, epoch, len(epochs)) for epoch in epochs]


def _build_epoch(history: BadPixHistoryModel, useafter: str, n_epochs: int) -> MaskModel:
    """Build the mask that begins at `useafter`, named by it."""
    detector = history.meta.instrument.detector
    dq = compose_dq(history, Time(useafter, scale="utc").mjd + 0.25 / 86400)
    bad = int(((dq & np.uint32(dq_value("DO_NOT_USE"))) != 0).sum())
    exposures = history.exposures.instance
    names = [
        name.encode("ascii", "backslashreplace").decode()  # FITS headers hold nothing else
        for name, used in zip(exposures["filename"], exposures["used"], strict=True)
        if used
    ]
    shown = names[:_LISTED_INPUTS]
    settings = history.settings.instance
    mask_filter = settings["mask_filter"]
    software = history.versions.instance["jwst-tvbadpix"]
    return build_mask(
        dq,
        detector=detector,
        useafter=useafter,
        description=f"Time-variable bad-pixel mask of {detector}, one of {n_epochs} epochs",
        history=[
            f"{bad} pixels DO_NOT_USE from {useafter} until the next epoch, from {len(names)} "
            f"exposures by TimeVariableBadPixel of jwst_tvbadpix {software}.",
            "Inputs: " + ", ".join(shown) + (", ..." if len(names) > len(shown) else ""),
            *history.warnings,
            *describe_self_test(history),
        ],
        pedigree=history.meta.pedigree,
        filter_name=None if mask_filter == "N/A" else mask_filter,
    )
