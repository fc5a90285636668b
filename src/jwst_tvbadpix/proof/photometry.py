"""The star field through calwebb_detector1, image2 and image3, and its photometry."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from photutils.aperture import ApertureStats, CircularAnnulus, CircularAperture
from photutils.psf import ImagePSF, PSFPhotometry

from ..delivery import Context, use_context
from ..simulate import (
    IMAGING_PHOTMJSR,
    PIXEL_SR,
    Defects,
    ExposureSpec,
    KnownStars,
    compute_star_profile,
    write_ramp,
)
from .chain import run_detector1, scratch_folder
from .field import APERTURE_RADIUS, CROSSTALK, IMAGING, build_field_scene, make_stars
from .scene import Plan

__all__ = ["WAYS", "Measured", "run_field"]

# Ways to the fluxes: a circle or a fit of the PSF on each exposure, a circle on all combined.
WAYS = ("circle", "psf", "i2d")
# Ring in which the sky is measured, and edge of the square in which a PSF is fitted [pixel].
_RING = (6.0, 10.0)
_FIT = 7
# Samples of the PSF per pixel, and how far it reaches [pixel].
_PSF_STEPS, _PSF_REACH = 10, 14
# True counts to Jy.
_JY_PER_DN = IMAGING_PHOTMJSR * 1e6 * PIXEL_SR


@dataclass(frozen=True, slots=True)
class Measured:
    """Fluxes of the stars.

    Attributes
    ----------
    mask : str
        'static', 'dated' or 'perfect'.
    mask_names : tuple of str
        The files that R_MASK of the exposures names.
    way : str
        One of ``WAYS``.
    ratio : ndarray of float, shape (n_images, n_stars)
        Measured / true flux, without aperture correction: an image for each exposure, or one.
    sigma : ndarray of float, shape (n_images, n_stars)
        1 sigma of `ratio` by the ERR of the image.
    """

    mask: str
    mask_names: tuple[str, ...]
    way: str
    ratio: np.ndarray
    sigma: np.ndarray


def run_field(
    folder: Path,
    plan: Plan,
    epoch: int,
    specs: Sequence[ExposureSpec],
    defects: Defects | None,
    contexts: dict[str, Context],
) -> list[Measured]:
    """Simulate dithered exposures of the field and measure its stars with each mask, in each way.

    Parameters
    ----------
    folder : Path
        Where the combined images are kept; everything else is deleted.
    plan : Plan
    epoch : int
        For the names of the images.
    specs : sequence of ExposureSpec
        The exposures.
    defects : Defects or None
        Bad pixels.
    contexts : dict of str to Context
        'static' and 'dated'; the mask is the one that CRDS picks.

    Returns
    -------
    list of Measured
        For each context each of ``WAYS``.
    """
    scene, stars = build_field_scene(plan), make_stars(plan.seed)
    found = []
    with scratch_folder(folder) as scratch:
        ramps = [write_ramp(scratch, spec, scene, defects) for spec in specs]
        for mask, context in contexts.items():
            with use_context(context):
                pairs = zip(ramps, specs, strict=True)
                cals = [_run_image2(run_detector1(ramp, spec)) for ramp, spec in pairs]
                names = tuple(fits.getval(cal, "R_MASK").removeprefix("crds://") for cal in cals)
                combined = _run_image3(cals)
                for way, values in _measure_all(cals, combined, specs, stars).items():
                    found.append(Measured(mask, names, way, *values))
                epoch_name = "null" if defects is None else str(epoch)
                combined.replace(folder / f"{IMAGING}_{epoch_name}_{mask}_i2d.fits")
    return found


def _run_image2(rate: Path) -> Path:
    """Run the stock pipeline but for its resampling of single exposures."""
    from jwst.pipeline import Image2Pipeline

    Image2Pipeline.call(
        str(rate),
        steps={"resample": {"skip": True}},
        save_results=True,
        output_dir=str(rate.parent),
        configure_log=False,
    )
    return rate.with_name(rate.name.replace("_rate", "_cal"))


def _run_image3(cals: Sequence[Path]) -> Path:
    """Combine exposures by the stock pipeline.

    Their pointing is exact and their sky the same: tweakreg and skymatch have nothing to do.
    Outlier detection, by its defaults, takes the undersampled cores of these stars for outliers:
    their fluxes scatter four times as much, whatever the mask.
    """
    from jwst.pipeline import Image3Pipeline

    members = [{"expname": path.name, "exptype": "science"} for path in cals]
    association = {
        "asn_type": "image3",
        "asn_rule": "Asn_Lv3Image",
        "asn_id": "a3001",
        "asn_pool": "none",
        "program": "07831",
        "products": [{"name": IMAGING, "members": members}],
    }
    path = cals[0].with_name(f"{IMAGING}_asn.json")
    path.write_text(json.dumps(association), encoding="utf-8")
    skipped = ("tweakreg", "skymatch", "outlier_detection", "source_catalog")
    Image3Pipeline.call(
        str(path),
        steps={name: {"skip": True} for name in skipped},
        save_results=True,
        output_dir=str(path.parent),
        configure_log=False,
    )
    return path.with_name(f"{IMAGING}_i2d.fits")


def _measure_all(
    cals: Sequence[Path], combined: Path, specs: Sequence[ExposureSpec], stars: KnownStars
) -> dict[str, np.ndarray]:
    """Measure in each way: ratio and sigma (2, n_images, n_stars)."""
    from stdatamodels.jwst import datamodels

    circle, psf, sky = [], [], []
    for path, spec in zip(cals, specs, strict=True):
        x = stars.x + spec.dither[1] - spec.region.x_start
        y = stars.y + spec.dither[0] - spec.region.y_start
        with datamodels.open(path) as model:
            circle.append(_measure_circles(model, x, y, stars.flux))
            psf.append(_fit_psf(model, x, y, stars))
            sky.append(model.meta.wcs(x, y))
    with datamodels.open(combined) as model:
        # Where the exposures, on average, see them: all are of one pointing.
        x, y = model.meta.wcs.invert(*np.mean(sky, axis=0))
        i2d = [_measure_circles(model, x, y, stars.flux)]
    found = zip(WAYS, (circle, psf, i2d), strict=True)
    return {way: np.moveaxis(np.array(values), 1, 0) for way, values in found}


def _find_scale(model: Any, flux_dn: np.ndarray) -> np.ndarray:
    """Find what turns a sum over pixels [MJy/sr] into a share of the true flux."""
    return 1e6 * model.meta.photometry.pixelarea_steradians / (flux_dn * _JY_PER_DN)


def _measure_circles(model: Any, x: np.ndarray, y: np.ndarray, flux_dn: np.ndarray) -> np.ndarray:
    """Measure in circles, less the median of a ring: ratio and sigma (2, n_stars).

    Masked pixels, which are NaN, are left out.
    """
    data, lost = np.array(model.data), np.isnan(model.data)
    circles = CircularAperture(np.column_stack([x, y]), APERTURE_RADIUS)
    found = ApertureStats(data, circles, error=np.array(model.err), mask=lost)
    net = found.sum - _measure_sky(data, x, y) * circles.area_overlap(data, mask=lost)
    return np.array([net, found.sum_err]) * _find_scale(model, flux_dn)


def _measure_sky(data: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Measure the sky around places: median of a ring (n,) [units of data]."""
    ring = CircularAnnulus(np.column_stack([x, y]), *_RING)
    return np.asarray(ApertureStats(data, ring, mask=np.isnan(data)).median)


def _fit_psf(model: Any, x: np.ndarray, y: np.ndarray, stars: KnownStars) -> np.ndarray:
    """Fit the known PSF at known places to the pixels that are left: ratio and sigma."""
    psf = ImagePSF(_build_psf(stars.fwhm), oversampling=_PSF_STEPS)
    psf.x_0.fixed = psf.y_0.fixed = True
    scale = _find_scale(model, stars.flux)
    data = np.array(model.data)
    table = PSFPhotometry(psf, (_FIT, _FIT))(
        data,
        error=np.array(model.err),
        mask=np.isnan(data),
        init_params=Table(
            {"x": x, "y": y, "flux": 1 / scale, "local_bkg": _measure_sky(data, x, y)}
        ),
    )
    return np.array([table["flux_fit"], table["flux_err"]], float) * scale


@lru_cache(maxsize=1)
def _build_psf(fwhm: float) -> np.ndarray:
    """Sample the image of a star of flux 1 as the pixels see it, crosstalk included."""
    along = np.arange(-_PSF_REACH * _PSF_STEPS, _PSF_REACH * _PSF_STEPS + 1) / _PSF_STEPS

    def profile(dy: int, dx: int) -> np.ndarray:
        return compute_star_profile(np.hypot(along[:, None] - dy, along - dx), fwhm)

    neighbours = sum(profile(*place) for place in ((0, 1), (0, -1), (1, 0), (-1, 0)))
    return (1 - 4 * CROSSTALK) * profile(0, 0) + CROSSTALK * neighbours
