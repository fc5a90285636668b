"""Aperture photometry of a standard star in an image."""

import warnings
from dataclasses import dataclass

import numpy as np
from astropy.convolution import Gaussian2DKernel, interpolate_replace_nans
from astropy.stats import SigmaClip
from astropy.utils.exceptions import AstropyUserWarning
from photutils.aperture import CircularAnnulus, CircularAperture
from photutils.centroids import centroid_2dg

from ..errors import EvidenceError, InputError
from .tables import check_apcorr

__all__ = ["Aperture", "StarPhotometry", "measure_star"]

# Sky: clipped at so many sigma, so often; as the public recipe does.
_CLIP = SigmaClip(sigma=3.0, maxiters=10)
# Smallest number of good pixels of the annulus, and smallest share of it.
_SKY_PIXELS, _SKY_SHARE = 12, 0.5
# Bad pixels are replaced by their neighbours, weighted by a Gaussian of this sigma [pixel].
_REPLACE_SIGMA = 2.0
# Relative error of the starlight in a replaced pixel.
_REPLACED_ERROR = 0.5
# A bad pixel this close to the star leaves no photometry [pixel].
_CORE = 1.5
# Half width of the box in which the star is centred, and of that in which it is looked for [pixel].
_BOX, _SEARCH = 4, 12
# A star fainter than this is none [sigma of its aperture].
_DETECTED = 5.0


@dataclass(frozen=True, slots=True)
class Aperture:
    """A circle, its sky annulus and its correction, of one encircled energy.

    Attributes
    ----------
    ee : float
        Share of the star's light within the circle.
    radius, sky_in, sky_out : float
        Radii [pixel].
    apcorr : float
        What the net rate is multiplied by to be the star's, its light in the annulus included.
    """

    ee: float
    radius: float
    apcorr: float
    sky_in: float
    sky_out: float

    def __post_init__(self) -> None:
        """Check the values.

        Raises
        ------
        InputError
            They are of no aperture, or the correction is of another encircled energy.
        """
        values = (self.radius, self.sky_in, self.sky_out, self.apcorr)
        if not (np.isfinite(values).all() and 0 < self.radius <= self.sky_in < self.sky_out):
            raise InputError(
                "expected radii 0 < circle <= inner annulus < outer annulus, found "
                f"{self.radius:g}, {self.sky_in:g} and {self.sky_out:g}; correct them"
            )
        check_apcorr(self.apcorr, self.ee, f"the aperture of {self.radius:g} pixels")


@dataclass(frozen=True, slots=True)
class StarPhotometry:
    """What an aperture says of a star.

    Attributes
    ----------
    x, y : float
        Centre of the star (0-based) [pixel].
    rate, rate_err : float
        Net rate within the circle, without the aperture correction, and its 1-sigma error.
    background, background_err : float
        Sky of one pixel, and the error of this mean.
    peak : float
        Brightest pixel within the circle, sky included.
    n_replaced : int
        Bad pixels within the circle that their neighbours stand for.
    """

    x: float
    y: float
    rate: float
    rate_err: float
    background: float
    background_err: float
    peak: float
    n_replaced: int


def measure_star(
    rate: np.ndarray,
    err: np.ndarray,
    aperture: Aperture,
    *,
    position: tuple[float, float] | None = None,
    saturated: np.ndarray | None = None,
    max_replaced: int = 9,
) -> StarPhotometry:
    """Measure a star in a circle, less the sky in an annulus.

    Parameters
    ----------
    rate, err : ndarray, shape (ny, nx)
        Rates [DN/s] and their total 1-sigma error, that of the sky's photons included. A
        rate or error that is no number, or an error of 0, is a bad pixel.
    aperture : Aperture
    position : tuple of float, optional
        Where the star is expected: 0-based (x, y). None: at the brightest place.
    saturated : ndarray of bool, shape (ny, nx), optional
    max_replaced : int
        Most bad pixels within the circle that are replaced by their neighbours.

    Returns
    -------
    StarPhotometry

    Raises
    ------
    EvidenceError
        There is no star, it is saturated, too many or too central pixels are bad, or the aperture
        or too much of the annulus is off the image; the message is short enough for a table.

    Notes
    -----
    ``rate_err^2 = sum((share of the pixel x err)^2) + (area x error of the mean sky)^2``: `err`
    holds the noise of the pixels once, the sky adds the error of its mean alone. That the pixels
    of resampled images are correlated is not known to it.
    """
    rate, err = (np.asarray(plane, np.float64) for plane in (rate, err))
    with np.errstate(invalid="ignore"):
        bad = ~(np.isfinite(rate) & np.isfinite(err) & (err > 0))
    x, y = _find_star(np.where(bad, np.nan, rate), position)
    circle = CircularAperture((x, y), aperture.radius)
    ny, nx = rate.shape
    if not (aperture.radius <= x + 0.5 <= nx - aperture.radius) or not (
        aperture.radius <= y + 0.5 <= ny - aperture.radius
    ):
        raise EvidenceError("the aperture reaches over the edge of the image")
    inside = circle.to_mask(method="center").to_image(rate.shape) > 0
    share = circle.to_mask(method="exact").to_image(rate.shape)
    touched = share > 0
    if saturated is not None and (saturated & touched).any():
        raise EvidenceError("saturated")
    rows, columns = np.indices(rate.shape)
    if (bad & (np.hypot(columns - x, rows - y) <= _CORE)).any():
        raise EvidenceError("bad pixel in the core of the star")
    n_bad = int((bad & touched).sum())
    if n_bad > max_replaced:
        raise EvidenceError(f"{n_bad} bad pixels in the aperture, more than {max_replaced}")
    sky, sky_err = _measure_sky(rate, bad, (x, y), aperture)
    whole, whole_err = _replace(rate, err, bad & touched, sky)
    net = float(np.sum(share[touched] * (whole[touched] - sky)))
    pixel_err = float(np.sqrt(np.sum((share[touched] * whole_err[touched]) ** 2)))
    total = float(np.hypot(pixel_err, circle.area * sky_err))
    if not net > _DETECTED * total:
        raise EvidenceError(f"no star: {net:.3g} +- {total:.2g} in the aperture")
    peak = float(np.max(whole[inside]))
    return StarPhotometry(x, y, net, total, sky, sky_err, peak, n_bad)


def _find_star(rate: np.ndarray, position: tuple[float, float] | None) -> tuple[float, float]:
    """Find the star near where it is expected, and its centre."""
    ny, nx = rate.shape
    if position is None:
        x0, x1, y0, y1 = 0, nx, 0, ny
    else:
        if not (np.isfinite(position).all() and -0.5 <= position[0] < nx - 0.5):
            raise EvidenceError("the target lies outside of the image")
        if not -0.5 <= position[1] < ny - 0.5:
            raise EvidenceError("the target lies outside of the image")
        column, row = (round(value) for value in position)
        x0, x1 = max(0, column - _SEARCH), min(nx, column + _SEARCH + 1)
        y0, y1 = max(0, row - _SEARCH), min(ny, row + _SEARCH + 1)
    box = rate[y0:y1, x0:x1]
    if not np.isfinite(box).any():
        raise EvidenceError("no good pixel around the target")
    # A single hot pixel is no star: the sum of three by three pixels is compared.
    filled = np.where(np.isfinite(box), box, np.nanmedian(box))
    padded = np.pad(filled, 1, mode="edge")
    summed = sum(
        padded[j : j + box.shape[0], i : i + box.shape[1]] for j in range(3) for i in range(3)
    )
    top, left = (int(v) for v in np.unravel_index(int(np.argmax(summed)), box.shape))
    return _centre(rate, left + x0, top + y0)


def _centre(rate: np.ndarray, column: int, row: int) -> tuple[float, float]:
    """Centre the star by a Gaussian fit in a small box."""
    ny, nx = rate.shape
    x0, x1 = max(0, column - _BOX), min(nx, column + _BOX + 1)
    y0, y1 = max(0, row - _BOX), min(ny, row + _BOX + 1)
    box = rate[y0:y1, x0:x1]
    if min(box.shape) < _BOX or np.isfinite(box).sum() < box.size // 2:
        raise EvidenceError("the star lies at the edge of the image")
    lost = ~np.isfinite(box)
    filled = np.where(lost, 0.0, box - np.nanmedian(box))
    with warnings.catch_warnings():
        # A fit that fails is no star, which is said below.
        warnings.simplefilter("ignore", AstropyUserWarning)
        x, y = centroid_2dg(filled, mask=lost)
    if not (np.isfinite([x, y]).all() and np.hypot(x + x0 - column, y + y0 - row) < _BOX):
        raise EvidenceError("no star that a Gaussian fits")
    return float(x + x0), float(y + y0)


def _measure_sky(
    rate: np.ndarray, bad: np.ndarray, centre: tuple[float, float], aperture: Aperture
) -> tuple[float, float]:
    """Measure the sky: mean of the annulus without outliers, and the error of this mean.

    Each pixel counts by its share in the annulus, which is often no wider than a pixel or two. The
    scatter is that about a line in radius: the fall of the star's wings is no noise.
    """
    ring = CircularAnnulus(centre, aperture.sky_in, aperture.sky_out)
    cut = ring.to_mask(method="exact")
    pixels = cut.cutout(np.where(bad, np.nan, rate), fill_value=np.nan)
    seen = np.isfinite(pixels) & (cut.data > 0)
    y, x = np.nonzero(seen)
    radius = np.hypot(x + cut.bbox.ixmin - centre[0], y + cut.bbox.iymin - centre[1])
    values, share = pixels[seen], cut.data[seen]
    if len(values) < _SKY_PIXELS or share.sum() < _SKY_SHARE * ring.area:
        raise EvidenceError(f"{share.sum():.0f} good pixels in the sky annulus of {ring.area:.0f}")
    share = np.where(np.ma.getmaskarray(_CLIP(values)), 0.0, share)
    mean = np.average(values, weights=share)
    offset = radius - np.average(radius, weights=share)
    slope = np.average(offset * values, weights=share) / np.average(offset**2, weights=share)
    variance = np.average((values - mean - slope * offset) ** 2, weights=share)
    n = share.sum() ** 2 / (share**2).sum()
    return float(mean), float(np.sqrt(variance / max(n - 2, 1)))


def _replace(
    rate: np.ndarray, err: np.ndarray, lost: np.ndarray, sky: float
) -> tuple[np.ndarray, np.ndarray]:
    """Replace bad pixels by their neighbours; their error is half of what they add."""
    if not lost.any():
        return rate, err
    rows, columns = np.flatnonzero(lost.any(axis=1)), np.flatnonzero(lost.any(axis=0))
    reach = int(4 * _REPLACE_SIGMA)
    cut = (
        slice(max(0, rows[0] - reach), rows[-1] + reach + 1),
        slice(max(0, columns[0] - reach), columns[-1] + reach + 1),
    )
    whole, whole_err = rate.copy(), err.copy()
    holes = np.where(lost[cut], np.nan, rate[cut])
    filled = interpolate_replace_nans(holes, Gaussian2DKernel(_REPLACE_SIGMA))
    around = np.nanmedian(err[cut])
    whole[cut] = np.where(lost[cut], filled, rate[cut])
    extra = np.hypot(_REPLACED_ERROR * (whole[cut] - sky), around)
    whole_err[cut] = np.where(lost[cut], extra, err[cut])
    return whole, whole_err
