"""Smooth modes of a detector that are orthonormal over its illuminated field."""

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre
from scipy.linalg import LinAlgError, cholesky, solve_triangular

from ..errors import EvidenceError

__all__ = ["FieldBasis", "make_basis"]

# A field so narrow that a mode is this close to a sum of the ones before it cannot carry it.
_LEAST_INDEPENDENT = 1e-10
# Positions this far outside the field still count as inside [pixel]: half a pixel and rounding.
_MARGIN = 1.0


@dataclass(frozen=True, slots=True)
class FieldBasis:
    """Polynomials of total degree 1 to `order`, orthonormal over a field, lowest degree first.

    Attributes
    ----------
    order : int
        Highest total degree.
    field : ndarray of bool, shape (ny, nx)
        True = illuminated, the pixels over which the modes are orthonormal.
    bounds : tuple of float
        (x0, x1, y0, y1), the box that the Legendre polynomials are stretched over [pixel].
    transform : ndarray, shape (n_terms, n_modes)
        From products of Legendre polynomials, the constant first, to modes.
    degree : ndarray of int, shape (n_modes,)
        Total degree of each mode.

    Notes
    -----
    The mean over the field of mode q times mode r is 1 for q = r and 0 otherwise, and each mode
    has zero mean. So the rms of a sum of modes over the field is the norm of its coefficients, the
    modes of degree 1 span all planes, and leading modes are the basis of lower order.
    """

    order: int
    field: np.ndarray
    bounds: tuple[float, float, float, float]
    transform: np.ndarray
    degree: np.ndarray

    @property
    def n_modes(self) -> int:
        """Number of modes."""
        return len(self.degree)

    def truncate(self, order: int) -> "FieldBasis":
        """Keep the modes up to a lower order."""
        n_terms = (order + 1) * (order + 2) // 2
        return FieldBasis(
            order,
            self.field,
            self.bounds,
            self.transform[:n_terms, : n_terms - 1],
            self.degree[: n_terms - 1],
        )

    def contains(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Tell which positions lie in the field, or within a pixel of it: bool, shape of x."""
        x0, x1, y0, y1 = self.bounds
        near_x = np.clip(x, x0 + 0.5, x1 - 0.5)
        near_y = np.clip(y, y0 + 0.5, y1 - 0.5)
        close = (np.abs(x - near_x) <= _MARGIN) & (np.abs(y - near_y) <= _MARGIN)
        nearest = np.where(close, np.rint(near_y), y0 + 0.5), np.where(close, np.rint(near_x), 0)
        return close & self.field[nearest[0].astype(int), nearest[1].astype(int)]

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Evaluate the modes at positions [pixel, 0-based]: ndarray, shape (n, n_modes)."""
        along_x, along_y = self._legendre(np.ravel(x), np.ravel(y))
        return self._multiply(along_x, along_y) @ self.transform

    def render(self, coefficients: np.ndarray) -> np.ndarray:
        """Sum the modes on every pixel of the frame.

        Parameters
        ----------
        coefficients : ndarray, shape (n_modes,)

        Returns
        -------
        ndarray of float64, shape (ny, nx)
            NaN outside the field, where polynomials mean nothing.
        """
        ny, nx = self.field.shape
        along_x, along_y = self._legendre(np.arange(nx), np.arange(ny))
        square = np.zeros((self.order + 1, self.order + 1))
        square[self._degrees()] = self.transform @ coefficients
        return np.where(self.field, along_y.T @ square.T @ along_x, np.nan)

    def render_sigma(self, covariance: np.ndarray) -> np.ndarray:
        """Propagate a covariance (n_modes, n_modes) of the coefficients: ndarray (ny, nx)."""
        values, vectors = np.linalg.eigh(covariance)
        variance = np.zeros(self.field.shape)
        for value, vector in zip(values, vectors.T, strict=True):
            variance += max(value, 0.0) * self.render(vector) ** 2
        return np.sqrt(variance)

    def _degrees(self) -> tuple[np.ndarray, np.ndarray]:
        """Degrees in x and in y of the products, lowest total degree first."""
        pairs = [(d - j, j) for d in range(self.order + 1) for j in range(d + 1)]
        return np.array([i for i, _ in pairs]), np.array([j for _, j in pairs])

    def _legendre(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Legendre polynomials of both coordinates: two arrays, shape (order + 1, n)."""
        x0, x1, y0, y1 = self.bounds
        return (
            legendre.legvander(2 * (x - x0) / (x1 - x0) - 1, self.order).T,
            legendre.legvander(2 * (y - y0) / (y1 - y0) - 1, self.order).T,
        )

    def _multiply(self, along_x: np.ndarray, along_y: np.ndarray) -> np.ndarray:
        """Products of the polynomials at each position: shape (n, n_terms)."""
        in_x, in_y = self._degrees()
        products = np.empty((len(in_x), along_x.shape[1]))
        for row, i, j in zip(products, in_x, in_y, strict=True):
            np.multiply(along_x[i], along_y[j], out=row)
        return products.T


def make_basis(field: np.ndarray, order: int) -> FieldBasis:
    """Make the modes of a field.

    Parameters
    ----------
    field : ndarray of bool, shape (ny, nx)
        True = illuminated; of any shape, holes included.
    order : int
        Highest total degree, at least 1.

    Returns
    -------
    FieldBasis

    Raises
    ------
    EvidenceError
        When the field has no extent, or is too small for modes of this order.

    Notes
    -----
    The Gram matrix of the products is summed over all pixels of the field, not over a sample; its
    Cholesky factor makes the modes. Both are separable, which keeps this quick.
    """
    field = np.asarray(field, bool)
    if field.ndim != 2 or order < 1:
        raise EvidenceError(
            f"expected a two-dimensional field and an order of at least 1, found {field.ndim} "
            f"dimensions and order {order}; give a bool image and an order from 1"
        )
    rows, columns = np.flatnonzero(field.any(axis=1)), np.flatnonzero(field.any(axis=0))
    if min(len(rows), len(columns)) < order + 1:
        raise EvidenceError(
            f"expected a field of at least {order + 1} pixels each way for order {order}, found "
            f"{len(columns)} x {len(rows)}; check the field or lower the order"
        )
    box = columns[0] - 0.5, columns[-1] + 0.5, rows[0] - 0.5, rows[-1] + 0.5
    x0, x1, y0, y1 = map(float, box)
    degree = np.repeat(np.arange(order + 1), np.arange(order + 1) + 1)
    raw = FieldBasis(order, field, (x0, x1, y0, y1), np.eye(len(degree)), degree)
    try:
        factor = cholesky(_compute_gram(raw), lower=False)
        independent = float(np.min(np.diag(factor)) ** 2)
    except LinAlgError:
        independent = 0.0
    if independent < _LEAST_INDEPENDENT:
        raise EvidenceError(
            f"expected a field that tells all modes of order {order} apart, found one that does "
            "not; lower the order"
        )
    transform = solve_triangular(factor, np.eye(len(degree)), lower=False)[:, 1:]
    return FieldBasis(order, field, raw.bounds, transform, degree[1:])


def _compute_gram(raw: FieldBasis) -> np.ndarray:
    """Mean over the field of all pairs of products: shape (n_terms, n_terms)."""
    ny, nx = raw.field.shape
    along_x, along_y = raw._legendre(np.arange(nx), np.arange(ny))
    n = raw.order + 1
    pairs_x = (along_x[:, None] * along_x[None]).reshape(n * n, nx)
    pairs_y = (along_y[:, None] * along_y[None]).reshape(n * n, ny)
    sums = (pairs_y @ (raw.field.astype(float) @ pairs_x.T)).reshape(n, n, n, n)
    in_x, in_y = raw._degrees()
    gram = sums[in_y[:, None], in_y, in_x[:, None], in_x]
    return gram / raw.field.sum()
