"""What layers have in common: the exposure they see, the pixels they fall on, the scene they make.

Levels and geometry of all layers are assumptions of the simulation unless a source is named.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Protocol
from zlib import crc32

import numpy as np

from ..detectors import get_detector
from .cosmic_rays import CosmicRays
from .electronics import Region

__all__ = [
    "DarkPedestal",
    "Layer",
    "PixelPattern",
    "RenderContext",
    "Scene",
    "make_box",
]


@dataclass(frozen=True, slots=True)
class RenderContext:
    """What a layer needs to know of an exposure.

    Attributes
    ----------
    region : Region
        Part of the detector to render.
    detector : str
        DETECTOR keyword.
    zodi, thermal : float
        Sky and warm background relative to the nominal level.
    failed : bool
        True where the telescope pointed elsewhere and a source may lie in the slit.
    seed : int
        Seed of the exposure.
    field : int
        Part of the sky: exposures that share it see the same sources.
    dither : tuple of float
        How far (y, x) the sources of the field lie from their nominal place [pixel].
    element : str
        Filter, grating or band.
    roll : float
        Angle of north to the y axis [deg], for layers that lie on the sky.
    """

    region: Region
    detector: str = "MIRIMAGE"
    zodi: float = 1.0
    thermal: float = 1.0
    failed: bool = False
    seed: int = 0
    field: int = 0
    dither: tuple[float, float] = (0.0, 0.0)
    element: str = ""
    roll: float = 0.0

    @property
    def y(self) -> np.ndarray:
        """Full-frame rows: float32 (ny, 1)."""
        start = self.region.y_start
        return np.arange(start, start + self.region.ny, dtype=np.float32)[:, None]

    @property
    def x(self) -> np.ndarray:
        """Full-frame columns: float32 (1, nx)."""
        start = self.region.x_start
        return np.arange(start, start + self.region.nx, dtype=np.float32)[None, :]

    def generator(self, *names: str | int) -> np.random.Generator:
        """Make a generator of its own for each cause, so that layers do not disturb each other."""
        return np.random.default_rng([self.seed, *_hash(names)])

    def field_generator(self, seed: int, *names: str | int) -> np.random.Generator:
        """Make the like that depends on the seed of the sky and the field alone."""
        return np.random.default_rng([seed, self.field, *_hash(names)])


def _hash(names: tuple[str | int, ...]) -> list[int]:
    return [crc32(str(name).encode()) for name in names]


class Layer(Protocol):
    """Something that adds counts; ``is_light`` says whether the pixel response applies."""

    is_light: ClassVar[bool]

    def render(self, ctx: RenderContext) -> np.ndarray:
        """Render: float32 (ny, nx) [DN/s]."""
        ...


@dataclass(frozen=True, slots=True)
class DarkPedestal:
    """Dark current and glow; 0.2 e/s of the MIRI documentation page plus a glow."""

    level: float = 0.3
    is_light: ClassVar[bool] = False

    def render(self, ctx: RenderContext) -> np.ndarray:
        """Render: float32 (ny, nx) [DN/s]."""
        return np.full(ctx.region.shape, self.level, np.float32)


@dataclass(frozen=True, slots=True)
class PixelPattern:
    """What belongs to the pixels themselves, the same in every exposure.

    Attributes
    ----------
    seed : int
        Seed of the detector.
    response_rms : float
        Scatter of the response (P-flat): 1.3 % in CRDS flats of MIRI, 1 % assumed.
    odd_even : float
        Half difference of the response of even and odd columns.
    dark_rms : float
        Scatter of the dark current [DN/s].
    """

    seed: int = 0
    response_rms: float = 0.01
    odd_even: float = 0.004
    dark_rms: float = 0.05

    def response(self, region: Region, *, detector: str = "MIRIMAGE") -> np.ndarray:
        """Cut the response to light from the full frame: float32 (ny, nx), 1 on average."""
        noise = _draw_pattern(get_detector(detector).shape, self.seed, 0)[region.slices]
        columns = np.arange(region.x_start, region.x_start + region.nx)
        sign = np.where(columns % 2 == 0, 1, -1).astype(np.float32)
        return 1 + np.float32(self.response_rms) * noise + np.float32(self.odd_even) * sign

    def dark(self, region: Region, *, detector: str = "MIRIMAGE") -> np.ndarray:
        """Cut the fixed dark pattern from the full frame: float32 (ny, nx) [DN/s]."""
        noise = _draw_pattern(get_detector(detector).shape, self.seed, 1)[region.slices]
        return np.float32(self.dark_rms) * noise


@dataclass(frozen=True, slots=True)
class Scene:
    """Layers and the pixels they fall on.

    Attributes
    ----------
    layers : tuple of Layer
        What adds counts.
    pattern : PixelPattern or None
        Response and dark of the pixels; None = perfect pixels.
    crosstalk : float
        Share of each pixel's counts that each of its four neighbours sees (inter-pixel
        capacitance; 0.01 assumed in the scenes of all modes).
    cosmic_rays : CosmicRays or None
        What hits the detector.
    """

    layers: tuple[Layer, ...] = ()
    pattern: PixelPattern | None = None
    crosstalk: float = 0.0
    cosmic_rays: CosmicRays | None = None

    def add(self, *layers: Layer) -> "Scene":
        """Add layers: a new scene, this one stays as it is."""
        return replace(self, layers=(*self.layers, *layers))

    def render(self, ctx: RenderContext) -> tuple[np.ndarray, np.ndarray]:
        """Render light (pixel response applied) and dark: two float32 (ny, nx) [DN/s]."""
        light = np.zeros(ctx.region.shape, np.float32)
        dark = np.zeros(ctx.region.shape, np.float32)
        for layer in self.layers:
            if layer.is_light:
                light += layer.render(ctx)
            else:
                dark += layer.render(ctx)
        if self.pattern is not None:
            light *= self.pattern.response(ctx.region, detector=ctx.detector)
            dark += self.pattern.dark(ctx.region, detector=ctx.detector)
        return light, dark


@lru_cache(maxsize=4)
def _draw_pattern(shape: tuple[int, int], seed: int, stream: int) -> np.ndarray:
    """Draw unit normal noise for the whole detector, once per seed; read-only."""
    noise = np.random.default_rng([seed, 2, stream]).standard_normal(shape, np.float32)
    noise.flags.writeable = False
    return noise


def make_box(at: np.ndarray, first: float, last: float, edge: float) -> np.ndarray:
    """Soft-edged box: 1 between first and last, 0 outside."""
    return 0.5 * (np.tanh((at - first) / edge) - np.tanh((at - last) / edge))
