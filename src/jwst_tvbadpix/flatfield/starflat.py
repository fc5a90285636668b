"""The low spatial frequencies of a flat field, from the same stars seen all over the detector."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from ..errors import EvidenceError
from .basis import FieldBasis, make_basis
from .gauge import Gauge, assess_gauge, find_determined_order, require_determined
from .normal import (
    Design,
    NormalEquations,
    Solution,
    assemble,
    solve,
)
from .observations import PreparedObservations, StarObservations, prepare_observations
from .orders import OrderChoice, choose_order
from .weights import (
    NoiseModel,
    compute_huber,
    compute_redescending,
    find_variable,
    fit_noise,
)
from .zero_points import OddZeroPoint, find_odd_zero_points, find_zero_point_scatter

__all__ = ["StarFlat", "StarResiduals", "solve_star_flat"]

log = logging.getLogger(__name__)

# Measurements, more than stars and exposures, that each mode tried must have.
_LEAST_PER_MODE = 4
# Lowest order that is chosen: curvature that is left out leaks into planes, by several times their
# stated error, before the stars that are left out show it.
_LEAST_ORDER = 2
# Highest order tried at first, and steps beyond it.
_FIRST_TOP, _STEP = 10, 4
# Groups of stars for cross-validation.
_N_FOLDS = 20
# Where exposures say nothing about their own scatter: JWST's repeatability is 0.1-0.5 %.
_DEFAULT_SCATTER = 0.003
# Solutions with Huber's weights before those that reject; most solutions after them.
_N_HUBER, _N_REJECTING = 3, 12
# The weights stand when no mode moves by more than this, in its own sigma.
_SETTLED = 0.02
# Least share of a residual's variance that is taken to be left, and what no sum falls below.
_LEAST_LEFT, _TINY = 0.05, 1e-300
# Above this many exposures their scatter is found anew only in the first solutions.
_MANY_EXPOSURES = 600


@dataclass(frozen=True, slots=True)
class StarResiduals:
    """What measurements are off the solution, one row each, by star and exposure.

    Attributes
    ----------
    exposure, star : ndarray of int, shape (n_used,)
        As the caller numbered them.
    x, y : ndarray of float64, shape (n_used,)
        Position on the detector [pixel, 0-based].
    value : ndarray of float64, shape (n_used,)
        Flux over what was expected, less 1.
    sigma : ndarray of float64, shape (n_used,)
        What it should scatter by: the noise that was found, less what the fit takes.
    outlier : ndarray of bool, shape (n_used,)
        Measurements without weight.
    """

    exposure: np.ndarray
    star: np.ndarray
    x: np.ndarray
    y: np.ndarray
    value: np.ndarray
    sigma: np.ndarray
    outlier: np.ndarray


@dataclass(frozen=True, slots=True)
class StarFlat:
    """Relative response to point sources, ln F = sum of coefficients times modes.

    Attributes
    ----------
    basis : FieldBasis
        Modes; their mean over the field is zero, so the mean of ln F is.
    coefficients : ndarray, shape (n_modes,)
        Mean over the epochs where there are several [ln flux].
    covariance : ndarray, shape (n_modes, n_modes)
        Full covariance, zero points and star fluxes marginalised.
    epoch_id : ndarray, shape (n_epochs,)
        What the caller calls the epochs; empty without epoch modes.
    epoch_coefficients : ndarray, shape (n_epochs, n_epoch_modes)
        Departure of each epoch from the mean, sum zero over the epochs.
    epoch_covariance : ndarray, shape (n_epochs * n_epoch_modes, n_epochs * n_epoch_modes)
        Theirs, epoch by epoch; singular, since they sum to zero.
    exposure_id : ndarray, shape (n_exposures,)
    zero_point, zero_point_err : ndarray, shape (n_exposures,)
        Relative sensitivity of each exposure [ln flux].
    zero_point_scatter : float
        Width of their prior [ln flux]: as given, or as found.
    odd_zero_points : tuple of OddZeroPoint
        Exposures whose sensitivity is not that of the others.
    star_id : ndarray, shape (n_stars,)
    star_ln_flux, star_ln_flux_err : ndarray, shape (n_stars,)
        ln of the flux at mean response; the error is that of the star's own measurements.
    star_excess : ndarray, shape (n_stars,)
        Factor on the variance of variable stars; 1 for others.
    noise : NoiseModel
        What the errors given lacked.
    gauge : Gauge
        What the exposures determine and what they do not.
    choice : OrderChoice
        How the order was chosen. Where it was given, modes above it that predict stars better
        were solved along, up to `choice.order`, so that they do not leak into those reported.
    n_used : int
        Measurements used.
    n_outliers : int
        Of these, the ones without weight.
    n_left_out : mapping
        Reason -> measurements not used.
    residuals : StarResiduals
        Of the measurements used.
    """

    basis: FieldBasis
    coefficients: np.ndarray
    covariance: np.ndarray
    epoch_id: np.ndarray
    epoch_coefficients: np.ndarray
    epoch_covariance: np.ndarray
    exposure_id: np.ndarray
    zero_point: np.ndarray
    zero_point_err: np.ndarray
    zero_point_scatter: float
    odd_zero_points: tuple[OddZeroPoint, ...]
    star_id: np.ndarray
    star_ln_flux: np.ndarray
    star_ln_flux_err: np.ndarray
    star_excess: np.ndarray
    noise: NoiseModel
    gauge: Gauge
    choice: OrderChoice
    n_used: int
    n_outliers: int
    n_left_out: Mapping[str, int]
    residuals: StarResiduals

    @property
    def order(self) -> int:
        """Highest total degree."""
        return self.basis.order

    @property
    def sigma(self) -> float:
        """Expected rms error of ln F over the field."""
        return float(np.sqrt(np.trace(self.covariance)))

    @property
    def sigma_without_plane(self) -> float:
        """Expected rms error of ln F over the field once the best plane is removed."""
        return float(np.sqrt(np.sum(np.diag(self.covariance)[self.basis.degree > 1])))

    def render(self) -> np.ndarray:
        """Render the response F to a point source: ndarray (ny, nx), NaN outside the field."""
        return np.exp(self.basis.render(self.coefficients))

    def render_sigma(self) -> np.ndarray:
        """Render the 1-sigma error of ln F: ndarray (ny, nx), NaN outside the field."""
        return self.basis.render_sigma(self.covariance)


@dataclass(frozen=True, slots=True)
class _Fit:
    """State of the reweighted solution."""

    model: np.ndarray
    weight: np.ndarray
    ln_flux: np.ndarray
    noise: NoiseModel
    excess: np.ndarray
    scatter: float
    normal: NormalEquations
    solution: Solution


# Its matrices are small: more threads of BLAS only wait for each other, at five times the cost.
@threadpool_limits.wrap(limits=1, user_api="blas")  # type: ignore[untyped-decorator]
def solve_star_flat(
    observations: StarObservations,
    field: np.ndarray,
    *,
    order: int | None = None,
    max_order: int = 20,
    zero_point_scatter: float | None = None,
    epoch: Mapping[int, int] | None = None,
    epoch_order: int = 2,
    least_snr: float = 5.0,
) -> StarFlat:
    """Solve the star flat: modes, star fluxes, zero points and epoch modes at once.

    Parameters
    ----------
    observations : StarObservations
        Stars matched across exposures. The flux is that of the whole star, not divided by the
        low frequencies of any flat; see Notes for the pixel area.
    field : ndarray of bool, shape (ny, nx)
        True = illuminated: where the flat is wanted and normalised.
    order : int or None
        Highest total degree of the modes; None = chosen by cross-validation over stars.
    max_order : int
        Highest order that is tried; above 10 only while the highest tried is the best.
    zero_point_scatter : float or None
        Prior width of the zero points [ln flux]: 0 = exposures share one, inf = free, None =
        found from the exposures.
    epoch : mapping or None
        Exposure -> epoch, for every exposure; None = one flat for all.
    epoch_order : int
        Highest degree of the modes that may differ by epoch.
    least_snr : float
        Stars of lower median signal-to-noise ratio are left out.

    Returns
    -------
    StarFlat

    Raises
    ------
    EvidenceError
        When no star was measured twice, there are too few stars for the modes, or a mode beyond
        the gauge is undetermined.

    Notes
    -----
    ln c_i = sum_q c_q g_q(x_i) + ln s_k + z_j + e_i, linear in all parameters; the residual is
    c_i / expected - 1, one Gauss-Newton step of the problem in flux, which has none of the bias
    of the logarithm. The noise is found from the residuals, weights redescend from Huber's, the
    width of the prior of z is found by restricted maximum likelihood. The stated errors hold the
    noise and the prior, not what the modes cannot describe (see `OrderChoice.beyond`). Where the
    order is given and the flat has more structure than it can hold, that structure would leak
    into the modes, by several times their noise for surveys on a grid; higher modes that predict
    left-out stars better are therefore solved along and marginalised.

    F is the response to a star's total flux. A flat of the pipeline holds the pixel area too:
    multiply F by `compute_area_ratio` before it meets a sky flat.

    References
    ----------
    van der Marel 2003, ISR ACS 2003-10; Padmanabhan et al. 2008, ApJ 674, 1217; Holmes, Hogg &
    Rix 2012, PASP 124, 1219.
    """
    if zero_point_scatter is not None and not zero_point_scatter >= 0:
        raise EvidenceError(
            f"expected a zero_point_scatter of 0 or more, found {zero_point_scatter}; give a "
            "width in ln flux, inf for free zero points, or None to have it found"
        )
    field = np.asarray(field, bool)
    inside = make_basis(field, 1 if order is None else order)
    data = prepare_observations(observations, inside, least_snr=least_snr, n_folds=_N_FOLDS)
    whole = replace(data, fold=np.zeros_like(data.fold))
    contrast, epoch_id = _contrast_epochs(data, epoch)
    n_zero_points = 0 if zero_point_scatter == 0 else data.n_exposures
    start = order or _cap_order(data, field, n_zero_points, min(max_order, _FIRST_TOP))
    n_epoch_modes = (epoch_order + 1) * (epoch_order + 2) // 2 - 1 if epoch_id.size else 0
    design = Design(make_basis(field, start), n_zero_points, contrast, n_epoch_modes).clip()
    _require_enough(data, design)
    if order is None:
        fit = _reweight(data, design, zero_point_scatter, None, n_rejecting=3)
    else:
        fit = _reweight(whole, design, zero_point_scatter, None, n_rejecting=_N_REJECTING)
        require_determined(design, fit.normal)
    choice = _search_order(
        data, design, fit, order or min(_LEAST_ORDER, max_order), max_order, whole_top=order is None
    )
    wide = design.resize(make_basis(field, choice.order))
    if order is None or choice.order > order:
        fit = _reweight(whole, wide, zero_point_scatter, fit, n_rejecting=_N_REJECTING)
    reported = wide.truncate(order or choice.order)
    flat = _collect(whole, wide, reported, fit, choice, epoch_id)
    log.info(
        "Star flat of order %d (solved to order %d) from %d measurements of %d stars in %d "
        "exposures: sigma %.3f %%, %.3f %% without the plane; zero points scatter by %.3f %%, "
        "%d outliers",
        *(flat.order, choice.order, flat.n_used, data.n_stars, data.n_exposures),
        *(100 * flat.sigma, 100 * flat.sigma_without_plane, 100 * fit.scatter, flat.n_outliers),
    )
    return flat


def _cap_order(data: PreparedObservations, field: np.ndarray, n_zero_points: int, most: int) -> int:
    """Highest order that field and measurements allow, up to `most`; at least 2."""
    freedom = data.n_used - data.n_stars - n_zero_points
    extent = min(field.any(axis=0).sum(), field.any(axis=1).sum())
    order = min(most, int(extent) - 1)
    while order > 2 and (order + 1) * (order + 2) // 2 > freedom / _LEAST_PER_MODE:
        order -= 1
    return max(order, min(most, 2))


def _search_order(
    data: PreparedObservations,
    design: Design,
    fit: "_Fit",
    lowest: int,
    max_order: int,
    *,
    whole_top: bool,
) -> OrderChoice:
    """Choose the order by cross-validation, going up as long as the highest tried is best.

    A given order is searched above, for modes that would leak into those that are wanted.
    """
    field = design.basis.field
    top = design.basis.order
    if not whole_top:
        top = min(max(lowest + 2, _FIRST_TOP), max(max_order, lowest))
        top = max(_cap_order(data, field, design.n_zero_points, top), lowest)
    while True:
        tried = design.resize(make_basis(field, top))
        normal = fit.normal
        if not (whole_top and top == design.basis.order):
            normal = assemble(data, tried, fit.weight, _compute_target(data, fit))
        highest = max(find_determined_order(tried, normal), lowest)
        choice = choose_order(tried, normal, fit.scatter, lowest, highest)
        log.info("Order %d of %d to %d predicts stars best", choice.order, lowest, highest)
        higher = _cap_order(data, field, design.n_zero_points, min(top + _STEP, max_order))
        if choice.order < top or higher <= top:
            return choice
        top = higher


def _contrast_epochs(
    data: PreparedObservations, epoch: Mapping[int, int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal contrasts (n_exposures, n_epochs - 1), and the epochs; none without choice."""
    if epoch is None:
        return np.empty((data.n_exposures, 0)), np.empty(0, int)
    missing = [int(k) for k in data.exposure_id if k not in epoch]
    if missing:
        raise EvidenceError(
            f"expected an epoch for every exposure, found none for {missing}; add them"
        )
    ids, number = np.unique([epoch[k] for k in data.exposure_id], return_inverse=True)
    if len(ids) < 2:
        raise EvidenceError(
            f"expected two epochs or more, found {len(ids)}; leave `epoch` out for one flat"
        )
    return _make_contrasts(len(ids))[number], ids


def _make_contrasts(n: int) -> np.ndarray:
    """Orthonormal columns with zero sum: shape (n, n - 1)."""
    return np.linalg.qr(np.eye(n) - 1 / n)[0][:, : n - 1]


def _require_enough(data: PreparedObservations, design: Design) -> None:
    """Refuse a problem with more unknowns than measurements."""
    freedom = data.n_used - data.n_stars
    if freedom < design.size:
        raise EvidenceError(
            f"expected at least {design.size} measurements more than stars for order "
            f"{design.basis.order}, found {data.n_used} of {data.n_stars} stars in "
            f"{data.n_exposures} exposures; give more dithered exposures or fainter stars, or "
            "lower the order"
        )


def _reweight(
    data: PreparedObservations,
    design: Design,
    zero_point_scatter: float | None,
    previous: _Fit | None,
    *,
    n_rejecting: int,
) -> _Fit:
    """Solve until the weights stand; from the medians of the stars, or from a previous fit."""
    n_huber = 0 if previous else _N_HUBER
    fit = previous or _start(data, design)
    parameters: np.ndarray | None = None
    for iteration in range(n_huber + n_rejecting):
        huber = iteration < n_huber
        search = iteration < 3 or design.n_zero_points <= _MANY_EXPOSURES
        fit = _iterate(data, design, fit, huber, zero_point_scatter if search else fit.scatter)
        modes = fit.solution.parameters[design.n_before :]
        if parameters is not None and not huber:
            sigma = 1 / np.sqrt(
                np.maximum(np.diag(fit.normal.matrix.sum(axis=0))[design.n_before :], 1e-300)
            )
            if np.all(np.abs(modes - parameters) <= _SETTLED * sigma):
                break
        parameters = modes
    return fit


def _start(data: PreparedObservations, design: Design) -> _Fit:
    """Take each star's median flux, and the errors as they were given."""
    by_flux = np.lexsort((data.flux, data.star))
    ends, flux = data.start[:-1] + data.start[1:], data.flux[by_flux]
    # The mean of both middle values: residuals of stars measured twice are then not zero.
    flux = np.maximum((flux[(ends - 1) // 2] + flux[ends // 2]) / 2, data.flux_err[data.start[:-1]])
    ln_flux = np.log(flux)
    empty = NormalEquations(np.zeros((0, 0, 0)), np.zeros((0, 0)), np.zeros(0), np.zeros((0, 0)))
    model = ln_flux[data.star]
    weight = (np.exp(model) / data.flux_err) ** 2
    return _Fit(
        model,
        weight,
        ln_flux,
        NoiseModel(1.0, 0.0),
        np.ones(data.n_stars),
        _DEFAULT_SCATTER,
        empty,
        Solution(np.zeros(design.size), (np.zeros((0, 0)), True)),
    )


def _iterate(
    data: PreparedObservations,
    design: Design,
    fit: _Fit,
    huber: bool,
    zero_point_scatter: float | None,
) -> _Fit:
    """Find noise and weights from the residuals of a fit, and solve anew."""
    expected = np.exp(fit.model)
    residual, relative_err = data.flux / expected - 1, data.flux_err / expected
    own, left = _share_out(data, design, fit)
    steady = (fit.excess == 1)[data.star] & (own < 1)
    noise = fit_noise(residual[steady], relative_err[steady], left[steady])
    variance = noise.compute_variance(relative_err)
    standardised = residual / np.sqrt(variance * left)
    excess = fit.excess if huber else find_variable(data, standardised)
    variance = variance * excess[data.star]
    standardised = standardised / np.sqrt(excess[data.star])
    robust = compute_huber(standardised) if huber else compute_redescending(standardised)
    weight = robust / variance
    target = _compute_target(data, fit)
    normal = assemble(data, design, weight, target)
    matrix, rhs = normal.matrix.sum(axis=0), normal.rhs.sum(axis=0)
    scatter = zero_point_scatter
    if scatter is None:
        scatter = find_zero_point_scatter(matrix, rhs, design.n_zero_points)
    if scatter is None:
        scatter = _DEFAULT_SCATTER
    solution = solve(matrix, rhs, design.compute_prior(scatter))
    model, ln_flux = _predict(data, design, solution.parameters, weight, target, fit.ln_flux)
    return _Fit(model, weight, ln_flux, noise, excess, scatter, normal, solution)


def _share_out(
    data: PreparedObservations, design: Design, fit: _Fit
) -> tuple[np.ndarray, np.ndarray]:
    """Share of each residual's variance that the star's flux took, and what all parameters left.

    A bright star decides the zero point of its exposure: that its residual is then small says
    nothing about the noise. What the modes took, one each, is shared out by weight.
    """
    total = data.sum_by_star(fit.weight)
    own = fit.weight / np.where(total > 0, total, 1.0)[data.star]
    weight = fit.weight * np.maximum(1 - own, 0.0)
    taken = (design.size - design.n_zero_points) * weight / max(float(weight.sum()), _TINY)
    if design.n_zero_points:
        of_exposure = np.bincount(data.exposure, weight, data.n_exposures)
        of_exposure += design.compute_prior(fit.scatter)[: design.n_zero_points]
        taken += weight / of_exposure[data.exposure]
    return own, np.maximum(1 - own - taken, _LEAST_LEFT)


def _compute_target(data: PreparedObservations, fit: _Fit) -> np.ndarray:
    """Compute ln flux less the star's, by one Gauss-Newton step from the model."""
    return fit.model - fit.ln_flux[data.star] + data.flux / np.exp(fit.model) - 1


def _predict(
    data: PreparedObservations,
    design: Design,
    parameters: np.ndarray,
    weight: np.ndarray,
    target: np.ndarray,
    ln_flux: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the expected ln flux of each row, and ln flux of each star."""
    nz = design.n_zero_points
    model = parameters[data.exposure] if nz else np.zeros(data.n_used)
    for rows, _ in data.blocks():
        model[rows] += design.fill(data, rows) @ parameters[nz:]
    total = data.sum_by_star(weight)
    mean = data.sum_by_star(weight * (target - model))
    step = np.divide(mean, total, out=np.zeros_like(mean), where=total > 0)
    return model + (ln_flux + step)[data.star], ln_flux + step


def _collect(
    data: PreparedObservations,
    wide: Design,
    reported: Design,
    fit: _Fit,
    choice: OrderChoice,
    epoch_id: np.ndarray,
) -> StarFlat:
    """Take the result apart and assess it."""
    size = reported.size
    covariance = fit.solution.compute_covariance()[:size, :size]
    parameters = fit.solution.parameters[:size]
    nz, before = wide.n_zero_points, wide.n_before
    contrasts = _make_contrasts(len(epoch_id)) if epoch_id.size else np.empty((0, 0))
    spread = np.kron(contrasts, np.eye(wide.n_epoch_modes))
    moving = parameters[nz:before].reshape(contrasts.shape[1], wide.n_epoch_modes)
    total = data.sum_by_star(fit.weight)
    zero_point, zero_point_err = np.zeros(data.n_exposures), np.zeros(data.n_exposures)
    odd: tuple[OddZeroPoint, ...] = ()
    if nz:
        sums = fit.normal.matrix.sum(axis=0), fit.normal.rhs.sum(axis=0)
        odd = find_odd_zero_points(*sums, data.exposure_id)
        zero_point, zero_point_err = parameters[:nz], np.sqrt(np.diag(covariance)[:nz])
    order = np.argsort(data.star_id)
    variance = np.diag(covariance)[before:]
    normal = fit.normal.truncate(size)
    return StarFlat(
        basis=reported.basis,
        coefficients=parameters[before:],
        covariance=covariance[before:, before:],
        epoch_id=epoch_id,
        epoch_coefficients=contrasts @ moving,
        epoch_covariance=spread @ covariance[nz:before, nz:before] @ spread.T,
        exposure_id=data.exposure_id,
        zero_point=zero_point,
        zero_point_err=zero_point_err,
        zero_point_scatter=fit.scatter if nz else 0.0,
        odd_zero_points=odd,
        star_id=data.star_id[order],
        star_ln_flux=fit.ln_flux[order],
        star_ln_flux_err=(1 / np.sqrt(np.where(total > 0, total, np.nan)))[order],
        star_excess=fit.excess[order],
        noise=fit.noise,
        gauge=assess_gauge(data, reported, normal, variance, zero_point, fit.weight, fit.scatter),
        choice=choice,
        n_used=data.n_used,
        n_outliers=int(np.sum(fit.weight == 0)),
        n_left_out=data.n_left_out,
        residuals=_list_residuals(data, wide, fit),
    )


def _list_residuals(data: PreparedObservations, design: Design, fit: _Fit) -> StarResiduals:
    """List what the measurements are off, and what they should be off."""
    expected = np.exp(fit.model)
    variance = fit.noise.compute_variance(data.flux_err / expected) * fit.excess[data.star]
    return StarResiduals(
        data.exposure_id[data.exposure],
        data.star_id[data.star],
        data.x,
        data.y,
        data.flux / expected - 1,
        np.sqrt(variance * _share_out(data, design, fit)[1]),
        fit.weight == 0,
    )
