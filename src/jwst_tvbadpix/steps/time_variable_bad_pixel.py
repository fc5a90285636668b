"""TimeVariableBadPixel: exposures over years in, history and dated masks out."""

import hashlib
import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from ..badpix import (
    Settings,
    date_intervals,
    extract_intervals,
    find_histories,
    group_depths,
)
from ..errors import DetectorError
from ..exposures import ExposureRecord, ExposureStack, open_exposures
from ..refmodels import (
    BaseMask,
    build_badpix_history,
    build_mask_series,
    check_filter,
    check_useafter,
    dq_value,
    read_mask_dq,
)
from ._base import TvBadPixStep, find_reference, show_progress

__all__ = ["TimeVariableBadPixel"]

log = logging.getLogger(__name__)

_NO_BASE = "NOT FOR DELIVERY: made without a base mask, so no pixel is marked NON_SCIENCE"
_UNDATED = "Static mask from the integrations of one exposure: changes could not be dated"


class TimeVariableBadPixel(TvBadPixStep):
    """Find which pixels were bad when, and make the mask of each epoch.

    The input is an association, a list of ``_rate`` or ``_rateints`` files or models, or a
    ModelLibrary, all of one detector; the output is the history of every bad pixel and one mask
    per date at which the set of bad pixels changes.
    """

    class_alias = "time_variable_bad_pixel"

    spec = """
        base_mask = string(default=None)  # Mask to start from: a FITS or ASDF file, or crds for that of the CRDS context at the last exposure; None: no base mask (products are then not for delivery)
        base_policy = option('arbitrate', 'union', 'replace', default='arbitrate')  # Bad pixels of the base mask: released when shown good | kept always | dropped
        mask_filter = string(default=None)  # FILTER the masks are for, several as F560W|F770W; None: that of the inputs where they share one; N/A: any
        dating = option('midpoint', 'conservative', 'detected', default='midpoint')  # When a change counts: middle of the gap | onset early and recovery late | at the first exposure in the new state
        max_masks = integer(min=0, default=0)  # Most masks per series, at the changes that matter most; 0: one per change
        depth = option('single', 'auto', default='single')  # One series for all exposures | one per depth class of the inputs: SHALLOW, MEDIUM, DEEP
        first_useafter = string(default='2021-12-25T00:00:00')  # USEAFTER of the first mask
        window_along = integer(min=5, max=101, default=11)  # Median window along the dispersion [pixel]
        window_across = integer(min=5, max=101, default=9)  # Median window across the dispersion [pixel]
        llr_cap = float(min=1.0, max=50.0, default=10.0)  # Most that one look counts, in log-likelihood ratio
        min_effect = float(min=0.0, default=2.0)  # Smallest shift that is bad [sigma of one look]
        min_significance = float(min=0.0, default=4.5)  # Smallest shift over its own error
        min_noise_ratio = float(min=1.5, default=4.0)  # Scatter over the noise from which a pixel is bad without a shift
        min_log_odds = float(default=6.0)  # Log-odds against always good below which a pixel is good
        start_bad = float(min=1e-6, max=0.5, default=0.003)  # Prior probability to be bad at the first look
        onset_per_year = float(min=1e-8, max=1.0, default=5e-4)  # Prior rate at which good pixels turn bad [1/yr]
        recovery_per_year = float(min=1e-8, max=10.0, default=0.09)  # Prior rate at which bad pixels recover [1/yr]
        telegraph_transitions = integer(min=2, default=3)  # Changes of state from which a pixel is TELEGRAPH, bad at all dates
        suffix = string(default='badpixhistory')  # Ending of the history file
    """  # noqa: E501  # one line per parameter is what --help shows

    def process(self, *inputs: Any) -> list[Any]:
        """Find the histories and build the products.

        Parameters
        ----------
        *inputs : str, Path, list, JwstDataModel or ModelLibrary
            Exposures of one detector.

        Returns
        -------
        list
            The history (`BadPixHistoryModel`), then one `MaskModel` per epoch, each with
            ``meta.filename``.

        Raises
        ------
        TvBadPixError
            The inputs, the dates or the base mask are not as they must be; see
            `open_exposures` and `read_mask_dq`.
        """
        check_useafter(self.first_useafter)
        settings = Settings(**{f.name: getattr(self, f.name) for f in fields(Settings)})
        stack = open_exposures(self.resolve_paths(inputs))
        name = self.make_product_name(inputs)
        mask_filter = self._choose_filter(stack)
        if self.depth == "auto":  # fail before the long part, not after it
            group_depths(*zip(*[(r.readpatt, r.ngroups) for r in stack.records], strict=True))
        base = self._read_base(stack)
        records = stack.look_records
        histories = find_histories(
            stack,
            np.array([r.mid_mjd if stack.dated else 0.0 for r in records]),
            [r.dispersion_axis for r in records],
            settings=settings,
            progress=show_progress("Solving pixels"),
        )
        intervals = extract_intervals(histories)
        dated = date_intervals(
            intervals,
            np.array([r.start_mjd for r in records]),
            np.array([r.end_mjd for r in records]),
            dating=self.dating,
        )
        exposures, look_rows = _tabulate_exposures(stack, histories.n_pixels)
        history = build_badpix_history(
            exposures,
            look_rows,
            histories,
            intervals,
            dated,
            detector=stack.detector.name,
            base=base,
            settings={
                "dating": self.dating,
                "mask_filter": mask_filter,
                "max_masks": self.max_masks,
                "depth": self.depth,
            },
            warnings=[
                *([] if base else [_NO_BASE]),
                *([] if stack.dated else [_UNDATED]),
                *_find_hidden(stack, histories.n_evidence, base),
            ],
            first_useafter=self.first_useafter,
        )
        history.meta.filename = f"{name}_{stack.detector.name}_{self.suffix}.asdf"
        return [history, *build_mask_series(history, name)]

    def _read_base(self, stack: ExposureStack) -> BaseMask | None:
        """Read the base mask, of the detector of the exposures."""
        if self.base_mask in (None, "", "None"):
            log.warning(_NO_BASE)
            return None
        if self.base_mask == "crds":
            path = find_reference("mask", stack.records[-1], stack.detector.instrument)
        else:
            path = Path(self.make_input_path(str(self.base_mask)))
        dq, own = read_mask_dq(path)
        if own != stack.detector.name:
            raise DetectorError(
                f"expected a base mask of {stack.detector.name}, found one of {own} ({path}); give "
                "the mask of the exposures' detector"
            )
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        return BaseMask(path.name, checksum, dq, self.base_policy)

    def _choose_filter(self, stack: ExposureStack) -> str:
        """FILTER of the masks: as asked, else that of the inputs where they share one."""
        if self.mask_filter not in (None, "", "None"):
            check_filter(str(self.mask_filter))
            return str(self.mask_filter)
        shared = {record.filter for record in stack.records}
        if len(shared) > 1:
            return "N/A"
        check_filter(stack.records[0].filter)
        return stack.records[0].filter


def _find_hidden(stack: ExposureStack, n_evidence: np.ndarray, base: BaseMask | None) -> list[str]:
    """Say how many pixels were read out and never seen: a mask hid them from the ramp fit."""
    y0, y1, x0, x1 = stack.window
    hidden = stack.read_out() & ~stack.detector.reference_pixels()
    hidden[y0:y1, x0:x1] &= n_evidence == 0
    if base is not None:
        hidden &= base.dq & np.uint32(dq_value("NON_SCIENCE")) == 0
    if not hidden.any():
        return []
    fate = "keep what the base mask says" if base else "are not flagged"
    text = (
        f"Pixels hidden in every exposure by the mask it was made with: {hidden.sum()}; they "
        f"{fate}; reprocess the exposures with the mask of tvbadpix neutral-mask to judge them"
    )
    log.warning("%s", text)
    return [text]


def _tabulate_exposures(
    stack: ExposureStack, n_pixels: np.ndarray
) -> tuple[dict[str, list[Any]], list[int]]:
    """Columns of the exposures table, and the row of it behind each look.

    One row per exposure; per integration where a single exposure was given, with its 1-based
    number in brackets.
    """
    rows: list[tuple[ExposureRecord, str, int, str]] = []
    if stack.dated:
        for record, n in zip(stack.look_records, n_pixels, strict=True):
            reason = "" if n else "no pixel with evidence"
            rows.append((record, record.filename, int(n), reason))
        look_rows = list(range(len(rows)))
    else:
        record = stack.records[0]
        look_rows = list(record.settled)
        seen = dict(zip(look_rows, n_pixels, strict=True))
        for k in range(max(record.nints, look_rows[-1] + 1)):
            reason = "" if k in seen else "the level has not settled after the reset"
            rows.append((record, f"{record.filename}[{k + 1}]", int(seen.get(k, 0)), reason))
    table = {
        name: [getattr(record, attribute) for record, *_ in rows]
        for name, attribute in _EXPOSURE_COLUMNS.items()
    }
    table["filename"] = [name for _, name, _, _ in rows]
    table["used"] = [n > 0 for *_, n, _ in rows]
    table["score"] = [n / np.prod(record.shape) for record, _, n, _ in rows]
    table["reason"] = [reason for *_, reason in rows]
    return table, look_rows


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
