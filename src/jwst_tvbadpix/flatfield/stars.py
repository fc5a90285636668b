"""Stars on a detector: found, measured; and the area of its pixels."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning
from photutils.aperture import ApertureStats, CircularAnnulus, CircularAperture
from photutils.background import Background2D, LocalBackground
from photutils.detection import DAOStarFinder
from photutils.psf import ImagePSF, PSFPhotometry, SourceGrouper
from photutils.utils.exceptions import NoDetectionsWarning
from scipy.spatial import KDTree

from ..errors import EvidenceError

__all__ = [
    "SkyOfPixel",
    "StarTable",
    "compute_area_ratio",
    "find_stars",
    "fit_psf",
    "sum_apertures",
]

# ra, dec [deg] of x, y [pixel, 0-based].
SkyOfPixel = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

# Box of the background that stars are found above, and least share of good pixels in it.
_BOX, _LEAST_GOOD = 32, 0.2
# Light of a neighbour's core, over that of the star's, that does not matter; its radius [pixel].
_MOST_NEIGHBOUR, _CORE = 0.02, 1.0
# Area over which the light of a star in the ring is alike, of that of the circle.
_PATCH = 0.5
# Shape that a star may have (DAOFIND's sharpness and roundness): single pixels are sharper,
# galaxies and edges of masks are less round.
_SHARPNESS, _ROUNDNESS = (0.2, 1.0), (-0.7, 0.7)


@dataclass(frozen=True, slots=True)
class StarTable:
    """Stars of one exposure.

    Attributes
    ----------
    x, y : ndarray of float64, shape (n_stars,)
        Position [pixel, 0-based].
    flux, flux_err : ndarray of float64, shape (n_stars,)
        Total or aperture flux [DN/s] and its 1-sigma error; NaN where it could not be measured.
    """

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    flux_err: np.ndarray

    @property
    def n_measured(self) -> int:
        """Number of stars with a flux."""
        return int(np.isfinite(self.flux).sum())


def find_stars(
    data: np.ndarray, good: np.ndarray, *, fwhm: float, n_sigma: float = 10.0
) -> tuple[np.ndarray, np.ndarray]:
    """Find point sources above a smooth background.

    Parameters
    ----------
    data : ndarray, shape (ny, nx)
        Count rate [DN/s].
    good : ndarray of bool, shape (ny, nx)
        True = use: illuminated, neither bad nor saturated.
    fwhm : float
        Of the PSF [pixel].
    n_sigma : float
        Least height above the background, in its scatter.

    Returns
    -------
    x, y : ndarray of float64, shape (n_stars,)
        Positions [pixel, 0-based], in order of x within y; empty where there is no star.

    Raises
    ------
    EvidenceError
        When no pixel is good.
    """
    bad = ~(good & np.isfinite(data))
    if bad.all():
        raise EvidenceError(
            f"expected good pixels to find stars on, found none among {bad.size}; check the mask"
        )
    filled = np.where(bad, 0.0, data)
    background = Background2D(
        filled,
        tuple(min(_BOX, n) for n in data.shape),
        mask=bad,
        exclude_percentile=100 * (1 - _LEAST_GOOD),
        filter_size=3,
    )
    finder = DAOStarFinder(
        n_sigma * background.background_rms_median,
        fwhm,
        sharpness_range=_SHARPNESS,
        roundness_range=_ROUNDNESS,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoDetectionsWarning)
        found = finder(np.where(bad, 0.0, data - background.background), mask=bad)
    if found is None:
        return np.empty(0), np.empty(0)
    x, y = (np.asarray(found[name], float) for name in ("x_centroid", "y_centroid"))
    order = np.lexsort((x, y))
    return x[order], y[order]


def sum_apertures(
    data: np.ndarray,
    err: np.ndarray,
    good: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    *,
    radius: float,
    annulus: tuple[float, float],
) -> StarTable:
    """Sum the light of stars in circles, above the median of a ring.

    Parameters
    ----------
    data, err : ndarray, shape (ny, nx)
        Count rate and its 1-sigma error, photon noise of the sources included [DN/s].
    good : ndarray of bool, shape (ny, nx)
        True = use.
    x, y : ndarray, shape (n_stars,)
        Positions [pixel, 0-based].
    radius : float
        Of the circle [pixel].
    annulus : tuple of float
        Radii of the ring [pixel].

    Returns
    -------
    StarTable
        NaN for stars whose circle holds a pixel that is not good or leaves the frame, whose ring
        is not half good, or that have a star of 2 % of their light within twice the radius: the
        circle would cut it differently in each exposure. The light beyond
        the circle is the same share of every star and of no concern to a star flat.

    Notes
    -----
    A sum of DN/s over pixels is the light of a star whatever the area of the pixels.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    empty = np.full(len(x), np.nan)
    if not len(x):
        return StarTable(x, y, empty, empty)
    bad = ~(good & np.isfinite(data) & np.isfinite(err))
    positions = np.column_stack([x, y])
    circle, ring = CircularAperture(positions, radius), CircularAnnulus(positions, *annulus)
    clean, variance = np.where(bad, 0.0, data), np.where(bad, 0.0, np.square(err, dtype=float))
    n_bad = _sum(bad.astype(float), circle)
    area = _sum(np.ones(data.shape), circle)
    level = ApertureStats(clean, ring, mask=bad, sum_method="center")
    n_ring = np.asarray(level.center_aper_area.value, float)
    usable = (n_bad == 0) & (area > circle.area * (1 - 1e-6)) & (n_ring > 0.5 * ring.area)
    flux = _sum(clean, circle) - np.asarray(level.median) * circle.area
    core = CircularAperture(positions, _CORE)
    height = _sum(clean, core) - np.asarray(level.median) * core.area
    usable &= _find_isolated(positions, height, 2 * radius)
    # The error of a median is sqrt(pi / 2) that of the mean. The noise is that of the middle pixel
    # of the ring: stars in it hardly move the median, and are the same in every exposure. Where a
    # part of the ring is missing they are not: it is a sample, of patches as large as a star.
    noise = np.asarray(ApertureStats(variance, ring, mask=bad, sum_method="center").median)
    structure = np.maximum(np.asarray(level.mad_std) ** 2 - noise, 0.0)
    missing = np.clip(1 - n_ring / ring.area, 0.0, 1.0)
    of_level = np.pi / 2 * (noise + _PATCH * circle.area * missing * structure)
    of_level /= np.maximum(n_ring, 1)
    flux_err = np.sqrt(_sum(variance, circle) + circle.area**2 * of_level)
    return StarTable(x, y, np.where(usable, flux, np.nan), np.where(usable, flux_err, np.nan))


def _sum(values: np.ndarray, aperture: CircularAperture) -> np.ndarray:
    """Sum an image (ny, nx) over apertures; NaN for those outside."""
    return np.asarray(ApertureStats(values, aperture).sum, float)


def fit_psf(
    data: np.ndarray,
    err: np.ndarray,
    good: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    *,
    psf: np.ndarray,
    oversampling: int,
    fwhm: float,
) -> StarTable:
    """Fit a PSF to stars, close ones together, above a local background.

    Parameters
    ----------
    data, err : ndarray, shape (ny, nx)
        Count rate and its 1-sigma error [DN/s].
    good : ndarray of bool, shape (ny, nx)
        True = use.
    x, y : ndarray, shape (n_stars,)
        First positions [pixel, 0-based].
    psf : ndarray, shape (n, n)
        Oversampled PSF about its centre, any scale.
    oversampling : int
        Samples per pixel, each way.
    fwhm : float
        Of the PSF [pixel].

    Returns
    -------
    StarTable
        NaN where the fit failed or its centre lies on pixels that are not good.

    Notes
    -----
    The PSF is one shape in pixels. Where pixels are larger a star covers fewer of them, and its
    fitted flux is off by a share of the change of area (`compute_area_ratio`) that its sum in a
    circle is not; compare with `sum_apertures` on isolated stars.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if not len(x):
        return StarTable(x, y, x.copy(), x.copy())
    bad = ~(good & np.isfinite(data) & np.isfinite(err) & (err > 0))
    size = 2 * int(np.ceil(1.5 * fwhm)) + 1
    model = ImagePSF(psf * (oversampling**2 / psf.sum()), oversampling=oversampling)
    fitter = PSFPhotometry(
        model,
        (size, size),
        grouper=SourceGrouper(2 * fwhm),
        aperture_radius=fwhm,
        local_bkg_estimator=LocalBackground(3 * fwhm, 6 * fwhm),
        xy_bounds=fwhm,
    )
    start = Table({"x": x, "y": y})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)
        fitted = fitter(
            np.where(bad, 0.0, data),
            mask=bad,
            error=np.where(bad, np.median(err[~bad]), err),
            init_params=start,
        )
    new_x, new_y, flux, flux_err = (
        _fill(fitted[name]) for name in ("x_fit", "y_fit", "flux_fit", "flux_err")
    )
    usable = np.isfinite(new_x) & np.isfinite(new_y) & np.isfinite(flux) & (flux_err > 0)
    usable &= _is_good_at(~bad, new_x, new_y)
    return StarTable(
        np.where(usable, new_x, x),
        np.where(usable, new_y, y),
        np.where(usable, flux, np.nan),
        np.where(usable, flux_err, np.nan),
    )


def compute_area_ratio(sky: SkyOfPixel, field: np.ndarray) -> np.ndarray:
    """Compute the solid angle of each pixel over its mean in the field.

    Parameters
    ----------
    sky : callable
        ra, dec [deg] of x, y [pixel, 0-based]; defined to the outer edges of the field.
    field : ndarray of bool, shape (ny, nx)
        True = illuminated.

    Returns
    -------
    ndarray of float64, shape (ny, nx)
        Mean 1 over the field, NaN outside it.

    Raises
    ------
    EvidenceError
        When the WCS is not defined on some pixel of the field.
    """
    ny, nx = field.shape
    y, x = np.mgrid[: ny + 1, : nx + 1] - 0.5
    ra, dec = (np.asarray(value, float) for value in sky(x.ravel(), y.ravel()))
    corner = _point(ra, dec).reshape(3, ny + 1, nx + 1)
    across = corner[:, 1:, 1:] - corner[:, :-1, :-1]
    other = corner[:, 1:, :-1] - corner[:, :-1, 1:]
    area = np.linalg.norm(np.cross(across, other, axis=0), axis=0) / 2
    undefined = field & ~(area > 0)
    if undefined.any():
        raise EvidenceError(
            f"expected a WCS defined on every pixel of the field, found {int(undefined.sum())} of "
            f"{int(field.sum())} without coordinates; evaluate it without its bounding box"
        )
    return np.where(field, area / area[field].mean(), np.nan)


def _point(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Compute unit vectors of ra, dec [deg]: shape (3, n)."""
    lon, lat = np.deg2rad(ra), np.deg2rad(dec)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


def _fill(column: np.ndarray) -> np.ndarray:
    """Take a column of a table that may be masked: float64, NaN where it is."""
    return np.ma.filled(np.ma.asarray(column, float), np.nan)


def _is_good_at(good: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Tell whether the pixel nearest to each position is good; outside the frame none is."""
    ny, nx = good.shape
    column, row = (np.rint(np.nan_to_num(values, nan=-1.0)) for values in (x, y))
    inside = (column >= 0) & (column < nx) & (row >= 0) & (row < ny)
    found = np.zeros(len(x), bool)
    found[inside] = good[row[inside].astype(int), column[inside].astype(int)]
    return found


def _find_isolated(positions: np.ndarray, height: np.ndarray, distance: float) -> np.ndarray:
    """Tell which positions (n, 2) have no star that matters within a distance: bool (n,)."""
    pairs = KDTree(positions).query_pairs(distance, output_type="ndarray")
    one, other = np.concatenate([pairs, pairs[:, ::-1]]).T
    isolated = np.ones(len(positions), bool)
    isolated[one[~(height[other] <= _MOST_NEIGHBOUR * height[one])]] = False
    return isolated
