"""A star of known spectrum on the LRS apertures, and the optics that its references share."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import DetectorError
from .layers import RenderContext
from .layers_lrs import compute_wavelength

__all__ = [
    "PIXEL_ARCSEC",
    "PIXEL_SR",
    "StarTrace",
    "Trace",
    "compute_profile",
    "compute_throughput",
    "get_trace",
]

# Pixel scale of the imager ["] (SIAF) and the solid angle it gives [sr].
PIXEL_ARCSEC = 0.11
PIXEL_SR = float(np.deg2rad(PIXEL_ARCSEC / 3600) ** 2)
# Rows of a spectrum, as in `layers_lrs`, and its drift along x per row; assumptions.
_N_ROWS = 389
_TILT = 0.006
# Width of the trace [pixel], 1 sigma: between the limits of diffraction at 5 and 12 um.
_SIGMA = 1.2


@dataclass(frozen=True, slots=True)
class Trace:
    """Where the spectrum of a source at the reference point lies, 0-based in the full frame.

    Attributes
    ----------
    first_row, n_rows : int
        Its rows; wavelength falls with the row.
    x_middle : float
        Column at its middle row.
    """

    first_row: int
    n_rows: int
    x_middle: float

    @property
    def rows(self) -> np.ndarray:
        """Rows: int (n_rows,)."""
        return np.arange(self.first_row, self.first_row + self.n_rows)

    @property
    def middle_row(self) -> float:
        """Row in which the trace crosses `x_middle`."""
        return self.first_row + self.n_rows / 2

    def wavelength(self, y: np.ndarray) -> np.ndarray:
        """Wavelength [um] at rows (any shape)."""
        return compute_wavelength((np.asarray(y, float) - self.first_row) / self.n_rows)

    def centre(self, y: np.ndarray) -> np.ndarray:
        """Column of the trace at rows (any shape)."""
        return self.x_middle + _TILT * (np.asarray(y, float) - self.middle_row)


_TRACES = {
    "FULL": Trace(7, _N_ROWS, 325.0),
    "SLITLESSPRISM": Trace(540, _N_ROWS, 38.0),
}


def get_trace(subarray: str) -> Trace:
    """Look up the trace of an LRS subarray: 'FULL' (slit) or 'SLITLESSPRISM'.

    Raises
    ------
    DetectorError
        When the subarray is another one.
    """
    if subarray not in _TRACES:
        raise DetectorError(
            f"subarray must be one of {', '.join(_TRACES)} for LRS, found {subarray!r}; choose one"
        )
    return _TRACES[subarray]


def compute_throughput(wavelength_um: np.ndarray) -> np.ndarray:
    """Compute the response of the LRS relative to its peak; a smooth shape, assumed."""
    return np.exp(-(((np.asarray(wavelength_um) - 7.5) / 5.0) ** 2))


def compute_profile(distance: np.ndarray) -> np.ndarray:
    """Compute the share of a source's light that a pixel sees at a distance [pixel] across."""
    return np.exp(-0.5 * (np.asarray(distance) / _SIGMA) ** 2) / (_SIGMA * np.sqrt(2 * np.pi))


@dataclass(frozen=True, slots=True)
class StarTrace:
    """The spectrum of a star at the reference point of the slit or of the slitless aperture.

    Attributes
    ----------
    flux_jy : float
        Flux density at 6 um [Jy].
    photmjsr : float
        Conversion at the peak of the throughput [MJy/sr / (DN/s)], that of the photom reference.
    """

    flux_jy: float = 2e-4
    photmjsr: float = 1.0
    is_light: ClassVar[bool] = True

    def flux(self, wavelength_um: np.ndarray) -> np.ndarray:
        """Compute the true flux density [Jy]: Rayleigh-Jeans, with a band of SiO at 8 um."""
        wavelength = np.asarray(wavelength_um, float)
        band = 0.08 * np.exp(-0.5 * ((wavelength - 8.0) / 0.35) ** 2)
        return self.flux_jy * (wavelength / 6.0) ** -2.0 * (1 - band)

    def counts(self, wavelength_um: np.ndarray) -> np.ndarray:
        """Compute the counts of a row [DN/s]."""
        dn_per_jy = compute_throughput(wavelength_um) / (self.photmjsr * 1e6 * PIXEL_SR)
        return self.flux(wavelength_um) * dn_per_jy

    def render(self, ctx: RenderContext) -> np.ndarray:
        """Render: float32 (ny, nx) [DN/s]."""
        trace = get_trace(ctx.region.subarray)
        y = ctx.y.astype(float)
        inside = (y >= trace.first_row) & (y < trace.first_row + trace.n_rows)
        image = self.counts(trace.wavelength(y)) * compute_profile(ctx.x - trace.centre(y))
        return np.where(inside, image, 0).astype(np.float32)
