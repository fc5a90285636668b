"""Covariance of the parameters of a fit, kept small where a spectrum has thousands of bins."""

from dataclasses import dataclass

import numpy as np
from scipy import linalg, sparse

from .solver import make_inverse

__all__ = ["Covariance", "invert_normal"]

# Parameters up to which the covariance is made whole.
_WHOLE = 2500


@dataclass(frozen=True, slots=True)
class Covariance:
    """``diag(independent) + factor @ factor.T``.

    Attributes
    ----------
    independent : ndarray
        (n,) float64.
    factor : ndarray
        (n, rank) float64.
    """

    independent: np.ndarray
    factor: np.ndarray

    def make_dense(self) -> np.ndarray:
        """Make the whole matrix, (n, n) float64."""
        return np.diag(self.independent) + self.factor @ self.factor.T

    def propagate(self, jacobian: np.ndarray | sparse.spmatrix) -> np.ndarray:
        """Variance of each linear combination, (m,) float64, of jacobian (m, n)."""
        matrix = sparse.csr_matrix(jacobian)
        image = np.asarray(matrix @ self.factor)
        own = np.asarray(matrix.multiply(matrix) @ self.independent).ravel()
        return np.einsum("ij,ij->i", image, image) + own

    def join(self, jacobian: np.ndarray | sparse.spmatrix) -> np.ndarray:
        """Covariance of linear combinations, (m, m) float64, of jacobian (m, n)."""
        matrix = sparse.csr_matrix(jacobian)
        image = np.asarray(matrix @ self.factor)
        own = (matrix @ sparse.diags(self.independent) @ matrix.T).toarray()
        return image @ image.T + own


def invert_normal(normal: sparse.csc_matrix, n_units: int, n_parameters: int) -> Covariance:
    """Invert the normal matrix for its first parameters.

    Parameters
    ----------
    normal : sparse matrix
        (n_unknowns, n_unknowns); its first `n_units` unknowns share no row, so that their block
        is diagonal.
    n_units, n_parameters : int
        Unknowns that are units, and that are reported.

    Returns
    -------
    Covariance
        Of the first `n_parameters`, everything else marginalised.
    """
    if n_parameters <= _WHOLE:
        columns = np.eye(normal.shape[0], n_parameters)
        whole = make_inverse(normal)(columns)[:n_parameters]
        return Covariance(np.zeros(n_parameters), _find_root(0.5 * (whole + whole.T)))
    diagonal = normal.diagonal()[:n_units]
    cross = normal[:n_units, n_units:].tocsr()
    scaled = sparse.diags(1.0 / diagonal) @ cross
    rest = (normal[n_units:, n_units:] - cross.T @ scaled).tocsc()
    inner = _find_root(linalg.inv(rest.toarray()))
    root = np.vstack([-(scaled @ inner), inner])[:n_parameters]
    independent = np.zeros(n_parameters)
    independent[:n_units] = 1.0 / diagonal
    return Covariance(independent, root)


def _find_root(matrix: np.ndarray) -> np.ndarray:
    """Root of a symmetric matrix that rounding may have made slightly indefinite."""
    even = 0.5 * (matrix + matrix.T)
    try:
        return np.asarray(linalg.cholesky(even, lower=True))
    except linalg.LinAlgError:
        values, vectors = linalg.eigh(even)
        return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))
