"""Levels of the good and the bad state of pixels, given the odds to be bad at each look."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

__all__ = [
    "OUTLIER",
    "Levels",
    "Looks",
    "compare_states",
    "compute_log_good",
    "fit_levels",
    "whiten_looks",
]

# Residuals beyond this many sigma lose their weight (twice-applied Cauchy weight).
_CLIP = 3.0
# Scatter of a bad level relative to itself: hot pixels drift by several per cent.
_JITTER = 0.07
# A single look whose residual exceeds this many sigma counts as bad whatever its level.
OUTLIER = 4.5
# Variance ratio of the bad state before it is known, and the largest considered.
_FIRST_RATIO, _MAXIMUM_RATIO = 4.0, 1e6
# Looks added up at once, which keeps temporaries small. The bits of a sum depend on it.
_ROWS = 32


@dataclass(frozen=True, slots=True)
class Looks:
    """Looks at pixels, in units of the noise of each; axis 0 = look, last axis = pixel.

    Attributes
    ----------
    residual, local : ndarray of float64, shape (n_looks, n_pixels)
        Residual and local level over sigma.
    inverse : ndarray of float64, shape (n_looks, n_pixels)
        One over sigma [s/DN]; 0 = no evidence, and then the others are 0 too.
    shape : ndarray of float64, shape (n_looks, n_pixels)
        What the shift of the bad state goes with: `inverse` (dark current) or `local` (a response).
    sigma_offset, sigma_response : ndarray of float64, shape (n_pixels,)
        Prior widths of the good state's offset [DN/s] and response.
    minimum_shift : ndarray of float64, shape (n_pixels,)
        Smallest shift that counts as bad [DN/s].
    """

    residual: np.ndarray
    local: np.ndarray
    inverse: np.ndarray
    shape: np.ndarray
    sigma_offset: np.ndarray
    sigma_response: np.ndarray
    minimum_shift: np.ndarray


@dataclass(frozen=True, slots=True)
class Levels:
    """Levels of the two states, (n_pixels,) each; see `PixelStates`."""

    offset: np.ndarray
    response: np.ndarray
    amplitude: np.ndarray
    amplitude_err: np.ndarray
    variance_ratio: np.ndarray


def whiten_looks(
    residual: np.ndarray,
    local: np.ndarray,
    variance: np.ndarray,
    *,
    sigma_offset: np.ndarray,
    sigma_response: np.ndarray,
    minimum_shift: np.ndarray,
) -> Looks:
    """Divide looks by their noise; a NaN residual = no evidence. The shift is that of a dark."""
    evidence = np.isfinite(residual)
    inverse = 1 / np.sqrt(np.where(evidence, variance, np.inf))
    return Looks(
        np.where(evidence, residual, 0.0) * inverse,
        np.where(evidence, local, 0.0) * inverse,
        inverse,
        inverse,
        sigma_offset,
        sigma_response,
        minimum_shift,
    )


def fit_levels(looks: Looks, bad: np.ndarray, before: Levels | None = None) -> Levels:
    """Solve (delta, q, A) by weighted least squares, twice for the robust weights.

    Parameters
    ----------
    looks : Looks
    bad : ndarray of float64, shape (n_looks, n_pixels)
        Probability to be bad at each look.
    before : Levels, optional
        Those that the first weights come from; without them none is down-weighted.

    Returns
    -------
    Levels

    Notes
    -----
    The bits of a pixel's levels do not depend on how many other pixels there are, from two on.
    """
    ratio = np.full(bad.shape[1], _FIRST_RATIO) if before is None else before.variance_ratio
    levels = before
    for _ in range(2):
        sums = np.zeros((9, bad.shape[1]))
        for some, share in _cut_rows(looks, bad):
            sums += _add_up(some, *_weigh(some, share, levels, ratio))
        levels = _eliminate(looks, sums, ratio)
    assert levels is not None
    chi2, weight = np.zeros_like(ratio), np.zeros_like(ratio)
    for some, share in _cut_rows(looks, bad):
        error, shift = _measure(some, levels)
        square = (error - shift) ** 2 / (1 + (_JITTER * shift) ** 2 / ratio)
        share = share * (some.inverse > 0)
        chi2 += _sum(share, np.minimum(square, 4 * _MAXIMUM_RATIO))
        weight += share.sum(axis=0)
    ratio = np.clip(chi2 / np.maximum(weight, 1e-9), 1, _MAXIMUM_RATIO)
    return replace(levels, variance_ratio=ratio)


def compare_states(
    looks: Looks, levels: Levels, llr_cap: np.ndarray, min_noise_ratio: float
) -> np.ndarray:
    """Log-likelihood ratio bad/good of each look, capped; 0 = no evidence."""
    result = np.empty(looks.residual.shape)
    unstable = levels.variance_ratio >= min_noise_ratio**2
    for some, cap, ratio in _cut_rows(looks, llr_cap, result):
        error, shift = _measure(some, levels)
        good = error**2
        spread = levels.variance_ratio + (_JITTER * shift) ** 2
        shifted = 0.5 * (good - (error - shift) ** 2 / spread - np.log(spread))
        least = looks.minimum_shift * some.inverse
        counts = (np.abs(shift) >= least) | unstable
        outlier = 0.5 * (good - OUTLIER**2)
        np.maximum(
            np.where(counts, shifted, -cap),
            np.where(np.abs(error) >= least, outlier, -cap),
            out=ratio,
        )
        np.clip(ratio, -cap, cap, out=ratio)
        ratio *= some.inverse > 0
    return result


def compute_log_good(looks: Looks, levels: Levels, llr_cap: np.ndarray) -> np.ndarray:
    """Log-likelihood of the good level, each look capped, with the priors of delta and q."""
    total = (levels.offset / looks.sigma_offset) ** 2
    total += (levels.response / looks.sigma_response) ** 2
    for some, cap in _cut_rows(looks, llr_cap):
        error, _ = _measure(some, levels)
        total += np.minimum(error**2, 2 * cap).sum(axis=0)
    return -0.5 * total


def _cut_rows(looks: Looks, *others: np.ndarray) -> Iterator[tuple]:
    """Cut looks, and arrays that go with them, into some looks at a time."""
    for first in range(0, len(looks.residual), _ROWS):
        rows = slice(first, first + _ROWS)
        some = replace(
            looks,
            residual=looks.residual[rows],
            local=looks.local[rows],
            inverse=looks.inverse[rows],
            shape=looks.shape[rows],
        )
        yield some, *(other[rows] for other in others)


def _measure(looks: Looks, levels: Levels) -> tuple[np.ndarray, np.ndarray]:
    """Residual from the good level, and shift of the bad one, in sigma."""
    error = looks.residual - levels.offset * looks.inverse
    error -= levels.response * looks.local
    return error, levels.amplitude * looks.shape


def _weigh(
    looks: Looks, bad: np.ndarray, levels: Levels | None, ratio: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of looks in the two states together, and in the bad one, over those of the noise."""
    if levels is None:
        weight_bad = bad / ratio
        return 1 - bad + weight_bad, weight_bad
    error, shift = _measure(looks, levels)
    spread = ratio + (_JITTER * shift) ** 2
    weight = (1 - bad) / (1 + error**2 / _CLIP**2) ** 2
    # 1 / (1 + chi2 / clip^2)^2 / spread, where chi2 = (error - shift)^2 / spread.
    weight_bad = bad * spread / (spread + (error - shift) ** 2 / _CLIP**2) ** 2
    weight += weight_bad
    return weight, weight_bad


def _add_up(looks: Looks, weight: np.ndarray, weight_bad: np.ndarray) -> tuple[np.ndarray, ...]:
    """Upper triangle of the normal equations, column by column, and their right-hand side."""
    one = weight * looks.inverse
    level = weight * looks.local
    shape = weight_bad * looks.shape
    return (
        _sum(one, looks.inverse),
        _sum(one, looks.local),
        _sum(level, looks.local),
        _sum(shape, looks.inverse),
        _sum(shape, looks.local),
        _sum(shape, looks.shape),
        _sum(one, looks.residual),
        _sum(level, looks.residual),
        _sum(shape, looks.residual),
    )


def _sum(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Sum of products over the looks."""
    return np.einsum("ij,ij->j", one, two)


def _eliminate(looks: Looks, sums: np.ndarray, ratio: np.ndarray) -> Levels:
    """Solve the normal equations of each pixel, with the priors."""
    a00, a01, a11, a02, a12, a22, offset, response, amplitude = sums
    a00 += 1 / looks.sigma_offset**2
    a11 += 1 / looks.sigma_response**2
    a22 += 1e-10
    factor = a01 / a00
    a11 -= factor * a01
    a12 -= factor * a02
    response -= factor * offset
    factor = a02 / a00
    a22 -= factor * a02
    amplitude -= factor * offset
    factor = a12 / a11
    a22 -= factor * a12
    amplitude -= factor * response
    amplitude /= a22
    response -= a12 * amplitude
    response /= a11
    offset -= a01 * response + a02 * amplitude
    offset /= a00
    return Levels(offset, response, amplitude, 1 / np.sqrt(a22), ratio)
