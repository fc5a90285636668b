"""What a run has to say of its exposures: the table of them, and what the user must know."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..badpix import PixelHistories
from ..exposures import ExposureRecord, ExposureStack
from ..refmodels import BaseMask, dq_value

__all__ = ["list_warnings", "tabulate_exposures"]

log = logging.getLogger(__name__)

_NO_BASE = "NOT FOR DELIVERY: made without a base mask, so no pixel is marked NON_SCIENCE"
_NEUTRAL_BASE = "NOT FOR DELIVERY: the base mask marks no pixel but the reference pixels"
_UNDATED = "Static mask from the integrations of one exposure: changes could not be dated"
_ONLY_MASKED = (
    "Recovery is not measurable for pixels of the mask that the exposures were made with: none of "
    "them was made with a neutral mask (tvbadpix neutral-mask)"
)
# Share of the pixels that ramp fitting may lose without a mask.
_FEW_HIDDEN = 1e-4


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of the exposures table."""

    record: ExposureRecord
    name: str
    n_pixels: int
    weight: float
    neutral: bool
    expected_false: float
    reason: str


def list_warnings(
    stack: ExposureStack, histories: PixelHistories, base: BaseMask | None
) -> list[str]:
    """List what the user of the products must know; each is logged."""
    texts = [] if base else [_NO_BASE]
    if base and not (base.dq & ~np.uint32(dq_value("REFERENCE_PIXEL", "DO_NOT_USE"))).any():
        texts.append(_NEUTRAL_BASE)
    if not stack.dated:
        texts.append(_UNDATED)
    if stack.unit != "DN/s":
        texts.append(f"Amplitudes are in {stack.unit}, the unit of the exposures")
    if not _find_neutral(histories).any():
        texts.append(_ONLY_MASKED)
    texts += [f"Left out: {out.filename} ({out.reason})" for out in stack.excluded]
    for look, used in enumerate(histories.usability.used):
        if not used:
            row = _describe(stack, histories, look)
            texts.append(f"Left out: {row.name} ({row.reason})")
    texts += _count_never_seen(stack, histories.n_evidence, base)
    for text in texts:
        log.warning("%s", text)
    return texts


def _find_neutral(histories: PixelHistories) -> np.ndarray:
    """Mark the looks in which no mask hid pixels: bool (n_looks,)."""
    seen = histories.n_pixels + histories.n_hidden
    return (histories.n_hidden <= _FEW_HIDDEN * seen) & (histories.n_pixels > 0)


def _count_never_seen(
    stack: ExposureStack, n_evidence: np.ndarray, base: BaseMask | None
) -> list[str]:
    """Say how many pixels were read out and never seen: a mask hid them from the ramp fit."""
    y0, y1, x0, x1 = stack.window
    hidden = stack.read_out() & ~stack.detector.reference_pixels()
    hidden[y0:y1, x0:x1] &= n_evidence == 0
    if base is not None:
        hidden &= base.dq & np.uint32(dq_value("NON_SCIENCE")) == 0
    if not hidden.any():
        return []
    fate = "keep what the base mask says" if base else "are not flagged"
    return [
        f"Pixels hidden in every exposure by the mask it was made with: {hidden.sum()}; they "
        f"{fate}; reprocess the exposures with the mask of tvbadpix neutral-mask to judge them"
    ]


def tabulate_exposures(
    stack: ExposureStack, histories: PixelHistories
) -> tuple[dict[str, list[Any]], list[int]]:
    """Columns of the exposures table, and the row of it behind each look.

    One row per exposure; per integration where a single exposure was given, with its 1-based
    number in brackets.
    """
    looks = [_describe(stack, histories, k) for k in range(len(stack.looks))]
    rows, look_rows = looks, list(range(len(looks)))
    if not stack.dated:
        record = stack.records[0]
        look_rows = list(record.settled)
        rows = [
            _Row(
                record,
                f"{record.filename}[{k + 1}]",
                0,
                0.0,
                False,
                0.0,
                "the level has not settled after the reset",
            )
            for k in range(max(record.nints, look_rows[-1] + 1))
        ]
        for k, row in zip(look_rows, looks, strict=True):
            rows[k] = row
    table: dict[str, list[Any]] = {
        name: [getattr(row.record, attribute) for row in rows]
        for name, attribute in _EXPOSURE_COLUMNS.items()
    }
    table["filename"] = [row.name for row in rows]
    table["used"] = [row.n_pixels > 0 for row in rows]
    table["neutral"] = [row.neutral for row in rows]
    table["expected_false"] = [row.expected_false for row in rows]
    table["score"] = [row.weight * row.n_pixels / np.prod(row.record.shape) for row in rows]
    table["reason"] = [row.reason for row in rows]
    return table, look_rows


def _describe(stack: ExposureStack, histories: PixelHistories, look: int) -> _Row:
    """Describe one look."""
    index, integrations = stack.looks[look]
    record, usability = stack.records[index], histories.usability
    reasons = [usability.reason[look]] if usability.reason[look] else []
    name = record.filename
    if not stack.dated:
        name = f"{name}[{integrations[0] + 1}]"
    elif record.unsettled:
        numbers = ", ".join(str(k + 1) for k in record.unsettled)
        reasons.append(f"integrations left out, not settled: {numbers}")
    n_pixels = int(histories.n_pixels[look])
    if not n_pixels and not reasons:
        reasons.append("no pixel with evidence")
    return _Row(
        record,
        name,
        n_pixels,
        float(usability.score[look]),
        bool(_find_neutral(histories)[look]),
        float(histories.expected_false[look]),
        "; ".join(reasons),
    )


_EXPOSURE_COLUMNS = {
    "sha256": "sha256",
    "expstart_mjd": "expstart_mjd",
    "expmid_mjd": "mid_mjd",
    "expend_mjd": "end_mjd",
    "exptime_s": "exposure_s",
    "exp_type": "exp_type",
    "filter": "filter",
    "subarray": "subarray",
    "readpatt": "readpatt",
    "ngroups": "ngroups",
    "nints": "nints",
    "r_mask": "r_mask",
    "cal_ver": "cal_ver",
}
