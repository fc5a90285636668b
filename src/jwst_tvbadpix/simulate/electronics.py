"""Assumed electronics of each instrument: gain, noise, levels; regions of a detector.

Every number is an assumption of the simulation, not a calibration; the source is beside it.
"""

from dataclasses import dataclass

import numpy as np

from ..detectors import Detector, get_detector
from ..errors import DetectorError, EvidenceError

__all__ = [
    "MAX_DN",
    "Electronics",
    "Region",
    "compute_variances",
    "find_region",
    "get_electronics",
]

# [DN] ceiling of the 16-bit converter.
MAX_DN = 65535


@dataclass(frozen=True, slots=True)
class Electronics:
    """How a detector turns electrons into numbers.

    Attributes
    ----------
    gain_e_per_dn : float
        Gain [e/DN].
    read_noise_dn : float
        Noise of one group [DN].
    pedestal_dn : float
        Level of the first read, assumed equal for reference pixels [DN].
    saturation_dn : float
        Level at which the saturation reference cuts [DN].
    groups_lost : int
        Groups the pipeline leaves out of a fit.
    row_noise : float
        Noise common to a line along the fast axis (1/f), relative to `read_noise_dn`.
    """

    gain_e_per_dn: float
    read_noise_dn: float
    pedestal_dn: float
    saturation_dn: float
    groups_lost: int
    row_noise: float


# Gain: third-party simulators of MIRI (its documentation page says about 4). Read noise: MIRI
# Detector Performance page, "about 6 DN". Pedestal: usual first read of MIRI ramps. Saturation:
# 210 000 e full well less the pedestal. Lost: the first group (rscd) and the last (lastframe).
_MIRI = Electronics(3.1, 6.0, 9000.0, 57000.0, 2, 0.1)
# Of the order of the NIRCam detector documentation (about 2 e/DN, 10 e a read); assumptions.
_NIRCAM_SHORT = Electronics(2.05, 5.5, 12000.0, 58000.0, 0, 0.3)
_NIRCAM_LONG = Electronics(1.82, 5.2, 12000.0, 58000.0, 0, 0.3)
# Near-unity gain (in-flight detector paper of NIRSpec); the rest assumed as for NIRCam.
_NIRSPEC = Electronics(1.0, 8.0, 12000.0, 60000.0, 0, 0.3)
# Of the order of the H4RG-10 of WFI (15 e a read, full well about 100 000 e); assumptions.
_WFI = Electronics(1.8, 8.0, 5000.0, 60000.0, 0, 0.2)


def get_electronics(detector: str) -> Electronics:
    """Look up the electronics of a detector.

    Raises
    ------
    DetectorError
        When the detector is unknown, or its instrument is not simulated.
    """
    instrument = get_detector(detector).instrument
    if instrument == "NIRCAM":
        return _NIRCAM_LONG if detector.endswith("LONG") else _NIRCAM_SHORT
    known = {"MIRI": _MIRI, "NIRSPEC": _NIRSPEC, "WFI": _WFI}
    if instrument not in known:
        raise DetectorError(
            f"detector must belong to MIRI, NIRSPEC, NIRCAM or WFI, found {detector} of "
            f"{instrument}; its exposures are not simulated"
        )
    return known[instrument]


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
    rate: np.ndarray, *, ngroups: int, group_time_s: float, electronics: Electronics
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the variances that a slope fit to one integration has.

    Parameters
    ----------
    rate : ndarray of float, any shape
        Count rate [DN/s].
    ngroups : int
        Groups read out; ``electronics.groups_lost`` of them take no part.
    group_time_s : float
        Time between groups [s].
    electronics : Electronics
        Of the detector.

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
    n_fit = ngroups - electronics.groups_lost
    if n_fit < 2:
        raise EvidenceError(
            f"a slope needs at least {electronics.groups_lost + 2} groups, found {ngroups}; "
            "raise ngroups"
        )
    gain, noise = electronics.gain_e_per_dn, electronics.read_noise_dn
    light = np.maximum(rate, 0).astype(np.float32)
    # One pixel in thousands saturates: the common n is a scalar, the few are patched.
    var_poisson = light / np.float32(gain * (n_fit - 1) * group_time_s)
    var_rnoise = np.full(light.shape, _read_variance(n_fit, group_time_s, noise), np.float32)
    limit = (electronics.saturation_dn - electronics.pedestal_dn) / group_time_s
    steep = light * ngroups > limit
    saturated = np.zeros(light.shape, bool)
    if steep.any():
        n_good = np.clip(np.floor(limit / light[steep]) - 1, 0, n_fit)
        saturated[steep] = n_good < 2
        n_good = np.maximum(n_good, 2)
        var_poisson[steep] = light[steep] / (gain * (n_good - 1) * group_time_s)
        var_rnoise[steep] = _read_variance(n_good, group_time_s, noise)
    return var_poisson, var_rnoise, saturated


def _read_variance(
    n: float | np.ndarray, group_time_s: float, noise_dn: float
) -> float | np.ndarray:
    """Variance of a straight-line slope through n reads [(DN/s)^2]."""
    return 12 * noise_dn**2 / ((n**3 - n) * group_time_s**2)
