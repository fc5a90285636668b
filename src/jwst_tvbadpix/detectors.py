"""Facts of each detector: shape, reference pixels, read-out direction, subarray corners."""

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from .errors import DetectorError

__all__ = ["DETECTORS", "Detector", "get_detector"]


@dataclass(frozen=True, slots=True)
class Detector:
    """What a detector is, whatever was read out of it.

    Attributes
    ----------
    name, instrument : str
        DETECTOR and INSTRUME keywords; for Roman ``meta.instrument.detector`` and ``name``.
    shape : tuple of int
        (ny, nx) of the full frame, reference pixels included.
    reference_columns, reference_rows : tuple of int
        Number of reference pixels at the (left, right) and (bottom, top) edges.
    fastaxis, slowaxis : int
        FASTAXIS and SLOWAXIS keywords of a full-frame file in DMS orientation; 0 for WFI, whose
        files have no such keywords.
    subarrays : dict
        SUBARRAY name -> (xstart, ystart, xsize, ysize), 1-based; None where only the file knows.
    subarrays_complete : bool
        Whether `subarrays` lists every name there is; if not, others lie where the file says.
    pedestal : tuple of int or None
        (y0, y1, x0, x1), 0-based and half open, of pixels without light whose level is the drift
        of the dark current; None where the detector has none.
    irs2_shape : tuple of int or None
        (ny, nx) of ramps with interleaved reference pixels (READPATT NRSIRS2...); None where the
        detector is not read out like this. Rates always have `shape`.
    imager : tuple of int or None
        (y0, y1, x0, x1), 0-based and half open, of the imager's field where other optics feed the
        rest of the detector; None where all of it is one field.
    slit : tuple of int or None
        The same of the slit of a spectrograph that the detector sees beside the images.
    """

    name: str
    instrument: str
    shape: tuple[int, int]
    reference_columns: tuple[int, int]
    reference_rows: tuple[int, int]
    fastaxis: int
    slowaxis: int
    subarrays: MappingProxyType[str, tuple[int, int, int, int] | None]
    subarrays_complete: bool = False
    pedestal: tuple[int, int, int, int] | None = None
    irs2_shape: tuple[int, int] | None = None
    imager: tuple[int, int, int, int] | None = None
    slit: tuple[int, int, int, int] | None = None

    @property
    def telescope(self) -> str:
        """JWST or ROMAN."""
        return "ROMAN" if self.instrument == "WFI" else "JWST"

    def reference_pixels(self) -> np.ndarray:
        """Mark the reference pixels: bool (ny, nx), True = reference."""
        reference = np.zeros(self.shape, bool)
        left, right = self.reference_columns
        bottom, top = self.reference_rows
        ny, nx = self.shape
        reference[:, :left] = reference[:, nx - right :] = True
        reference[:bottom] = reference[ny - top :] = True
        return reference


# MIRI subarrays the pipeline's schema lists whose corners must come from the file.
_CORNERS_IN_FILE = (
    "SUBSLIT",
    "SUBPRISM",
    "SUB128_IP",
    "SUB64_IP",
    "SLITLESSPRISM_IP",
    "SLITLESSPRISM_IPS",
    "SUBPRISM_IP",
    "SUBPRISM_IPS",
)

# Corners and sizes: SIAF of MIRI.
_MIRIMAGE_SUBARRAYS = {
    "FULL": (1, 1, 1032, 1024),
    "BRIGHTSKY": (457, 51, 512, 512),
    "SUB256": (413, 51, 256, 256),
    "SUB128": (1, 889, 136, 128),
    "SUB64": (1, 779, 72, 64),
    "SLITLESSPRISM": (1, 529, 72, 416),
    "MASK1065": (1, 19, 288, 224),
    "MASK1140": (1, 245, 288, 224),
    "MASK1550": (1, 467, 288, 224),
    "MASKLYOT": (1, 717, 320, 304),
    **dict.fromkeys(_CORNERS_IN_FILE),
}

# Columns between the channels of the MRS: those of jwst.badpix_selfcal.
_PEDESTALS = {"MIRIFUSHORT": (50, 974, 503, 516), "MIRIFULONG": (50, 974, 474, 507)}

# MIRIM_ILLUM of SIAF, and the LRS slit: 4.7 x 0.51 arcsec about (325.13, 299.70), a pixel added.
_MIRI_ILLUMINATED = (0, 1024, 359, 1027)
_MIRI_SLIT = (296, 303, 301, 347)

# DETECTOR: (INSTRUME, FASTAXIS, SLOWAXIS) of the near-infrared detectors.
_NEAR_INFRARED = {
    "NRS1": ("NIRSPEC", 2, 1),
    "NRS2": ("NIRSPEC", -2, -1),
    "NRCA1": ("NIRCAM", -1, 2),
    "NRCA2": ("NIRCAM", 1, -2),
    "NRCA3": ("NIRCAM", -1, 2),
    "NRCA4": ("NIRCAM", 1, -2),
    "NRCALONG": ("NIRCAM", -1, 2),
    "NRCB1": ("NIRCAM", 1, -2),
    "NRCB2": ("NIRCAM", -1, 2),
    "NRCB3": ("NIRCAM", 1, -2),
    "NRCB4": ("NIRCAM", -1, 2),
    "NRCBLONG": ("NIRCAM", 1, -2),
    "NIS": ("NIRISS", -2, -1),
    "GUIDER1": ("FGS", -2, -1),
    "GUIDER2": ("FGS", 2, -1),
}


def _make_miri(name: str) -> Detector:
    """Make a Si:As detector of MIRI: reference columns and no reference rows."""
    imager = name == "MIRIMAGE"
    return Detector(
        name=name,
        instrument="MIRI",
        shape=(1024, 1032),
        reference_columns=(4, 4),
        reference_rows=(0, 0),
        fastaxis=1,
        slowaxis=2,
        subarrays=MappingProxyType(
            _MIRIMAGE_SUBARRAYS if imager else {"FULL": _MIRIMAGE_SUBARRAYS["FULL"]}
        ),
        subarrays_complete=imager,
        pedestal=_PEDESTALS.get(name),
        imager=_MIRI_ILLUMINATED if imager else None,
        slit=_MIRI_SLIT if imager else None,
    )


def _make_near_infrared(name: str, instrument: str, fastaxis: int, slowaxis: int) -> Detector:
    """Make a HAWAII-2RG detector: a frame of reference pixels, corners from the file."""
    return Detector(
        name=name,
        instrument=instrument,
        shape=(2048, 2048),
        reference_columns=(4, 4),
        reference_rows=(4, 4),
        fastaxis=fastaxis,
        slowaxis=slowaxis,
        subarrays=MappingProxyType({"FULL": (1, 1, 2048, 2048)}),
        irs2_shape=(3200, 2048) if instrument == "NIRSPEC" else None,
    )


def _make_wfi(name: str) -> Detector:
    """Make a H4RG-10 detector of Roman: images hold what lies within the reference pixels."""
    return Detector(
        name=name,
        instrument="WFI",
        shape=(4096, 4096),
        reference_columns=(4, 4),
        reference_rows=(4, 4),
        fastaxis=0,
        slowaxis=0,
        subarrays=MappingProxyType({"FULL": (5, 5, 4088, 4088)}),
        subarrays_complete=True,
    )


DETECTORS: MappingProxyType[str, Detector] = MappingProxyType(
    {name: _make_miri(name) for name in ("MIRIMAGE", *_PEDESTALS)}
    | {name: _make_near_infrared(name, *facts) for name, facts in _NEAR_INFRARED.items()}
    | {name: _make_wfi(name) for name in (f"WFI{number:02d}" for number in range(1, 19))}
)


def get_detector(name: str | None) -> Detector:
    """Look a detector up by its DETECTOR keyword.

    Raises
    ------
    DetectorError
        When the name is absent or not one this version knows.
    """
    if name is not None and name in DETECTORS:
        return DETECTORS[name]
    raise DetectorError(
        f"DETECTOR must be one of {', '.join(DETECTORS)}, found {name!r}; "
        "give exposures of one of these detectors"
    )
