"""A flat-field programme: a dense star field seen all over an imager, with a known response."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from astropy.io import fits
from astropy.modeling import Model

from ..detectors import get_detector
from ..errors import EvidenceError
from .electronics import Region
from .exposures import ExposureSpec
from .layers import Layer, PixelPattern, RenderContext, Scene, make_box
from .layers_imaging import UndispersedSky, add_source
from .layers_lrs import FIELD
from .optics import AreaOfPixels, Optics, make_optics
from .setups import Setup, make_imaging_setup
from .writers import write_association, write_rate

__all__ = [
    "FLAT_TRUTH",
    "FieldOfView",
    "FlatPattern",
    "FlatProgramme",
    "StarCloud",
    "simulate_flat_programme",
    "write_flat_truth",
]

# File with the truth.
FLAT_TRUTH = "truth_flat.fits"

# FWHM [pixel] of the filters that are simulated: JWST documentation, MIRI point-spread functions.
_FWHM = {"F560W": 1.88, "F770W": 2.45, "F1000W": 2.98, "F1500W": 4.44}
# Stars of this flux [DN/s] and more; numbers above a flux fall as its power -slope (assumptions).
_FAINTEST, _SLOPE = 20.0, 0.9
_BRIGHTEST = 2e4
# Dithers within a tile, and their steps between tiles, in units of the smaller side of the frame.
_DITHER, _TILES = 0.09, ((0, 0), (0.27, 0.4), (-0.27, 0.4), (0.27, -0.4), (-0.27, -0.4))
# Scatter of the sky and of the sensitivity from exposure to exposure; pointing error [pixel].
_SKY_SCATTER, _ZERO_POINT_SCATTER, _POINTING_ERROR = 0.02, 0.002, 0.7
# Depth of an exposure [s].
_EXPOSURE_S = 300.0
# Time between exposures and between visits [day].
_CADENCE, _VISIT_GAP = 0.004, 0.1


@dataclass(frozen=True, slots=True)
class FlatPattern(PixelPattern):
    """Response of the pixels times a smooth response, and how the latter drifts.

    Attributes
    ----------
    smooth : float
        Peak of the smooth response.
    drift : float
        What of a fixed quadratic shape is added to it.
    """

    smooth: float = 0.012
    drift: float = 0.0

    def response(self, region: Region, *, detector: str = "MIRIMAGE") -> np.ndarray:
        """Cut the response to star light from the full frame: float32 (ny, nx)."""
        pixels = PixelPattern.response(self, region, detector=detector)
        ny, nx = get_detector(detector).shape
        rows, columns = region.slices
        v = 2 * np.arange(ny)[rows][:, None] / ny - 1
        u = 2 * np.arange(nx)[columns][None, :] / nx - 1
        shape = u - 0.7 * v + 0.8 * (u**2 - 1 / 3) - 0.5 * u * v + 0.4 * (v**2 - 1 / 3)
        drift = self.drift * (u**2 + v**2 - 2 / 3)
        return (pixels * (1 + self.smooth * shape + drift)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class StarCloud:
    """Stars at fixed places of the sky, about the direction that the exposures point to.

    Attributes
    ----------
    seed : int
        Seed of the sky.
    fwhm : float
        Of a star [pixel].
    density : float
        Stars per square of 1000 x 1000 pixels.
    reach : float
        Stars lie within this distance of the direction, along either axis [pixel].
    brightest : float
        Most flux of a star [DN/s].
    optics : Optics or None
        What bends the field; None = nothing does.
    """

    seed: int
    fwhm: float
    density: float
    reach: float
    brightest: float = _BRIGHTEST
    optics: Optics | None = None
    is_light: ClassVar[bool] = True

    def render(self, ctx: RenderContext) -> np.ndarray:
        """Render: float32 (ny, nx) [DN/s]."""
        image = np.zeros(ctx.region.shape, np.float32)
        rng = ctx.field_generator(self.seed, "cloud")
        n = rng.poisson(self.density * (2 * self.reach / 1000) ** 2)
        east, north = rng.uniform(-self.reach, self.reach, (2, n))
        flux = _FAINTEST * rng.uniform(1e-6, 1, n) ** (-1 / _SLOPE)
        flux = np.minimum(flux, self.brightest)
        angle = np.deg2rad(ctx.roll)
        # As the keywords of the writer have it.
        x = -np.cos(angle) * east + np.sin(angle) * north + ctx.dither[1]
        y = np.sin(angle) * east + np.cos(angle) * north + ctx.dither[0]
        if self.optics is not None:
            x, y = self.optics.find_pixels(x, y)
        else:
            x += ctx.region.x_start + (ctx.region.nx - 1) / 2
            y += ctx.region.y_start + (ctx.region.ny - 1) / 2
        for k in range(n):
            # The level of the light is that of the telescope, whatever it falls on.
            add_source(image, ctx, y=y[k], x=x[k], flux=flux[k] * ctx.thermal, fwhm=self.fwhm)
        return image


@dataclass(frozen=True, slots=True)
class FieldOfView:
    """Layers as the imager sees them: nothing outside of its field.

    Attributes
    ----------
    layer : Layer
    """

    layer: Layer
    is_light: ClassVar[bool] = True

    def render(self, ctx: RenderContext) -> np.ndarray:
        """Render: float32 (ny, nx) [DN/s]."""
        x0, x1, y0, y1 = FIELD
        stop = make_box(ctx.y, y0, y1, 0.5) * make_box(ctx.x, x0, x1, 0.5)
        return (self.layer.render(ctx) * stop).astype(np.float32)


@dataclass(frozen=True, slots=True)
class FlatProgramme:
    """Files of a simulated flat-field programme, and the truth.

    Attributes
    ----------
    rates : tuple of Path
        ``_rate`` files in order of time.
    association : Path
    star_flats : tuple of ndarray of float32, shape (ny, nx)
        Response to star light of each epoch, pixel by pixel.
    sky_flat : ndarray of float32, shape (ny, nx)
        Response to the sky in the first epoch: scattered light and pixel area included.
    area : ndarray of float32, shape (ny, nx)
        Area of the pixels over its mean.
    specs : tuple of ExposureSpec
        What the headers say.
    """

    rates: tuple[Path, ...]
    association: Path
    star_flats: tuple[np.ndarray, ...]
    sky_flat: np.ndarray
    area: np.ndarray
    specs: tuple[ExposureSpec, ...]


def simulate_flat_programme(
    folder: str | Path,
    *,
    filter_name: str = "F770W",
    region: Region | None = None,
    n_exposures: int = 15,
    n_tiles: int = 5,
    rolls: Sequence[float] = (0.0, 90.0),
    density: float = 900.0,
    brightest: float = _BRIGHTEST,
    level: float = 16.0,
    scattered: float = 0.0,
    drift: float = 0.0,
    epoch_mjd: Sequence[float] = (59700.0,),
    distortion: "Model | None" = None,
    seed: int = 4487,
    progress: Callable[[int, int], None] | None = None,
    dry_run: bool = False,
) -> FlatProgramme:
    """Simulate the dithered exposures of a dense field in one filter.

    Parameters
    ----------
    folder : str or Path
        Where to write; made when absent.
    filter_name : str
        FILTER keyword.
    region : Region or None
        What is read; None = the full frame.
    n_exposures : int
        Exposures of each epoch, dealt over tiles and rolls.
    n_tiles : int
        Visits of an epoch, each at another place of the field; at most five.
    rolls : sequence of float
        Position angles [deg], one after the other from visit to visit.
    density : float
        Stars per 1000 x 1000 pixels.
    brightest : float
        Most flux of a star [DN/s].
    level : float
        Sky [DN/s].
    scattered : float
        Relative change of the sky from the middle to an edge of the detector, which star light
        does not have.
    drift : float
        What the smooth response gains in a quadratic shape from the first epoch to the last.
    epoch_mjd : sequence of float
        Start of each epoch [MJD].
    distortion : Model or None
        Full-frame pixels to V2, V3 (see `make_distortion`); None = pixels of the same area, and a
        WCS of the keywords that is exact.
    seed : int
        Seed of everything.
    progress : callable or None
        Called as ``progress(done, total)`` after each file.
    dry_run : bool
        Write nothing; the paths are those that would be written.

    Returns
    -------
    FlatProgramme

    Raises
    ------
    EvidenceError
        When the filter or the number of tiles or exposures is not one that is simulated.
    """
    _check(filter_name, n_tiles, n_exposures)
    folder = Path(folder)
    setup, optics = _set_up(region, filter_name, distortion)
    reach = 1.2 * max(setup.region.shape)
    cloud = StarCloud(seed, _FWHM[filter_name], density, reach, brightest, optics)
    sky: Layer = UndispersedSky(level, gradient_x=scattered, gradient_y=0.0)
    sky = AreaOfPixels(sky, optics) if optics is not None else sky
    first = _make_first_spec(setup, epoch_mjd[0], seed, rolls[0])
    rng = np.random.default_rng([seed, 7])
    jobs: list[tuple[Path, ExposureSpec, Scene, ExposureSpec]] = []
    flats = []
    for epoch, start in enumerate(epoch_mjd):
        share = epoch / max(len(epoch_mjd) - 1, 1)
        # No dark pattern: what is added cannot be told from response by one sky level.
        pattern = FlatPattern(seed, 0.013, odd_even=0.0, dark_rms=0.0, drift=drift * share)
        scene = Scene((FieldOfView(sky), FieldOfView(cloud)), pattern=pattern)
        flats.append(pattern.response(setup.region))
        for k in range(n_exposures):
            tile = k * n_tiles // n_exposures
            spec = _draw_spec(rng, first, start, epoch, tile, k, rolls[tile % len(rolls)])
            miss = spec.dither + rng.normal(0, _POINTING_ERROR, 2)
            seen = replace(spec, dither=(float(miss[0]), float(miss[1])))
            jobs.append((folder / spec.filename("rate"), seen, scene, spec))
    association = folder / f"jw04487-flat_{filter_name.lower()}_asn.json"
    if not dry_run:
        _write(jobs, association, progress)
    paths, _, _, specs = zip(*jobs, strict=True)
    return FlatProgramme(
        paths,
        association,
        tuple(flats),
        flats[0] * sky.render(first.context) / np.float32(level),
        optics.compute_area(setup.region) if optics else np.ones(setup.region.shape, np.float32),
        specs,
    )


def _write(
    jobs: Sequence[tuple[Path, ExposureSpec, Scene, ExposureSpec]],
    association: Path,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write exposures (file, what is seen, of what, what the header says), and an association."""
    association.parent.mkdir(parents=True, exist_ok=True)
    for done, (path, seen, scene, spec) in enumerate(jobs, start=1):
        write_rate(path, seen, scene, nominal=spec)
        if progress is not None:
            progress(done, len(jobs))
    paths = [path for path, *_ in jobs]
    write_association(association, paths, kind="flat", program="04487", target="LMC")


def _check(filter_name: str, n_tiles: int, n_exposures: int) -> None:
    """Refuse what is not simulated."""
    if filter_name not in _FWHM or not 1 <= n_tiles <= len(_TILES):
        raise EvidenceError(
            f"expected a filter among {', '.join(_FWHM)} and 1 to {len(_TILES)} tiles, found "
            f"{filter_name} and {n_tiles}; change them"
        )
    if n_exposures < 1:
        raise EvidenceError(f"expected at least 1 exposure, found {n_exposures}; ask for more")


def _set_up(
    region: Region | None, filter_name: str, distortion: "Model | None"
) -> tuple[Setup, Optics | None]:
    """Set the imager, and the optics before it where they bend the field."""
    setup = make_imaging_setup(region, filter_name=filter_name)
    if distortion is None:
        return setup, None
    optics = make_optics(setup.region, setup.aperture.name, distortion)
    return replace(setup, aperture=optics.aperture), optics


def _make_first_spec(setup: Setup, start: float, seed: int, roll: float) -> ExposureSpec:
    """Make what all exposures have in common."""
    return ExposureSpec(
        mjd=start,
        setup=setup,
        ngroups=round(_EXPOSURE_S / setup.group_time_s),
        seed=seed * 1000,
        program="04487",
        field=1,
        roll=roll,
    )


def _draw_spec(
    rng: np.random.Generator,
    first: ExposureSpec,
    start: float,
    epoch: int,
    tile: int,
    number: int,
    roll: float,
) -> ExposureSpec:
    """Draw place, sky and sensitivity of one exposure."""
    side = min(first.region.shape)
    place = np.array(_TILES[tile]) * side + rng.uniform(-_DITHER, _DITHER, 2) * side
    zodi, sensitivity = 1 + rng.normal(0, [_SKY_SCATTER, _ZERO_POINT_SCATTER])
    return replace(
        first,
        mjd=start + tile * _VISIT_GAP + number * _CADENCE,
        seed=first.seed + epoch * 100 + number,
        zodi=float(zodi * sensitivity),
        thermal=float(sensitivity),
        observation=1 + epoch * len(_TILES) + tile,
        exposure=1 + number,
        dither=(float(place[0]), float(place[1])),
        roll=float(roll),
    )


def write_flat_truth(folder: str | Path, programme: FlatProgramme) -> Path:
    """Write truth_flat.fits: responses to stars and sky (first epoch) and area of the pixels."""
    path = Path(folder) / FLAT_TRUTH
    planes = {
        "STAR": programme.star_flats[0],
        "SKY": programme.sky_flat,
        "AREA": programme.area,
    }
    hdus = [fits.ImageHDU(np.asarray(plane), name=name) for name, plane in planes.items()]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path, overwrite=True)
    return path
