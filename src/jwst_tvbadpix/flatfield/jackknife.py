"""Sums over exposures, kept by groups of tiles, and the errors that leaving one out tells."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

__all__ = ["Errors", "TileSums", "make_errors", "make_groups"]

# Most groups that are left out in turn: each costs two images.
_MOST_GROUPS = 8
# Groups made of consecutive exposures where there are fewer than three tiles.
_LEAST_TILES, _SUBSTITUTES = 3, 5
# Side of the cells whose means are compared between tiles [pixel], width of their smoothing
# [cell]; least share of a cell that is measured.
_CELL, _SMOOTHING, _LEAST_SHARE = 32, 1.5, 0.2


def make_groups(tiles: np.ndarray) -> np.ndarray:
    """Give each exposure the number of the group it is left out with: int (n_exp,).

    Tiles where there are three to eight; neighbours are joined where there are more, and runs of
    consecutive exposures are taken where there are fewer.
    """
    _, number = np.unique(tiles, return_inverse=True)
    n = int(number.max()) + 1
    if n < _LEAST_TILES:
        return np.arange(number.size) * min(_SUBSTITUTES, number.size) // number.size
    return number * min(n, _MOST_GROUPS) // n


@dataclass(slots=True)
class TileSums:
    """Weighted sums of relative residuals.

    Attributes
    ----------
    weight, residual : ndarray of float32, shape (n_groups, ny, nx)
        Sums of weights, and of weights times residuals.
    variance : ndarray of float32, shape (ny, nx)
        Sum of squared weights times the variance that the errors tell.
    count : ndarray of int32, shape (ny, nx)
        Exposures with weight.
    """

    weight: np.ndarray
    residual: np.ndarray
    variance: np.ndarray
    count: np.ndarray

    @classmethod
    def start(cls, n_groups: int, shape: tuple[int, int]) -> "TileSums":
        """Start with nothing."""
        return cls(
            np.zeros((n_groups, *shape), np.float32),
            np.zeros((n_groups, *shape), np.float32),
            np.zeros(shape, np.float32),
            np.zeros(shape, np.int32),
        )

    def add(
        self, group: int, weight: np.ndarray, weighted: np.ndarray, variance: np.ndarray
    ) -> None:
        """Add an exposure: its weights, weighted residuals, squared weights times variances."""
        self.weight[group] += weight
        self.residual[group] += weighted
        self.variance += variance
        self.count += weight > 0

    def mean(self) -> np.ndarray:
        """Weighted mean of the residuals: float32 (ny, nx), NaN = no weight."""
        weight = self.weight.sum(axis=0)
        mean = np.full(weight.shape, np.nan, np.float32)
        np.divide(self.residual.sum(axis=0), weight, out=mean, where=weight > 0)
        return mean


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of the mean, float32 (ny, nx), see `StackedFlat`; NaN = no weight."""

    formal: np.ndarray
    random: np.ndarray
    jackknife: np.ndarray
    systematic: np.ndarray


def make_errors(sums: TileSums) -> Errors:
    """Make the errors of the mean: formal, random, from leaving out tiles, systematic.

    Notes
    -----
    With F_(-t) the mean without group t of n, the variance is
    ``(n - 1) / n * sum (F_(-t) - <F_(-t)>)^2``. For means over cells of 32 x 32 pixels this is
    compared with what the random errors make of them; what is above, smoothed over neighbouring
    cells, is the systematic variance.
    """
    weight = sums.weight.sum(axis=0)
    seen = weight > 0
    formal, random = (np.full(weight.shape, np.nan, np.float32) for _ in range(2))
    np.divide(np.sqrt(sums.variance), weight, out=formal, where=seen)
    np.divide(1, np.sqrt(weight, where=seen, out=np.ones_like(weight)), out=random, where=seen)
    total = sums.residual.sum(axis=0)
    pixels = _Jackknife()
    cells = _Jackknife()
    area = _average(seen, np.ones_like(weight))
    for k in range(len(sums.weight)):
        rest = weight - sums.weight[k]
        left = np.full(weight.shape, np.nan, np.float32)
        # A remainder of rounding is no weight.
        np.divide(total - sums.residual[k], rest, out=left, where=rest > 1e-3 * weight)
        pixels.add(left)
        cells.add(_average(np.isfinite(left) & seen, left))
    expected = _average(seen, np.nan_to_num(random) ** 2)
    number = _sum(seen)
    excess = cells.variance() - expected / np.maximum(number, 1)
    # Cells that hold few pixels tell little.
    known = np.isfinite(excess) & np.isfinite(area) & (number > _LEAST_SHARE * _CELL**2)
    systematic = _spread(np.where(known, excess, 0.0), known.astype(float), weight.shape)
    return Errors(
        formal,
        random,
        np.sqrt(pixels.variance()).astype(np.float32),
        np.where(seen, systematic, np.nan).astype(np.float32),
    )


class _Jackknife:
    """Variance of a mean from the means without each part."""

    def __init__(self) -> None:
        self.n: np.ndarray | int = 0
        self.total: np.ndarray | float = 0.0
        self.squares: np.ndarray | float = 0.0

    def add(self, left: np.ndarray) -> None:
        """Add the mean without one part; NaN = nothing left."""
        finite = np.isfinite(left)
        value = np.where(finite, left, 0)
        self.n = self.n + finite
        self.total = self.total + value
        self.squares = self.squares + value * value

    def variance(self) -> np.ndarray:
        """Variance of the whole mean; NaN where fewer than two means are known."""
        n = np.asarray(self.n)
        enough = np.where(n > 1, n, 1)
        spread = np.asarray(self.squares) - np.asarray(self.total) ** 2 / enough
        return np.where(n > 1, np.maximum(spread, 0) * (enough - 1) / enough, np.nan)


def _sum(image: np.ndarray) -> np.ndarray:
    """Sum cells, those at the upper edges cut: float64."""
    ny, nx = (-(-n // _CELL) for n in image.shape)
    rows = np.add.reduceat(image, np.arange(ny) * _CELL, axis=0, dtype=float)
    return np.add.reduceat(rows, np.arange(nx) * _CELL, axis=1)


def _average(used: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Average the used pixels of each cell; NaN = none."""
    number = _sum(used)
    total = _sum(np.where(used, image, 0))
    return np.divide(total, number, out=np.full(number.shape, np.nan), where=number > 0)


def _spread(excess: np.ndarray, known: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Smooth a variance over cells, and give its root for each pixel."""
    smooth = ndimage.gaussian_filter(excess, _SMOOTHING, mode="nearest")
    weight = ndimage.gaussian_filter(known, _SMOOTHING, mode="nearest")
    mean = np.divide(smooth, weight, out=np.zeros_like(smooth), where=weight > 1e-6)
    grid = np.meshgrid(
        *((np.arange(n) - (_CELL - 1) / 2) / _CELL for n in shape), indexing="ij", sparse=False
    )
    variance = ndimage.map_coordinates(np.maximum(mean, 0), grid, order=1, mode="nearest")
    return np.sqrt(np.maximum(variance, 0))
