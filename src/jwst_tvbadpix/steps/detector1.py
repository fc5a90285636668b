"""calwebb_detector1 with the mask of the exposure's date, and R_MASK that names it."""

import logging
from typing import Any

from jwst.dq_init.dq_init_step import DQInitStep
from jwst.pipeline import Detector1Pipeline
from stdatamodels.jwst.datamodels import JwstDataModel

from ..errors import InputError
from ..refmodels.mask import SOFTWARE
from ._dated_mask import DatedMask, choose_dated_mask

__all__ = ["TvBadPixDQInitStep", "TvBadPixDetector1Pipeline"]

log = logging.getLogger(f"jwst.{__name__}")


class TvBadPixDQInitStep(DQInitStep):
    """Initialise DQ from a history or a series of masks where one is given, else as dq_init."""

    spec = """
        history = string(default=None)  # History of the detector, a *_badpixhistory.asdf, or the folder that holds it
        masks = force_list(default=None)  # Instead of a history: mask files or their folders
    """  # noqa: E501  # one line per parameter is what --help shows

    dated_mask: DatedMask | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.history or self.masks:
            # Else the pipeline would ask CRDS for a mask, and fail where it has none.
            self.reference_file_types: list[str] = []

    @classmethod
    def get_config_reftype(cls) -> str:
        """Take the parameters that CRDS has for dq_init."""
        return "pars-dqinitstep"

    def get_reference_file(self, input_file: Any, reference_file_type: str) -> Any:
        """Get the dated mask, or what dq_init would take.

        Raises
        ------
        InputError
            A history or masks are given, and override_mask too; or as `choose_dated_mask`.
        """
        self.dated_mask = None
        if reference_file_type != "mask" or not (self.history or self.masks):
            return super().get_reference_file(input_file, reference_file_type)
        if self.get_ref_override("mask"):
            raise InputError(
                f"expected one mask, found override_mask {self.get_ref_override('mask')} beside "
                "history or masks; give one of them"
            )
        self.dated_mask = choose_dated_mask(input_file, history=self.history, masks=self.masks)
        log.info("Mask of the exposure's date: %s", self.dated_mask)
        self._reference_files_used.append(("mask", self.dated_mask.name))
        return self.dated_mask.model


class TvBadPixDetector1Pipeline(Detector1Pipeline):
    """Run calwebb_detector1 with the mask of the exposure's date.

    ``--steps.dq_init.history`` or ``--steps.dq_init.masks`` say where masks come from; without
    them this is calwebb_detector1.
    """

    class_alias = "tvbadpix_detector1"

    spec = """
        save_calibrated_ramp = boolean(default=False)  # Also save the corrected ramp
    """

    _result_id: int | None = None

    step_defs = {**Detector1Pipeline.step_defs, "dq_init": TvBadPixDQInitStep}  # noqa: RUF012

    @classmethod
    def get_config_reftype(cls) -> str:
        """Take the parameters that CRDS has for calwebb_detector1."""
        return "pars-detector1pipeline"

    def save_model(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Save a product that names its mask in HISTORY."""
        if id(model) != self._result_id:
            self._record(model)
        return super().save_model(model, *args, **kwargs)

    def finalize_result(self, result: Any, reference_files_used: list[tuple[str, str]]) -> None:
        """Name the mask in HISTORY of the result too, whether or not it is saved."""
        self._record(result)
        self._result_id = id(result)
        super().finalize_result(result, reference_files_used)

    def _record(self, model: Any) -> None:
        mask = self.dq_init.dated_mask
        if mask is not None and isinstance(model, JwstDataModel):
            model.add_history_entry(f"dq_init: {mask}", SOFTWARE)
