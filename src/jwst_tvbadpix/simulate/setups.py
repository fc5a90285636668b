"""How an instrument is set for an exposure: detector, optics, subarray, read-out.

Apertures are those of SIAF to about an arcsecond; times follow the JWST documentation pages.
"""

from dataclasses import dataclass, replace

import numpy as np

from ..detectors import get_detector
from ..errors import DetectorError
from .electronics import Electronics, Region, find_region, get_electronics

__all__ = [
    "LRS_SLIT",
    "Aperture",
    "Setup",
    "make_imaging_setup",
    "make_lrs_setup",
    "make_mrs_setup",
    "make_nircam_setup",
    "make_nirspec_setup",
    "make_wfi_setup",
]

# [s] per frame of MIRI in FASTR1: documentation pages of the full frame, of the LRS time series,
# and of the imaging subarrays (these to a millisecond).
_FASTR1_S = {
    "FULL": 2.77504,
    "SLITLESSPRISM": 0.15904,
    "BRIGHTSKY": 0.865,
    "SUB256": 0.300,
    "SUB128": 0.119,
    "SUB64": 0.085,
}
_LRS_EXP_TYPE = {"FULL": "MIR_LRS-FIXEDSLIT", "SLITLESSPRISM": "MIR_LRS-SLITLESS"}
# READPATT: frames averaged and frames dropped in each group.
_FRAMES = {
    "FASTR1": (1, 0),
    "FASTGRPAVG16": (16, 0),
    "SHALLOW4": (4, 1),
    "MEDIUM8": (8, 2),
    "NRSRAPID": (1, 0),
    "NRS": (4, 0),
    "NRSIRS2RAPID": (1, 0),
    "NRSIRS2": (5, 0),
}
# [s] of one IRS2 frame, and what is left of the 1/f noise in it (assumption).
_IRS2_FRAME_S = 14.58889
_IRS2_ROW_NOISE = 0.03
# [s] of a full frame of WFI (Roman documentation), and how many a resultant averages (assumption).
_WFI_FRAME_S, _WFI_FRAMES = 3.16, 8


@dataclass(frozen=True, slots=True)
class Aperture:
    """Where an aperture lies in the telescope's field.

    Attributes
    ----------
    name : str
        Name in SIAF.
    v2, v3 : float
        Reference point [arcsec].
    v3_angle : float
        Angle of V3 to the ideal y axis [deg].
    scale : float
        Pixel scale [arcsec].
    """

    name: str
    v2: float
    v3: float
    v3_angle: float
    scale: float


@dataclass(frozen=True, slots=True)
class Setup:
    """How the instrument is set.

    Attributes
    ----------
    detector : str
        DETECTOR keyword.
    exp_type : str
        EXP_TYPE keyword.
    region : Region
        Part of the detector that is read.
    readpatt : str
        READPATT keyword.
    frame_time_s : float
        Time of one frame [s].
    electronics : Electronics
        Of the detector; the read noise is that of a group.
    optics : tuple of (str, str)
        Names within ``meta.instrument`` and their values: filter, band, grating, ...
    aperture : Aperture
        For the pointing keywords.
    nframes, groupgap : int
        Frames averaged and frames dropped in each group.
    dispersion_axis : int or None
        DISPAXIS in the header; None = absent, as before `assign_wcs`.
    """

    detector: str
    exp_type: str
    region: Region
    readpatt: str
    frame_time_s: float
    electronics: Electronics
    optics: tuple[tuple[str, str], ...]
    aperture: Aperture
    nframes: int = 1
    groupgap: int = 0
    dispersion_axis: int | None = None

    @property
    def group_time_s(self) -> float:
        """Time between groups [s]."""
        return self.frame_time_s * (self.nframes + self.groupgap)

    @property
    def element(self) -> str:
        """What changes the light on the detector: band, grating or filter."""
        optics = dict(self.optics)
        return optics.get("band") or optics.get("grating") or optics["filter"]


def make_lrs_setup(subarray: str = "FULL") -> Setup:
    """Set MIRI for LRS: 'FULL' (slit) or 'SLITLESSPRISM' (slitless).

    Raises
    ------
    DetectorError
        When the subarray is another one.
    """
    if subarray not in _LRS_EXP_TYPE:
        raise DetectorError(
            f"subarray must be one of {', '.join(_LRS_EXP_TYPE)} for LRS, found {subarray!r}; "
            "choose one, or give the setup of another mode"
        )
    slit = subarray == "FULL"
    name, v2, v3 = (
        ("MIRIM_SLIT", -414.27, -400.68) if slit else ("MIRIM_SLITLESSPRISM", -378.83, -344.94)
    )
    return Setup(
        detector="MIRIMAGE",
        exp_type=_LRS_EXP_TYPE[subarray],
        region=find_region(subarray),
        readpatt="FASTR1",
        frame_time_s=_FASTR1_S[subarray],
        electronics=get_electronics("MIRIMAGE"),
        optics=(("filter", "P750L"), ("ccc_state", "OPEN")),
        aperture=Aperture(name, v2, v3, 4.83, 0.11),
        dispersion_axis=2,
    )


LRS_SLIT = make_lrs_setup()


def make_imaging_setup(
    region: Region | None = None, *, filter_name: str = "F770W", readpatt: str = "FASTR1"
) -> Setup:
    """Set MIRI for imaging, in the full frame or a subarray; FASTR1 or FASTGRPAVG16.

    Raises
    ------
    DetectorError
        When the frame time of the subarray is not known.
    """
    region = region or find_region("FULL")
    if region.subarray not in _FASTR1_S:
        raise DetectorError(
            f"subarray must be one of {', '.join(_FASTR1_S)} for imaging, found "
            f"{region.subarray!r}; its frame time is not known here"
        )
    return Setup(
        detector="MIRIMAGE",
        exp_type="MIR_IMAGE",
        region=region,
        readpatt=readpatt,
        frame_time_s=_FASTR1_S[region.subarray],
        electronics=_average_frames(get_electronics("MIRIMAGE"), readpatt),
        optics=(("filter", filter_name), ("ccc_state", "OPEN")),
        aperture=Aperture(f"MIRIM_{region.subarray}", -453.56, -373.81, 4.83, 0.11),
        nframes=_FRAMES[readpatt][0],
    )


def make_mrs_setup(detector: str, band: str, region: Region | None = None) -> Setup:
    """Set MIRI for the MRS: 'MIRIFUSHORT' or 'MIRIFULONG', band 'SHORT', 'MEDIUM' or 'LONG'."""
    channel = "12" if detector == "MIRIFUSHORT" else "34"
    return Setup(
        detector=detector,
        exp_type="MIR_MRS",
        region=region or find_region("FULL", detector=detector),
        readpatt="FASTR1",
        frame_time_s=_FASTR1_S["FULL"],
        electronics=get_electronics(detector),
        optics=(("band", band), ("channel", channel), ("ccc_state", "OPEN")),
        aperture=Aperture("MIRIFU_CHANNEL1A", -503.65, -318.74, 7.6, 0.196),
    )


def make_nirspec_setup(
    detector: str, grating: str, readpatt: str, region: Region | None = None
) -> Setup:
    """Set NIRSpec for the MSA (full frame) or the fixed slits (a subarray)."""
    full = find_region("FULL", detector=detector)
    region = region or full
    whole = region.shape == full.shape
    long_pass = {"PRISM": "CLEAR", "G235M": "F170LP", "G395M": "F290LP"}
    electronics = _average_frames(get_electronics(detector), readpatt)
    if "IRS2" in readpatt:
        electronics = replace(electronics, row_noise=_IRS2_ROW_NOISE)
    return Setup(
        detector=detector,
        exp_type="NRS_MSASPEC" if whole else "NRS_FIXEDSLIT",
        region=region,
        readpatt=readpatt,
        frame_time_s=(
            _IRS2_FRAME_S
            if "IRS2" in readpatt
            else _compute_frame_time(detector, region, n_outputs=4 if whole else 1)
        ),
        electronics=electronics,
        optics=(("filter", long_pass[grating]), ("grating", grating)),
        aperture=(
            Aperture("NRS_FULL_MSA", 378.56, -428.40, 138.6, 0.10)
            if whole
            else Aperture("NRS_S200A1_SLIT", 332.14, -479.22, 138.8, 0.10)
        ),
        nframes=_FRAMES[readpatt][0],
        groupgap=_FRAMES[readpatt][1],
    )


def make_nircam_setup(detector: str, readpatt: str, region: Region | None = None) -> Setup:
    """Set NIRCam for imaging: F444W at long wavelengths, F200W at short ones."""
    region = region or find_region("FULL", detector=detector)
    long = detector.endswith("LONG")
    module = detector[3]
    # Reference points of the modules; those of the short detectors lie around them.
    v2 = 86.10 if module == "A" else -88.80
    sca = f"NRC{module}{5 if long else detector[4]}"
    nframes, groupgap = _FRAMES[readpatt]
    n_outputs = 4 if region.nx == get_detector(detector).shape[1] else 1
    return Setup(
        detector=detector,
        exp_type="NRC_IMAGE",
        region=region,
        readpatt=readpatt,
        frame_time_s=_compute_frame_time(detector, region, n_outputs=n_outputs),
        electronics=_average_frames(get_electronics(detector), readpatt),
        optics=(
            ("filter", "F444W" if long else "F200W"),
            ("pupil", "CLEAR"),
            ("module", module),
            ("channel", "LONG" if long else "SHORT"),
        ),
        aperture=Aperture(f"{sca}_{region.subarray}", v2, -493.23, 0.0, 0.063 if long else 0.031),
        nframes=nframes,
        groupgap=groupgap,
    )


def make_wfi_setup(detector: str, filter_name: str = "F158") -> Setup:
    """Set a detector of Roman's WFI for imaging: groups are its resultants."""
    electronics = get_electronics(detector)
    noise = electronics.read_noise_dn / np.sqrt(_WFI_FRAMES)
    return Setup(
        detector=detector,
        exp_type="WFI_IMAGE",
        region=find_region("FULL", detector=detector),
        readpatt="IM_SIMULATED",
        frame_time_s=_WFI_FRAME_S,
        electronics=replace(electronics, read_noise_dn=noise),
        optics=(("filter", filter_name),),
        # Reference point of the whole instrument.
        aperture=Aperture(f"{detector}_FULL", 1546.38, -892.79, -60.0, 0.11),
        nframes=_WFI_FRAMES,
    )


def _average_frames(electronics: Electronics, readpatt: str) -> Electronics:
    """Reduce the read noise to that of the mean of the frames of a group."""
    nframes = _FRAMES[readpatt][0]
    return replace(electronics, read_noise_dn=electronics.read_noise_dn / np.sqrt(nframes))


def _compute_frame_time(detector: str, region: Region, *, n_outputs: int) -> float:
    """Time of a HAWAII-2RG frame [s]: 10 us a pixel and overheads (NIRCam subarray page)."""
    fast, slow = region.nx, region.ny
    if abs(get_detector(detector).fastaxis) == 2:
        fast, slow = slow, fast
    if n_outputs == 4:
        return ((fast / 4 + 12) * (slow + 1) + 1) * 1e-5
    return (fast + 12) * (slow + 2) * 1e-5
