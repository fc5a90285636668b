"""What falls on the detectors of the MRS: slices of two channels, and a dark level that drifts.

Levels and geometry are assumptions; slices, gap and curvature are those of a typical frame to
some pixels. y is the dispersion axis.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .cosmic_rays import CosmicRays
from .layers import PixelPattern, RenderContext, Scene

__all__ = ["DriftingPedestal", "SlicedChannel", "build_mrs_scene"]

# [pixel] by which the slices of the other bands lie beside those of SHORT.
_BAND_SHIFT = {"SHORT": 0.0, "MEDIUM": 2.5, "LONG": -2.0}
# [rad] between the fringes of one slice and the next, and of one band and the next.
_FRINGE_STEP, _FRINGE_BAND = 1.7, 2.0


@dataclass(frozen=True, slots=True)
class SlicedChannel:
    """Sky and telescope through one channel: curved slices along y with gaps between them.

    Attributes
    ----------
    x_first, x_last : float
        Columns of the channel.
    n_slices : int
        Number of slices.
    level : float
        Continuum at the middle row [DN/s].
    growth : float
        Natural logarithm of the continuum at the top relative to the middle.
    bend : float
        How far slices bend from the middle row to the top and bottom [pixel].
    filling : float
        Share of the columns that slices cover.
    fringe_depth, fringe_period : float
        Relative amplitude and period at the middle row [pixel] of the fringes.
    """

    x_first: float
    x_last: float
    n_slices: int
    level: float
    growth: float = 0.5
    bend: float = 6.0
    filling: float = 0.8
    fringe_depth: float = 0.08
    fringe_period: float = 22.0
    is_light: ClassVar[bool] = True

    def render(self, ctx: RenderContext) -> np.ndarray:
        """Render: float32 (ny, nx) [DN/s]."""
        v = ctx.y / 512 - 1
        pitch = (self.x_last - self.x_first - 2 * self.bend) / self.n_slices
        shift = self.x_first + self.bend + self.bend * v**2 + _BAND_SHIFT[ctx.element]
        place = (ctx.x - shift) / pitch
        number = np.floor(place)
        # Distance to the edge of the slice [pixel], positive inside.
        inside = (0.5 * self.filling - np.abs(place - number - 0.5)) * pitch
        slices = 0.5 * (1 + np.tanh(inside / 0.8))
        slices = np.where((number >= 0) & (number < self.n_slices), slices, 0)
        phase = _FRINGE_STEP * number + _FRINGE_BAND * _BAND_SHIFT[ctx.element]
        # The period grows with the wavelength.
        waves = 2 * np.pi * 512 / self.fringe_period * (v - 0.1 * v**2)
        fringes = 1 + self.fringe_depth * np.sin(waves + phase)
        warm = 0.4 * ctx.zodi + 0.6 * ctx.thermal
        return (self.level * warm * np.exp(self.growth * v) * slices * fringes).astype(np.float32)


@dataclass(frozen=True, slots=True)
class DriftingPedestal:
    """Dark current whose level differs from exposure to exposure, also between the channels."""

    level: float = 0.1
    drift: float = 0.05
    is_light: ClassVar[bool] = False

    def render(self, ctx: RenderContext) -> np.ndarray:
        """Render: float32 (ny, nx) [DN/s]."""
        level = self.level + self.drift * ctx.generator("pedestal").standard_normal()
        return np.full(ctx.region.shape, level, np.float32)


def build_mrs_scene(*, detector: str = "MIRIFUSHORT", seed: int) -> Scene:
    """Build the scene of an MRS background exposure.

    Parameters
    ----------
    detector : str
        'MIRIFUSHORT' (channels 1 and 2) or 'MIRIFULONG' (4 and 3).
    seed : int
        Seed of the pixels' response and dark pattern.
    """
    if detector == "MIRIFUSHORT":
        channels = SlicedChannel(10, 501, 21, 0.3), SlicedChannel(518, 1022, 17, 0.6)
    else:
        # The telescope glows in channel 4.
        channels = SlicedChannel(10, 472, 12, 15.0, 1.0), SlicedChannel(509, 1022, 16, 2.0)
    return Scene(
        (*channels, DriftingPedestal()),
        pattern=PixelPattern(seed=seed, dark_rms=0.02),
        crosstalk=0.01,
        cosmic_rays=CosmicRays(),
    )
