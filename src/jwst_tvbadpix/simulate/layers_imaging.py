"""What falls on an imager: sky, stars and galaxies of dithered fields, persistence.

Source counts and sky levels are assumptions; no flight frame was measured for them.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..detectors import get_detector
from .cosmic_rays import CosmicRays
from .layers import DarkPedestal, Layer, PixelPattern, RenderContext, Scene, make_box
from .layers_lrs import FIELD, CoronagraphWindows

__all__ = [
    "ImagePersistence",
    "KnownStars",
    "SourceField",
    "UndispersedSky",
    "build_imaging_scene",
    "build_nircam_scene",
    "build_wfi_scene",
    "compute_star_profile",
]

# Exponent of the Moffat profile: wings that fall as those of a diffraction pattern on average.
_BETA = 2.0
# [pixel] beyond which the profile of a source is cut, for a source of 1 DN/s; grows with flux.
_REACH = (6.0, 80.0)
# [pixel] that sources may lie outside of the detector.
_MARGIN = 60
# FWHM [pixel]: JWST documentation, 0.269" of F770W / 0.11"; 0.145" of F444W / 0.063" (F200W has
# about the same 2.1 pixels of 0.031"). WFI: 0.14" with the pixel / 0.11" (assumption).
_FWHM = {"MIRI": 2.45, "NIRCAM": 2.30, "WFI": 1.3}


@dataclass(frozen=True, slots=True)
class UndispersedSky:
    """Sky with a gradient, within the field of view.

    Attributes
    ----------
    level : float
        At the middle [DN/s].
    gradient_x, gradient_y : float
        Relative change from the middle to an edge of the detector.
    field : tuple of float or None
        First and last column, first and last row that see the sky; None = all.
    """

    level: float
    gradient_x: float = 0.06
    gradient_y: float = -0.05
    field: tuple[float, float, float, float] | None = None
    is_light: ClassVar[bool] = True

    def render(self, ctx: RenderContext) -> np.ndarray:
        """Render: float32 (ny, nx) [DN/s]."""
        ny, nx = get_detector(ctx.detector).shape
        u, v = 2 * ctx.x / nx - 1, 2 * ctx.y / ny - 1
        image = self.level * ctx.zodi * (1 + self.gradient_x * u + self.gradient_y * v)
        return (image * _stop(ctx, self.field)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class SourceField:
    """Stars and galaxies of the field, where the dither puts them.

    Attributes
    ----------
    seed : int
        Seed of the sky.
    fwhm : float
        Of a star [pixel].
    n_sources : float
        Expected number on the detector.
    faintest : float
        Flux of the faintest [DN/s]; numbers above a flux fall as its power ``-slope``.
    slope : float
        See there.
    galaxies : float
        Share of sources that are extended, 1.5 to 5 times as wide as a star.
    field : tuple of float or None
        First and last column, first and last row that see them; None = all.
    """

    seed: int
    fwhm: float
    n_sources: float
    faintest: float
    slope: float = 0.8
    galaxies: float = 0.4
    field: tuple[float, float, float, float] | None = None
    is_light: ClassVar[bool] = True

    def render(self, ctx: RenderContext) -> np.ndarray:
        """Render: float32 (ny, nx) [DN/s]."""
        image = np.zeros(ctx.region.shape, np.float32)
        rng = ctx.field_generator(self.seed, "sources")
        ny, nx = get_detector(ctx.detector).shape
        wide = (ny + 2 * _MARGIN) * (nx + 2 * _MARGIN) / (ny * nx)
        n = rng.poisson(self.n_sources * wide)
        y = rng.uniform(-_MARGIN, ny + _MARGIN, n) + ctx.dither[0]
        x = rng.uniform(-_MARGIN, nx + _MARGIN, n) + ctx.dither[1]
        flux = self.faintest * rng.uniform(1e-4, 1, n) ** (-1 / self.slope)
        extended = rng.random(n) < self.galaxies
        fwhm = self.fwhm * np.where(extended, rng.uniform(1.5, 5, n), 1)
        for k in range(n):
            add_source(image, ctx, y=y[k], x=x[k], flux=flux[k], fwhm=fwhm[k])
        return image * _stop(ctx, self.field)


@dataclass(frozen=True, slots=True)
class KnownStars:
    """Stars at given places, moved by the dither.

    Attributes
    ----------
    y, x : ndarray of float, shape (n,)
        Full-frame position without dither, 0-based [pixel].
    flux : ndarray of float, shape (n,)
        Counts [DN/s].
    fwhm : float
        [pixel]
    """

    y: np.ndarray
    x: np.ndarray
    flux: np.ndarray
    fwhm: float
    is_light: ClassVar[bool] = True

    def render(self, ctx: RenderContext) -> np.ndarray:
        """Render: float32 (ny, nx) [DN/s]."""
        image = np.zeros(ctx.region.shape, np.float32)
        places = self.y + ctx.dither[0], self.x + ctx.dither[1]
        for y, x, flux in zip(*places, self.flux, strict=True):
            add_source(image, ctx, y=y, x=x, flux=flux, fwhm=self.fwhm)
        return image


@dataclass(frozen=True, slots=True)
class ImagePersistence:
    """What bright stars of the exposures before left in some exposures.

    Attributes
    ----------
    fwhm : float
        Of a star [pixel].
    flux : float
        Median flux of an afterimage [DN/s]: an excess in HgCdTe, in Si:As a deficit.
    share : float
        Share of exposures with afterimages.
    n_stars : float
        Expected number on the detector in these.
    """

    fwhm: float
    flux: float
    share: float = 0.3
    n_stars: float = 4.0
    is_light: ClassVar[bool] = True

    def render(self, ctx: RenderContext) -> np.ndarray:
        """Render: float32 (ny, nx) [DN/s]."""
        image = np.zeros(ctx.region.shape, np.float32)
        rng = ctx.generator("afterimages")
        if rng.random() >= self.share:
            return image
        ny, nx = get_detector(ctx.detector).shape
        for _ in range(rng.poisson(self.n_stars)):
            y, x = rng.uniform(0, ny), rng.uniform(0, nx)
            flux = self.flux * 10 ** rng.normal(0, 0.4)
            add_source(image, ctx, y=y, x=x, flux=flux, fwhm=2 * self.fwhm)
        return image


def build_imaging_scene(*, detector: str = "MIRIMAGE", seed: int) -> Scene:
    """Build the scene of MIRI imaging in F770W: sky, windows of the coronagraphs, star fields.

    Parameters
    ----------
    detector : str
        DETECTOR keyword.
    seed : int
        Seed of the sky and of the pixels' response and dark pattern.
    """
    fwhm, level = _FWHM["MIRI"], 20.0
    return _build(
        UndispersedSky(level, field=FIELD),
        CoronagraphWindows(level, edge_y=1.2),
        SourceField(seed, fwhm, n_sources=200, faintest=3.0, field=FIELD),
        ImagePersistence(fwhm, -30.0),
        DarkPedestal(),
        pattern=PixelPattern(seed=seed),
        cosmic_rays=CosmicRays(),
    )


def build_nircam_scene(*, detector: str = "NRCALONG", seed: int) -> Scene:
    """Build the scene of NIRCam imaging in F444W or F200W; parameters as in the MIRI scene."""
    fwhm = _FWHM["NIRCAM"]
    long = detector.endswith("LONG")
    return _build(
        # Zodiacal light of 0.6 e/s and pixel at 4.4 um, a fourth of it in the smaller pixels.
        UndispersedSky(0.35 if long else 0.1),
        SourceField(seed, fwhm, n_sources=1000 if long else 300, faintest=1.0),
        ImagePersistence(fwhm, 2.0),
        DarkPedestal(0.02 if long else 0.001),
        pattern=PixelPattern(seed=seed, odd_even=0.0, dark_rms=0.004),
        # 13.6 cm^2; the showers here are snowballs: smaller, and what is left of them is faint.
        cosmic_rays=CosmicRays(hits_per_s=68.0, shower_dn=20.0, shower_radius=(3.0, 12.0)),
    )


def build_wfi_scene(*, detector: str = "WFI01", seed: int) -> Scene:
    """Build the scene of WFI imaging in F158; parameters as in the MIRI scene."""
    fwhm = _FWHM["WFI"]
    ny, nx = get_detector(detector).shape
    return _build(
        # Zodiacal light of about 0.45 e/s and pixel.
        UndispersedSky(0.25),
        SourceField(seed, fwhm, n_sources=5e-4 * ny * nx, faintest=0.5),
        ImagePersistence(fwhm, 1.0, n_stars=1e-6 * ny * nx),
        DarkPedestal(0.003),
        pattern=PixelPattern(seed=seed, odd_even=0.0, dark_rms=0.003),
        # 16.8 cm^2; showers are snowballs, as in NIRCam.
        cosmic_rays=CosmicRays(hits_per_s=84.0, shower_dn=20.0, shower_radius=(3.0, 12.0)),
    )


def _build(*layers: Layer, pattern: PixelPattern, cosmic_rays: CosmicRays) -> Scene:
    return Scene(layers, pattern=pattern, crosstalk=0.01, cosmic_rays=cosmic_rays)


def compute_star_profile(distance: np.ndarray, fwhm: float) -> np.ndarray:
    """Compute the share of a star's light that a pixel sees at a distance [pixel]: Moffat."""
    width2 = (fwhm / 2) ** 2 / (2 ** (1 / _BETA) - 1)
    return (_BETA - 1) / (np.pi * width2) * (1 + distance**2 / width2) ** -_BETA


def _stop(
    ctx: RenderContext, field: tuple[float, float, float, float] | None
) -> np.ndarray | np.float32:
    """Transmission of the field stop: 1 within (x0, x1, y0, y1), 0 outside, soft edges."""
    if field is None:
        return np.float32(1)
    x0, x1, y0, y1 = field
    stop = make_box(ctx.y, y0, y1, 1.2) * make_box(ctx.x, x0, x1, 1.2)
    return stop.astype(np.float32)


def add_source(
    image: np.ndarray, ctx: RenderContext, *, y: float, x: float, flux: float, fwhm: float
) -> None:
    """Add a Moffat profile, in place and only where it falls."""
    region = ctx.region
    reach = np.clip(_REACH[0] * np.sqrt(abs(flux)) * fwhm / 2, *_REACH)
    first = np.maximum(np.ceil([y - reach, x - reach]), [region.y_start, region.x_start])
    last = np.minimum(
        np.floor([y + reach, x + reach]) + 1,
        [region.y_start + region.ny, region.x_start + region.nx],
    )
    if (first >= last).any():
        return
    rows = np.arange(first[0], last[0])[:, None]
    columns = np.arange(first[1], last[1])[None, :]
    profile = compute_star_profile(np.hypot(rows - y, columns - x), fwhm)
    window = (
        slice(int(first[0]) - region.y_start, int(last[0]) - region.y_start),
        slice(int(first[1]) - region.x_start, int(last[1]) - region.x_start),
    )
    image[window] += (flux * profile).astype(np.float32)
