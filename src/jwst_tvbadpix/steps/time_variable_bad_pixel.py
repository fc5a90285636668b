"""TimeVariableBadPixel: exposures over years in, history and dated masks out."""

import hashlib
import logging
import os
from contextlib import ExitStack
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..badpix import (
    PixelHistories,
    SelfTest,
    Settings,
    date_intervals,
    extract_intervals,
    find_histories,
    group_depths,
    run_self_test,
    stretch_time,
)
from ..cluster import open_engine
from ..errors import DetectorError, ProductError
from ..events import Events, read_events
from ..exposures import ExposureStack, open_exposures
from ..parallel import THREADS, Engine
from ..refmodels import (
    BadPixHistoryModel,
    BaseMask,
    PlannedMask,
    build_badpix_history,
    check_filter,
    check_useafter,
    pack_block,
    plan_mask_series,
    read_mask_dq,
)
from ..store import EvidenceStore, leave_no_empty_store
from ._account import list_warnings, tabulate_exposures
from ._base import TvBadPixStep, find_reference, show_progress

__all__ = ["TimeVariableBadPixel"]

log = logging.getLogger(__name__)

# Measured by `tvbadpix prove`: a gap costs more than a hot pixel, and mingrad, the default of
# pixel_replace, takes the wings of a narrow trace for its core.
_LRS = ("MIR_LRS-FIXEDSLIT", "MIR_LRS-SLITLESS")
_LRS_ADVICE = (
    "LRS: masked pixels are gaps in a spectrum; run calwebb_spec2 with "
    "--steps.pixel_replace.skip=False --steps.pixel_replace.algorithm=fit_profile"
)


class TimeVariableBadPixel(TvBadPixStep):
    """Find which pixels were bad when, and make the mask of each epoch.

    The input is an association, a list of ``_rate``, ``_rateints`` or ``_cal`` files or models, or
    a ModelLibrary, all of one detector; the output is the history of every bad pixel and one mask
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
        min_effect = float(min=0.0, default=1.0)  # Smallest shift that is bad [sigma of one look]
        min_noise_ratio = float(min=1.5, default=4.0)  # Scatter over the noise from which a pixel is bad without a shift
        fdr = float(min=1e-5, max=0.5, default=0.02)  # Share of false flags that is allowed among all
        start_bad = float(min=1e-6, max=0.5, default=0.003)  # Prior probability to be bad at the first look
        onset_per_year = float(min=1e-8, max=1.0, default=5e-4)  # Prior rate at which good pixels turn bad [1/yr]
        recovery_per_year = float(min=1e-8, max=10.0, default=0.09)  # Prior rate at which bad pixels recover [1/yr]
        telegraph_transitions = integer(min=2, default=3)  # Changes of state, one before a first bad look included, from which a pixel is TELEGRAPH, bad at all dates
        events = string(default=None)  # Table of dated events (ECSV, CSV or FITS with the columns date and label), drawn in the figures
        event_boost = float(min=1.0, max=10000.0, default=1.0)  # Factor by which an event raises the prior rates for 30 days; 1: it is drawn only
        self_test = boolean(default=False)  # Also put known defects into the exposures, run again, and tell how complete and pure the masks are
        store = string(default='')  # Folder that keeps the evidence of each exposure, for more exposures than fit into memory and for tvbadpix update; empty: none
        max_memory = float(min=0.1, default=2.0)  # Memory of this machine, or of each worker of a cluster, for what is read back from the store [GB]
        scheduler = string(default='threads')  # Where exposures are compared: threads | processes of this machine | tcp://HOST:PORT of a Dask scheduler; the last two need a store
        report = boolean(default=True)  # Write NAME_report.html and its figures beside the products: verdicts, provenance, what was found
        suffix = string(default='badpixhistory')  # Ending of the history file
    """  # noqa: E501  # one line per parameter is what --help shows

    _engine: Engine = THREADS

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
            ``meta.filename``. Masks that are saved, or more than 64, are built when taken out.

        Raises
        ------
        TvBadPixError
            The inputs, the dates or the base mask are not as they must be; see
            `open_exposures` and `read_mask_dq`.
        """
        check_useafter(self.first_useafter)
        with ExitStack() as stack:
            if self.store not in (None, "", "None"):
                stack.enter_context(leave_no_empty_store(self._find_store()))
            self._engine = stack.enter_context(open_engine(self.scheduler, self._find_folder()))
            return self._build(inputs)

    def _find_folder(self) -> Path | None:
        """Find the folder of the store; where another process is to see it, it is made."""
        if self.scheduler == "threads" or self.store in (None, "", "None"):
            return None
        return self._open_folder().folder

    def _build(self, inputs: tuple[Any, ...]) -> list[Any]:
        """Find the histories and build the products."""
        settings = Settings(**{f.name: getattr(self, f.name) for f in fields(Settings)})
        stack = self._open(inputs)
        name = self.make_product_name(inputs)
        mask_filter = self._choose_filter(stack)
        if self.depth == "auto":  # fail before the long part, not after it
            group_depths(*zip(*[(r.readpatt, r.ngroups) for r in stack.records], strict=True))
        base = self._read_base(stack)
        records = stack.look_records
        events = self._read_events()
        clock = np.array([r.mid_mjd if stack.dated else 0.0 for r in records])
        if events is not None:
            clock = stretch_time(clock, events.mjd, event_boost=self.event_boost)
        histories = self._find(stack, clock, settings)
        block = histories.block
        intervals = extract_intervals(histories)
        dated = date_intervals(
            intervals,
            np.array([r.start_mjd for r in records]),
            np.array([r.end_mjd for r in records]),
            dating=self.dating,
        )
        exposures, look_rows = tabulate_exposures(stack, histories)
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
                "event_boost": self.event_boost,
            },
            warnings=list_warnings(stack, histories, base),
            first_useafter=self.first_useafter,
            events=events,
            self_test=self._test(stack, histories) if self.self_test else None,
            calibration=None if block is None else pack_block(block, stack.unit),
        )
        history.meta.filename = f"{name}_{stack.detector.name}_{self.suffix}.asdf"
        if any(record.exp_type in _LRS for record in stack.records):
            log.info(_LRS_ADVICE)
        return self.list_products(history, self._plan_masks(history, name))

    def _plan_masks(self, history: BadPixHistoryModel, name: str) -> list[PlannedMask]:
        """List the masks that are to be made."""
        return plan_mask_series(history, name)

    def _open(self, inputs: tuple[Any, ...]) -> ExposureStack:
        """Open the exposures."""
        return open_exposures(self.resolve_paths(inputs))

    def _read_events(self) -> Events | None:
        """Read the dated events."""
        if self.events in (None, "", "None"):
            return None
        return read_events(self.make_input_path(str(self.events)))

    def _find(self, stack: ExposureStack, clock: np.ndarray, settings: Settings) -> PixelHistories:
        """Find the histories: in memory, or with the evidence of each exposure kept."""
        store = self.open_store(stack)
        keep = (
            None
            if store is None
            else partial(store.make_shelf, records=stack.look_records, unit=stack.unit)
        )
        return find_histories(
            stack,
            clock,
            [r.dispersion_axis for r in stack.look_records],
            settings=settings,
            progress=show_progress("Solving pixels"),
            open_shelf=keep,
            max_bytes=int(1e9 * self.max_memory),
            engine=self._engine,
        )

    def open_store(self, stack: ExposureStack) -> EvidenceStore | None:
        """Open the store that was asked for; a single exposure needs none."""
        if self.store in (None, "", "None"):
            return None
        if not stack.dated:
            log.info("One exposure: nothing is kept in %s", self.store)
            return None
        return self._open_folder()

    def _find_store(self) -> Path:
        return Path(os.path.expandvars(self.store)).expanduser().absolute()

    def _open_folder(self) -> EvidenceStore:
        return EvidenceStore(self._find_store())

    def _read_base(self, stack: ExposureStack) -> BaseMask | None:
        """Read the base mask, of the detector of the exposures."""
        if self.base_mask in (None, "", "None"):
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

    def _test(self, stack: ExposureStack, histories: PixelHistories) -> SelfTest:
        """Run again on exposures with known defects."""
        return run_self_test(
            stack,
            histories,
            dispersion_axes=[r.dispersion_axis for r in stack.look_records],
            identity=[record.sha256 for record in stack.records],
            progress=show_progress("Self-test"),
        )

    def _choose_filter(self, stack: ExposureStack) -> str:
        """FILTER of the masks: as asked, else that of the inputs where they share one."""
        if stack.detector.telescope == "ROMAN":
            self._require_roman_defaults()
            return "N/A"
        if self.mask_filter not in (None, "", "None"):
            check_filter(str(self.mask_filter))
            return str(self.mask_filter)
        shared = {record.filter for record in stack.records}
        if len(shared) > 1:
            return "N/A"
        check_filter(stack.records[0].filter)
        return stack.records[0].filter

    def _require_roman_defaults(self) -> None:
        """Refuse what CRDS does not select masks of Roman by."""
        if self.mask_filter not in (None, "", "None", "N/A") or self.depth != "single":
            raise ProductError(
                "expected mask_filter=None and depth=single for WFI, whose masks are for every "
                f"optical element and depth, found {self.mask_filter!r} and {self.depth!r}; leave "
                "them out"
            )
