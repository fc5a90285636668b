"""Assumed electronics of MIRIMAGE in FASTR1: gain, noise, times, subarrays.

Every number is an assumption of the simulation, not a calibration; the source is beside it.
"""

from dataclasses import dataclass

import numpy as np

from ..detectors import Detector, get_detector
from ..errors import DetectorError, EvidenceError

__all__ = [
    "FRAME_TIME_S",
    "GAIN_E_PER_DN",
    "GROUPS_LOST",
    "MAX_DN",
    "PEDESTAL_DN",
    "READ_NOISE_DN",
    "SATURATION_DN",
    "Region",
    "compute_variances",
    "find_region",
]

# [e/DN] third-party simulators of MIRI; the MIRI documentation page says about 4.
GAIN_E_PER_DN = 3.1
# [DN] of one read: MIRI Detector Performance page, "about 6 DN".
READ_NOISE_DN = 6.0
# [DN] usual first-read level of MIRI ramps; assumed equal for reference pixels.
PEDESTAL_DN = 9000.0
# [DN] where the simulated saturation reference cuts; 210 000 e full well less the pedestal.
SATURATION_DN = 57000.0
# [DN] ceiling of the 16-bit converter.
MAX_DN = 65535
# Groups the pipeline leaves out of a MIRI fit: the first (rscd) and the last (lastframe).
GROUPS_LOST = 2
# [s] per frame in FASTR1: MIRI documentation pages for the full frame and the LRS TSO mode.
FRAME_TIME_S = {"FULL": 2.77504, "SLITLESSPRISM": 0.15904}


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of the detector, 0-based.

    Attributes
    ----------
    subarray : str
        SUBARRAY keyword.
    y_start, x_start : int
        First row and column in the full frame.
    ny, nx : int
        Size.
    """

    subarray: str
    y_start: int
    x_start: int
    ny: int
    nx: int

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (ny, nx)."""
        return self.ny, self.nx

    @property
    def slices(self) -> tuple[slice, slice]:
        """Slices that cut this region from a full frame."""
        return (
            slice(self.y_start, self.y_start + self.ny),
            slice(self.x_start, self.x_start + self.nx),
        )


def find_region(subarray: str, *, detector: str | Detector = "MIRIMAGE") -> Region:
    """Look up where a subarray lies.

    Raises
    ------
    DetectorError
        When the detector has no such subarray, or its corners are not known.
    """
    facts = detector if isinstance(detector, Detector) else get_detector(detector)
    corners = facts.subarrays.get(subarray)
    if corners is None:
        known = ", ".join(name for name, value in facts.subarrays.items() if value is not None)
        raise DetectorError(
            f"SUBARRAY of {facts.name} must be one of {known}, found {subarray!r}; "
            "give one whose corners are known"
        )
    xstart, ystart, xsize, ysize = corners
    return Region(subarray, ystart - 1, xstart - 1, ysize, xsize)


def compute_variances(
    rate: np.ndarray, *, ngroups: int, group_time_s: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the variances that a slope fit to one integration has.

    Parameters
    ----------
    rate : ndarray of float, any shape
        Count rate [DN/s].
    ngroups : int
        Groups read out; ``GROUPS_LOST`` of them take no part.
    group_time_s : float
        Time between groups [s].

    Returns
    -------
    var_poisson, var_rnoise : ndarray of float32
        Variances [(DN/s)^2]; meaningless where saturated.
    saturated : ndarray of bool
        True where fewer than two groups lie below saturation.

    Raises
    ------
    EvidenceError
        When fewer than two groups are left.

    Notes
    -----
    With n groups in the fit, ``rate / (gain (n-1) t)`` and ``12 sigma^2 / ((n^3 - n) t^2)``; a
    pixel that saturates on the way has a smaller n of its own.
    """
    n_fit = ngroups - GROUPS_LOST
    if n_fit < 2:
        raise EvidenceError(
            f"a slope needs at least {GROUPS_LOST + 2} groups, found {ngroups}; raise ngroups"
        )
    light = np.maximum(rate, 0).astype(np.float32)
    # One pixel in thousands saturates: the common n is a scalar, the few are patched.
    var_poisson = light / np.float32(GAIN_E_PER_DN * (n_fit - 1) * group_time_s)
    var_rnoise = np.full(light.shape, _read_variance(n_fit, group_time_s), np.float32)
    limit = (SATURATION_DN - PEDESTAL_DN) / group_time_s
    steep = light * ngroups > limit
    saturated = np.zeros(light.shape, bool)
    if steep.any():
        n_good = np.clip(np.floor(limit / light[steep]) - 1, 0, n_fit)
        saturated[steep] = n_good < 2
        n_good = np.maximum(n_good, 2)
        var_poisson[steep] = light[steep] / (GAIN_E_PER_DN * (n_good - 1) * group_time_s)
        var_rnoise[steep] = _read_variance(n_good, group_time_s)
    return var_poisson, var_rnoise, saturated


def _read_variance(n: float | np.ndarray, group_time_s: float) -> float | np.ndarray:
    """Variance of a straight-line slope through n reads [(DN/s)^2]."""
    return 12 * READ_NOISE_DN**2 / ((n**3 - n) * group_time_s**2)
