"""What falls on the detectors of NIRSpec: traces along x on a frame that is mostly dark.

Levels and geometry are assumptions: rows of the slits to some tens of pixels, and no gap
between the detectors.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .cosmic_rays import CosmicRays
from .layers import DarkPedestal, PixelPattern, RenderContext, Scene, make_box

__all__ = ["FixedSlits", "ShutterTraces", "build_nirspec_scene"]

# Columns that spectra fill, by grating.
_COLUMNS = {"PRISM": (950.0, 1380.0), "G235M": (420.0, 1700.0), "G395M": (380.0, 1820.0)}
# Middle row and height of the spectra of the fixed slits.
_SLITS = ((905.0, 34), (948.0, 34), (1000.0, 40), (1048.0, 16), (1090.0, 34))
# Rows of the microshutters, below and above the fixed slits.
_SHUTTER_ROWS = ((40.0, 860.0), (1150.0, 2000.0))
# [pixel] tilt over the detector, and bend from the middle to an edge.
_TILT, _BEND = 6.0, 4.0


@dataclass(frozen=True, slots=True)
class FixedSlits:
    """Sky through the five fixed slits, which are always open."""

    level: float = 0.03
    is_light: ClassVar[bool] = True

    def render(self, ctx: RenderContext) -> np.ndarray:
        """Render: float32 (ny, nx) [DN/s]."""
        image = np.zeros(ctx.region.shape, np.float32)
        for row, height in _SLITS:
            _add_slit(image, ctx, row=row, height=height, level=self.level * ctx.zodi)
        return image


@dataclass(frozen=True, slots=True)
class ShutterTraces:
    """Slitlets of three shutters, other ones in each field, with a source in each.

    Attributes
    ----------
    seed : int
        Seed of the sky.
    n_slitlets : int
        Number of slitlets.
    sky : float
        Sky in them [DN/s].
    peak, peak_dex : float
        Continuum of a source at the middle of its trace: median [DN/s] and scatter [dex].
    """

    seed: int
    n_slitlets: int = 40
    sky: float = 0.03
    peak: float = 0.1
    peak_dex: float = 0.6
    is_light: ClassVar[bool] = True

    def render(self, ctx: RenderContext) -> np.ndarray:
        """Render: float32 (ny, nx) [DN/s]."""
        image = np.zeros(ctx.region.shape, np.float32)
        rng = ctx.field_generator(self.seed, "slitlets")
        for k in range(self.n_slitlets):
            first, last = _SHUTTER_ROWS[k % 2]
            row = rng.uniform(first, last) + 0.5
            peak = self.peak * 10 ** rng.normal(0, self.peak_dex)
            lines = rng.uniform(*_COLUMNS[ctx.element], 3), peak * rng.uniform(1, 8, 3)
            _add_slit(image, ctx, row=row, height=15, level=self.sky * ctx.zodi)
            centre = row + rng.uniform(-2, 2) + np.round(ctx.dither[0] / 10)
            _add_source(image, ctx, row=centre, peak=peak, lines=lines)
        return image


def build_nirspec_scene(*, detector: str = "NRS1", seed: int) -> Scene:
    """Build the scene of a NIRSpec exposure, microshutters or fixed slits.

    Parameters
    ----------
    detector : str
        'NRS1' or 'NRS2'; both see the same here.
    seed : int
        Seed of the sky and of the pixels' response and dark pattern.
    """
    return Scene(
        (FixedSlits(), ShutterTraces(seed), DarkPedestal(0.008)),
        pattern=PixelPattern(seed=seed, odd_even=0.0, dark_rms=0.003),
        crosstalk=0.01,
        cosmic_rays=CosmicRays(hits_per_s=68.0, shower_dn=20.0, shower_radius=(3.0, 12.0)),
    )


def _bend(x: np.ndarray) -> np.ndarray:
    """Row of a trace relative to its middle."""
    u = x / 1024 - 1
    return 0.5 * _TILT * u + _BEND * u**2


def _find_rows(ctx: RenderContext, row: float, reach: float) -> slice:
    """Rows of the region that a trace can reach."""
    margin = reach + _TILT + _BEND
    first = max(int(row - margin) - ctx.region.y_start, 0)
    return slice(first, max(first, min(int(row + margin) + 1 - ctx.region.y_start, ctx.region.ny)))


def _add_slit(
    image: np.ndarray, ctx: RenderContext, *, row: float, height: float, level: float
) -> None:
    """Add the spectrum of the sky in a slit, in place."""
    rows = _find_rows(ctx, row, height)
    along = make_box(ctx.x, *_COLUMNS[ctx.element], 15.0)
    y = ctx.y[rows] - row - _bend(ctx.x)
    image[rows] += (level * along * make_box(y, -height / 2, height / 2, 0.8)).astype(np.float32)


def _add_source(
    image: np.ndarray,
    ctx: RenderContext,
    *,
    row: float,
    peak: float,
    lines: tuple[np.ndarray, np.ndarray],
) -> None:
    """Add the trace of a point source with emission lines (columns, peaks), in place."""
    rows = _find_rows(ctx, row, 6.0)
    spectrum = peak * make_box(ctx.x, *_COLUMNS[ctx.element], 15.0)
    for column, strength in zip(*lines, strict=True):
        spectrum = spectrum + strength * np.exp(-0.5 * ((ctx.x - column) / 0.9) ** 2)
    across = np.exp(-0.5 * ((ctx.y[rows] - row - _bend(ctx.x)) / 0.8) ** 2)
    image[rows] += (spectrum * across).astype(np.float32)
