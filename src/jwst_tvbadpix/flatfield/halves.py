"""An early and a late half of a stack, each split once more: what single pixels do in time."""

from dataclasses import dataclass

import numpy as np

from .stability import PixelDrift, find_pixel_drift

__all__ = ["HalfSums", "Halves", "split_halves"]

# Share of the exposures on either side within which the largest gap is where they are split, and
# exposures that each quarter must have.
_LEAST_SIDE, _LEAST_EACH = 0.3, 2
# Share of its weight below which the clipping of outliers has taken a pixel from a half.
_KEPT = 0.5
# Difference of two quarters of a half that is noise [sigma].
_N_AGREE = 4.0


@dataclass(frozen=True, slots=True)
class Halves:
    """How exposures are split in time.

    Attributes
    ----------
    quarter : ndarray of int, shape (n_exp,)
        0 and 1: early, 2 and 3: late; of either in turn the one and the other. -1 = not used.
    split_mjd : float
        Time between the halves [MJD].
    """

    quarter: np.ndarray
    split_mjd: float


def split_halves(mid_mjd: np.ndarray, used: np.ndarray) -> Halves | None:
    """Split exposures at the largest gap near the middle, each half into every other exposure.

    Parameters
    ----------
    mid_mjd : ndarray of float64, shape (n_exp,)
        Mid-times [MJD].
    used : ndarray of bool, shape (n_exp,)

    Returns
    -------
    Halves or None
        None where there are fewer than eight exposures, or all are of one time.
    """
    rows = np.flatnonzero(used & np.isfinite(mid_mjd))
    rows = rows[np.lexsort((rows, mid_mjd[rows]))]
    n, time = len(rows), mid_mjd[rows]
    least = max(2 * _LEAST_EACH, int(np.ceil(_LEAST_SIDE * n)))
    if n < 2 * least:
        return None
    at = np.arange(least, n - least + 1)
    gap = time[at] - time[at - 1]
    if not gap.max() > 0:
        return None
    # Of equal gaps the one nearest to the middle.
    wide = at[gap >= gap.max() * (1 - 1e-6)]
    split = int(wide[np.argmin(np.abs(wide - n / 2))])
    quarter = np.full(len(mid_mjd), -1)
    quarter[rows[:split]] = np.arange(split) % 2
    quarter[rows[split:]] = 2 + np.arange(n - split) % 2
    return Halves(quarter, float((time[split - 1] + time[split]) / 2))


class HalfSums:
    """Sums of weights and of weighted residuals by quarter, however many exposures there are."""

    def __init__(self, halves: Halves, shape: tuple[int, int]) -> None:
        self.halves = halves
        # Weights and weighted residuals by quarter, outliers clipped, and all of them.
        self.clipped = np.zeros((4, 2, *shape), np.float32)
        self.whole = np.zeros((4, 2, *shape), np.float32)

    def add(
        self, index: int, weight: np.ndarray, residual: np.ndarray, variance: np.ndarray
    ) -> None:
        """Add an exposure: clipped weights, relative residuals and their variances (inf = none)."""
        quarter = int(self.halves.quarter[index])
        if quarter < 0:
            return
        self.clipped[quarter, 0] += weight
        self.clipped[quarter, 1] += weight * residual
        whole = 1 / variance
        self.whole[quarter, 0] += whole
        self.whole[quarter, 1] += whole * residual

    def find_drift(self) -> PixelDrift:
        """Compare the halves, and every other exposure with the rest for the noise.

        Raises
        ------
        EvidenceError
            See `find_pixel_drift`.

        Notes
        -----
        Outliers are clipped against the flat of all exposures, and a pixel that has changed much is
        an outlier in most exposures of one half: its mean is then that without clipping, if both
        quarters of the half agree on it; else it is not known.
        """
        quarters = self.clipped
        halves = quarters[0] + quarters[1], quarters[2] + quarters[3]
        control = quarters[0] + quarters[2], quarters[1] + quarters[3]
        wholes = self.whole[0] + self.whole[1], self.whole[2] + self.whole[3]
        pairs = list(zip(halves, wholes, strict=True))
        lost = np.any([kept[0] < _KEPT * whole[0] for kept, whole in pairs], axis=0)
        agreed = _agree(self.whole[0], self.whole[1]) & _agree(self.whole[2], self.whole[3])
        both = [np.where(lost, np.where(agreed, whole, 0), kept) for kept, whole in pairs]
        flats = [_average(part) for part in (*both, *control)]
        good = np.isfinite(flats[0][0]) & np.isfinite(flats[1][0])
        return find_pixel_drift(flats[0], flats[1], good, control=(flats[2], flats[3]))


def _agree(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Tell where the means of two quarters agree within their errors: bool (ny, nx)."""
    (mean, err), (second, second_err) = _average(one), _average(other)
    with np.errstate(invalid="ignore"):
        return np.abs(mean - second) < _N_AGREE * np.hypot(err, second_err)


def _average(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat over that of all exposures, and its error: NaN where nothing was measured."""
    weight, total = sums
    seen = weight > 0
    flat, err = (np.full(weight.shape, np.nan) for _ in range(2))
    np.divide(total, weight, out=flat, where=seen)
    np.divide(1, np.sqrt(weight, where=seen, out=np.ones(weight.shape)), out=err, where=seen)
    return 1 + flat, err
