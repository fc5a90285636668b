"""Shape of the cores of stars, and how it changes in time and over the field."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields

import bottleneck as bn
import numpy as np
from scipy.optimize import brentq
from scipy.sparse import csr_array, diags_array, hstack

from ..errors import EvidenceError
from .basis import FieldBasis, make_basis
from .drifts import TIME_CONSTANT_DAY, Drifts, find_drifts
from .stars import StarTable
from .weights import NoiseModel, compute_huber, compute_redescending, fit_noise

__all__ = ["METRICS", "CoreDrifts", "CoreTable", "find_core_drifts", "measure_cores"]

log = logging.getLogger(__name__)

# What is measured, in order.
METRICS = ("core_ratio", "size", "stretch", "skew", "sharpness")
# Sides of the inner and the outer box [pixel]; in FWHM where the PSF is wider than MIRI's at
# 5.6 um, 1.88 pixels. Sigma of the weight of the moments [FWHM]: that of the core.
_BOXES, _BOXES_FWHM, _SIGMA_FWHM = (3.0, 5.0), (1.6, 2.66), 0.6
# Width of the ring about the cutout that the background is the median of [pixel]: at least so many
# of its pixels are good.
_RING, _LEAST_RING = 3, 0.5
# Steps of the centre, and how far it may move [FWHM].
_N_STEPS, _MOST_MOVE = 10, 0.5
# Solutions with Huber's weights, then with weights that reject.
_N_HUBER, _N_REJECTING = 3, 4
# Stars that an exposure must have, for each of its own coefficients.
_STARS_PER_TERM = 4
# Stars with several measurements from which their own scatter is told; least share of a residual's
# variance that is taken to be left; most that one star adds to their chi2 [sigma].
_LEAST_REPEATED, _LEAST_LEFT, _MOST_PULL = 20, 0.05, 4.0
# Rows of the design that are taken at once.
_ROWS_AT_ONCE = 10_000
# Columns of the phase of the pixel: two harmonics each way and their lowest products.
_N_PHASE = 12


@dataclass(frozen=True, slots=True)
class CoreTable:
    """Cores of the stars of one exposure.

    Attributes
    ----------
    x, y : ndarray of float64, shape (n_stars,)
        Centre [pixel, 0-based].
    flux, flux_err : ndarray of float64, shape (n_stars,)
        In the outer box [DN/s].
    values, errors : ndarray of float64, shape (n_stars, 5)
        core_ratio: flux in a box of 3 x 3 pixels over that in 5 x 5, about the centre (in boxes
        that grow with the FWHM above 1.88 pixels). size: (Mxx + Myy) / 2 [pixel^2], of the
        second moments under a Gaussian weight. stretch: (Mxx - Myy) / (Mxx + Myy); skew:
        2 Mxy / (Mxx + Myy). sharpness: sum of the squares of the pixels in the outer box over
        the square of their sum. Errors hold the noise of the pixels.
    """

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    flux_err: np.ndarray
    values: np.ndarray
    errors: np.ndarray


@dataclass(frozen=True, slots=True)
class CoreDrifts:
    """PSF cores by exposure.

    Attributes
    ----------
    drifts : Drifts
        Relative change of core_ratio, size and sharpness, absolute of stretch and skew; for each,
        the mean over the field and its two gradients: 'size', 'size, gradient 1', ... Values are
        averaged over the phases of the pixel, at the median flux.
    exposure : ndarray of int, shape (n_used,)
        Exposures with stars enough, in the order given.
    level : ndarray of float64, shape (5,)
        Mean of each metric, in its own unit.
    flux_slope, flux_slope_err : ndarray of float64, shape (5,)
        Change of each metric with ln flux, in the unit of `drifts`: brighter stars are wider
        where charge migrates, so a change of the stars' brightness is not one of the PSF.
    noise : tuple of NoiseModel
        Of each metric; the floor is the scatter of the stars themselves.
    n_stars, n_outliers : ndarray of int, shape (5,)
        Measurements, and those without weight.
    """

    drifts: Drifts
    exposure: np.ndarray
    level: np.ndarray
    flux_slope: np.ndarray
    flux_slope_err: np.ndarray
    noise: tuple[NoiseModel, ...]
    n_stars: np.ndarray
    n_outliers: np.ndarray


def measure_cores(
    data: np.ndarray,
    err: np.ndarray,
    good: np.ndarray,
    stars: StarTable,
    *,
    fwhm: float,
    least_snr: float = 30.0,
) -> CoreTable:
    """Measure the cores of stars.

    Parameters
    ----------
    data, err : ndarray, shape (ny, nx)
        Count rate and its 1-sigma error, photon noise included [DN/s]; flat-fielded, or with a
        flat that is smooth over a star.
    good : ndarray of bool, shape (ny, nx)
        True = use: neither bad nor saturated.
    stars : StarTable
        Isolated stars, as `sum_apertures` gives them; those without a flux are left out.
    fwhm : float
        Of the PSF [pixel].
    least_snr : float
        Least flux over its error.

    Returns
    -------
    CoreTable
        Of the stars whose pixels within the outer box and the weight are all good.

    Raises
    ------
    EvidenceError
        When the FWHM is not above 0 or the shapes differ.
    """
    if not fwhm > 0 or not data.shape == err.shape == good.shape:
        raise EvidenceError(
            f"expected a FWHM above 0 and arrays of one shape, found {fwhm} and "
            f"{data.shape}, {err.shape}, {good.shape}; correct them"
        )
    bright = np.isfinite(stars.flux) & (stars.flux > least_snr * stars.flux_err)
    boxes = [max(least, per * fwhm) for least, per in zip(_BOXES, _BOXES_FWHM, strict=True)]
    half = int(np.ceil(max(boxes[1] / 2, 2.5 * _SIGMA_FWHM * fwhm))) + 1
    bright &= np.isfinite(stars.x) & np.isfinite(stars.y)
    x, y = (np.asarray(values, float)[bright] for values in (stars.x, stars.y))
    return _measure(*_cut(data, err, good, x, y, half), boxes, fwhm)


def _cut(
    data: np.ndarray, err: np.ndarray, good: np.ndarray, x: np.ndarray, y: np.ndarray, half: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cut out stars whose pixels are all good, background taken off: image, sigma, column, row."""
    wide = half + _RING
    column, row = (np.rint(values).astype(int) for values in (x, y))
    ny, nx = data.shape
    whole = (column >= wide) & (row >= wide) & (column < nx - wide) & (row < ny - wide)
    column, row = column[whole], row[whole]
    offset = np.arange(-wide, wide + 1)
    index = row[:, None, None] + offset[:, None], column[:, None, None] + offset
    usable = good[index] & np.isfinite(data[index]) & np.isfinite(err[index])
    image = np.where(usable, data[index], np.nan).astype(float)
    inner = slice(_RING, -_RING)
    ring = image.copy()
    ring[:, inner, inner] = np.nan
    ring = ring.reshape(len(ring), len(offset) ** 2)
    clean = usable[:, inner, inner].all(axis=(1, 2))
    n_ring = len(offset) ** 2 - (2 * half + 1) ** 2
    clean &= np.isfinite(ring).sum(axis=1) >= _LEAST_RING * n_ring
    level = bn.nanmedian(ring[clean], axis=1)
    image = image[clean][:, inner, inner] - level[:, None, None]
    sigma = err[index][clean][:, inner, inner].astype(float)
    return image, sigma, column[clean], row[clean]


def _measure(
    image: np.ndarray,
    sigma: np.ndarray,
    column: np.ndarray,
    row: np.ndarray,
    boxes: Sequence[float],
    fwhm: float,
) -> CoreTable:
    """Measure cutouts (n_stars, n, n) about the pixels given."""
    width = _SIGMA_FWHM * fwhm
    pixel = np.arange(image.shape[2]) - image.shape[2] // 2
    dx, dy, kept = _find_centres(image, pixel, width, fwhm)
    image, sigma, dx, dy = (a[kept] for a in (image, sigma, dx, dy))
    variance = sigma**2
    inner, outer = (_cover(pixel, dx, dy, side) for side in boxes)
    flux = (outer * image).sum(axis=(1, 2))
    ratio = (inner * image).sum(axis=(1, 2)) / flux
    square = ((outer * image) ** 2).sum(axis=(1, 2)) - (outer**2 * variance).sum(axis=(1, 2))
    sharpness = square / flux**2
    weight = _weigh(pixel, dx, dy, width)
    total = (weight * image).sum(axis=(1, 2))
    x, y = pixel - dx[:, None, None], pixel[:, None] - dy[:, None, None]
    xx, yy, xy = (weight * q for q in (x * x, y * y, x * y))
    mxx, myy, mxy = ((q * image).sum(axis=(1, 2)) / total for q in (xx, yy, xy))
    both = mxx + myy

    def spread(derivative: np.ndarray) -> np.ndarray:
        """Error of what has this derivative by each pixel."""
        return np.sqrt((derivative**2 * variance).sum(axis=(1, 2)))

    def over(quantity: np.ndarray) -> np.ndarray:
        return quantity[:, None, None]

    d_both = (xx + yy - weight * over(both)) / over(total)
    d_stretch = (xx - yy - weight * over(mxx - myy)) / over(total)
    d_skew = 2 * (xy - weight * over(mxy)) / over(total)
    stretch, skew = (mxx - myy) / both, 2 * mxy / both
    values = [ratio, both / 2, stretch, skew, sharpness]
    errors = [
        spread((inner - over(ratio) * outer) / over(flux)),
        spread(d_both / 2),
        spread((d_stretch - over(stretch) * d_both) / over(both)),
        spread((d_skew - over(skew) * d_both) / over(both)),
        spread(2 * (outer**2 * image - over(sharpness * flux) * outer) / over(flux) ** 2),
    ]
    table = CoreTable(
        column[kept] + dx,
        row[kept] + dy,
        flux,
        spread(outer),
        np.column_stack(values),
        np.column_stack(errors),
    )
    sound = (flux > 0) & (total > 0) & (both > 0) & (table.errors > 0).all(axis=1)
    sound &= np.isfinite(table.values).all(axis=1)
    return CoreTable(*(getattr(table, field.name)[sound] for field in fields(table)))


def _find_centres(
    image: np.ndarray, pixel: np.ndarray, width: float, fwhm: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres about the middle pixel, under a Gaussian weight; and whether each was found."""
    dx, dy = np.zeros(len(image)), np.zeros(len(image))
    near = np.ones(len(image), bool)
    for _ in range(_N_STEPS):
        weight = _weigh(pixel, dx, dy, width) * image
        total = weight.sum(axis=(1, 2))
        near &= total > 0
        total = np.where(near, total, 1.0)
        # A Gaussian under a weight of about its own width moves by half of its offset.
        dx = dx + 2 * ((weight.sum(axis=1) @ pixel) / total - dx)
        dy = dy + 2 * ((weight.sum(axis=2) @ pixel) / total - dy)
        near &= np.hypot(dx, dy) < 1 + _MOST_MOVE * fwhm
        dx, dy = np.where(near, dx, 0.0), np.where(near, dy, 0.0)
    return dx, dy, near


def _weigh(pixel: np.ndarray, dx: np.ndarray, dy: np.ndarray, width: float) -> np.ndarray:
    """Gaussian about centres: shape (n_stars, n, n)."""
    along_x, along_y = (
        np.exp(-0.5 * ((pixel - centre[:, None]) / width) ** 2) for centre in (dx, dy)
    )
    return along_y[:, :, None] * along_x[:, None, :]


def _cover(pixel: np.ndarray, dx: np.ndarray, dy: np.ndarray, side: float) -> np.ndarray:
    """Share of each pixel that a box about centres covers: shape (n_stars, n, n)."""
    along_x, along_y = (
        np.clip(0.5 + side / 2 - np.abs(pixel - centre[:, None]), 0, 1) for centre in (dx, dy)
    )
    return along_y[:, :, None] * along_x[:, None, :]


def find_core_drifts(
    tables: Sequence[CoreTable],
    mid_mjd: np.ndarray,
    visit: np.ndarray,
    field: np.ndarray,
    *,
    star: Sequence[np.ndarray] | None = None,
    order: int = 2,
    false_discovery_rate: float = 0.01,
    time_constant_day: float = TIME_CONSTANT_DAY,
) -> CoreDrifts:
    """Find how the cores of stars change in time and over the field.

    Parameters
    ----------
    tables : sequence of CoreTable
        One per exposure, of one filter.
    mid_mjd : ndarray of float64, shape (n_exposures,)
        Mid-times [MJD].
    visit : ndarray of int, shape (n_exposures,)
        Visits.
    field : ndarray of bool, shape (ny, nx)
        True = illuminated.
    star : sequence of ndarray of int, shapes (n_stars,), optional
        Number of each star of each table, the same in all exposures that see it at one roll; below
        0 = unknown. Each is taken to be a star of its own where they are not given.
    order : int
        Total degree of the pattern over the field that all exposures share; gradients differ by
        exposure.
    false_discovery_rate, time_constant_day
        See `find_drifts`.

    Returns
    -------
    CoreDrifts

    Raises
    ------
    EvidenceError
        When lists differ in length, or fewer than two exposures have stars enough.

    Notes
    -----
    Each metric of all stars is one robust least squares: a constant and gradients per exposure,
    a common pattern over the field, two harmonics of the phase of the pixel each way with their
    lowest products, and a slope in ln flux. The scatter of the measurements is found, and beside it
    that of the stars themselves (blends, colours), a random constant of each: the exposures of a
    visit see the same stars, those of another visit partly others, which must not pass for a
    change between visits. What the exposures of a visit scatter beyond that (focus, jitter) is
    found by `find_drifts` and counts against a change between visits.
    """
    if not len(tables) == len(mid_mjd) == len(visit):
        raise EvidenceError(
            f"expected one time and visit per table, found {len(mid_mjd)} and {len(visit)} for "
            f"{len(tables)}; give as many"
        )
    if star is not None and [len(part) for part in star] != [len(table.x) for table in tables]:
        raise EvidenceError(
            f"expected a number for each of {[len(table.x) for table in tables]} stars, found "
            f"{[len(part) for part in star]}; give as many"
        )
    basis = make_basis(field, max(order, 1))
    chosen, columns = _gather(tables, star, basis)
    exposure, number, x, y, flux, values, errors = columns
    design = _make_design(basis, exposure, x, y, np.log(flux / bn.median(flux)))
    # Relative to their means; stretch and skew may well be 0.
    level = bn.nanmedian(values, axis=0)
    unit = np.where([name in ("stretch", "skew") for name in METRICS], 1.0, np.abs(level))
    fits = [
        _fit(design, number, values[:, m] / unit[m], errors[:, m] / unit[m])
        for m in range(len(METRICS))
    ]
    own = 3 * len(chosen)
    series = np.column_stack([fit.parameters[:own].reshape(-1, 3) for fit in fits])
    covariance = np.concatenate([fit.cut_covariance(own, 3) for fit in fits])
    drifts = find_drifts(
        series,
        covariance,
        np.asarray(mid_mjd, float)[chosen],
        np.asarray(visit)[chosen],
        names=[f"{m}{part}" for m in METRICS for part in ("", ", gradient 1", ", gradient 2")],
        false_discovery_rate=false_discovery_rate,
        time_constant_day=time_constant_day,
    )
    for line in drifts.describe():
        log.info("PSF core: %s", line)
    return CoreDrifts(
        drifts,
        np.array(chosen),
        np.mean(series[:, ::3], axis=0) * unit,
        np.array([fit.parameters[-1] for fit in fits]),
        np.array([np.sqrt(fit.covariance[-1, -1]) for fit in fits]),
        tuple(fit.noise for fit in fits),
        np.full(len(METRICS), len(exposure)),
        np.array([fit.n_outliers for fit in fits]),
    )


def _gather(
    tables: Sequence[CoreTable], star: Sequence[np.ndarray] | None, basis: FieldBasis
) -> tuple[list[int], tuple[np.ndarray, ...]]:
    """Exposures with stars enough; of their stars exposure, star, x, y, flux, values, errors."""
    inside = [basis.contains(table.x, table.y) for table in tables]
    counts = [int(part.sum()) for part in inside]
    chosen = [k for k, n in enumerate(counts) if n >= 3 * _STARS_PER_TERM]
    least = _STARS_PER_TERM * (_N_PHASE + basis.n_modes + 1)
    n_stars = sum(counts[k] for k in chosen)
    if len(chosen) < 2 or n_stars < least:
        raise EvidenceError(
            f"expected two exposures or more with {3 * _STARS_PER_TERM} isolated stars each and "
            f"{least} in all, found {len(chosen)} exposures with {n_stars}; give more exposures or "
            "lower least_snr"
        )
    exposure = np.repeat(np.arange(len(chosen)), [counts[k] for k in chosen])
    columns = (
        np.concatenate([getattr(tables[k], name)[inside[k]] for k in chosen])
        for name in ("x", "y", "flux", "values", "errors")
    )
    number = np.full(len(exposure), -1)
    if star is not None:
        number = np.concatenate([np.asarray(star[k], int)[inside[k]] for k in chosen])
    alone = number < 0
    number[alone] = number.max(initial=0) + 1 + np.arange(alone.sum())
    return chosen, (exposure, np.unique(number, return_inverse=True)[1], *columns)


@dataclass(frozen=True, slots=True)
class _Fit:
    """Solution for one metric."""

    parameters: np.ndarray
    covariance: np.ndarray
    noise: NoiseModel
    n_outliers: int

    def cut_covariance(self, own: int, n_terms: int) -> np.ndarray:
        """Covariances of the exposures' coefficients: shape (n_terms, n_exp, n_exp)."""
        n = own // n_terms
        return np.einsum(
            "iqjq->qij", self.covariance[:own, :own].reshape(n, n_terms, n, n_terms)
        ).copy()


def _make_design(
    basis: FieldBasis, exposure: np.ndarray, x: np.ndarray, y: np.ndarray, ln_flux: np.ndarray
) -> csr_array:
    """Columns: constant and gradients per exposure, pattern, phase, ln flux: (n_stars, n)."""
    n = int(exposure.max()) + 1
    modes = basis.evaluate(x, y)
    own = np.column_stack([np.ones(len(x)), modes[:, :2]])
    columns = 3 * exposure[:, None] + np.arange(3)
    rows = np.repeat(np.arange(len(x)), 3)
    u, v = 2 * np.pi * (x - np.rint(x)), 2 * np.pi * (y - np.rint(y))
    waves = [wave(k * angle) for angle in (u, v) for k in (1, 2) for wave in (np.cos, np.sin)]
    products = [one(u) * other(v) for one in (np.cos, np.sin) for other in (np.cos, np.sin)]
    common = np.column_stack([modes[:, 2:], *waves, *products, ln_flux])
    return csr_array(
        hstack(
            [
                csr_array((own.ravel(), (rows, columns.ravel())), shape=(len(x), 3 * n)),
                csr_array(common),
            ],
            format="csr",
        )
    )


def _fit(design: csr_array, star: np.ndarray, value: np.ndarray, err: np.ndarray) -> _Fit:
    """Solve one metric robustly, the noise of measurements and the scatter of stars found.

    With D the inverse variances of the measurements, those of star k share the variance s^2:
    their inverse covariance is D - f D 1 1' D, f = s^2 / (1 + s^2 sum D).
    """
    n, size = design.shape
    member = csr_array((np.ones(n), (star, np.arange(n))), shape=(star.max() + 1, n))
    noise = NoiseModel(1.0, 1.4826 * float(bn.median(np.abs(value - bn.median(value)))))
    robust, scatter = np.ones(n), 0.0
    freedom = max(1 - size / n, 0.1)
    for iteration in range(_N_HUBER + _N_REJECTING):
        weight = robust / noise.compute_variance(err)
        total = member @ weight
        shared = scatter**2 / (1 + scatter**2 * total)
        sums = csr_array(member @ (diags_array(weight) @ design))
        # Exposures whose stars all lost their weight are left to a width that says nothing.
        normal = (design.T @ (diags_array(weight) @ design)).toarray()
        normal -= (sums.T @ (diags_array(shared) @ sums)).toarray()
        normal += np.eye(size) * 1e-10 * np.trace(normal) / size
        covariance = np.linalg.inv(normal)
        right = design.T @ (weight * value) - sums.T @ (shared * (member @ (weight * value)))
        parameters = covariance @ right
        residual = value - design @ parameters
        taken = _measure_leverage(design, covariance, weight, star, sums, total)
        scatter, noise = _tell_apart(residual, err, weight, star, member, taken, freedom)
        variance = noise.compute_variance(err) + scatter**2
        standardised = residual / np.sqrt(variance * freedom)
        robust = (compute_huber if iteration < _N_HUBER else compute_redescending)(standardised)
    return _Fit(parameters, covariance, noise, int(np.sum(robust == 0)))


def _measure_leverage(
    design: csr_array,
    covariance: np.ndarray,
    weight: np.ndarray,
    star: np.ndarray,
    sums: csr_array,
    total: np.ndarray,
) -> np.ndarray:
    """Share of the variance of each residual about its star's mean that the parameters took.

    Few bright stars decide the coefficients of an exposure: that they fit says little.
    """
    mean = csr_array(diags_array(1 / np.where(total > 0, total, 1.0)) @ sums)
    taken = np.empty(len(star))
    for first in range(0, len(star), _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        apart = (design[rows] - mean[star[rows]]).toarray()
        taken[rows] = weight[rows] * np.einsum("ij,ij->i", apart @ covariance, apart)
    return taken


def _tell_apart(
    residual: np.ndarray,
    err: np.ndarray,
    weight: np.ndarray,
    star: np.ndarray,
    member: csr_array,
    taken: np.ndarray,
    freedom: float,
) -> tuple[float, NoiseModel]:
    """Scatter of stars, and noise of their measurements; all is noise where none is repeated."""
    total = member @ weight
    seen = total > 0
    repeated = seen & (member @ (weight > 0).astype(float) > 1)
    if repeated.sum() < _LEAST_REPEATED:
        return 0.0, fit_noise(residual, err, np.full(len(residual), freedom))
    mean = np.divide(member @ (weight * residual), total, out=np.zeros(len(total)), where=seen)
    left = np.maximum(1 - weight / np.where(seen, total, 1.0)[star] - taken, _LEAST_LEFT)
    inner = repeated[star]
    noise = fit_noise((residual - mean[star])[inner], err[inner], left[inner])
    variance = 1 / (member @ (np.sign(weight) / noise.compute_variance(err)))[repeated]
    power = mean[repeated] ** 2 / freedom

    def exceed(scatter: float) -> float:
        pull = np.minimum(power / (scatter**2 + variance), _MOST_PULL**2)
        return float(np.mean(pull)) - 1

    most = float(np.sqrt(power.max()))
    if exceed(0.0) <= 0 or exceed(most) >= 0:
        return 0.0, noise
    return float(brentq(exceed, 0.0, most)), noise
