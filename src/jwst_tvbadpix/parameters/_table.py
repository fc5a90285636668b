"""What the shipped parameter files say: the one place where it is written down.

`make_files` makes the files from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["NEUTRAL_MASK", "TABLE", "Entry", "make_tree"]

# What `tvbadpix neutral-mask` writes by default.
NEUTRAL_MASK = "neutral_MIRIMAGE_mask.fits"

# As the first delivered references have it: before the first exposure of the observatory.
_USEAFTER = "2021-12-25T00:00:00"
_DATE = "2026-11-21T00:00:00"

_SPEC2 = "jwst.pipeline.calwebb_spec2.Spec2Pipeline"
_IMAGE2 = "jwst.pipeline.calwebb_image2.Image2Pipeline"
_STEPS = {
    "dq_init": "jwst.dq_init.dq_init_step.DQInitStep",
    "flat_field": "jwst.flatfield.flat_field_step.FlatFieldStep",
    "photom": "jwst.photom.photom_step.PhotomStep",
    "pixel_replace": "jwst.pixel_replace.pixel_replace_step.PixelReplaceStep",
    "resample": "jwst.resample.resample_step.ResampleStep",
    "resample_spec": "jwst.resample.resample_spec_step.ResampleSpecStep",
}

_WHY_REPLACE = (
    "pixel_replace is on, which the code has off: extraction drops masked pixels, and without "
    "their replacement each leaves a deficit of 16 to 28 per cent where the hot pixel had made an "
    "excess of 5 to 11 per cent (measured on simulated slitless spectra). The algorithm is "
    "fit_profile: mingrad, its default, takes the wings of the trace for its core."
)
_REPLACE = {"skip": False, "algorithm": "fit_profile"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One parameter file.

    Attributes
    ----------
    class_name : str
        The step or pipeline it is for.
    purpose : str
        What for, in one line.
    reason : str
        Why the parameters are what they are.
    parameters : mapping
        Of the step or pipeline itself.
    steps : mapping of str to mapping
        Step of the pipeline -> its parameters. What is not named is left to CRDS and to the code.
    exp_type : tuple of str
        EXP_TYPE of the exposures it is for; () for all.
    selection : mapping of str to mapping
        Further metadata by which CRDS selects the file, by group of keywords.
    """

    class_name: str
    purpose: str
    reason: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    steps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    exp_type: tuple[str, ...] = ()
    selection: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def reftype(self) -> str:
        """Type under which CRDS keeps parameters of this class."""
        return f"pars-{self.class_name.rpartition('.')[2].lower()}"


TABLE: Mapping[str, Entry] = {
    "detector1_neutral": Entry(
        "jwst.pipeline.calwebb_detector1.Detector1Pipeline",
        "calwebb_detector1 with the neutral mask, so that bad pixels are seen and can recover",
        f"The mask is {NEUTRAL_MASK} in the present folder, as tvbadpix neutral-mask writes it; "
        "tvbadpix parameters --mask FILE and tvbadpix reprocess --mask FILE name another.",
        steps={"dq_init": {"override_mask": NEUTRAL_MASK}},
        selection={
            "instrument": {"detector": "MIRIMAGE"},
            "visit": {"tsovisit": "ANY"},
        },
    ),
    "spec2_lrs_slit": Entry(
        _SPEC2,
        "calwebb_spec2 for MIRI LRS through the slit, masked pixels replaced",
        f"{_WHY_REPLACE} resample_spec weighs by exposure time: by its default, ivm, a pixel whose "
        "ramp has a jump weighs less than its neighbours in the trace and leaves a feature.",
        steps={"pixel_replace": _REPLACE, "resample_spec": {"weight_type": "exptime"}},
        exp_type=("MIR_LRS-FIXEDSLIT",),
        selection={"visit": {"tsovisit": "ANY"}},
    ),
    "spec2_lrs_slitless": Entry(
        _SPEC2,
        "calwebb_spec2 for MIRI LRS without slit (time series), masked pixels replaced",
        _WHY_REPLACE,
        steps={"pixel_replace": _REPLACE},
        exp_type=("MIR_LRS-SLITLESS",),
        selection={"visit": {"tsovisit": "ANY"}},
    ),
    "spec2_mrs": Entry(
        _SPEC2,
        "calwebb_spec2 for the MIRI MRS, masked pixels replaced before the cube is built",
        "pixel_replace is on, which the code has off, with mingrad, the algorithm that takes the "
        "slices of an integral field unit into account.",
        steps={"pixel_replace": {"skip": False, "algorithm": "mingrad"}},
        exp_type=("MIR_MRS",),
        selection={"visit": {"tsovisit": "ANY"}},
    ),
    "image2_flats": Entry(
        _IMAGE2,
        "calwebb_image2 for external flats: no flat-fielding, no resampling",
        "A flat is measured on exposures that were not divided by one, in detector coordinates.",
        steps={"flat_field": {"skip": True}, "resample": {"skip": True}},
        exp_type=("MIR_IMAGE",),
        selection={"visit": {"tsovisit": "ANY", "type": "ANY"}},
    ),
    "image2_standard_stars": Entry(
        _IMAGE2,
        "calwebb_image2 for the photometry of standard stars: flat-fielded, in DN/s, not resampled",
        "A flux calibration is measured in DN/s, with the noise of neighbouring pixels "
        "independent; photom and resample are skipped.",
        steps={"photom": {"skip": True}, "resample": {"skip": True}},
        exp_type=("MIR_IMAGE",),
        selection={"visit": {"tsovisit": "ANY", "type": "ANY"}},
    ),
    "time_variable_bad_pixel_lrs": Entry(
        "jwst_tvbadpix.steps.TimeVariableBadPixel",
        "time_variable_bad_pixel for MIRI LRS: masks for P750L, slit and slitless together",
        "Windows and rates are those for which precision and recall were measured on LRS.",
        parameters={
            "mask_filter": "P750L",
            "window_along": 11,
            "window_across": 9,
            "fdr": 0.02,
            "dating": "midpoint",
        },
        exp_type=("MIR_LRS-FIXEDSLIT", "MIR_LRS-SLITLESS"),
    ),
}


def make_tree(entry: Entry) -> dict[str, Any]:
    """Make the content of a parameter file, as stpipe and CRDS want it."""
    meta: dict[str, Any] = {
        "author": "jwst_tvbadpix",
        "date": _DATE,
        "description": f"{entry.purpose[0].upper()}{entry.purpose[1:]}. {entry.reason}",
        "instrument": {"name": "MIRI"},
        "origin": "jwst_tvbadpix",
        "pedigree": "GROUND",
        "reftype": entry.reftype,
        "telescope": "JWST",
        "useafter": _USEAFTER,
    }
    for group, keywords in entry.selection.items():
        meta.setdefault(group, {}).update(keywords)
    if entry.exp_type:
        meta["exposure"] = {"type": entry.exp_type[0]}
    if len(entry.exp_type) > 1:
        meta["exposure"]["p_exptype"] = "".join(f"{one}|" for one in entry.exp_type)
    tree: dict[str, Any] = {
        "class": entry.class_name,
        "name": entry.class_name.rpartition(".")[2],
        "parameters": dict(entry.parameters),
        "meta": meta,
    }
    if entry.steps:
        tree["steps"] = [
            {"class": _STEPS[name], "name": name, "parameters": dict(parameters)}
            for name, parameters in entry.steps.items()
        ]
    return tree
