"""What falls on MIRIMAGE through P750L, one frozen layer per cause.

No flight frame was measured for the levels. y is the dispersion axis, wavelength falls with y.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .cosmic_rays import CosmicRays
from .layers import DarkPedestal, PixelPattern, RenderContext, Scene, make_box

__all__ = [
    "FIELD",
    "CoronagraphWindows",
    "FieldStars",
    "PersistenceStreak",
    "SkyField",
    "SlitStrip",
    "SourceTrace",
    "build_lrs_scene",
    "compute_wavelength",
]

# Rows of the slit spectrum and its columns (LRS apertures as commonly quoted; 0-based).
_SLIT_ROWS = (7, 396)
_SLIT_COLUMNS = (303.0, 347.0)
# Wavelength at the first and last row of a spectrum [um]: LRS covers about 4.5-14 um.
_WAVELENGTH_UM = (14.0, 4.5)
# Length of a dispersed point source [pixel]; that of the slit.
_TRACE_ROWS = _SLIT_ROWS[1] - _SLIT_ROWS[0]
# Field of the imager seen without a slit: first and last column, first and last row (0-based).
FIELD = (361.0, 1023.0, 8.0, 1020.0)
# Coronagraph windows as (y0, y1, x0, x1, share of the sky level), from the MASK subarrays of SIAF.
_WINDOWS = (
    (10, 228, 12, 228, 0.40),
    (246, 460, 12, 228, 0.36),
    (466, 690, 12, 228, 0.33),
    (718, 1018, 8, 300, 0.45),
)
# Temperature of the zodiacal dust [K]: COBE/DIRBE gives 260-280 K near 1 au.
_ZODI_KELVIN = 265.0
# Half width of a trace [pixel], 1 sigma: diffraction limit of MIRI at 7.7 um, 0.27" / 0.11".
_TRACE_SIGMA = (1.0, 1.8)


@dataclass(frozen=True, slots=True)
class SkyField:
    """Sky in the slitless field: plateau with a gradient, and steps of its dispersed edges."""

    level: float = 60.0
    gradient_x: float = 0.12
    gradient_y: float = -0.10
    edge: float = 1.6
    is_light: ClassVar[bool] = True

    def render(self, ctx: RenderContext) -> np.ndarray:
        """Render: float32 (ny, nx) [DN/s]."""
        x0, x1, y0, y1 = FIELD
        u = (ctx.x - 692) / 330
        v = (ctx.y - 512) / 512
        columns = make_box(ctx.x, x0, x1, self.edge)
        rows = make_box(ctx.y, y0, y1, self.edge)
        rows = rows * (1 + 0.12 * (1 + np.tanh((ctx.y - 150) / 3)))
        rows = rows * (1 - 0.15 * (1 + np.tanh((ctx.y - 905) / 3)))
        slope = 1 + self.gradient_x * u + self.gradient_y * v + 0.06 * v**2
        return (self.level * ctx.zodi * slope * rows * columns).astype(np.float32)


@dataclass(frozen=True, slots=True)
class CoronagraphWindows:
    """Sky through the coronagraph windows at the left of the detector, dispersed along y."""

    level: float = 60.0
    edge_x: float = 1.2
    edge_y: float = 60.0
    is_light: ClassVar[bool] = True

    def render(self, ctx: RenderContext) -> np.ndarray:
        """Render: float32 (ny, nx) [DN/s]."""
        image = np.zeros(ctx.region.shape, np.float32)
        for y0, y1, x0, x1, share in _WINDOWS:
            window = make_box(ctx.y, y0, y1, self.edge_y) * make_box(ctx.x, x0, x1, self.edge_x)
            image += share * self.level * ctx.zodi * window
        return image


@dataclass(frozen=True, slots=True)
class SlitStrip:
    """Sky through the LRS slit: a strip whose thermal spectrum rises towards low y."""

    level: float = 30.0
    tilt: float = 0.006
    edge: float = 0.9
    is_light: ClassVar[bool] = True

    def render(self, ctx: RenderContext) -> np.ndarray:
        """Render: float32 (ny, nx) [DN/s]; ``level`` is reached at 12 um."""
        first, last = _SLIT_ROWS
        shift = self.tilt * (ctx.y - 200)
        strip = make_box(ctx.x - shift, *_SLIT_COLUMNS, self.edge)
        wavelength = compute_wavelength((ctx.y - first) / (last - first))
        # Scattered light of the zodi and the warm telescope do not vary together.
        scale = 0.4 * ctx.zodi + 0.6 * ctx.thermal
        spectrum = 0.5 * ctx.zodi + self.level * scale * _compute_thermal(wavelength)
        spectrum = np.where((ctx.y >= first) & (ctx.y <= last), spectrum, 0)
        return (strip * spectrum).astype(np.float32)


@dataclass(frozen=True, slots=True)
class SourceTrace:
    """A source in the slit or the slitless aperture, in failed pointings only."""

    peak: float = 6.0
    peak_dex: float = 0.5
    is_light: ClassVar[bool] = True

    def render(self, ctx: RenderContext) -> np.ndarray:
        """Render: float32 (ny, nx) [DN/s]; position, width, slope and brightness are drawn."""
        image = np.zeros(ctx.region.shape, np.float32)
        if not ctx.failed:
            return image
        rng = ctx.generator("source")
        slitless = ctx.region.subarray == "SLITLESSPRISM"
        x_middle, y_start, half = (38.0, 540, 22.0) if slitless else (325.0, _SLIT_ROWS[0], 18.0)
        _add_trace(
            image,
            ctx,
            x_centre=x_middle + rng.uniform(-half, half),
            y_start=y_start,
            n_rows=_TRACE_ROWS,
            peak=self.peak * 10 ** rng.normal(0, self.peak_dex),
            sigma=rng.uniform(*_TRACE_SIGMA),
            tilt=0.006,
            slope=rng.normal(0.6, 0.4),
        )
        return image


@dataclass(frozen=True, slots=True)
class FieldStars:
    """Stars of the field, dispersed without a slit; more of them in failed pointings."""

    n_blank: float = 8.0
    n_failed: float = 30.0
    peak: float = 1.5
    peak_dex: float = 0.5
    is_light: ClassVar[bool] = True

    def render(self, ctx: RenderContext) -> np.ndarray:
        """Render: float32 (ny, nx) [DN/s]; the stars are drawn for the whole detector."""
        image = np.zeros(ctx.region.shape, np.float32)
        rng = ctx.generator("stars")
        n_stars = rng.poisson(self.n_failed if ctx.failed else self.n_blank)
        # Drawn as columns so that a star does not depend on which region is rendered.
        left = rng.random(n_stars) < 0.25
        x_centre = np.where(left, rng.uniform(8, 300, n_stars), rng.uniform(364, 1020, n_stars))
        y_start = rng.integers(-_TRACE_ROWS // 2, 1024 - _TRACE_ROWS // 2, n_stars)
        peak = (
            self.peak * (2.5 if ctx.failed else 1.0) * 10 ** rng.normal(0, self.peak_dex, n_stars)
        )
        sigma = rng.uniform(*_TRACE_SIGMA, n_stars)
        slope = rng.normal(0, 0.8, n_stars)
        for k in range(n_stars):
            _add_trace(
                image,
                ctx,
                x_centre=x_centre[k],
                y_start=int(y_start[k]),
                n_rows=_TRACE_ROWS,
                peak=peak[k],
                sigma=sigma[k],
                tilt=0.004,
                slope=slope[k],
            )
        return image


@dataclass(frozen=True, slots=True)
class PersistenceStreak:
    """What an earlier bright star leaves in some exposures: in Si:As a deficit, not an excess."""

    share: float = 0.125
    peak: float = 3.0
    is_light: ClassVar[bool] = True

    def render(self, ctx: RenderContext) -> np.ndarray:
        """Render: float32 (ny, nx) [DN/s], zero or negative."""
        image = np.zeros(ctx.region.shape, np.float32)
        rng = ctx.generator("persistence")
        if rng.random() >= self.share:
            return image
        _add_trace(
            image,
            ctx,
            x_centre=rng.uniform(380, 1000),
            y_start=int(rng.integers(0, 1024 - _TRACE_ROWS)),
            n_rows=_TRACE_ROWS,
            peak=-self.peak * rng.uniform(0.3, 2),
            sigma=2.2,
            tilt=0.004,
            slope=0.0,
        )
        return image


def build_lrs_scene(*, seed: int) -> Scene:
    """Build the scene of a blank-sky or failed LRS exposure, slit or slitless.

    Parameters
    ----------
    seed : int
        Seed of the pixels' response and dark pattern.
    """
    return Scene(
        layers=(
            SkyField(),
            CoronagraphWindows(),
            SlitStrip(),
            SourceTrace(),
            FieldStars(),
            PersistenceStreak(),
            DarkPedestal(),
        ),
        pattern=PixelPattern(seed=seed),
        crosstalk=0.01,
        cosmic_rays=CosmicRays(),
    )


def compute_wavelength(share: np.ndarray) -> np.ndarray:
    """Wavelength [um] at a share (0 = lowest row) of a spectrum; linear, which suffices here."""
    first, last = _WAVELENGTH_UM
    return first + (last - first) * np.clip(share, 0, 1)


def _compute_thermal(wavelength_um: np.ndarray) -> np.ndarray:
    """Photon spectrum of warm dust through a passband that ends at 13.5 um; 1 at 12 um."""

    def photons(um: np.ndarray | float) -> np.ndarray:
        # Photons per wavelength: lambda^-4 / (exp(hc / lambda k T) - 1).
        return um**-4.0 / np.expm1(14387.77 / (np.asarray(um) * _ZODI_KELVIN))

    passband = 1 / (1 + np.exp((wavelength_um - 13.5) / 0.15))
    return photons(wavelength_um) / photons(12.0) * passband


def _add_trace(
    image: np.ndarray,
    ctx: RenderContext,
    *,
    x_centre: float,
    y_start: int,
    n_rows: int,
    peak: float,
    sigma: float,
    tilt: float,
    slope: float,
) -> None:
    """Add a dispersed point source, in place and only where it falls."""
    region = ctx.region
    y_first = max(y_start, region.y_start)
    y_last = min(y_start + n_rows, region.y_start + region.ny)
    reach = 6 * sigma + abs(tilt) * n_rows / 2
    x_first = max(int(x_centre - reach), region.x_start)
    x_last = min(int(x_centre + reach) + 2, region.x_start + region.nx)
    if y_first >= y_last or x_first >= x_last:
        return
    y = np.arange(y_first, y_last)[:, None]
    share = (y - y_start + 0.5) / n_rows
    centre = x_centre + tilt * (y - y_start - n_rows / 2)
    across = np.exp(-0.5 * ((np.arange(x_first, x_last)[None, :] - centre) / sigma) ** 2)
    # Sensitivity fades over the last few per cent of the band at either end.
    ends = np.minimum(1, np.minimum(share, 1 - share) / 0.03)
    along = np.clip(1 + slope * (0.5 - share), 0.05, None) * ends
    window = (
        slice(y_first - region.y_start, y_last - region.y_start),
        slice(x_first - region.x_start, x_last - region.x_start),
    )
    image[window] += (peak * along * across).astype(np.float32)
