"""What is to run: stages, exposures and masks, checked before anything starts."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from ..errors import InputError
from ..files import read_association
from ..parameters import ParameterFile, read_parameters

__all__ = [
    "Exposure",
    "Stage",
    "check_exposure",
    "find_context",
    "open_whole",
    "read_exposures",
    "read_header",
    "read_masks",
    "read_stages",
]

# Members that are run themselves; those of other types go to stage 2 as they are.
_LOOKS = ("science", "dark")
_COMPANIONS = ("background", "imprint")


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage with its parameters.

    Attributes
    ----------
    level : int
        1 makes rates of ramps, 2 calibrates these.
    alias : str
        Such as ``calwebb_spec2``.
    parameters : ParameterFile
    """

    level: int
    alias: str
    parameters: ParameterFile


@dataclass(slots=True)
class Exposure:
    """An exposure on its way through the stages.

    Attributes
    ----------
    path : Path
        What goes in.
    name : str
        Its file without suffix.
    others : tuple of (Path, str)
        Further members of its product, for stage 2: file and exptype.
    is_look : bool
        Whether stage 2 is for it; False for what only accompanies others.
    header : mapping
        Keywords of the file.
    products : list of Path
        What the stages have made of it, in this run or before.
    ran : bool
        Whether a stage was run.
    error : str
        Why it has failed.
    """

    path: Path
    name: str
    others: tuple[tuple[Path, str], ...] = ()
    is_look: bool = False
    header: Mapping[str, Any] = field(default_factory=dict)
    products: list[Path] = field(default_factory=list)
    ran: bool = False
    error: str = ""


def read_stages(parameters: Sequence[str | Path]) -> list[Stage]:
    """Read the parameter files and put the stages in order."""
    from jwst.pipeline import Detector1Pipeline, Image2Pipeline, Spec2Pipeline

    stages = []
    for source in parameters:
        found = read_parameters(source)
        step_class: Any = found.step_class
        if issubclass(step_class, Detector1Pipeline):
            level = 1
        elif issubclass(step_class, (Spec2Pipeline, Image2Pipeline)):
            level = 2
        else:
            raise InputError(
                "expected parameters of Detector1Pipeline, Spec2Pipeline or Image2Pipeline in "
                f"{found.path}, found those of {step_class.__name__}, which is no stage that "
                "can be run here; see tvbadpix parameters"
            )
        stages.append(Stage(level, step_class.class_alias, found))
    stages.sort(key=lambda stage: stage.level)
    levels = [stage.level for stage in stages]
    if not stages or len(set(levels)) < len(levels):
        listed = ", ".join(stage.parameters.path.name for stage in stages) or "none"
        raise InputError(
            "expected parameters of calwebb_detector1, of calwebb_spec2 or calwebb_image2, or of "
            f"one of each level, found {listed}; run the others separately"
        )
    return stages


def read_exposures(path: Path, levels: Sequence[int]) -> dict[str, Exposure]:
    """Read the association into exposures by name; all of its files must be there."""
    exposures: dict[str, Exposure] = {}
    companions: dict[str, Any] = {}
    absent: list[Path] = []
    # The same file by a link is the same exposure; a link keeps its name, its target has any.
    seen: dict[Path, Path] = {}
    for product in read_association(path):
        members = [(member["expname"], member["exptype"]) for member in product.members]
        paths = {
            member: _find_file(path.parent / member[0], member[1], levels) for member in members
        }
        paths = {member: seen.setdefault(one.resolve(), one) for member, one in paths.items()}
        absent += [
            found
            for (_, kind), found in paths.items()
            if not found.is_file() and (kind in (*_LOOKS, *_COMPANIONS) or 2 in levels)
        ]
        looks = [paths[member] for member in members if member[1] in _LOOKS]
        if not looks:
            looks = [paths[member] for member in members if member[1] == "background"]
        others = tuple(
            dict.fromkeys((found, kind) for (_, kind), found in paths.items() if found not in looks)
        )
        for found in looks:
            one = _add_exposure(exposures, found)
            if one.is_look and one.others != others:
                raise InputError(
                    f"expected {found.name} with the same background and other members in every "
                    f"product of {path}, found it with different ones; give one product at a time"
                )
            one.is_look, one.others = True, others
        for found, kind in others:
            if kind in _COMPANIONS:
                companions[str(found)] = _add_exposure(exposures, found)
    if absent:
        listed = "\n  ".join(str(one) for one in dict.fromkeys(absent))
        raise InputError(
            f"expected all members of {path}, found {len(set(absent))} absent; correct the paths "
            f"or fetch them:\n  {listed}"
        )
    if not exposures:
        raise InputError(
            f"expected science or background members in {path}, found none; add exposures"
        )
    return exposures


def _find_file(path: Path, kind: str, levels: Sequence[int]) -> Path:
    """Find the file of a member: the ramp beside a rate, where stage 1 is to run."""
    path = path.parent.resolve() / path.name
    if 1 in levels and kind in (*_LOOKS, *_COMPANIONS):
        ramp = path.parent / f"{_strip(path)}_uncal.fits"
        if ramp.is_file():
            return ramp
    return path


@cache
def _strip(path: Path) -> str:
    """Name of an exposure: its file without suffix."""
    from jwst.lib.suffix import remove_suffix

    return str(remove_suffix(path.stem)[0])


def _add_exposure(exposures: dict[str, Exposure], path: Path) -> Exposure:
    """Add an exposure, once; two files of one name would have the same products."""
    name = _strip(path)
    one = exposures.setdefault(name, Exposure(path, name))
    if one.path != path:
        raise InputError(
            f"expected one file for each exposure, found {one.path} and {path}, whose products "
            "would have the same name; give them in different associations"
        )
    return one


def read_masks(masks: Sequence[str | Path], stages: Sequence[Stage]) -> dict[str, Path]:
    """Read for which detector each mask is; those of the parameter file where none is given."""
    from ..refmodels import read_mask_dq

    named = [
        Path(value)
        for stage in stages
        for step, key, value in stage.parameters.overrides
        if (step, key) == ("dq_init", "override_mask") and value not in ("", "N/A")
    ]
    if masks and not any(stage.level == 1 for stage in stages):
        raise InputError(
            f"expected parameters of calwebb_detector1 with the mask {masks[0]}, found none; give "
            "detector1_neutral too"
        )
    found: dict[str, Path] = {}
    for path in [Path(mask) for mask in masks] or named:
        if not path.is_file():
            raise InputError(
                f"expected the mask of calwebb_detector1, found nothing at {path}; make it with "
                "tvbadpix neutral-mask, or give another with --mask"
            )
        detector = read_mask_dq(path)[1]
        if detector in found:
            raise InputError(
                f"expected one mask for each detector, found {found[detector]} and {path} for "
                f"{detector}; leave one out"
            )
        found[detector] = path.resolve()
    return found


def find_context() -> str:
    """Find the CRDS context of the environment."""
    from ..steps._base import has_crds

    problem: object = "none (CRDS_PATH, CRDS_SERVER_URL)"
    if has_crds():
        from crds.core import heavy_client, rmap

        try:
            name = str(heavy_client.get_context_name("jwst"))
            rmap.get_cached_mapping(name)
            return name
        except (Exception, SystemExit) as error:  # crds exits where it finds no cache
            problem = error or type(error).__name__
    raise InputError(
        f"expected a CRDS set-up for the standard stages, found: {problem}; set CRDS_PATH and "
        "CRDS_SERVER_URL, or name a local cache with --context"
    )


def check_exposure(one: Exposure, stages: Sequence[Stage], masks: Mapping[str, Path]) -> None:
    """Check that an exposure is one for the stages.

    Parameters
    ----------
    one : Exposure
        With its header.
    stages : sequence of Stage
    masks : mapping of str to Path
        Detector -> mask.

    Raises
    ------
    InputError
        It is of another product or mode, or there is no mask for its detector.
    """
    from jwst.lib.exposure_types import IMAGING_TYPES, SPEC_TYPES

    first = stages[0]
    wanted, suffix = ((4,), "_uncal") if first.level == 1 else ((2, 3), "_rate or _rateints")
    if one.header["NAXIS"] not in wanted:
        raise InputError(
            f"expected a {suffix} product for {first.alias}, found SCI with "
            f"{one.header['NAXIS']} dimensions in {one.path}; give other parameters or files"
        )
    if masks and one.header["DETECTOR"] not in masks:
        raise InputError(
            f"expected a mask of {one.header['DETECTOR']} for {one.path}, found those of "
            f"{', '.join(masks)}; give one with --mask"
        )
    exp_type = str(one.header["EXP_TYPE"])
    for stage in stages:
        if stage.level == 1 or not one.is_look:
            continue
        other = SPEC_TYPES if stage.alias == "calwebb_image2" else IMAGING_TYPES
        if exp_type.lower() in other:
            raise InputError(
                f"expected an exposure for {stage.alias}, found {exp_type} in {one.path}; "
                "give other parameters or leave it out"
            )


@contextmanager
def open_whole(path: Path) -> Iterator[fits.HDUList]:
    """Open a FITS file; OSError where it is shorter than its headers say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)  # the same in more words
        with fits.open(path, memmap=False) as hdus:
            ends = [info["datLoc"] + info["datSpan"] for info in (hdu.fileinfo() for hdu in hdus)]
            if path.stat().st_size < max(ends):
                raise OSError(f"{path.stat().st_size} bytes instead of {max(ends)}")
            yield hdus


def read_header(path: Path) -> dict[str, Any]:
    """Read the keywords by which an exposure is handled."""
    try:
        with open_whole(path) as hdus:
            header = hdus[0].header
            keys = ("TELESCOP", "INSTRUME", "DETECTOR", "EXP_TYPE", "TSOVISIT")
            keywords = {key: header.get(key) for key in keys}
            keywords["NAXIS"] = hdus["SCI"].header["NAXIS"]
    except (OSError, KeyError, ValueError, TypeError, fits.VerifyError) as error:
        raise InputError(
            f"expected a FITS exposure, found {path}: {error}; fetch it again or leave it out"
        ) from error
    if keywords["TELESCOP"] != "JWST":
        raise InputError(
            f"expected an exposure of JWST, found TELESCOP={keywords['TELESCOP']!r} in {path}; "
            "leave it out"
        )
    lacking = [key for key in ("INSTRUME", "DETECTOR", "EXP_TYPE") if not keywords[key]]
    if lacking:
        raise InputError(f"expected {', '.join(lacking)} in {path}, found none; leave it out")
    return keywords
