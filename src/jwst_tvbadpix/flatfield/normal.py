"""Normal equations of the star flat, with the fluxes of the stars eliminated."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular
from scipy.sparse import csr_array

from .basis import FieldBasis
from .observations import PreparedObservations

__all__ = ["Design", "NormalEquations", "Solution", "assemble", "eliminate", "solve"]

# Prior width of each mode [ln flux]: a flat does not vary by more than a factor e. It only matters
# where the stars say nothing.
MODE_PRIOR = 1.0
# Width of the prior of a zero point that is called free.
_FREE_ZERO_POINT = 10.0
# Share of the largest eigenvalue below which a direction holds no information.
_NULL = 1e-9


@dataclass(frozen=True, slots=True)
class Design:
    """The columns of the problem: zero points, epoch modes, modes.

    Attributes
    ----------
    basis : FieldBasis
    n_zero_points : int
        Number of exposures, or 0 where zero points are known.
    contrast : ndarray, shape (n_exposures, n_epochs - 1)
        Orthonormal contrasts of the epochs, at each exposure; no columns without epoch modes.
    n_epoch_modes : int
        Leading modes that may differ by epoch.
    """

    basis: FieldBasis
    n_zero_points: int
    contrast: np.ndarray
    n_epoch_modes: int

    @property
    def n_before(self) -> int:
        """Number of columns before the modes."""
        return self.n_zero_points + self.n_epoch_columns

    @property
    def n_epoch_columns(self) -> int:
        """Number of columns of the epoch modes, contrast by contrast."""
        return self.contrast.shape[1] * self.n_epoch_modes

    @property
    def size(self) -> int:
        """Number of columns."""
        return self.n_before + self.basis.n_modes

    def resize(self, basis: FieldBasis) -> "Design":
        """Take another basis of the same field."""
        return Design(basis, self.n_zero_points, self.contrast, self.n_epoch_modes).clip()

    def truncate(self, order: int) -> "Design":
        """Take the modes up to a lower order."""
        return self.resize(self.basis.truncate(order))

    def clip(self) -> "Design":
        """Let no more modes differ by epoch than there are."""
        return replace(self, n_epoch_modes=min(self.n_epoch_modes, self.basis.n_modes))

    def fill(self, data: PreparedObservations, rows: slice) -> np.ndarray:
        """Evaluate the columns of epoch modes and modes: shape (n_rows, size - n_zero_points)."""
        modes = self.basis.evaluate(data.x[rows], data.y[rows])
        if not self.n_epoch_columns:
            return modes
        contrast = self.contrast[data.exposure[rows]]
        moving = contrast[:, :, None] * modes[:, None, : self.n_epoch_modes]
        return np.hstack([moving.reshape(len(modes), -1), modes])

    def compute_prior(self, zero_point_scatter: float) -> np.ndarray:
        """Inverse variance of each column's prior: shape (size,)."""
        prior = np.full(self.size, MODE_PRIOR**-2.0)
        if self.n_zero_points:
            prior[: self.n_zero_points] = min(zero_point_scatter, _FREE_ZERO_POINT) ** -2.0
        return prior


@dataclass(frozen=True, slots=True)
class NormalEquations:
    """Sums over the stars of each fold, without any prior.

    Attributes
    ----------
    matrix : ndarray, shape (n_folds, size, size)
    rhs : ndarray, shape (n_folds, size)
    constant : ndarray, shape (n_folds,)
        Weighted sum of squares of the target about the stars' means.
    known_stars : ndarray, shape (size - n_zero_points, size - n_zero_points)
        What the matrix of the modes would be if all star fluxes and zero points were known.
    """

    matrix: np.ndarray
    rhs: np.ndarray
    constant: np.ndarray
    known_stars: np.ndarray

    def truncate(self, size: int) -> "NormalEquations":
        """Take the first columns: those after them are known to be zero."""
        cut = self.known_stars.shape[0] - self.matrix.shape[-1] + size
        return NormalEquations(
            self.matrix[:, :size, :size],
            self.rhs[:, :size],
            self.constant,
            self.known_stars[:cut, :cut],
        )


@dataclass(frozen=True, slots=True)
class Solution:
    """Parameters, and the Cholesky factor of what they were solved with."""

    parameters: np.ndarray
    factor: tuple[np.ndarray, bool]

    def compute_covariance(self) -> np.ndarray:
        """Invert the matrix: shape (size, size)."""
        return cho_solve(self.factor, np.eye(len(self.parameters)))


def assemble(
    data: PreparedObservations, design: Design, weight: np.ndarray, target: np.ndarray
) -> NormalEquations:
    """Sum the normal equations in blocks of whole stars.

    Parameters
    ----------
    data : PreparedObservations
    design : Design
    weight : ndarray, shape (n_used,)
        Inverse variance of the target; 0 = not used.
    target : ndarray, shape (n_used,)
        ln flux, less any number per star.

    Returns
    -------
    NormalEquations

    Notes
    -----
    With G the columns, W the weights and S_k = sum_i w_i G_i over the rows of star k,
    N = G^T W G - sum_k S_k S_k^T / sum_i w_i (van der Marel 2003, ISR ACS 2003-10, with the
    stars' fluxes explicit). The block of the zero points is sparse and treated so.
    """
    nz, size = design.n_zero_points, design.size
    matrix = np.zeros((data.n_folds, size, size))
    rhs = np.zeros((data.n_folds, size))
    constant = np.zeros(data.n_folds)
    known = np.zeros((size - nz, size - nz))
    for rows, stars in data.blocks():
        fold = data.fold[stars.start]
        columns = design.fill(data, rows)
        w, y = weight[rows], target[rows]
        start = data.start[stars] - rows.start
        weighted = columns * w[:, None]
        total = np.add.reduceat(w, start)
        share = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)
        sums, sum_y = np.add.reduceat(weighted, start), np.add.reduceat(w * y, start)
        raw = columns.T @ weighted
        known += raw
        matrix[fold, nz:, nz:] += raw - sums.T @ (sums * share[:, None])
        rhs[fold, nz:] += weighted.T @ y - sums.T @ (share * sum_y)
        constant[fold] += np.sum(w * y * y) - np.sum(share * sum_y**2)
        if nz:
            exposure = data.exposure[rows]
            n_rows = rows.stop - rows.start
            pointer = np.concatenate([start, [n_rows]])
            by_star = csr_array((w, exposure, pointer), shape=(len(total), nz), copy=True)
            by_star.sum_duplicates()
            scaled = csr_array(by_star.multiply(share[:, None]))
            seen = by_star.toarray() if by_star.nnz > 0.05 * len(total) * nz else None
            pairs = (
                (by_star.T @ scaled).toarray() if seen is None else seen.T @ (share[:, None] * seen)
            )
            by_exposure = csr_array((w, (exposure, np.arange(n_rows))), shape=(nz, n_rows))
            matrix[fold, :nz, :nz] += np.diag(by_exposure.sum(axis=1)) - pairs
            cross = by_exposure @ columns - scaled.T @ sums
            matrix[fold, :nz, nz:] += cross
            matrix[fold, nz:, :nz] += cross.T
            rhs[fold, :nz] += by_exposure @ y - scaled.T @ sum_y
    return NormalEquations(matrix, rhs, constant, known)


def solve(matrix: np.ndarray, rhs: np.ndarray, prior: np.ndarray) -> Solution:
    """Solve normal equations with a Gaussian prior of zero mean on each parameter."""
    factor = cho_factor(matrix + np.diag(prior), lower=True)
    return Solution(cho_solve(factor, rhs), factor)


def solve_nested(matrix: np.ndarray, rhs: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """Solve for the first n parameters only, for each n: one factorisation serves all."""
    lower = cholesky(matrix, lower=True)
    half = solve_triangular(lower, rhs, lower=True)
    return [solve_triangular(lower[:n, :n], half[:n], lower=True, trans="T") for n in sizes]


def eliminate(matrix: np.ndarray, n: int, *, known: float = 0.0) -> np.ndarray:
    """Matrix of the other parameters when the first n are free (Schur complement).

    Directions of the first n in which the matrix holds nothing are left out, or taken as known
    to this inverse variance.
    """
    if n == 0:
        return matrix
    values, vectors = np.linalg.eigh(matrix[:n, :n])
    values = values + known
    used = values > _NULL * max(values[-1], np.finfo(float).tiny)
    cross = vectors[:, used].T @ matrix[:n, n:]
    return matrix[n:, n:] - cross.T @ (cross / values[used, None])
