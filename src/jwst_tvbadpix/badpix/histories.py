"""Which candidate pixel was bad at which look: levels and states solved together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np

from .states import Transitions, infer_states

__all__ = ["PixelStates", "join_pixels", "solve_states", "take_pixels"]

_Parts = TypeVar("_Parts")

# Residuals beyond this many sigma lose their weight (twice-applied Cauchy weight).
_CLIP = 3.0
# Scatter of a bad level relative to itself: hot pixels drift by several per cent.
_JITTER = 0.07
# A single look whose residual exceeds this many sigma counts as bad whatever its level.
_OUTLIER = 4.5
# A response that fell by less than this is a matter for the flat field, not for the mask.
_MINIMUM_LOSS = 0.2
# Log of the price of the parameters that only the bad state has.
_PRICE = 3.0
# Largest variance ratio considered for an unstable pixel.
_MAXIMUM_RATIO = 1e6
_N_ITERATIONS = 4


@dataclass(frozen=True, slots=True)
class PixelStates:
    """Best history of each candidate pixel; axis 0 = look, last axis = pixel.

    Attributes
    ----------
    bad : ndarray of float32, shape (n_looks, n_pixels)
        Posterior probability to be bad at each look.
    log_ratio : ndarray of float32, shape (n_looks, n_pixels)
        Capped log-likelihood ratio bad/good of each look; 0 = no evidence.
    log_odds : ndarray of float64, shape (n_pixels,)
        Log-odds of this history against always good.
    offset, response : ndarray of float64, shape (n_pixels,)
        delta [DN/s] and q of the good state.
    amplitude, amplitude_err : ndarray of float64, shape (n_pixels,)
        Shift of the bad state: [DN/s], or relative to the local level where `multiplicative`.
    multiplicative : ndarray of bool, shape (n_pixels,)
        Whether the shift scales with the local level (a lost response).
    variance_ratio : ndarray of float64, shape (n_pixels,)
        Variance in the bad state over that of the noise, >= 1.
    """

    bad: np.ndarray
    log_ratio: np.ndarray
    log_odds: np.ndarray
    offset: np.ndarray
    response: np.ndarray
    amplitude: np.ndarray
    amplitude_err: np.ndarray
    multiplicative: np.ndarray
    variance_ratio: np.ndarray


def join_pixels(parts: Sequence[_Parts]) -> _Parts:
    """Join results of one kind, whose last axis is the pixel, along it.

    The order in memory is always the same: that of a sum over the looks depends on it.
    """
    names = [f.name for f in fields(parts[0])]  # type: ignore[arg-type]
    planes = (np.concatenate([getattr(p, n) for p in parts], axis=-1) for n in names)
    return type(parts[0])(*map(np.ascontiguousarray, planes))


def take_pixels(whole: _Parts, chosen: np.ndarray | slice) -> _Parts:
    """Take some pixels of what `join_pixels` joins."""
    names = [f.name for f in fields(whole)]  # type: ignore[arg-type]
    return type(whole)(*(getattr(whole, name)[..., chosen] for name in names))


@dataclass(frozen=True, slots=True)
class _Data:
    """What the solver is given, NaN replaced by weight zero."""

    residual: np.ndarray
    local: np.ndarray
    variance: np.ndarray
    evidence: np.ndarray
    sigma_offset: np.ndarray
    sigma_response: np.ndarray
    minimum_shift: np.ndarray


@dataclass(frozen=True, slots=True)
class _Levels:
    """Levels of the two states for given state probabilities."""

    offset: np.ndarray
    response: np.ndarray
    amplitude: np.ndarray
    amplitude_err: np.ndarray
    ratio: np.ndarray
    error: np.ndarray
    shift: np.ndarray


def solve_states(
    residual: np.ndarray,
    local: np.ndarray,
    variance: np.ndarray,
    *,
    sigma_offset: np.ndarray,
    sigma_response: np.ndarray,
    transitions: Transitions,
    llr_caps: np.ndarray | float = 10.0,
    min_effect: float = 1.0,
    min_noise_ratio: float = 4.0,
) -> PixelStates:
    """Solve the levels and the states of candidate pixels together.

    Parameters
    ----------
    residual, local, variance : ndarray of float64, shape (n_looks, n_pixels)
        Residual and local level [DN/s], variance of the residual [(DN/s)^2]; a NaN residual =
        no evidence.
    sigma_offset, sigma_response : ndarray of float64, shape (n_pixels,)
        Prior widths of the good state's offset [DN/s] and response.
    transitions : Transitions
        Prior of the chain between the looks.
    llr_caps : ndarray of float64, shape (n_looks,), or float
        No look counts for more than this in log-likelihood ratio, so that one cosmic ray cannot
        outweigh the price of an onset and a recovery; less where a look is worth less.
    min_effect : float
        Smallest shift that counts as bad, in the pixel's median sigma of one look.
    min_noise_ratio : float
        Scatter over the noise from which a pixel without a shift counts as bad.

    Returns
    -------
    PixelStates

    Notes
    -----
    In the good state r_k = delta + q M_k + noise, in the bad one h_k A is added, h = 1 for dark
    current and h = M for lost response, and the variance is s^2 v + (0.07 h A)^2. Expectation
    maximisation alternates the three-parameter weighted least squares for (delta, q, A) with the
    forward-backward recursion; it starts from all-bad, from the best split of the values in two
    groups and from the outliers, with either h, and the history of highest evidence is kept.
    The shift of a pixel that was always bad is told from its response by the changing
    background, as far as that goes: the prior of q is what keeps a flat-field error from
    passing for dark current.
    """
    evidence = np.isfinite(residual)
    llr_cap = np.broadcast_to(llr_caps, len(residual))[:, None]
    data = _Data(
        np.where(evidence, residual, 0.0),
        np.where(evidence, local, 0.0),
        np.where(evidence, variance, 1.0),
        evidence,
        sigma_offset,
        sigma_response,
        min_effect * _median_sigma(variance, evidence),
    )
    good = _fit_levels(data, np.zeros_like(data.residual), np.zeros(residual.shape[1], bool), None)
    reference = _log_good(data, good, llr_cap)
    best: dict[str, np.ndarray] | None = None
    for start, multiplicative in _starts(data):
        trial, as_good = _maximise(
            data, start, multiplicative, transitions, llr_cap, min_noise_ratio
        )
        # The good level that a trial found without the bad looks is a good level all the same.
        reference = np.maximum(reference, as_good)
        if best is None:
            best = trial
            continue
        better = _rank(trial, evidence) > _rank(best, evidence)
        best = {key: np.where(better, trial[key], best[key]) for key in best}
    assert best is not None
    best["log_odds"] = best["log_odds"] - reference
    for name in ("bad", "log_ratio"):
        best[name] = best[name].astype(np.float32)
    return PixelStates(**best)


def _rank(trial: dict[str, np.ndarray], evidence: np.ndarray) -> np.ndarray:
    """Rank histories by their odds, scatter paid in full.

    Looks far out count no more than the cap whatever explains them, so that a level that fits
    would tie with a scatter that swallows everything. What tells them apart is the normalisation
    of the wider Gaussian, which the cap hides: half the logarithm of the variance at each bad look.
    """
    n_bad = (trial["bad"] * evidence).sum(axis=0)
    return trial["log_odds"] - 0.5 * n_bad * np.log(trial["variance_ratio"])


def _median_sigma(variance: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    return np.sqrt(np.nan_to_num(np.nanmedian(np.where(evidence, variance, np.nan), axis=0)))


def _starts(data: _Data) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Start points of the maximisation: probabilities to be bad, and the kind of shift."""
    variance = data.variance + data.sigma_offset**2 + (data.sigma_response * data.local) ** 2
    outlier = data.residual**2 / variance > _OUTLIER**2
    n = data.residual.shape[1]
    for start in (np.ones_like(data.residual), _split(data), outlier.astype(float)):
        for multiplicative in (False, True):
            yield start, np.full(n, multiplicative)


def _split(data: _Data) -> np.ndarray:
    """Split the values of each pixel in two groups of least scatter; the outer one is bad."""
    z = np.clip(data.residual / np.sqrt(data.variance), -50, 50)
    if len(z) < 2:
        return np.ones_like(z)
    ordered = np.sort(np.where(data.evidence, z, np.inf), axis=0)
    total = np.cumsum(np.where(np.isfinite(ordered), ordered, 0), axis=0)
    n = data.evidence.sum(axis=0)
    count = np.arange(1, len(z))[:, None]
    weight = np.maximum(count * (n - count), 1e-9)
    between = np.where(count < n, (total[:-1] * n - total[-1] * count) ** 2 / weight, -1)
    cut = between.argmax(axis=0)[None]
    threshold = np.take_along_axis(ordered, cut, axis=0)
    below = np.take_along_axis(total, cut, axis=0)
    lower = below / (cut + 1)
    upper = (total[-1] - below) / np.maximum(n - 1 - cut, 1)
    above = z > threshold
    return np.where(np.abs(upper) > np.abs(lower), above, ~above).astype(float)


def _maximise(
    data: _Data,
    bad: np.ndarray,
    multiplicative: np.ndarray,
    transitions: Transitions,
    llr_cap: np.ndarray,
    min_noise_ratio: float,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Alternate levels and states from one start point; also how well its good level fits all."""
    levels = None
    for _ in range(_N_ITERATIONS):
        levels = _fit_levels(data, bad, multiplicative, levels)
        log_ratio = _compare_states(data, levels, llr_cap, min_noise_ratio)
        odds = infer_states(log_ratio, transitions)
        bad = odds.bad
    assert levels is not None
    as_good = _log_good(data, levels, llr_cap)
    log_odds = as_good + odds.log_evidence - _PRICE
    impossible = multiplicative & ~(levels.amplitude < -_MINIMUM_LOSS)
    trial = {
        "bad": bad,
        "log_ratio": log_ratio,
        "log_odds": np.where(impossible, -np.inf, log_odds),
        "offset": levels.offset,
        "response": levels.response,
        "amplitude": levels.amplitude,
        "amplitude_err": levels.amplitude_err,
        "multiplicative": multiplicative,
        "variance_ratio": levels.ratio,
    }
    return trial, as_good


def _bad_variance(data: _Data, shift: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    return ratio * data.variance + (_JITTER * shift) ** 2


def _down_weight(error: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return 1 / (1 + error * error / variance / _CLIP**2) ** 2


def _fit_levels(
    data: _Data, bad: np.ndarray, multiplicative: np.ndarray, before: _Levels | None
) -> _Levels:
    """Solve (delta, q, A) by weighted least squares, twice for the robust weights."""
    shape = np.where(multiplicative, data.local, 1.0)
    full = np.where(data.evidence, 1 / data.variance, 0.0)
    if before is None:
        ratio, shift, error = np.full(bad.shape[1], 4.0), np.zeros_like(bad), None
    else:
        ratio, shift, error = before.ratio, before.shift, before.error
    level, squared = data.local, data.local**2
    full_good, full_bad = full * (1 - bad), full * bad
    for _ in range(2):
        variance = _bad_variance(data, shift, ratio)
        weight, weight_bad = full_good, full_bad
        if error is not None:
            weight = full_good * _down_weight(error, data.variance)
            weight_bad = full_bad * _down_weight(error - shift, variance)
        weight_bad = weight_bad * data.variance / variance
        weight = weight + weight_bad
        levelled, shaped = weight * level, weight_bad * shape
        matrix = np.empty((bad.shape[1], 3, 3))
        matrix[:, 0, 0] = weight.sum(axis=0) + 1 / data.sigma_offset**2
        matrix[:, 0, 1] = matrix[:, 1, 0] = levelled.sum(axis=0)
        matrix[:, 1, 1] = (weight * squared).sum(axis=0) + 1 / data.sigma_response**2
        matrix[:, 0, 2] = matrix[:, 2, 0] = shaped.sum(axis=0)
        matrix[:, 1, 2] = matrix[:, 2, 1] = (shaped * level).sum(axis=0)
        matrix[:, 2, 2] = (weight_bad * shape**2).sum(axis=0) + 1e-10
        vector = np.stack(
            [
                (weight * data.residual).sum(axis=0),
                (levelled * data.residual).sum(axis=0),
                (shaped * data.residual).sum(axis=0),
            ],
            axis=-1,
        )
        inverse = np.linalg.inv(matrix)
        offset, response, amplitude = (inverse @ vector[..., None])[..., 0].T
        error = data.residual - offset - response * level
        shift = amplitude * shape
    assert error is not None
    share = bad * data.evidence
    chi2 = np.minimum(
        (error - shift) ** 2 / (data.variance + (_JITTER * shift) ** 2 / ratio), 4 * _MAXIMUM_RATIO
    )
    ratio = (share * chi2).sum(axis=0) / np.maximum(share.sum(axis=0), 1e-9)
    return _Levels(
        offset,
        response,
        amplitude,
        np.sqrt(inverse[:, 2, 2]),
        np.clip(ratio, 1, _MAXIMUM_RATIO),
        error,
        shift,
    )


def _compare_states(
    data: _Data, levels: _Levels, llr_cap: np.ndarray, min_noise_ratio: float
) -> np.ndarray:
    """Log-likelihood ratio bad/good of each look, capped; 0 = no evidence."""
    good = levels.error**2 / data.variance
    variance = _bad_variance(data, levels.shift, levels.ratio)
    shifted = 0.5 * (
        good - (levels.error - levels.shift) ** 2 / variance - np.log(variance / data.variance)
    )
    counts = np.abs(levels.shift) >= data.minimum_shift
    counts |= levels.ratio >= min_noise_ratio**2
    outlier = 0.5 * (good - _OUTLIER**2)
    counts_alone = np.abs(levels.error) >= data.minimum_shift
    ratio = np.maximum(
        np.where(counts, shifted, -llr_cap), np.where(counts_alone, outlier, -llr_cap)
    )
    return np.where(data.evidence, np.clip(ratio, -llr_cap, llr_cap), 0.0)


def _log_good(data: _Data, levels: _Levels, llr_cap: np.ndarray) -> np.ndarray:
    """Log-likelihood of the good level, each look capped, with the priors of delta and q."""
    chi2 = np.minimum(levels.error**2 / data.variance, 2 * llr_cap) * data.evidence
    prior = (levels.offset / data.sigma_offset) ** 2 + (levels.response / data.sigma_response) ** 2
    return -0.5 * (chi2.sum(axis=0) + prior)
