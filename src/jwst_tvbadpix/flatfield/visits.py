"""Values of visits: averaged, with the scatter that is in them, and trends fitted to them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import chi2, f, false_discovery_control, norm, t

__all__ = [
    "CONFIDENCE",
    "NOTHING",
    "ColumnFit",
    "Visits",
    "average_visits",
    "find_scatter",
    "fit_columns",
    "judge_families",
    "name_trend",
]

# Limits hold with this probability.
CONFIDENCE = 0.95
# Value, error, limit and p of what there is no evidence of.
NOTHING = (np.nan, np.nan, np.inf, np.nan)
# Upper end of the central 68 % interval.
_HIGH = float(norm.cdf(1))
# Slope and exponential are told apart when the squares of their significances differ by this.
_TOLD_APART = 4.0


@dataclass(frozen=True, slots=True)
class Visits:
    """One value per visit.

    Attributes
    ----------
    mean, mid_mjd : ndarray of float64, shape (n_visits,)
    covariance : ndarray of float64, shape (n_visits, n_visits)
        With the scatter within visits.
    scatter : tuple of float
        That scatter: value, err, upper limit, p; NaN and inf where no visit has two epochs.
    freedom : float
        Degrees of freedom that the covariance is known with; inf = known.
    """

    mean: np.ndarray
    mid_mjd: np.ndarray
    covariance: np.ndarray
    scatter: tuple[float, float, float, float]
    freedom: float


@dataclass(frozen=True, slots=True)
class ColumnFit:
    """Coefficients of columns that were fitted to visits.

    Attributes
    ----------
    parameters : ndarray of float64, shape (n_columns,)
    covariance : ndarray of float64, shape (n_columns, n_columns)
        With the scatter that the columns leave.
    freedom : float
        Degrees of freedom of their distribution; inf = normal.
    chi2 : float
        What the columns leave, without that scatter.
    """

    parameters: np.ndarray
    covariance: np.ndarray
    freedom: float
    chi2: float

    def test(self, k: int) -> tuple[float, float, float, float]:
        """Value, err, upper limit and p of one coefficient."""
        value, err = float(self.parameters[k]), float(np.sqrt(self.covariance[k, k]))
        p_value = float(2 * t.sf(abs(value) / err, self.freedom))
        return value, err, abs(value) + self.compute_margin(err), p_value

    def compute_margin(self, err: float) -> float:
        """Compute what a limit lies above the modulus of a value."""
        return float(t.ppf(CONFIDENCE, self.freedom)) * err


def average_visits(
    value: np.ndarray, covariance: np.ndarray, mid_mjd: np.ndarray, visit: np.ndarray
) -> Visits:
    """Average the epochs of each visit, their scatter within visits found.

    Parameters
    ----------
    value, mid_mjd : ndarray of float64, shape (n_epochs,)
    covariance : ndarray of float64, shape (n_epochs, n_epochs)
    visit : ndarray of int, shape (n_epochs,)
        From 0, without gaps.

    Returns
    -------
    Visits
    """
    member = np.eye(visit.max() + 1)[visit]
    scatter, freedom = NOTHING, np.inf
    apart = _complement(member)
    if apart.shape[1]:
        of_apart = apart.T @ covariance @ apart
        scatter = _find_scatter(apart.T @ value, of_apart)
        freedom = _count_freedom(apart.T @ value, of_apart)
        covariance = covariance + scatter[0] ** 2 * np.eye(len(value))
    weight = np.linalg.inv(covariance)
    of_means = np.linalg.inv(member.T @ weight @ member)
    mean = of_means @ (member.T @ weight @ value)
    when = member.T @ mid_mjd / member.sum(axis=0)
    return Visits(mean, when, of_means, scatter, freedom)


def find_scatter(visits: Visits, columns: np.ndarray) -> tuple[float, float, float, float]:
    """Scatter between visits beyond columns (n_visits, n_columns): value, err, upper limit, p."""
    left = _complement(columns)
    if not left.shape[1]:
        return NOTHING
    return _find_scatter(left.T @ visits.mean, left.T @ visits.covariance @ left, visits.freedom)


def fit_columns(visits: Visits, columns: np.ndarray) -> ColumnFit:
    """Fit columns (n_visits, n_columns), a scatter of what they leave allowed for."""
    scatter = float(np.nan_to_num(find_scatter(visits, columns)[0]))
    left, freedom, total = _complement(columns), visits.freedom, 0.0
    if left.shape[1]:
        of_left = left.T @ visits.covariance @ left
        eigenvalues, power = _diagonalise(left.T @ visits.mean, of_left)
        total = float(np.sum(power / eigenvalues))
        freedom = min(freedom, _count_freedom(left.T @ visits.mean, of_left))
    weight = np.linalg.inv(visits.covariance + scatter**2 * np.eye(len(columns)))
    covariance = np.linalg.inv(columns.T @ weight @ columns)
    parameters = covariance @ (columns.T @ weight @ visits.mean)
    return ColumnFit(parameters, covariance, freedom, total)


def _count_freedom(residual: np.ndarray, covariance: np.ndarray) -> float:
    """Degrees of freedom of noise that a scatter, found from residuals, is added to.

    As many as there are residuals where the scatter is all there is, more the less of the noise it
    is (after Satterthwaite 1946). How much that is is told by its upper 1-sigma bound: where it
    came out small by chance, the noise is not known the better for it.
    """
    eigenvalues, power = _diagonalise(residual, covariance)
    high = _invert(eigenvalues, power, float(chi2.ppf(norm.sf(2), len(residual)))) ** 2
    if not high:
        return np.inf
    share = high / (high + float(np.mean(eigenvalues)))
    return len(residual) / share**2


def _complement(columns: np.ndarray) -> np.ndarray:
    """Orthonormal columns that are orthogonal to those given: shape (n, n - n_columns)."""
    return np.linalg.qr(columns, mode="complete")[0][:, columns.shape[1] :]


def _find_scatter(
    residual: np.ndarray, covariance: np.ndarray, freedom: float = np.inf
) -> tuple[float, float, float, float]:
    """Scatter beyond a covariance: value, err, upper limit, p.

    `freedom` are the degrees of freedom that the covariance is itself known with.
    """
    eigenvalues, power = _diagonalise(residual, covariance)
    n = len(residual)
    value = _invert(eigenvalues, power, n)
    low, high = (_invert(eigenvalues, power, float(chi2.ppf(p, n))) for p in (_HIGH, 1 - _HIGH))
    # The limit is no lower than what noise alone would give.
    least = float(chi2.ppf(1 - CONFIDENCE, n))
    limit = max(_invert(eigenvalues, some, least) for some in (power, eigenvalues))
    total = float(np.sum(power / eigenvalues))
    p_value = chi2.sf(total, n) if np.isinf(freedom) else f.sf(total / n, n, freedom)
    return value, (high - low) / 2, limit, float(p_value)


def _diagonalise(residual: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of the covariance, and squares of the residuals along its axes."""
    eigenvalues, vectors = np.linalg.eigh(covariance)
    return np.maximum(eigenvalues, 1e-12 * eigenvalues[-1]), (vectors.T @ residual) ** 2


def _invert(eigenvalues: np.ndarray, power: np.ndarray, quantile: float) -> float:
    """Scatter at which the sum of squares is this quantile; 0 where it never is."""
    if np.sum(power / eigenvalues) <= quantile:
        return 0.0
    # At this scatter the sum is a quarter of the quantile at most.
    most = 2 * float(np.sqrt(np.sum(power) / quantile))

    def exceed(share: float) -> float:
        return float(np.sum(power / (eigenvalues + (share * most) ** 2))) / quantile - 1

    return most * float(brentq(exceed, 0, 1, xtol=1e-12))


def judge_families(
    p_value: np.ndarray, families: Sequence[Sequence[int]], rate: float
) -> np.ndarray:
    """Tell which changes are believed, each family of terms by itself.

    Parameters
    ----------
    p_value : ndarray of float64, shape (n_series, n_terms)
        NaN = not tested.
    families : sequence of sequences of int
        Terms that are judged together.
    rate : float
        False-discovery rate, shared equally by the families.

    Returns
    -------
    ndarray of bool, shape (n_series, n_terms)
    """
    believed = np.zeros(p_value.shape, bool)
    for family in families:
        places = np.isfinite(p_value) & np.isin(np.arange(p_value.shape[1]), family)
        if places.any():
            adjusted = false_discovery_control(p_value[places])
            believed[places] = adjusted <= rate / len(families)
    return believed


def name_trend(slope: tuple[float, bool], exponential: tuple[float, bool]) -> str:
    """Name a trend from the significance of each form (0 = not measurable) and what is believed."""
    (line, is_line), (fall, is_fall) = slope, exponential
    if not (is_line or is_fall):
        return "none"
    if abs(line**2 - fall**2) <= _TOLD_APART:
        return "slope or exponential"
    return "slope" if abs(line) > abs(fall) else "exponential"
