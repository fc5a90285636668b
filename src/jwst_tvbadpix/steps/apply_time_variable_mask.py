"""ApplyTimeVariableMask: the bad pixels of its date into an exposure, alone or as a hook."""

import inspect
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from astropy.io import fits
from jwst.lib.suffix import KNOW_SUFFIXES
from jwst.stpipe.utilities import record_step_status
from stdatamodels.jwst import datamodels
from stdatamodels.jwst.datamodels import JwstDataModel, MaskModel, RampModel
from stpipe import Step

from ..errors import InputError, ProductError
from ..refmodels.mask import SOFTWARE
from ._base import TvBadPixStep
from ._dated_mask import (
    DatedMask,
    choose_dated_mask,
    find_reference_file,
    name_exposure,
    read_mask,
)
from ._reflag import (
    Reflagged,
    find_later_flags,
    has_flags,
    reflag_ramp,
    reflag_rate,
    require_detector_frame,
)

__all__ = ["ApplyTimeVariableMask"]

# Shown, and kept in cal_logs, where the step is a hook: a pipeline handles the loggers of jwst.
log = logging.getLogger(f"jwst.{__name__}")


class ApplyTimeVariableMask(TvBadPixStep):
    """Flag the pixels that were bad when the exposure was taken.

    The input is a ramp (``_uncal``, ``_ramp``), a ``_rate``, ``_rateints``, ``_cal`` or
    ``_calints`` file or model of one detector. In a ramp the flags of the mask that dq_init used
    are replaced; best as its post-hook. To the others flags are only added.
    """

    class_alias = "apply_time_variable_mask"

    spec = """
        history = string(default=None)  # History of the detector, a *_badpixhistory.asdf, or the folder that holds it
        masks = force_list(default=None)  # Instead of a history: mask files or their folders; crds: the mask that the CRDS context has
        r_mask = string(default=None)  # File of the mask that dq_init used; None: the one that R_MASK names, in the CRDS cache
        suffix = string(default='tvmask')  # Part of the name of the output, before its kind: x_tvmask_rate.fits
        output_ext = string(default='.fits')  # Exposures are written as FITS
    """  # noqa: E501  # one line per parameter is what --help shows

    def process(self, *inputs: Any) -> Any:
        """Apply the mask of its date to each exposure.

        Parameters
        ----------
        *inputs : str, Path, JwstDataModel, or list or tuple of them
            One exposure, or several products of one or more.

        Returns
        -------
        JwstDataModel, or list or tuple of them
            As the input. Models given are not changed, but for those of a pipeline that this
            step is a hook of.

        Raises
        ------
        TvBadPixError
            The exposure, the history or the masks are not as they must be; see
            `choose_dated_mask`, `require_detector_frame` and `reflag_ramp`.
        """
        if not inputs:
            raise InputError("expected an exposure, found none; name its file after the step")
        self._taken: list[Path] = []
        only = inputs[0] if len(inputs) == 1 else list(inputs)
        host = _find_host(self)
        if isinstance(only, list | tuple):
            return type(only)([None if one is None else self._apply(one, host) for one in only])
        return self._apply(only, host)

    def _apply(self, given: Any, host: Step | None) -> JwstDataModel:
        """Apply the mask of its date to one exposure."""
        model = self._open(given, host)
        try:
            require_detector_frame(model)
            mask = choose_dated_mask(model, history=self.history, masks=self.masks)
            name, other = self._find_other(model, mask, host)
            if isinstance(model, RampModel):
                done = self._reflag_ramp(model, mask, name, other, host)
            else:
                done = reflag_rate(model, mask.model, other)
        except BaseException:
            if model is not given:
                model.close()
            raise
        _tell(model, mask, name, done)
        record_step_status(model, self.class_alias)
        return model

    def _open(self, given: Any, host: Step | None) -> JwstDataModel:
        """Open an exposure, raw ones as a ramp; a model of one's own stays as it is."""
        if isinstance(given, JwstDataModel):
            raw = isinstance(given, datamodels.Level1bModel)
            try:
                return self.prepare_output(given, open_as_ramp=raw, make_copy=host is None)
            except TypeError as error:
                raise InputError(
                    f"expected {name_exposure(given)} as a ramp, found {type(given).__name__}: "
                    f"{error}"
                ) from error
        if not isinstance(given, str | Path):
            raise InputError(
                f"expected a file or model of one exposure, found {type(given).__name__}; give "
                "exposures one by one"
            )
        path = Path(self.make_input_path(str(given)))
        advice = "give a ramp, a rate or a calibrated product of JWST (FITS)"
        if not path.is_file() or path.suffix == ".json":
            raise InputError(f"expected an exposure, found {path}; {advice}")
        self._taken.append(path.resolve())
        try:
            model = datamodels.open(str(path))
            if isinstance(model, datamodels.Level1bModel):
                model.close()
                model = RampModel(str(path))
        except Exception as error:
            raise InputError(
                f"expected a readable exposure, found {path}: {error}; {advice}"
            ) from error
        return model

    def _find_other(
        self, model: JwstDataModel, mask: DatedMask, host: Step | None
    ) -> tuple[str | None, MaskModel | None]:
        """Find the mask whose flags the exposure has: its name, None for none, and itself."""
        if self.r_mask not in (None, "", "None"):
            path = Path(self.make_input_path(str(self.r_mask)))
            return str(path), read_mask(path)
        name = _get_used_mask(host) or model.meta.ref_file.mask.name
        if not name or name == "N/A":
            # Without dq_init there is nothing of a mask in the exposure.
            done = model.meta.cal_step.dq_init == "COMPLETE" and name != "N/A"
            return ("a mask that R_MASK does not name" if done else None), None
        if Path(name).stem == Path(mask.name).stem:  # or that of its twin
            return name, mask.model
        override = getattr(host, "override_mask", None)
        if name.startswith("override://") and isinstance(override, MaskModel):
            return name, override
        found = find_reference_file(name, mask.folder)
        return name, None if found is None else read_mask(found)

    def _reflag_ramp(
        self,
        model: RampModel,
        mask: DatedMask,
        name: str | None,
        other: MaskModel | None,
        host: Step | None,
    ) -> Reflagged:
        """Replace the flags in a ramp, and name the mask that they are of."""
        keep, missing = find_later_flags(model)
        problem = "not found: " + ", ".join(missing) if missing else ""
        if other is not None and not has_flags(model, other):
            problem = f"PIXELDQ does not have all flags of {name}: another mask was used"
        if other is not None and problem:
            log.warning("%s: flags are only added; %s", name_exposure(model), problem)
            other = None
        user_dq = getattr(host, "user_supplied_dq", None)
        if user_dq is not None:
            user_dq = fits.getdata(user_dq)
        done = reflag_ramp(model, mask.model, other, keep=keep, user_dq=user_dq)
        if name is None or other is not None:
            model.meta.ref_file.mask.name = mask.name
            used = getattr(host, "_reference_files_used", None)
            if used is not None and _get_used_mask(host):
                # What dq_init writes into R_MASK after its hooks.
                used[:] = [(kind, mask.name if kind == "mask" else file) for kind, file in used]
        return done

    def remove_suffix(self, name: str) -> tuple[str, str]:
        """Remove the kind of product, and the ending of this step before it."""
        root, separator = super().remove_suffix(name)
        return root.removesuffix(f"_{self.suffix}"), separator

    def save_model(self, model: Any, *args: Any, idx: Any = None, **kwargs: Any) -> Any:
        """Write an exposure as ROOT_tvmask_KIND.fits: stock stages know its kind by the ending.

        Raises
        ------
        InputError
            The output would replace its input, or that of another input.
        ProductError
            It cannot be written.
        """
        if not (self.save_results or kwargs.get("force")):
            return None
        base = self.output_file if idx is None else model.meta.filename
        path = Path(
            self.make_output_path(basepath=base, suffix=f"{self.suffix}_{_find_kind(model)}")
        )
        if path.resolve() in self._taken:
            raise InputError(
                f"expected an output that is not its input, found {path}; give --output_file or "
                "--output_dir"
            )
        staged = self.stage(path.parent) / path.name
        if staged.exists():
            raise InputError(
                f"expected exposures of different names, found two that become {path}; give them "
                "one by one, each its own --output_dir"
            )
        try:
            model.save(staged)
        except OSError as error:
            raise ProductError(
                f"expected to write {path}, found {error}; nothing was left there. Check the "
                "folder and the space on its disk"
            ) from error
        return str(path)


def _find_host(hook: Step) -> Step | None:
    """Find the step or pipeline that a step is a hook of; None where it is none.

    One made from text such as ``"pkg.Step(history='x')"`` is given no parent, but what dq_init
    did is known to dq_init alone.
    """
    if hook.parent is not None:
        return hook.parent
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, Step) and hook in (*owner._pre_hooks, *owner._post_hooks):
            return owner
        frame = frame.f_back
    return None


def _get_used_mask(host: Step | None) -> str | None:
    """Name the mask that the host has just used; None where it is not dq_init."""
    used: Sequence[tuple[str, str]] = getattr(host, "_reference_files_used", ())
    return next((name for kind, name in used if kind == "mask"), None)


def _tell(model: JwstDataModel, mask: DatedMask, name: str | None, done: Reflagged) -> None:
    """Tell in the log and in HISTORY what was done."""
    text = (
        f"{mask}: {done.bad} pixels DO_NOT_USE here, {done.added} of them added, {done.released} "
        f"of {name or 'no other mask'} released"
    )
    log.info("%s: %s", name_exposure(model), text)
    entries = [f"ApplyTimeVariableMask: {text}"]
    if name is not None and done.kept is None:
        entries.append(
            f"The flags of {name}, the mask in this exposure, could not be told from others and "
            "stay; give r_mask where its file is known"
        )
        log.warning("%s: %s", name_exposure(model), entries[-1])
    elif done.kept:
        entries.append(
            f"{done.kept} pixels keep the DO_NOT_USE of {name} though the dated mask has them good"
        )
        log.warning("%s: %s; apply to the ramp instead", name_exposure(model), entries[-1])
    for entry in entries:
        model.add_history_entry(entry, SOFTWARE)


def _find_kind(model: JwstDataModel) -> str:
    """Find the ending by which stock stages know a product, such as ``rate``."""
    ending = str(model.meta.filename or "").partition(".fits")[0].rpartition("_")[2]
    if isinstance(model, RampModel):
        return "ramp"
    if ending in KNOW_SUFFIXES:
        return ending
    return "rate" if model.data.ndim == 2 else "rateints"
