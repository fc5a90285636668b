"""Put the flags of a dated mask into exposures in place of those of another mask."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jwst.dq_init.dq_initialization import check_dimensions, do_dqinit
from jwst.lib.pipe_utils import match_nans_and_flags
from stdatamodels.jwst import datamodels
from stdatamodels.jwst.datamodels import JwstDataModel, MaskModel, RampModel

from ..errors import InputError
from ..refmodels import dq_value
from ._dated_mask import cut_dq, find_reference_file, fit_frame, name_exposure

__all__ = [
    "Reflagged",
    "find_later_flags",
    "has_flags",
    "reflag_ramp",
    "reflag_rate",
    "require_detector_frame",
]

_DNU = np.uint32(dq_value("DO_NOT_USE"))
# Flags of a group that come with a DO_NOT_USE of their own.
_OWN_REASON = np.uint8(dq_value("AD_FLOOR", "CHARGELOSS"))
# Steps after dq_init that put the flags of a reference into PIXELDQ, and its type.
_LATER_STEPS = {
    "saturation": "saturation",
    "superbias": "superbias",
    "reset": "reset",
    "linearity": "linearity",
    "dark_sub": "dark",
}
# From here on jwst keeps NaN in all planes where DO_NOT_USE is set.
_STAGE_2 = ("flat_field", "photom", "pathloss", "assign_wcs")


@dataclass(frozen=True, slots=True)
class Reflagged:
    """Numbers of pixels, of those with DO_NOT_USE.

    Attributes
    ----------
    bad : int
        In the dated mask, within what was read out.
    added : int
        That had no DO_NOT_USE before.
    released : int
        That had it from the other mask, and no longer have it.
    kept : int or None
        That have it from the other mask alone and could not be released; None where the other
        mask is not known.
    """

    bad: int
    added: int
    released: int
    kept: int | None


def require_detector_frame(model: JwstDataModel) -> None:
    """Require a ramp, a rate or a calibrated product in the pixels of the detector.

    Raises
    ------
    InputError
        It is something else.
    """
    kinds = (RampModel, datamodels.ImageModel, datamodels.CubeModel, datamodels.IFUImageModel)
    problem = None
    if type(model) not in kinds:
        problem = type(model).__name__
    elif model.meta.cal_step.resample == "COMPLETE":
        problem = "a resampled image"
    elif model.meta.subarray.num_superstripe:
        problem = f"{model.meta.subarray.num_superstripe} stripes"
    elif model.data is None or model.data.ndim < 2:
        problem = "no pixels"
    elif type(model) is not RampModel and (model.dq is None or model.dq.shape != model.data.shape):
        problem = f"DQ of {np.shape(model.dq)} beside SCI of {model.data.shape}"
    if problem:
        raise InputError(
            "expected a ramp, or a _rate, _rateints, _cal or _calints product in the pixels of the "
            f"detector, found {problem} in {name_exposure(model)}; give the product of an earlier "
            "step"
        )


def find_later_flags(model: RampModel) -> tuple[np.ndarray | None, list[str]]:
    """Collect the flags that steps after dq_init took from references into PIXELDQ.

    Parameters
    ----------
    model : RampModel

    Returns
    -------
    flags : uint32, shape of PIXELDQ, or None
        None where no such step has run.
    missing : list of str
        References that cannot be found: what they flagged is not known.
    """
    flags, missing = None, []
    for step, reftype in _LATER_STEPS.items():
        if getattr(model.meta.cal_step, step, None) != "COMPLETE":
            continue
        name = getattr(model.meta.ref_file, reftype).name
        if not name or name == "N/A":
            continue
        path = find_reference_file(name)
        if path is None:
            missing.append(f"{reftype} {name}")
            continue
        found = _read_flags(path, model)
        flags = found if flags is None else flags | found
    return flags, missing


def _read_flags(path: Path, model: RampModel) -> np.ndarray:
    """Read the DQ of a reference, cut as the ramp."""
    with datamodels.open(str(path)) as reference:
        dq = np.asarray(reference.dq, np.uint32)
        while dq.ndim > 2:
            dq = np.bitwise_or.reduce(dq, axis=0)
        cut = MaskModel(dq=dq)
        cut.update(reference)
    return cut_dq(model, cut)


def reflag_ramp(
    model: RampModel,
    mask: MaskModel,
    other: MaskModel | None,
    *,
    keep: np.ndarray | None = None,
    user_dq: np.ndarray | None = None,
) -> Reflagged:
    """Replace the flags of one mask by those of another in a ramp, as dq_init would set them.

    Parameters
    ----------
    model : RampModel
        Changed in place: PIXELDQ and GROUPDQ.
    mask : MaskModel
        The dated mask.
    other : MaskModel or None
        The mask that dq_init used. None: flags are only added.
    keep : ndarray of uint32, shape of PIXELDQ, optional
        Flags of later steps that stay although `other` has them.
    user_dq : ndarray of integers, shape of PIXELDQ, optional
        Flags that dq_init was given beside the mask (user_supplied_dq).

    Returns
    -------
    Reflagged

    Raises
    ------
    DetectorError
        The ramp does not lie within one of the masks.

    Notes
    -----
    The groups of a pixel that `other` marks DO_NOT_USE are released, but for those that carry
    AD_FLOOR or CHARGELOSS, or that are DO_NOT_USE in most pixels outside `other`: the first or last
    group of an integration, which belong to other steps. Right after dq_init the result equals,
    bit for bit, that of dq_init with `mask`.
    """
    bad = (cut_dq(model, mask) & _DNU) != 0
    check_dimensions(model)
    before = (model.pixeldq & _DNU) != 0
    if other is not None:
        _remove(model, cut_dq(model, other), keep)
    do_dqinit(model, fit_frame(model, mask), user_dq=user_dq)
    after = (model.pixeldq & _DNU) != 0
    return Reflagged(
        bad=int(bad.sum()),
        added=int((after & ~before).sum()),
        released=int((before & ~after).sum()),
        kept=None if other is None else int((before & after & ~bad & _covered(model, other)).sum()),
    )


def has_flags(model: RampModel, other: MaskModel) -> bool:
    """Say whether PIXELDQ of a ramp has all flags of a mask, as it has where this was used."""
    cut = cut_dq(model, other)
    return bool(model.pixeldq is not None and (model.pixeldq & cut == cut).all())


def _covered(model: JwstDataModel, other: MaskModel) -> np.ndarray:
    return (cut_dq(model, other) & _DNU) != 0


def _remove(model: RampModel, other: np.ndarray, keep: np.ndarray | None) -> None:
    """Take the flags of a mask out of PIXELDQ and GROUPDQ."""
    gone = other if keep is None else other & ~keep
    model.pixeldq &= ~gone
    bad = (other & _DNU) != 0
    y, x = np.nonzero(bad)
    good = ~bad
    group_dnu = np.uint8(_DNU)
    limit = max(1, int(good.sum())) / 2
    for integration in model.groupdq:
        for group in integration:
            if ((group & group_dnu) != 0)[good].sum() > limit:
                continue
            values = group[y, x]
            free = (values & _OWN_REASON) == 0
            group[y[free], x[free]] = values[free] & ~group_dnu


def reflag_rate(model: JwstDataModel, mask: MaskModel, other: MaskModel | None) -> Reflagged:
    """Add the flags of a mask to a rate or a calibrated product.

    Parameters
    ----------
    model : JwstDataModel
        ImageModel, CubeModel or IFUImageModel of the detector; changed in place.
    mask : MaskModel
        The dated mask.
    other : MaskModel or None
        The mask that dq_init used; None where it is not known.

    Returns
    -------
    Reflagged

    Raises
    ------
    DetectorError
        The exposure does not lie within one of the masks.

    Notes
    -----
    Where the mask has DO_NOT_USE a rate gets what ramp_fit gives: NaN in SCI, 0 in ERR and the
    variances. A calibrated product gets NaN in all planes, as its steps keep it.
    """
    dated = cut_dq(model, mask)
    bad = (dated & _DNU) != 0
    before = _bad_throughout(model.dq)
    model.dq |= dated
    if any(getattr(model.meta.cal_step, step, None) == "COMPLETE" for step in _STAGE_2):
        match_nans_and_flags(model)
    else:
        model.data[..., bad] = np.nan
        for plane in _error_planes(model):
            plane[..., bad] = 0
    kept = None
    if other is not None:
        kept = int((before & ~bad & _covered(model, other)).sum())
    return Reflagged(int(bad.sum()), int((bad & ~before).sum()), 0, kept)


def _bad_throughout(dq: np.ndarray) -> np.ndarray:
    """Mark the pixels with DO_NOT_USE in all integrations."""
    flagged = (dq & _DNU) != 0
    return flagged if flagged.ndim == 2 else flagged.all(axis=0)


def _error_planes(model: JwstDataModel) -> Iterator[Any]:
    for name in ("err", "var_poisson", "var_rnoise"):
        plane = getattr(model, name, None) if model.hasattr(name) else None
        if plane is not None and plane.shape == model.data.shape:
            yield plane
