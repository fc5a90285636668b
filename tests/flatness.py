"""Shared by the tests of flats: calwebb_image2 on images, and what its products say of the flat."""

from itertools import combinations

import numpy as np
from astropy.io import fits
from astropy.stats import mad_std, sigma_clipped_stats
from photutils.aperture import ApertureStats, CircularAnnulus, CircularAperture
from photutils.centroids import centroid_com, centroid_sources
from pipeline import idle_collector
from stdatamodels.jwst import datamodels

from jwst_tvbadpix.delivery import use_context
from jwst_tvbadpix.simulate import write_distortion, write_imaging_references

# Stars of more flux than this are measured [MJy/sr, summed over the aperture].
BRIGHT = 100.0


def write_stage2(folder, filters=("F770W",), distortion=None):
    """Write what calwebb_image2 needs beside a flat, by reference type."""
    references = write_imaging_references(folder, filters=filters)
    del references["flat"]
    return references | {"distortion": [write_distortion(folder, distortion)]}


def run_image2(rate, folder, context, parameters=None, **steps):
    """Run calwebb_image2, by a parameter file or by steps; the folder of its products."""
    from jwst.pipeline import Image2Pipeline

    folder.mkdir(parents=True, exist_ok=True)
    given = {"config_file": str(parameters)} if parameters else {"steps": steps}
    with idle_collector(), use_context(context):
        Image2Pipeline.call(str(rate), save_results=True, output_dir=str(folder), **given)
    return folder


def read_cal(path):
    """Read the planes that a flat changes, and the primary header."""
    with fits.open(path, memmap=False) as hdus:
        names = ("SCI", "ERR", "DQ", "VAR_FLAT")
        planes = {name: np.array(hdus[name].data) for name in names if name in hdus}
        return planes, dict(hdus[0].header)


def measure_flatness(cal, good, cell=32):
    """rms of the sky from pixel to pixel and of cells, over its level, in good pixels [%]."""
    planes, _ = read_cal(cal)
    image = np.where(good, planes["SCI"], np.nan)
    _, middle, sigma = sigma_clipped_stats(image[np.isfinite(image)], sigma=2.5)
    sky = np.where(np.abs(image - middle) < 2.5 * sigma, image / middle - 1, np.nan)
    y, x = np.mgrid[: sky.shape[0], : sky.shape[1]] / max(sky.shape)
    used = np.isfinite(sky)
    plane = np.stack([np.ones(used.sum()), x[used], y[used]], axis=1)
    sky[used] -= plane @ np.linalg.lstsq(plane, sky[used], rcond=None)[0]
    ny, nx = (n // cell for n in sky.shape)
    cut = sky[: ny * cell, : nx * cell].reshape(ny, cell, nx, cell)
    full = np.isfinite(cut).mean(axis=(1, 3)) > 0.3
    cells = np.nanmedian(cut.transpose(0, 2, 1, 3)[full].reshape(full.sum(), -1), axis=1)
    return 100 * mad_std(sky[used]), 100 * cells.std()


def measure_stars(i2d, ra, dec):
    """Fluxes of stars on a resampled image, in a circle; NaN where they are not wholly on it."""
    with datamodels.open(i2d) as model:
        image, weight = model.data.copy(), model.wht.copy()
        x, y = model.meta.wcs.invert(ra, dec, with_bounding_box=False)
    on = (x > 15) & (x < image.shape[1] - 15) & (y > 15) & (y < image.shape[0] - 15)
    flux = np.full(len(ra), np.nan)
    if not on.any():
        return flux
    image = np.where(weight > 0, image, np.nan)
    filled = np.where(np.isfinite(image), image, np.nanmedian(image))
    level = np.nanmedian(image)
    predicted = np.stack([x[on], y[on]], axis=1)
    found = centroid_sources(filled - level, *predicted.T, box_size=7, centroid_func=centroid_com)
    places = np.stack(found, axis=1)
    # A faint star, or none, has its middle anywhere.
    with np.errstate(invalid="ignore"):
        near = np.hypot(*(places - predicted).T) < 3
    places = np.where(near[:, None], places, predicted)
    circle, ring = CircularAperture(places, 4.5), CircularAnnulus(places, 8, 13)
    seen = ApertureStats(image, circle)
    whole = ApertureStats(np.isfinite(image).astype(float), circle).mean > 0.999
    local = ApertureStats(image, ring).median
    flux[on] = np.where(whole, seen.sum - local * seen.sum_aper_area.value, np.nan)
    return flux


def measure_repeatability(i2ds, ra, dec):
    """Scatter of the fluxes of the same stars between exposures [%], and of how many pairs."""
    fluxes = [measure_stars(path, ra, dec) for path in i2ds]
    differences = []
    for one, two in combinations(fluxes, 2):
        both = (one > BRIGHT) & (two > BRIGHT)
        ratio = np.log(one[both] / two[both])
        differences.append(ratio - np.median(ratio) if both.any() else ratio)
    all_pairs = np.concatenate(differences)
    return 100 * mad_std(all_pairs) / np.sqrt(2), len(all_pairs)
