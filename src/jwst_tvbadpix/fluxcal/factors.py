"""Calibration factors as a photom reference holds them: one per row."""

from dataclasses import dataclass

import numpy as np

from .modes import Mode
from .throughput import Throughput

__all__ = ["Factor"]


@dataclass(frozen=True, slots=True)
class Factor:
    """One row of a photom reference.

    Attributes
    ----------
    mode : Mode
        What it converts.
    subarray : str
        As in SUBARRAY; 'GENERIC' for any.
    value, uncertainty : float
        Conversion at the throughput's t0 and its 1-sigma error: MJy/sr per DN/s for images, MJy
        per DN/s for spectra of point sources.
    throughput : Throughput
        Its change with time.
    wave, relresponse, reluncertainty : ndarray or None
        For spectra: wavelengths [um], conversion relative to `value` and its error, (nelem,)
        float64.
    """

    mode: Mode
    subarray: str
    value: float
    uncertainty: float
    throughput: Throughput
    wave: np.ndarray | None = None
    relresponse: np.ndarray | None = None
    reluncertainty: np.ndarray | None = None
