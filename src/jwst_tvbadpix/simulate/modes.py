"""The modes that can be simulated: one row of a table for each."""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from ..detectors import DETECTORS
from ..errors import DetectorError
from .electronics import Region
from .layers import Scene
from .layers_imaging import build_imaging_scene, build_nircam_scene, build_wfi_scene
from .layers_lrs import build_lrs_scene
from .layers_mrs import build_mrs_scene
from .layers_nirspec import build_nirspec_scene
from .setups import (
    Setup,
    make_imaging_setup,
    make_lrs_setup,
    make_mrs_setup,
    make_nircam_setup,
    make_nirspec_setup,
    make_wfi_setup,
)

__all__ = ["MODES", "Mode", "build_scene", "choose_detector", "get_mode"]


@dataclass(frozen=True, slots=True)
class Mode:
    """What belongs to a mode.

    Attributes
    ----------
    detectors : tuple of str
        Detectors it can use; the first is the default.
    list_setups : callable
        (detector, region or None) -> setups that exposures take in turn.
    build_scene : callable
        (detector=, seed=) -> what they see.
    depths : tuple of ((int, int), float)
        (ngroups, nints) that occur, with their share; assumptions.
    ramp_depth : tuple of int
        The same of ramps: enough for a slope, small enough for a disk.
    program : str
        Programme number; made up for all but LRS.
    first_observation : tuple of int
        Observation number of the first rate and of the first ramp.
    density, amplitude : float
        Factors on the default number of defects and on their amplitude.
    failed_share : float
        Share of failed pointings.
    dither : float
        Largest dither along either axis [pixel]; 0 = one blank field.
    """

    detectors: tuple[str, ...]
    list_setups: Callable[[str, Region | None], tuple[Setup, ...]]
    build_scene: Callable[..., Scene]
    depths: tuple[tuple[tuple[int, int], float], ...]
    ramp_depth: tuple[int, int]
    program: str
    first_observation: tuple[int, int] = (1, 401)
    density: float = 1.0
    amplitude: float = 1.0
    failed_share: float = 0.0
    dither: float = 0.0


def _build_lrs(*, detector: str, seed: int) -> Scene:
    return build_lrs_scene(seed=seed)


def _list_slit(detector: str, region: Region | None) -> tuple[Setup, ...]:
    return (make_lrs_setup("FULL" if region is None else region.subarray),)


def _list_slitless(detector: str, region: Region | None) -> tuple[Setup, ...]:
    return (make_lrs_setup("SLITLESSPRISM" if region is None else region.subarray),)


def _list_imaging(detector: str, region: Region | None) -> tuple[Setup, ...]:
    return (make_imaging_setup(region),)


def _list_mrs(detector: str, region: Region | None) -> tuple[Setup, ...]:
    return tuple(make_mrs_setup(detector, band, region) for band in ("SHORT", "MEDIUM", "LONG"))


def _list_nirspec(detector: str, region: Region | None) -> tuple[Setup, ...]:
    # IRS2 reads full frames only.
    readpatts = ("NRSIRS2", "NRS", "NRSIRS2RAPID") if region is None else ("NRS", "NRSRAPID")
    gratings = ("G395M", "PRISM", "G235M")
    return tuple(
        make_nirspec_setup(detector, gratings[k % 3], readpatts[k % len(readpatts)], region)
        for k in range(6)
    )


def _list_nircam(detector: str, region: Region | None) -> tuple[Setup, ...]:
    return tuple(make_nircam_setup(detector, name, region) for name in ("MEDIUM8", "SHALLOW4"))


def _list_wfi(detector: str, region: Region | None) -> tuple[Setup, ...]:
    return (make_wfi_setup(detector),)


MODES: MappingProxyType[str, Mode] = MappingProxyType(
    {
        "slit": Mode(
            detectors=("MIRIMAGE",),
            list_setups=_list_slit,
            build_scene=_build_lrs,
            depths=(
                ((20, 1), 0.2),
                ((36, 1), 0.2),
                ((60, 1), 0.2),
                ((60, 2), 0.2),
                ((120, 2), 0.2),
            ),
            ramp_depth=(12, 1),
            program="07831",
            failed_share=0.25,
        ),
        "slitless": Mode(
            detectors=("MIRIMAGE",),
            list_setups=_list_slitless,
            build_scene=_build_lrs,
            depths=(((60, 10), 0.4), ((125, 10), 0.3), ((250, 10), 0.3)),
            ramp_depth=(30, 2),
            program="07831",
            # Apart from the slit, so that files of both modes can lie in one folder.
            first_observation=(501, 901),
            # 3 % of the pixels: at the density of the detector most kinds would be absent.
            density=4.0,
            failed_share=0.25,
        ),
        "imaging": Mode(
            detectors=("MIRIMAGE",),
            list_setups=_list_imaging,
            build_scene=build_imaging_scene,
            depths=(((40, 1), 0.4), ((80, 1), 0.3), ((120, 1), 0.3)),
            ramp_depth=(12, 1),
            program="09001",
            dither=30.0,
        ),
        "mrs": Mode(
            detectors=("MIRIFUSHORT", "MIRIFULONG"),
            list_setups=_list_mrs,
            build_scene=build_mrs_scene,
            depths=(((60, 1), 0.4), ((120, 1), 0.3), ((120, 2), 0.3)),
            ramp_depth=(12, 1),
            program="09002",
            amplitude=0.5,
        ),
        "nirspec": Mode(
            detectors=("NRS1", "NRS2"),
            list_setups=_list_nirspec,
            build_scene=build_nirspec_scene,
            depths=(((10, 1), 0.4), ((16, 1), 0.3), ((20, 1), 0.3)),
            ramp_depth=(6, 1),
            program="09003",
            amplitude=0.2,
            dither=30.0,
        ),
        "nircam": Mode(
            detectors=(
                "NRCALONG",
                *(n for n, d in DETECTORS.items() if d.instrument == "NIRCAM" and n != "NRCALONG"),
            ),
            list_setups=_list_nircam,
            build_scene=build_nircam_scene,
            depths=(((6, 1), 0.4), ((8, 1), 0.3), ((10, 1), 0.3)),
            ramp_depth=(6, 1),
            program="09004",
            amplitude=0.2,
            dither=40.0,
        ),
        "wfi": Mode(
            detectors=tuple(n for n, d in DETECTORS.items() if d.instrument == "WFI"),
            list_setups=_list_wfi,
            build_scene=build_wfi_scene,
            depths=(((4, 1), 0.4), ((6, 1), 0.3), ((8, 1), 0.3)),
            ramp_depth=(3, 1),
            program="09005",
            amplitude=0.1,
            dither=150.0,
        ),
    }
)


def get_mode(name: str) -> Mode:
    """Look a mode up by its name.

    Raises
    ------
    DetectorError
        When there is no such mode.
    """
    if name not in MODES:
        raise DetectorError(
            f"mode must be one of {', '.join(MODES)}, found {name!r}; choose one of them"
        )
    return MODES[name]


def choose_detector(mode: str, detector: str | None) -> str:
    """Check the detector of a mode; None = its default.

    Raises
    ------
    DetectorError
        When the mode is unknown, or cannot use the detector.
    """
    known = get_mode(mode).detectors
    if detector is None:
        return known[0]
    if detector not in known:
        raise DetectorError(
            f"detector must be one of {', '.join(known)} for {mode}, found {detector!r}; "
            "choose one of them"
        )
    return detector


def build_scene(mode: str, *, detector: str | None = None, seed: int) -> Scene:
    """Build what the exposures of a mode see.

    Parameters
    ----------
    mode : str
        One of `MODES`.
    detector : str or None
        DETECTOR keyword; None = the default of the mode.
    seed : int
        Seed of the sky and of the pixels' response and dark pattern.

    Raises
    ------
    DetectorError
        When the mode is unknown, or cannot use the detector.
    """
    return get_mode(mode).build_scene(detector=choose_detector(mode, detector), seed=seed)
