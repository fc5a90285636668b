"""What a set of exposures determines of a star flat, and what it does not."""

import logging
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import eigh

from ..errors import EvidenceError
from .normal import Design, NormalEquations, assemble, eliminate
from .observations import PreparedObservations

__all__ = [
    "LEAST_SHARE",
    "Gauge",
    "RollForecast",
    "assess_gauge",
    "find_determined_order",
    "require_determined",
]

log = logging.getLogger(__name__)

# Share of the information that a mode keeps when the fluxes of the stars and the zero points are
# unknown: none at all (rounding), and too little to trust.
_NONE, LEAST_SHARE = 1e-8, 1e-3
# Share of planes in a combination of modes that zero points imitate.
_MOSTLY = 0.5
# Rolls that are forecast [deg], and rows that a forecast is made of, at most.
_ROLLS_DEG = (2.0, 5.0, 10.0, 20.0, 45.0, 90.0, 180.0)
_FORECAST_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class RollForecast:
    """What repeating the exposures at another roll would give.

    Attributes
    ----------
    roll_deg : ndarray, shape (n_rolls,)
        Turn about the centre of the field [deg].
    gradient_sigma : ndarray, shape (n_rolls,)
        rms error over the field of the plane in ln F, from stars alone (free zero points).
    needed_deg : float
        Least of these rolls that brings the plane's error below that of all other modes; NaN
        where none does.
    """

    roll_deg: np.ndarray
    gradient_sigma: np.ndarray
    needed_deg: float


@dataclass(frozen=True, slots=True)
class Gauge:
    """What is known, and how well.

    Attributes
    ----------
    n_null : int
        Directions that stars alone say nothing about (zero points free): one constant per
        component, two gradients where each component has a single roll, others never.
    component : ndarray of intp, shape (n_exposures,)
        Exposures of one component are linked by stars; others share none with them.
    component_constant, component_constant_err : ndarray, shape (n_components,)
        Mean zero point of each component, and its error: stars do not link components, so this
        is what the prior says.
    n_links : ndarray of int, shape (n_exposures,)
        Stars of each exposure that other exposures measured too.
    gradient_sigma : float
        rms error over the field of the plane in ln F, prior of the zero points included.
    gradient_sigma_free : float
        The same from stars alone; inf where they say nothing.
    weakest : float
        The least share of information that is left of a mode: of those beyond the plane when star
        fluxes and zero points are unknown, of all when star fluxes are.
    weakest_mode : ndarray, shape (n_modes,)
        The combination of modes that this is: its coefficients, of norm 1.
    shares : ndarray, shape (n_modes,)
        Share of information that is left of each combination of modes, the least first; those of
        the gauge included, which zero points imitate.
    combinations : ndarray, shape (n_modes, n_modes)
        Their coefficients, one combination per column, of norm 1, the largest positive.
    ill_determined : bool
        Whether the survey leaves a mode beyond the gauge with too little to be trusted.
    forecast : RollForecast or None
        Where stars alone leave the plane less certain than the rest.
    advice : tuple of str
        What was found, and what to do.
    """

    n_null: int
    component: np.ndarray
    component_constant: np.ndarray
    component_constant_err: np.ndarray
    n_links: np.ndarray
    gradient_sigma: float
    gradient_sigma_free: float
    weakest: float
    weakest_mode: np.ndarray
    shares: np.ndarray
    combinations: np.ndarray
    ill_determined: bool
    forecast: RollForecast | None
    advice: tuple[str, ...]

    @property
    def n_components(self) -> int:
        """Number of parts of the sky without a star in common."""
        return len(self.component_constant)


def require_determined(design: Design, normal: NormalEquations) -> None:
    """Refuse an order with a mode beyond the gauge that nothing determines.

    Raises
    ------
    EvidenceError
        Saying which order is determined.
    """
    shares = _split(design, normal)
    if _find_weakest(*shares, _count_gauge(design))[0] <= _NONE:
        raise EvidenceError(
            _describe_undetermined(design.basis.order, _search_order(design, *shares))
        )


def find_determined_order(design: Design, normal: NormalEquations) -> int:
    """Find the highest order whose modes beyond the gauge are all determined.

    Raises
    ------
    EvidenceError
        When even those of order 2 are not.
    """
    order = _search_order(design, *_split(design, normal))
    if order < 2:
        raise EvidenceError(_describe_undetermined(design.basis.order, order))
    return order


def assess_gauge(
    data: PreparedObservations,
    design: Design,
    normal: NormalEquations,
    variance: np.ndarray,
    zero_point: np.ndarray,
    weight: np.ndarray,
    zero_point_scatter: float,
) -> Gauge:
    """Find what is determined, with the final weights.

    Parameters
    ----------
    data, design, normal
        The problem, with the modes that are reported.
    variance : ndarray, shape (n_modes,)
        Of their coefficients.
    zero_point : ndarray, shape (n_exposures,)
        Relative sensitivity of each exposure [ln flux].
    weight : ndarray, shape (n_used,)
        Final weight of each measurement.
    zero_point_scatter : float
        Width of the prior of the zero points [ln flux].

    Returns
    -------
    Gauge
    """
    free, fixed, known = _split(design, normal)
    weakest, mode = _find_weakest(free, fixed, known, _count_gauge(design))
    shares, combinations = eigh(free, known)
    combinations /= np.linalg.norm(combinations, axis=0)
    largest = np.argmax(np.abs(combinations), axis=0)
    combinations *= np.sign(combinations[largest, np.arange(len(shares))])
    n_null = int(np.sum(shares < _NONE)) + (data.n_components if design.n_zero_points else 1)
    plane = design.basis.degree == 1
    gradient, rest = (float(np.sqrt(variance[part].sum())) for part in (plane, ~plane))
    gradient_free = _compute_gradient_sigma(free, known)
    forecast = None
    if design.n_zero_points and gradient_free > rest:
        forecast = _forecast_rolls(data, design, weight, rest)
    constant, constant_err = _average_components(data, design, zero_point, zero_point_scatter)
    gauge = Gauge(
        n_null,
        data.component,
        constant,
        constant_err,
        _count_links(data),
        gradient,
        gradient_free,
        weakest,
        mode,
        np.maximum(shares, 0.0),
        combinations,
        weakest < LEAST_SHARE,
        forecast,
        (),
    )
    gauge = replace(gauge, advice=tuple(_advise(gauge, rest)))
    for line in gauge.advice:
        log.log(logging.WARNING if gauge.ill_determined else logging.INFO, "%s", line)
    return gauge


def _count_gauge(design: Design) -> int:
    """Leading modes that zero points can imitate."""
    return 2 if design.n_zero_points else 0


def _split(design: Design, normal: NormalEquations) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Information on the modes with stars and zero points free, with stars free, with none."""
    matrix, nz, n = normal.matrix.sum(axis=0), design.n_zero_points, design.basis.n_modes
    fixed = eliminate(matrix[nz:, nz:], design.n_epoch_columns)
    return eliminate(matrix, design.n_before), fixed, normal.known_stars[-n:, -n:]


def _find_weakest(
    free: np.ndarray, fixed: np.ndarray, known: np.ndarray, n_gauge: int
) -> tuple[float, np.ndarray]:
    """Least share of information beyond the gauge, and the combination of modes that keeps it.

    The gauge is what zero points can imitate: functions linear on the sky. Through a distorted
    camera these are planes plus a little of all other modes, so they are not taken to be the
    modes of degree 1 but, among the weakest combinations, at most two that are mostly plane. What
    is unknown when the zero points are known is no gauge, however plane it is: two exposures that
    are turned about a point beside the field leave such a bowl.
    """
    try:
        shares, vectors = eigh(free, known)
        firm, firm_vectors = eigh(fixed, known)
    except np.linalg.LinAlgError:
        return 0.0, np.zeros(len(free))
    plane = np.sum(vectors[:2] ** 2, axis=0) / np.sum(vectors**2, axis=0)
    imitated = np.flatnonzero(plane > _MOSTLY)[:n_gauge]
    beyond = np.setdiff1d(np.arange(len(shares)), imitated)
    share, mode = float(firm[0]), firm_vectors[:, 0]
    if len(beyond) and shares[beyond[0]] < share:
        share, mode = float(shares[beyond[0]]), vectors[:, beyond[0]]
    mode = mode / np.linalg.norm(mode)
    return max(share, 0.0), mode * np.sign(mode[np.argmax(np.abs(mode))])


def _compute_gradient_sigma(free: np.ndarray, known: np.ndarray) -> float:
    """Error of the plane when all else is free; inf where nothing is known."""
    reverse = np.roll(np.arange(len(free)), -2)
    left = eliminate(free[np.ix_(reverse, reverse)], len(free) - 2)
    shares, vectors = eigh(left, known[:2, :2])
    if shares[0] <= _NONE:
        return np.inf
    return float(np.sqrt(np.sum(vectors**2 / shares)))


def _average_components(
    data: PreparedObservations, design: Design, zero_point: np.ndarray, scatter: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean zero point of each component, and the error that the prior leaves."""
    counts = np.bincount(data.component)
    if not design.n_zero_points:
        return np.zeros(len(counts)), np.zeros(len(counts))
    return np.bincount(data.component, zero_point) / counts, scatter / np.sqrt(counts)


def _count_links(data: PreparedObservations) -> np.ndarray:
    """Stars of each exposure that another one measured too."""
    pairs = np.unique(data.star * data.n_exposures + data.exposure)
    star, exposure = np.divmod(pairs, data.n_exposures)
    shared = (np.bincount(star, minlength=data.n_stars) > 1)[star]
    return np.bincount(exposure[shared], minlength=data.n_exposures)


def _forecast_rolls(
    data: PreparedObservations, design: Design, weight: np.ndarray, goal: float
) -> RollForecast:
    """Repeat the exposures, turned about the centre of the field, with zero points of their own.

    Stars that would come into the field are not known and not counted.
    """
    n_stars = max(int(data.n_stars * min(1.0, _FORECAST_ROWS / data.n_used)), 2)
    chosen = np.zeros(data.n_stars, bool)
    chosen[np.linspace(0, data.n_stars - 1, n_stars).astype(int)] = True
    some, scale = data.select_stars(chosen), chosen.mean()
    kept = weight[chosen[data.star]]
    sigma = []
    for roll in _ROLLS_DEG:
        both, rows = _repeat_turned(some, design, np.deg2rad(roll))
        wide = Design(design.basis, 2 * data.n_exposures, np.empty((2 * data.n_exposures, 0)), 0)
        normal = assemble(both, wide, kept[rows] / scale, np.zeros(both.n_used))
        free, _, known = _split(wide, normal)
        sigma.append(_compute_gradient_sigma(free, known))
    cured = [roll for roll, value in zip(_ROLLS_DEG, sigma, strict=True) if value <= goal]
    return RollForecast(np.array(_ROLLS_DEG), np.array(sigma), cured[0] if cured else np.nan)


def _repeat_turned(
    data: PreparedObservations, design: Design, angle: float
) -> tuple[PreparedObservations, np.ndarray]:
    """All rows and their turned copies that fall in the field, and which row each one is."""
    x0, x1, y0, y1 = design.basis.bounds
    dx, dy = data.x - (x0 + x1) / 2, data.y - (y0 + y1) / 2
    x = np.cos(angle) * dx - np.sin(angle) * dy + (x0 + x1) / 2
    y = np.sin(angle) * dx + np.cos(angle) * dy + (y0 + y1) / 2
    inside = np.flatnonzero(design.basis.contains(x, y))
    rows = np.concatenate([np.arange(data.n_used), inside])
    order = np.argsort(data.star[rows], kind="stable")
    star = data.star[rows][order]
    both = replace(
        data,
        exposure=np.concatenate([data.exposure, data.exposure[inside] + data.n_exposures])[order],
        star=star,
        x=np.concatenate([data.x, x[inside]])[order],
        y=np.concatenate([data.y, y[inside]])[order],
        flux=data.flux[rows][order],
        flux_err=data.flux_err[rows][order],
        exposure_id=np.arange(2 * data.n_exposures),
        fold=np.zeros(data.n_stars, np.intp),
        start=np.concatenate([[0], np.cumsum(np.bincount(star))]),
    )
    return both, rows[order]


def _search_order(design: Design, free: np.ndarray, fixed: np.ndarray, known: np.ndarray) -> int:
    """Highest order whose modes beyond the gauge are all determined; 1 where none is."""
    for order in range(design.basis.order, 1, -1):
        n = (order + 1) * (order + 2) // 2 - 1
        parts = free[:n, :n], fixed[:n, :n], known[:n, :n]
        if _find_weakest(*parts, _count_gauge(design))[0] > _NONE:
            return order
    return 1


def _describe_undetermined(order: int, best: int) -> str:
    lower = f", or give order {best} or lower" if best > 1 else ""
    return (
        f"the survey is ill-determined: expected exposures that determine all modes up to order "
        f"{order} but those that zero points can imitate, found modes that no star constrains; "
        f"give exposures with wider dithers or rolls, so that stars are seen all over the field"
        f"{lower}"
    )


def _advise(gauge: Gauge, rest: float) -> list[str]:
    """Say what was found, in sentences."""
    lines = []
    if gauge.ill_determined:
        lines.append(
            f"The survey is ill-determined: a mode keeps only {gauge.weakest:.1e} of its "
            "information when star fluxes are unknown; give wider dithers or rolls, so that "
            "stars are seen all over the field, or lower the order"
        )
    if gauge.n_components > 1:
        lines.append(
            f"The exposures fall into {gauge.n_components} parts without a star in common; each "
            "has a constant of its own, which only the prior of the zero points relates"
        )
    if gauge.forecast is not None:
        known = (
            "nothing"
            if np.isinf(gauge.gradient_sigma_free)
            else (f"it to {100 * gauge.gradient_sigma_free:.2g} %")
        )
        needed = gauge.forecast.needed_deg
        cure = (
            f"repeating the exposures rolled by {needed:g} deg would determine it"
            if np.isfinite(needed)
            else "no repeat at another roll determines it; dither wider too"
        )
        lines.append(
            f"Stars alone say {known} about the gradient, all else to {100 * rest:.2g} %; with "
            f"the prior of the zero points it is known to {100 * gauge.gradient_sigma:.2g} %; "
            f"{cure}"
        )
    return lines
