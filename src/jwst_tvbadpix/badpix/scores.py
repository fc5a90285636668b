"""How much speaks for each candidate: one number to rank them by, and what it would flag."""

import bottleneck as bn
import numpy as np

from .candidates import Candidates
from .crosstalk import find_own_excess
from .histories import PixelStates
from .odds import LOWEST_SCORE
from .regression import fit_background

__all__ = ["compute_scores", "find_pending", "measure_scale"]

# What a shift's own log-likelihood ratio pays for its free parameters.
_PRICE = 4.0
# Most that a scatter beyond the noise, which hot pixels have, adds to what a shift says,
# what it pays before, and the variance ratio that a model of the surroundings may be wrong by.
_NOISE_SHARE, _NOISE_PRICE, _NOISE_FLOOR = 6.0, 4.0, 1.5
# Width of a prior that says nothing.
_FREE = 1e4
# Where at most this share of the looks is good, they may be what is odd, and not the others.
_FEW_GOOD = 0.12
# Crosstalk from a brighter neighbour counts as bad from this many sigma of one look.
_HALO_EFFECT = 8.0


def compute_scores(
    candidates: Candidates,
    states: PixelStates,
    min_noise_ratio: float,
    *,
    neighbours: bool = True,
) -> np.ndarray:
    """Rank candidates: the odds of their history, and of the shift that it rests on.

    Parameters
    ----------
    candidates : Candidates
    states : PixelStates
        Their best histories.
    min_noise_ratio : float
        Scatter over the noise from which a pixel is bad without a shift.
    neighbours : bool
        Whether candidates have places, so that the crosstalk of their neighbours counts.

    Returns
    -------
    ndarray of float64, shape (n_pixels,)

    Notes
    -----
    ``min(log_odds, z^2 / 2 - 4 + v)`` with z the shift over its error and v, 0 to 6, what the
    log-likelihood ratio ``n (s^2 - 1 - ln s^2) / 2`` of 1.5 times the noise variance against that
    while bad has beyond 4: hot pixels are noisy too. It is log_odds alone where the scatter is
    that of an unstable pixel. Where a neighbour is brighter, z is that of what its crosstalk
    leaves, unless the excess is eight sigma of one look whatever its origin. Where at most 12 % of
    the looks are good, z is no more than that of a pixel that never changed: a few odd looks do
    not make the others bad. Where the first look alone is bad it is below any threshold: the prior
    of a pixel that is bad from the start, many times that of an onset, would take every cosmic ray
    of that look for a pixel that recovered after it.
    """
    if not candidates.y.size:
        return states.log_odds
    shift, err = states.amplitude, states.amplitude_err
    if neighbours:
        scale, sigma = measure_scale(candidates, states), _measure_sigma(candidates)
        shift, err = shift * scale, err * np.abs(scale)
        ever = (states.bad > 0.5).any(axis=0)
        own, own_err = find_own_excess(candidates.y, candidates.x, np.where(ever, shift, 0.0), err)
        small = ever & (np.abs(shift) < _HALO_EFFECT * sigma)
        shift, err = np.where(small, own, shift), np.where(small, own_err, err)
    z = np.abs(shift) / np.maximum(err, 1e-30)
    evidence = np.isfinite(candidates.residual)
    n_good = ((states.bad <= 0.5) & evidence).sum(axis=0)
    few = (n_good > 0) & (n_good <= _FEW_GOOD * evidence.sum(axis=0))
    chosen = np.flatnonzero(few)
    z[chosen] = np.minimum(z[chosen], _compare_with_pattern(candidates, chosen))
    n_bad = evidence.sum(axis=0) - n_good
    ratio = np.maximum(states.variance_ratio / _NOISE_FLOOR, 1)
    noisy = 0.5 * n_bad * (ratio - 1 - np.log(ratio)) - _NOISE_PRICE
    own_ratio = 0.5 * z**2 - _PRICE + np.clip(noisy, 0, _NOISE_SHARE)
    unstable = states.variance_ratio > min_noise_ratio**2
    score = np.minimum(states.log_odds, np.where(unstable, np.inf, own_ratio))
    alone = _find_first_alone(states.bad > 0.5, evidence)
    return np.where(alone, np.minimum(score, LOWEST_SCORE - 1), score)


def _find_first_alone(bad: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Mark pixels that are bad at their first look and at no other: bool (n_pixels,)."""
    bad = bad & evidence
    first = evidence.argmax(axis=0)
    alone = bad[first, np.arange(bad.shape[1])] & (bad.sum(axis=0) == 1)
    return np.asarray(alone & (evidence.sum(axis=0) > 1))


def _compare_with_pattern(candidates: Candidates, own: np.ndarray) -> np.ndarray:
    """Significance of some candidates as ones that never changed: offset or response."""
    n = own.size
    # As columns of an array: numpy adds up a single one, or rows that are turned, in another order.
    own = np.resize(own, max(n, 2) if n else 0)
    names = ("residual", "local", "variance")
    data = [getattr(candidates, name).take(own, axis=1) for name in names]
    offset, response = candidates.sigma_offset[own], candidates.sigma_response[own]
    # Without a prior of its own, or a robust fit would take a large shift for outliers.
    hot = fit_background(*data, sigma_offset=_FREE, sigma_response=response)
    low = fit_background(*data, sigma_offset=offset, sigma_response=_FREE)
    return np.maximum(
        np.abs(hot.offset) / np.hypot(hot.offset_err, offset),
        np.abs(low.response) / np.hypot(low.response_err, response),
    )[:n]


def measure_scale(candidates: Candidates, states: PixelStates) -> np.ndarray:
    """Measure what turns shifts into DN/s: of multiplicative pixels their median level, else 1."""
    scale = np.ones(candidates.y.size, candidates.local.dtype)
    own = np.flatnonzero(states.multiplicative)
    if own.size:
        evidence = np.isfinite(candidates.residual[:, own])
        local = np.where(evidence, candidates.local[:, own], np.nan)
        scale[own] = bn.nanmedian(local, axis=0)
    return scale


def _measure_sigma(candidates: Candidates) -> np.ndarray:
    """Measure sigma of one look of each candidate: the median over the looks with evidence."""
    evidence = np.isfinite(candidates.residual)
    return np.sqrt(bn.nanmedian(np.where(evidence, candidates.variance, np.nan), axis=0))


def find_pending(bad: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Mark last looks that alone say that a pixel turned bad: bool (n_looks, n_pixels)."""
    pending = np.zeros_like(bad)
    if not bad.size:
        return pending
    columns = np.arange(bad.shape[1])
    last = len(bad) - 1 - evidence[::-1].argmax(axis=0)
    earlier = evidence.copy()
    earlier[last, columns] = False
    before = len(bad) - 1 - earlier[::-1].argmax(axis=0)
    alone = bad[last, columns] & ~bad[before, columns] & earlier.any(axis=0)
    pending[last[alone], columns[alone]] = True
    return pending
