"""Geometric distortion from stars seen all over the detector, and how it changes in time."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, diags_array, hstack, vstack
from scipy.stats import norm

from ..errors import EvidenceError
from .basis import FieldBasis, make_basis
from .drifts import TIME_CONSTANT_DAY, Drifts, find_drifts
from .observations import PreparedObservations, StarObservations, prepare_observations
from .stars import SkyOfPixel
from .weights import NoiseModel, compute_huber, compute_redescending, fit_noise

__all__ = ["LINEAR", "Distortion", "find_distortion_drifts", "measure_distortion"]

log = logging.getLogger(__name__)

# Linear terms of an exposure, in order, each dimensionless: d(dx, dy) = scale * (x, y)
# + turn * (-y, x) + stretch * (x, -y) + skew * (y, x).
LINEAR = ("scale", "turn", "stretch", "skew")
# Widths of the priors: offsets [arcsec] and linear terms far beyond any that occur. That of the
# modes is found: so many times the rms of those that stars determine, at least this [arcsec].
_OFFSET_ARCSEC, _LINEAR = 3.0, 1e-3
_MODE_FACTOR, _LEAST_MODE_ARCSEC = 2.0, 0.001
# Noise of a position that the first solution starts from [arcsec].
_FIRST_NOISE_ARCSEC = 0.01
# Solutions with Huber's weights, then with weights that reject.
_N_HUBER, _N_REJECTING = 3, 5
# Stars in an exposure below which its linear terms count as not measured: a scatter found from
# fewer is too uncertain to be judged by (of 26 null fields with some thirty stars 4 spoke).
_LEAST_STARS = 30
# Stars whose sums are held at once.
_STARS_AT_ONCE = 2000
# Half of the step that the WCS is differentiated over [pixel].
_STEP = 0.5
_ARCSEC = 3600.0


@dataclass(frozen=True, slots=True)
class Distortion:
    """How far positions by the WCS are off, in the frame of the detector [arcsec].

    Attributes
    ----------
    basis : FieldBasis
        Modes over the field.
    coefficients, errors : ndarray of float64, shape (2, n_modes)
        Shift in x and y by the modes of degree 2 and up, which all exposures share; the first two
        modes are linear and 0 here. With one roll the modes of degree 2 are imitated by linear
        terms of the exposures, and their errors say so.
    epoch_id : ndarray, shape (n_epochs,)
        What the caller calls the epochs; empty without.
    epoch_coefficients : ndarray of float64, shape (n_epochs, 2, n_epoch_modes)
        Departure of each epoch by the modes of degree 2 and up; sum zero.
    epoch_covariance : ndarray of float64, shape (2 * n_epoch_modes, n_epochs, n_epochs)
        Of the epochs of each of these, x first.
    exposure_id : ndarray, shape (n_exposures,)
    linear : ndarray of float64, shape (n_exposures, 4)
        Scale, turn [rad], stretch and skew of each exposure (see `LINEAR`), mean 0; NaN where
        fewer than 30 stars were measured.
    linear_covariance : ndarray of float64, shape (4, n_exposures, n_exposures)
    noise : NoiseModel
        Of a position in one direction: scale times the errors given, and a floor [arcsec].
    n_used, n_outliers, n_stars : int
    n_left_out : mapping
        Reason -> measurements not used.
    """

    basis: FieldBasis
    coefficients: np.ndarray
    errors: np.ndarray
    epoch_id: np.ndarray
    epoch_coefficients: np.ndarray
    epoch_covariance: np.ndarray
    exposure_id: np.ndarray
    linear: np.ndarray
    linear_covariance: np.ndarray
    noise: NoiseModel
    n_used: int
    n_outliers: int
    n_stars: int
    n_left_out: Mapping[str, int]


def measure_distortion(
    observations: StarObservations,
    skies: Mapping[int, SkyOfPixel] | Sequence[SkyOfPixel],
    field: np.ndarray,
    *,
    fwhm: float,
    epoch: Mapping[int, int] | None = None,
    order: int = 4,
    epoch_order: int = 3,
    least_snr: float = 20.0,
) -> Distortion:
    """Measure what the WCS of the exposures leaves of the distortion.

    Parameters
    ----------
    observations : StarObservations
        Stars matched across exposures, as `match_stars` gives them.
    skies : sequence or mapping of callable
        WCS of each exposure, by its number: ra, dec [deg] of x, y [pixel, 0-based].
    field : ndarray of bool, shape (ny, nx)
        True = illuminated.
    fwhm : float
        Of the PSF [pixel]: a star's position is taken to be known to FWHM / 2.355 over its
        signal-to-noise ratio, times a scale and beside a floor that are found.
    epoch : mapping or None
        Exposure -> epoch, for every exposure; None = one distortion for all.
    order, epoch_order : int
        Total degree of the modes that all exposures share, and of those that differ by epoch.
    least_snr : float
        Stars of lower median signal-to-noise ratio are left out.

    Returns
    -------
    Distortion

    Raises
    ------
    EvidenceError
        When no star was measured twice, there are fewer measurements than unknowns, an order is
        below 2, or an exposure has no epoch or no WCS.

    Notes
    -----
    Position that the WCS gives = star + J (offset + linear terms of the exposure + modes), with J
    the derivative of the WCS at the middle of the field: what is found is to be taken off the
    WCS. One robust sparse least squares, star positions eliminated. An offset of the boresight is
    an offset, and no distortion; of linear terms only the differences between exposures are known,
    and with one roll the modes of degree 2 are known no better than their prior.
    """
    if min(order, epoch_order) < 2:
        raise EvidenceError(
            f"expected orders of 2 or more, found {order} and {epoch_order}: linear terms are "
            "fitted anyhow; raise them"
        )
    basis = make_basis(np.asarray(field, bool), max(order, epoch_order))
    data = prepare_observations(observations, basis, least_snr=least_snr, n_folds=1)
    epoch_id, contrast = _contrast(data.exposure_id, epoch)
    position, jacobian, scale = _locate(data.exposure, data.exposure_id, data.x, data.y, skies)
    modes = basis.evaluate(data.x, data.y)
    common = (basis.degree > 1) & (basis.degree <= order)
    moving = (basis.degree > 1) & (basis.degree <= epoch_order)
    own = _make_linear(data.x, data.y, basis, scale)
    shared = [modes[:, common]]
    shared += [modes[:, moving] * column[data.exposure, None] for column in contrast.T]
    design = _make_design(data.exposure, own, np.hstack(shared), jacobian)
    n_free = 2 * (data.n_used - data.n_stars)
    if n_free < design.shape[1]:
        raise EvidenceError(
            f"expected at least {design.shape[1] // 2} measurements more than stars, found "
            f"{data.n_used} of {data.n_stars} stars in {data.n_exposures} exposures; give more "
            "dithered exposures or fainter stars, or lower the orders"
        )
    err = fwhm / 2.3548 * scale * data.flux_err / np.maximum(data.flux, data.flux_err)
    prior = _Prior(data.n_exposures, basis.degree[common] > 2)
    fit = _solve(design, position, data.star, err, prior)
    return _collect(fit, data, basis, common, order, epoch_id)


def find_distortion_drifts(
    distortion: Distortion,
    epochs: tuple[np.ndarray, np.ndarray],
    exposures: tuple[np.ndarray, np.ndarray],
    *,
    false_discovery_rate: float = 0.01,
    time_constant_day: float = TIME_CONSTANT_DAY,
) -> tuple[Drifts, Drifts]:
    """Find how distortion changes in time: its shape, and apart from it its linear terms.

    Parameters
    ----------
    distortion : Distortion
        Measured with `epoch`.
    epochs : tuple of ndarray, shape (n_epochs,)
        Mid-times [MJD] and visits of the epochs, in the order of `distortion.epoch_id`.
    exposures : tuple of ndarray, shape (n_exposures,)
        The same of the exposures, in the order of `distortion.exposure_id`.
    false_discovery_rate, time_constant_day
        See `find_drifts`.

    Returns
    -------
    shape, linear : Drifts
        Shape: one series per direction and mode of degree 2 and up [arcsec rms over the field].
        Linear: scale, turn [rad], stretch and skew by exposure. A turn follows the guide stars
        and is no property of the camera.

    Raises
    ------
    EvidenceError
        When the distortion has no epochs, or not as many as times.
    """
    n_epochs = len(distortion.epoch_id)
    if n_epochs != len(epochs[0]) or not n_epochs:
        raise EvidenceError(
            f"expected a distortion with the epochs of {len(epochs[0])} times, found {n_epochs}; "
            "measure it with `epoch` and give the time of each"
        )
    n_modes = distortion.epoch_coefficients.shape[2]
    basis_degree = _list_degrees(n_modes)
    shape = find_drifts(
        distortion.epoch_coefficients.reshape(n_epochs, 2 * n_modes),
        distortion.epoch_covariance,
        *epochs,
        names=[
            f"{axis}, mode {q + 3} (degree {degree})"
            for axis in "xy"
            for q, degree in enumerate(basis_degree)
        ],
        false_discovery_rate=false_discovery_rate,
        time_constant_day=time_constant_day,
    )
    linear = find_drifts(
        distortion.linear,
        distortion.linear_covariance,
        *exposures,
        names=LINEAR,
        false_discovery_rate=false_discovery_rate,
        time_constant_day=time_constant_day,
    )
    for line in shape.describe(scale=1000, unit="mas"):
        log.info("Distortion, shape: %s", line)
    for line in linear.describe(scale=1e6, unit="ppm"):
        log.info("Distortion, linear: %s", line)
    return shape, linear


@dataclass(frozen=True, slots=True)
class _Fit:
    """Solution of all unknowns but the stars."""

    parameters: np.ndarray
    covariance: np.ndarray
    noise: NoiseModel
    n_outliers: int
    typical: float


def _list_degrees(n_modes: int) -> list[int]:
    """Degree of each of the first modes from degree 2 on."""
    degrees = [degree for degree in range(2, n_modes + 2) for _ in range(degree + 1)]
    return degrees[:n_modes]


def _contrast(
    exposure_id: np.ndarray, epoch: Mapping[int, int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Epochs, and orthonormal contrasts between them by exposure: (n_exposures, n_epochs - 1)."""
    if epoch is None:
        return np.empty(0, int), np.empty((len(exposure_id), 0))
    missing = [int(k) for k in exposure_id if k not in epoch]
    if missing:
        raise EvidenceError(
            f"expected an epoch for every exposure, found none for {missing}; add them"
        )
    ids, number = np.unique([epoch[k] for k in exposure_id], return_inverse=True)
    if len(ids) < 2:
        raise EvidenceError(
            f"expected two epochs or more, found {len(ids)}; leave `epoch` out for one distortion"
        )
    return ids, _make_contrasts(len(ids))[number]


def _make_contrasts(n: int) -> np.ndarray:
    """Orthonormal columns with zero sum: shape (n, n - 1)."""
    return np.linalg.qr(np.ones((n, 1)), mode="complete")[0][:, 1:]


def _locate(
    exposure: np.ndarray,
    exposure_id: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    skies: Mapping[int, SkyOfPixel] | Sequence[SkyOfPixel],
) -> tuple[np.ndarray, np.ndarray, float]:
    """Offsets on a tangent plane (n, 2) [arcsec], unit derivative by row (n, 2, 2), pixel scale."""
    known = skies if isinstance(skies, Mapping) else dict(enumerate(skies))
    missing = [int(k) for k in exposure_id if k not in known]
    if missing:
        raise EvidenceError(
            f"expected a WCS for every exposure, found none for {missing}; add them"
        )
    ra, dec = np.empty(len(x)), np.empty(len(x))
    corner = np.empty((len(exposure_id), 2, 4))
    x0, y0 = float(np.median(x)), float(np.median(y))
    step = np.array([[_STEP, 0], [-_STEP, 0], [0, _STEP], [0, -_STEP]])
    for k, label in enumerate(exposure_id):
        rows = np.flatnonzero(exposure == k)
        ra[rows], dec[rows] = known[label](x[rows], y[rows])
        corner[k] = known[label](x0 + step[:, 0], y0 + step[:, 1])
    if not (np.isfinite(ra).all() and np.isfinite(dec).all() and np.isfinite(corner).all()):
        raise EvidenceError(
            "expected a WCS defined at every star and at the middle of the field, found "
            f"{int(np.sum(~np.isfinite(ra)))} stars without coordinates; evaluate it without its "
            "bounding box"
        )
    vectors = _point(ra, dec)
    pole = vectors.mean(axis=1) / np.linalg.norm(vectors.mean(axis=1))
    east = np.cross([0.0, 0.0, 1.0] if abs(pole[2]) < 0.9 else [1.0, 0.0, 0.0], pole)
    east /= np.linalg.norm(east)
    axes = np.stack([east, np.cross(pole, east)])
    plane = np.rad2deg(axes @ vectors / (pole @ vectors)).T * _ARCSEC
    ends = _point(corner[:, 0].ravel(), corner[:, 1].ravel())
    ends = (np.rad2deg(axes @ ends / (pole @ ends)) * _ARCSEC).reshape(2, -1, 4)
    jacobian = np.stack([ends[..., 0] - ends[..., 1], ends[..., 2] - ends[..., 3]], axis=-1)
    jacobian = np.moveaxis(jacobian, 0, 1) / (2 * _STEP)
    scale = float(np.mean(np.sqrt(np.abs(np.linalg.det(jacobian)))))
    return plane, (jacobian / scale)[exposure], scale


def _point(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Compute unit vectors of ra, dec [deg]: shape (3, n)."""
    lon, lat = np.deg2rad(ra), np.deg2rad(dec)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


def _make_linear(x: np.ndarray, y: np.ndarray, basis: FieldBasis, scale: float) -> np.ndarray:
    """Shift (x, y) by each offset and linear term: shape (n, 2, 6) [arcsec]."""
    x0, x1, y0, y1 = basis.bounds
    u, v = scale * (x - (x0 + x1) / 2), scale * (y - (y0 + y1) / 2)
    one, none = np.ones(len(x)), np.zeros(len(x))
    return np.stack(
        [
            np.stack([one, none, u, -v, u, v], axis=1),
            np.stack([none, one, v, u, -v, u], axis=1),
        ],
        axis=1,
    )


def _make_design(
    exposure: np.ndarray, own: np.ndarray, shared: np.ndarray, jacobian: np.ndarray
) -> csr_array:
    """All columns, the rows of the first direction on the sky before those of the second."""
    n, n_exposures = len(exposure), int(exposure.max()) + 1
    rows = np.repeat(np.arange(n), 6)
    columns = (6 * exposure[:, None] + np.arange(6)).ravel()
    parts = []
    for direction in (0, 1):
        turned = np.einsum("nd,ndk->nk", jacobian[:, direction], own)
        parts.append(
            hstack(
                [
                    csr_array((turned.ravel(), (rows, columns)), shape=(n, 6 * n_exposures)),
                    # Modes in the order (mode in x, mode in y) of the shared ones, then epochs.
                    csr_array(_spread(shared, jacobian[:, direction])),
                ]
            )
        )
    return csr_array(vstack(parts, format="csr"))


def _spread(shared: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Modes as shifts in x, then as shifts in y, seen along one direction of the sky."""
    return np.hstack([shared * along[:, :1], shared * along[:, 1:]])


@dataclass(frozen=True, slots=True)
class _Prior:
    """Where the unknowns lie, and what is known of them before."""

    n_exposures: int
    determined: np.ndarray

    def find_width(self, parameters: np.ndarray) -> float:
        """Width of the prior of the modes, from those of degree 3 and up [arcsec]."""
        shifts = parameters[6 * self.n_exposures :].reshape(2, -1)
        some = shifts[:, : len(self.determined)][:, self.determined]
        rms = float(np.sqrt(np.mean(some**2))) if some.size else _FIRST_NOISE_ARCSEC
        return max(_LEAST_MODE_ARCSEC, _MODE_FACTOR * rms)

    def compute(self, size: int, width: float) -> np.ndarray:
        """Compute the inverse variance of each unknown: shape (size,)."""
        prior = np.full(size, width**-2)
        own = prior[: 6 * self.n_exposures].reshape(-1, 6)
        own[:] = np.where(np.arange(6) < 2, _OFFSET_ARCSEC**-2, _LINEAR**-2)
        return prior


def _solve(
    design: csr_array, position: np.ndarray, star: np.ndarray, err: np.ndarray, prior: _Prior
) -> _Fit:
    """Solve robustly, star positions eliminated, noise and width of the prior found."""
    n, size = len(star), design.shape[1]
    n_stars = int(star.max()) + 1
    member = csr_array((np.ones(n), (star, np.arange(n))), shape=(n_stars, n))
    halves = design[:n], design[n:]
    freedom = max(1 - size / (2 * (n - n_stars)), 0.1)
    noise, robust, width = NoiseModel(1.0, _FIRST_NOISE_ARCSEC), np.ones(n), 1.0
    for iteration in range(_N_HUBER + _N_REJECTING):
        variance = noise.compute_variance(err)
        weight = robust / variance
        total = np.maximum(member @ weight, 1e-300)
        normal, right = np.diag(prior.compute(size, width)), np.zeros(size)
        for half, target in zip(halves, position.T, strict=True):
            weighed = diags_array(weight) @ half
            sums, mean = csr_array(member @ weighed), member @ (weight * target)
            normal += (half.T @ weighed).toarray()
            # Most stars meet most columns: dense products are quicker.
            for first in range(0, n_stars, _STARS_AT_ONCE):
                some = slice(first, first + _STARS_AT_ONCE)
                block = sums[some].toarray() / np.sqrt(total[some, None])
                normal -= block.T @ block
            right += weighed.T @ target - sums.T @ (mean / total)
        covariance = np.linalg.inv(normal)
        parameters = covariance @ right
        residual = position - np.column_stack([half @ parameters for half in halves])
        residual -= ((member @ (weight[:, None] * residual)) / total[:, None])[star]
        leverage = np.minimum(weight / total[star], 1.0)
        seen = np.tile(leverage < 1, 2)
        left = np.maximum((1 - leverage) * freedom, 0.05)
        noise = fit_noise(residual.T.ravel()[seen], np.tile(err, 2)[seen], np.tile(left, 2)[seen])
        width = prior.find_width(parameters)
        variance = noise.compute_variance(err) * left
        # The normal deviate that is as rare as this distance.
        with np.errstate(under="ignore"):
            rare = norm.isf(np.exp(-0.5 * (residual**2).sum(axis=1) / variance) / 2)
        robust = (compute_huber if iteration < _N_HUBER else compute_redescending)(rare)
    typical = float(np.sqrt(np.median(noise.compute_variance(err))))
    return _Fit(parameters, covariance, noise, int(np.sum(robust == 0)), typical)


def _collect(
    fit: _Fit,
    data: PreparedObservations,
    basis: FieldBasis,
    common: np.ndarray,
    order: int,
    epoch_id: np.ndarray,
) -> Distortion:
    """Take the solution apart."""
    n_own, n_common = 6 * data.n_exposures, int(common.sum())
    shifts = np.arange(n_own, len(fit.parameters)).reshape(2, -1)
    coefficients, errors = np.zeros((2, 2, basis.n_modes))
    coefficients[:, common] = fit.parameters[shifts[:, :n_common]]
    errors[:, common] = np.sqrt(np.diag(fit.covariance)[shifts[:, :n_common]])
    departure, departure_covariance = _take_epochs(fit, shifts[:, n_common:], len(epoch_id))
    linear, linear_covariance = _take_linear(fit, data.n_exposures)
    linear[np.bincount(data.exposure, minlength=data.n_exposures) < _LEAST_STARS] = np.nan
    keep = np.flatnonzero(basis.degree <= order)
    log.info(
        "Distortion from %d measurements of %d stars: positions scatter by %.2f mas, %d outliers",
        *(data.n_used, data.n_stars, 1000 * fit.typical, fit.n_outliers),
    )
    return Distortion(
        basis.truncate(order),
        coefficients[:, keep],
        errors[:, keep],
        epoch_id,
        departure,
        departure_covariance,
        data.exposure_id,
        linear,
        linear_covariance,
        fit.noise,
        data.n_used,
        fit.n_outliers,
        data.n_stars,
        data.n_left_out,
    )


def _take_epochs(fit: _Fit, places: np.ndarray, n_epochs: int) -> tuple[np.ndarray, np.ndarray]:
    """Departures (n_epochs, 2, n_modes), and of each (x first) the covariance of the epochs."""
    if not n_epochs:
        return np.empty((0, 2, 0)), np.empty((0, 0, 0))
    contrasts = _make_contrasts(n_epochs)
    places = places.reshape(2, n_epochs - 1, -1)
    departure = np.einsum("ec,acq->eaq", contrasts, fit.parameters[places])
    by_mode = np.moveaxis(places, 1, 2).reshape(-1, n_epochs - 1)
    covariance = np.stack([fit.covariance[np.ix_(rows, rows)] for rows in by_mode])
    return departure, contrasts @ covariance @ contrasts.T


def _take_linear(fit: _Fit, n_exposures: int) -> tuple[np.ndarray, np.ndarray]:
    """Linear terms of the exposures about their mean, and the covariance of each."""
    places = np.arange(6 * n_exposures).reshape(n_exposures, 6)[:, 2:]
    centre = np.eye(n_exposures) - 1 / n_exposures
    covariance = np.stack([fit.covariance[np.ix_(rows, rows)] for rows in places.T])
    return centre @ fit.parameters[places], centre @ covariance @ centre
