"""The result of the bad-pixel search as a product: the history."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from ..badpix import (
    Candidates,
    Control,
    DatedIntervals,
    Intervals,
    PixelHistories,
    SelfTest,
    pool_histories,
)
from ..dates import to_isot
from ..detectors import get_detector
from ..events import Events
from .dq import dq_value
from .history import BadPixHistoryModel, build_history, pack_residuals

__all__ = [
    "BASE_POLICIES",
    "KEPT",
    "BaseMask",
    "build_badpix_history",
    "describe_self_test",
    "make_pedigree",
]

log = logging.getLogger(__name__)

BASE_POLICIES = ("arbitrate", "union", "replace")
# Looks with evidence that a base-mask pixel needs before the data may release it.
_RELEASE_LOOKS = 3
# Flags of a base mask that no exposure can overrule.
KEPT = ("REFERENCE_PIXEL", "NON_SCIENCE")
# Pixels whose evidence is packed at once.
_PACKED = 512
_PACKAGES = ("jwst-tvbadpix", "jwst", "stdatamodels", "numpy", "scipy", "Bottleneck", "astropy")
# JWST was launched on the first day, Roman not before the second [MJD]; exposures before come
# from ground tests, those of Roman also from simulations.
_LAUNCH_MJD = {"JWST": 59573.0, "ROMAN": 61284.0}


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
    calibration: Mapping[str, Any] | None = None,
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
    calibration : mapping, optional
        The calibration block, see `pack_block`.

    Returns
    -------
    BadPixHistoryModel
        From which `compose_dq` makes the mask of any date.
    """
    columns = _tabulate_intervals(intervals, dated, histories)
    released = _list_released(base, histories, columns)
    for name, values in released.items():
        columns[name] = np.concatenate([columns[name], values])
    n_exposures = len(exposures["filename"])
    model = build_history(
        detector=detector,
        exposures=exposures,
        intervals=columns,
        residuals=_pack_evidence(histories.candidates, look_rows, n_exposures),
        control=_pack_evidence(histories.control, look_rows, n_exposures),
        base=None if base is None else _pack_base(base),
        events=None if events is None else asdict(events),
        self_test=None if self_test is None else _pack_self_test(self_test),
        calibration=calibration,
        settings={
            **asdict(histories.settings),
            **settings,
            "first_useafter": first_useafter,
            "base_policy": base.policy if base else None,
            "threshold": histories.calibration.threshold,
            "flags": histories.calibration.n_flags,
            "expected_false": histories.calibration.expected_false,
            "n_decoys": histories.calibration.n_decoys,
            "decoy_excess": histories.calibration.excess,
            "sigma_offset": histories.noise.sigma_offset,
            "sigma_response": histories.noise.sigma_response,
        },
        versions={name: version(name) for name in _PACKAGES},
        warnings=warnings,
        useafter=first_useafter,
        pedigree=make_pedigree(
            np.asarray(exposures["expmid_mjd"], float)[list(look_rows)],
            get_detector(detector).telescope,
        ),
        description=f"History of bad pixels of {detector}",
    )
    for text in warnings:
        model.add_history_entry(text)
    return model


def make_pedigree(mid_mjd: np.ndarray, telescope: str = "JWST") -> str:
    """PEDIGREE of products made from exposures of JWST or ROMAN at these times."""
    if not np.isfinite(mid_mjd).all() or mid_mjd.min() < _LAUNCH_MJD[telescope]:
        return "GROUND"
    first, last = (to_isot(mjd) for mjd in (mid_mjd.min(), mid_mjd.max()))
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
    kept = np.uint32(dq_value(*KEPT))
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


def _pack_evidence(
    pixels: Candidates | Control, look_rows: Sequence[int], n_rows: int
) -> dict[str, np.ndarray]:
    """Columns of the evidence of some pixels, packed some at a time: all at once take memory."""
    parts = [
        pack_residuals(
            pixels.residual[:, k : k + _PACKED].T,
            np.sqrt(pixels.variance[:, k : k + _PACKED].T),
            look_rows,
            n_rows,
        )
        for k in range(0, max(pixels.y.size, 1), _PACKED)
    ]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {"y": pixels.y, "x": pixels.x, **joined}


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
