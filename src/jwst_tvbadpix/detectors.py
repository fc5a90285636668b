"""Facts of each detector: shape, reference pixels, dispersion axis, subarray corners."""

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
        DETECTOR and INSTRUME keywords.
    shape : tuple of int
        (ny, nx) of the full frame, reference pixels included.
    reference_columns, reference_rows : tuple of int
        Number of reference pixels at the (left, right) and (bottom, top) edges.
    fastaxis, slowaxis : int
        FASTAXIS and SLOWAXIS keywords of a full-frame file in DMS orientation.
    dispersion : dict
        EXP_TYPE -> DISPAXIS: 1 along x, 2 along y. An EXP_TYPE that is absent is an image.
    subarrays : dict
        SUBARRAY name -> (xstart, ystart, xsize, ysize), 1-based; None where only the file knows.
    """

    name: str
    instrument: str
    shape: tuple[int, int]
    reference_columns: tuple[int, int]
    reference_rows: tuple[int, int]
    fastaxis: int
    slowaxis: int
    dispersion: MappingProxyType[str, int]
    subarrays: MappingProxyType[str, tuple[int, int, int, int] | None]

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
_MIRIMAGE = Detector(
    name="MIRIMAGE",
    instrument="MIRI",
    shape=(1024, 1032),
    reference_columns=(4, 4),
    reference_rows=(0, 0),
    fastaxis=1,
    slowaxis=2,
    dispersion=MappingProxyType({"MIR_LRS-FIXEDSLIT": 2, "MIR_LRS-SLITLESS": 2}),
    subarrays=MappingProxyType(
        {
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
    ),
)

DETECTORS: MappingProxyType[str, Detector] = MappingProxyType({d.name: d for d in (_MIRIMAGE,)})


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
