"""Exposures added to a history, under its frozen calibration block."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from ..badpix import PixelHistories, Settings, update_histories
from ..errors import InputError, StoreError
from ..events import Events
from ..exposures import ExposureRecord, ExposureStack, extend_exposures
from ..parallel import map_in_threads
from ..refmodels import BadPixHistoryModel, BaseMask, PlannedMask, read_history, unpack_block
from .time_variable_bad_pixel import TimeVariableBadPixel

__all__ = ["UpdateBadPixels"]

log = logging.getLogger(__name__)

# Parameters of the step that a history has among its settings.
_KEPT = ("dating", "mask_filter", "max_masks", "depth", "event_boost", "first_useafter")


def _is_on_disk(folder: Path, mask: PlannedMask) -> bool:
    """Whether both files of a mask are there, with its date and its flags."""
    path = folder / mask.filename
    if not path.is_file():
        return False
    try:
        with fits.open(path.with_suffix(".fits"), memmap=False) as hdus:
            dated = hdus[0].header["USEAFTER"] == mask.useafter
            return bool(dated and np.array_equal(hdus["DQ"].data, mask.paint()))
    except (OSError, KeyError, TypeError, ValueError):
        return False


class UpdateBadPixels(TimeVariableBadPixel):
    """Add exposures to a history: the step behind ``tvbadpix update``.

    Settings, base mask and events are those of the history. A mask that is in the output folder
    with the same date and flags is left as it is, with what it says of the exposures of its time.
    """

    class_alias = "update_bad_pixels"

    spec = """
        history = string(default='')  # The history that exposures are added to
        recalibrate = boolean(default=False)  # Solve anew, with all exposures of the history given
    """

    store: str
    _old: BadPixHistoryModel | None = None

    def process(self, *inputs: Any) -> list[Any]:
        """Add exposures and build the products; see `TimeVariableBadPixel.process`."""
        self._old = read_history(self.history, evidence=False)
        settings = self._old.settings.instance
        for name in (*_KEPT, *(f.name for f in fields(Settings))):
            if name in settings:
                setattr(self, name, settings[name])
        if self._old.hasattr("self_test"):
            log.info("The self-test of the history tells nothing of the new one and is left out")
        if self.store:
            return super().process(*inputs)
        with TemporaryDirectory(prefix="tvbadpix-") as folder:
            self.store = folder
            try:
                return super().process(*inputs)
            finally:
                self.store = ""

    def make_product_name(self, inputs: tuple[Any, ...]) -> str:
        """Name the products as those of the history."""
        ending = f"_{self._history.meta.instrument.detector}_{self.suffix}"
        return str(self.output_file or Path(self.history).stem.removesuffix(ending))

    @property
    def _history(self) -> BadPixHistoryModel:
        assert self._old is not None
        return self._old

    def _plan_masks(self, history: BadPixHistoryModel, name: str) -> list[PlannedMask]:
        """List the masks whose flags are not yet those on disk: what was delivered stays so."""
        planned = super()._plan_masks(history, name)
        if not self.save_results:
            return planned
        folder = self._output_folder()
        before = {mask.filename: mask for mask in super()._plan_masks(self._history, name)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyUserWarning)  # truncated: it is made again
            same = [m for m in planned if m.filename in before and m.is_like(before[m.filename])]
            there = map_in_threads(partial(_is_on_disk, folder), same)
            kept = [mask.filename for mask, found in zip(same, there, strict=True) if found]
        files = [folder / file for file in kept]
        self._unchanged = (*files, *(file.with_suffix(".fits") for file in files))
        if kept:
            log.info(
                "%d of %d masks have not changed and stay as they are", len(kept), len(planned)
            )
        return [mask for mask in planned if mask.filename not in kept]

    def _open(self, inputs: tuple[Any, ...]) -> ExposureStack:
        if self.recalibrate:
            stack = super()._open(inputs)
            self._require_all(stack.records)
            return stack
        block, unit = unpack_block(self._history)
        made, here = self._history.versions.instance["jwst-tvbadpix"], version("jwst-tvbadpix")
        if made != here:
            raise StoreError(
                f"expected a history of jwst-tvbadpix {here}, found {made} in {self.history}; use "
                "that version, or --recalibrate with all exposures"
            )
        kept = self._open_folder().list_records(block.key)
        known = [kept[one] for one in self._list_checksums() if one in kept]
        stack = extend_exposures(self.resolve_paths(inputs), known, window=block.window, unit=unit)
        self._require_all(stack.records)
        self._tell(stack)
        return stack

    def _list_checksums(self) -> list[str]:
        return list(self._history.exposures.instance["sha256"])

    def _tell(self, stack: ExposureStack) -> None:
        """Say what is new."""
        old = set(self._list_checksums())
        new = [record.filename for record in stack.records if record.sha256 not in old]
        log.info("%d of %d exposures are new to the history", len(new), len(stack.records))

    def _require_all(self, found: Sequence[ExposureRecord]) -> None:
        """Require all exposures of the history, in the version that it has or in another."""
        names = {record.filename for record in found}
        times = {(record.mid_mjd, record.subarray) for record in found}
        old = self._history.exposures.instance
        rows = zip(old["filename"], old["expmid_mjd"], old["subarray"], strict=True)
        missing = [n for n, mid, sub in rows if n not in names and (mid, sub) not in times]
        if missing:
            raise InputError(
                f"expected every exposure of {self.history}, found no evidence in the store and "
                f"no file of {len(missing)} ({missing[0]}, ...); give --store with that of the "
                "history, or these files too"
            )

    def _find(self, stack: ExposureStack, clock: np.ndarray, settings: Settings) -> PixelHistories:
        if self.recalibrate:
            return super()._find(stack, clock, settings)
        block, _ = unpack_block(self._history)
        return update_histories(
            stack,
            clock,
            [record.dispersion_axis for record in stack.look_records],
            block,
            self._open_folder().open_shelf(block.key, stack.look_records),
            settings=settings,
            max_bytes=int(1e9 * self.max_memory),
            engine=self._engine,
        )

    def _read_base(self, stack: ExposureStack) -> BaseMask | None:
        base = self._history.base.instance
        if not base["file"]:
            return None
        dq = np.zeros(self._history.coverage.instance["shape"], np.uint32)
        dq[base["y"], base["x"]] = base["dq"]
        policy = self._history.settings.instance["base_policy"]
        return BaseMask(base["file"], base["sha256"], dq, policy)

    def _read_events(self) -> Events | None:
        if not self._history.hasattr("events"):
            return None
        kept = self._history.events.instance
        return Events(np.asarray(kept["mjd"]), tuple(kept["label"]), tuple(kept["kind"]))
