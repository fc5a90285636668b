"""How the optics of the MIRI imager bend the field: pixels to V2, V3, and what a pixel sees."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from astropy.modeling import Model, models
from stdatamodels.jwst.datamodels import DistortionModel

from .electronics import Region
from .layers import Layer, RenderContext
from .references import fill_reference
from .saving import save_model
from .setups import Aperture

__all__ = [
    "DISTORTION",
    "AreaOfPixels",
    "Optics",
    "make_distortion",
    "make_optics",
    "write_distortion",
]

_DETECTOR = "MIRIMAGE"
# File with the distortion reference.
DISTORTION = f"simulated_{_DETECTOR.lower()}_distortion.asdf"
# Middle of the field [pixel, 0-based] and where it lies [arcsec, deg]: SIAF, to an arcsecond.
_MIDDLE, _V2V3, _ANGLE = (692.5, 511.5), (-453.36, -373.67), 4.83
# Pixel in the middle [arcsec]; barrel and shear, at 512 pixels from the middle, that give the
# corners of the field 1.8 to 3.5 % less area than the middle has, as the real ones have
# (jwst_miri_imager_distortion_flt9: 0.973 to 0.990 against 1.009 of the mean).
_SCALE, _BARREL, _SHEAR = 0.1108, -0.0048, (0.0008, 0.0012)
_HALF = 512.0
# Degree of the polynomials that undo it: right to 0.0002 pixels.
_INVERSE_DEGREE = 7


def make_distortion() -> Model:
    """Make the transform of full-frame pixels (0-based) to V2, V3 [arcsec]; inverse included."""
    bend_x, bend_y = (models.Polynomial2D(3, **terms) for terms in _list_terms())
    grid = np.linspace(-1.7, 1.2, 60), np.linspace(-1.2, 1.2, 60)
    u, v = (plane.ravel() for plane in np.meshgrid(*grid))
    back = [_fit(bend_x(u, v), bend_y(u, v), wanted) for wanted in (u, v)]
    to_unit = models.Shift(-_MIDDLE[0]) & models.Shift(-_MIDDLE[1])
    to_unit |= models.Scale(1 / _HALF) & models.Scale(1 / _HALF)
    to_v2v3 = models.Scale(-_SCALE * _HALF) & models.Scale(_SCALE * _HALF)
    to_v2v3 |= models.Rotation2D(-_ANGLE)
    to_v2v3 |= models.Shift(_V2V3[0]) & models.Shift(_V2V3[1])
    split = models.Mapping((0, 1, 0, 1))
    forward = to_unit | split | bend_x & bend_y | to_v2v3
    forward.inverse = to_v2v3.inverse | split | back[0] & back[1] | to_unit.inverse
    return forward


def _list_terms() -> tuple[dict[str, float], dict[str, float]]:
    """Coefficients of the bent coordinates, in units of half a frame."""
    one, two = _SHEAR
    return (
        {"c1_0": 1.0, "c2_0": one, "c1_1": two, "c3_0": _BARREL, "c1_2": _BARREL},
        {"c0_1": 1.0, "c0_2": two, "c1_1": -one, "c0_3": _BARREL, "c2_1": _BARREL},
    )


def _fit(x: np.ndarray, y: np.ndarray, wanted: np.ndarray) -> Model:
    """Fit a polynomial in x and y."""
    model = models.Polynomial2D(_INVERSE_DEGREE)
    powers = [tuple(int(k) for k in name[1:].split("_")) for name in model.param_names]
    columns = np.stack([x**i * y**j for i, j in powers], axis=1)
    model.parameters = np.linalg.lstsq(columns, wanted, rcond=None)[0]
    return model


def write_distortion(folder: str | Path, model: "Model | None" = None) -> Path:
    """Write the distortion reference of the simulated imager.

    Parameters
    ----------
    folder : str or Path
        Where to write; made when absent.
    model : Model or None
        Full-frame pixels to V2, V3; None = that of `make_distortion`.

    Returns
    -------
    Path
        The file, ready for CRDS.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / DISTORTION
    reference = DistortionModel(
        model=make_distortion() if model is None else model,
        input_units="pixel",
        output_units="arcsec",
    )
    fill_reference(reference, path, "distortion", _DETECTOR)
    meta = reference.meta
    meta.input_units, meta.output_units = "pixel", "arcsec"
    meta.title = meta.description = "distortion of the simulated MIRI imager"
    meta.instrument.channel = meta.instrument.band = "N/A"
    meta.exposure.type = "MIR_IMAGE"
    return save_model(reference, path)


@dataclass(frozen=True)
class Optics:
    """The optics in front of a part of the detector.

    Attributes
    ----------
    transform : Model
        Full-frame pixels (0-based) to V2, V3 [arcsec], with an inverse.
    aperture : Aperture
        Its reference point is the middle of what is read out.
    """

    transform: Model
    aperture: Aperture

    def find_pixels(self, dx: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find where light falls that lies so far, undistorted, from the reference point [pixel].

        Returns
        -------
        x, y : ndarray of float
            Full-frame pixels, 0-based.
        """
        angle, scale = np.deg2rad(self.aperture.v3_angle), self.aperture.scale
        v2 = self.aperture.v2 + scale * (-np.cos(angle) * dx + np.sin(angle) * dy)
        v3 = self.aperture.v3 + scale * (np.sin(angle) * dx + np.cos(angle) * dy)
        x, y = self.transform.inverse(v2, v3)
        return x, y

    def compute_area(self, region: Region) -> np.ndarray:
        """Compute the area of each pixel over its mean: float32 (ny, nx)."""
        return _compute_area(self, region)


@lru_cache(maxsize=2)
def _compute_area(optics: Optics, region: Region) -> np.ndarray:
    y, x = np.mgrid[region.slices].astype(float)
    half = 0.5
    right, left = optics.transform(x + half, y), optics.transform(x - half, y)
    above, below = optics.transform(x, y + half), optics.transform(x, y - half)
    (ax, ay), (bx, by) = (
        (p - q for p, q in zip(*pair, strict=True))
        for pair in (
            (right, left),
            (above, below),
        )
    )
    area = np.abs(ax * by - ay * bx)
    area = (area / area.mean()).astype(np.float32)
    area.flags.writeable = False
    return area


def make_optics(region: Region, name: str, transform: "Model | None" = None) -> Optics:
    """Put the reference point of an aperture into the middle of what is read out.

    Parameters
    ----------
    region : Region
    name : str
        Of the aperture.
    transform : Model or None
        Full-frame pixels to V2, V3; None = that of `make_distortion`.
    """
    transform = make_distortion() if transform is None else transform
    x, y = region.x_start + (region.nx - 1) / 2, region.y_start + (region.ny - 1) / 2
    v2, v3 = transform(x, y)
    right, above = (np.subtract(transform(x + dx, y + dy), (v2, v3)) for dx, dy in ((1, 0), (0, 1)))
    scale = np.sqrt(abs(right[0] * above[1] - right[1] * above[0]))
    # The axis of the columns, as the mean of what both axes say.
    angle = np.arctan2(above[0] + right[1], above[1] - right[0])
    aperture = Aperture(name, float(v2), float(v3), float(np.rad2deg(angle)), float(scale))
    return Optics(transform, aperture)


@dataclass(frozen=True)
class AreaOfPixels:
    """Light of the sky, of which a pixel sees as much as it has area.

    Attributes
    ----------
    layer : Layer
    optics : Optics
    """

    layer: Layer
    optics: Optics
    is_light: ClassVar[bool] = True

    def render(self, ctx: RenderContext) -> np.ndarray:
        """Render: float32 (ny, nx) [DN/s]."""
        return self.layer.render(ctx) * self.optics.compute_area(ctx.region)
