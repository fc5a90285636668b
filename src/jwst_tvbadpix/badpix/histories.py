"""Which candidate pixel was bad at which look: levels and states solved together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import bottleneck as bn
import numpy as np

from .levels import (
    OUTLIER,
    Levels,
    Looks,
    compare_states,
    compute_log_good,
    fit_levels,
    whiten_looks,
)
from .states import Transitions, infer_states

__all__ = ["PixelStates", "join_pixels", "solve_states", "take_pixels"]

_Parts = TypeVar("_Parts")

# A response that fell by less than this is a matter for the flat field, not for the mask.
_MINIMUM_LOSS = 0.2
# Log of the price of the parameters that only the bad state has.
_PRICE = 3.0
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
    """Join results of one kind, whose last axis is the pixel, along it; also results of results.

    The order in memory is always the same: that of a sum over the looks depends on it.
    """

    def join(values: Sequence[Any]) -> Any:
        if is_dataclass(values[0]):
            return join_pixels(values)
        return np.ascontiguousarray(np.concatenate(values, axis=-1))

    names = [f.name for f in fields(parts[0])]  # type: ignore[arg-type]
    return type(parts[0])(*(join([getattr(part, n) for part in parts]) for n in names))


def take_pixels(whole: _Parts, chosen: np.ndarray | slice) -> _Parts:
    """Take some pixels of what `join_pixels` joins, in its order in memory unless by a slice."""

    def take(value: Any) -> Any:
        if is_dataclass(value):
            return take_pixels(value, chosen)
        return value[..., chosen] if isinstance(chosen, slice) else np.take(value, index, axis=-1)

    if not isinstance(chosen, slice):
        index = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
    return type(whole)(*(take(getattr(whole, f.name)) for f in fields(whole)))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class _Trials:
    """Trials, on the last axis: histories of a pixel that come from one start, of one kind."""

    pixel: np.ndarray
    multiplicative: np.ndarray
    bad: np.ndarray
    levels: Levels


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
    groups and from the outliers, with either h, and the history of highest evidence is kept;
    a start that is another once more, and h = M where the first A is positive, are left out.
    The shift of a pixel that was always bad is told from its response by the changing
    background, as far as that goes: the prior of q is what keeps a flat-field error from
    passing for dark current.
    """
    llr_cap = np.broadcast_to(llr_caps, len(residual))[:, None]
    looks = whiten_looks(
        residual,
        local,
        variance,
        sigma_offset=sigma_offset,
        sigma_response=sigma_response,
        minimum_shift=min_effect * _median_sigma(residual, variance),
    )
    trials, reference = _start_trials(looks, llr_cap)
    own = take_pixels(looks, trials.pixel)
    own = replace(own, shape=np.where(trials.multiplicative, own.local, own.inverse))
    for k in range(_N_ITERATIONS):
        if k:
            trials = replace(trials, levels=fit_levels(own, trials.bad, trials.levels))
        log_ratio = compare_states(own, trials.levels, llr_cap, min_noise_ratio)
        odds = infer_states(log_ratio, transitions)
        trials = replace(trials, bad=odds.bad)
    log_good = compute_log_good(own, trials.levels, llr_cap)
    # The good level that a trial found without the bad looks is a good level all the same.
    np.maximum.at(reference, trials.pixel, log_good)
    log_odds = log_good + odds.log_evidence - _PRICE
    best = _choose_best(trials, log_odds, evidence=own.inverse > 0)
    return PixelStates(
        bad=np.take(trials.bad, best, axis=1).astype(np.float32),
        log_ratio=np.take(log_ratio, best, axis=1).astype(np.float32),
        log_odds=log_odds[best] - reference,
        multiplicative=trials.multiplicative[best],
        **{f.name: getattr(trials.levels, f.name)[best] for f in fields(Levels)},
    )


def _choose_best(trials: _Trials, log_odds: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Choose the trial of highest odds of each pixel, by number, scatter paid in full.

    Looks far out count no more than the cap whatever explains them, so that a level that fits
    would tie with a scatter that swallows everything. What tells them apart is the normalisation
    of the wider Gaussian, which the cap hides: half the logarithm of the variance at each bad look.
    """
    n_bad = (trials.bad * evidence).sum(axis=0)
    rank = log_odds - 0.5 * n_bad * np.log(trials.levels.variance_ratio)
    impossible = trials.multiplicative & ~(trials.levels.amplitude < -_MINIMUM_LOSS)
    order = np.lexsort((-np.where(impossible, -np.inf, rank), trials.pixel))
    return order[np.unique(trials.pixel[order], return_index=True)[1]]


def _median_sigma(residual: np.ndarray, variance: np.ndarray) -> np.ndarray:
    known = np.where(np.isfinite(residual), variance, np.nan)
    return np.sqrt(np.nan_to_num(bn.nanmedian(known, axis=0)))


def _start_trials(looks: Looks, llr_cap: np.ndarray) -> tuple[_Trials, np.ndarray]:
    """Fit the first levels of all trials; also how well the best good level fits all looks.

    What would be the same trial again, or an impossible one, is left out: from the same start
    the same history comes, and a response that rose in the first fit, as that of a hot pixel seems
    to do, is no loss. The few that would still become one are found from another start.
    """
    good = fit_levels(looks, np.zeros(looks.residual.shape))
    reference = compute_log_good(looks, good, llr_cap)
    parts = []
    for pixel, start in _list_starts(looks):
        own, bad = take_pixels(looks, pixel), start.astype(float)
        dark = np.zeros(pixel.size, bool)
        parts.append(_Trials(pixel, dark, start, fit_levels(own, bad)))
        own = replace(own, shape=own.local)
        lost = _Trials(pixel, ~dark, start, fit_levels(own, bad))
        possible = lost.levels.amplitude < 0
        log_good = compute_log_good(own, lost.levels, llr_cap)
        np.maximum.at(reference, pixel, np.where(possible, -np.inf, log_good))
        parts.append(take_pixels(lost, possible))
    return join_pixels(parts), reference


def _list_starts(looks: Looks) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Start points of the maximisation: pixels, and whether they are bad at each look.

    A pixel is left out where a start is one that it had. A lone one is there twice: the sums of
    a single column are added up in another order than those of several.
    """
    starts = np.ones(looks.residual.shape, bool), _split(looks), _find_outliers(looks)
    for k, start in enumerate(starts):
        new = np.ones(start.shape[1], bool)
        for earlier in starts[:k]:
            new &= ((start != earlier) & (looks.inverse > 0)).any(axis=0)
        pixel = np.flatnonzero(new)
        if pixel.size == 1:
            pixel = np.repeat(pixel, 2)
        yield pixel, np.take(start, pixel, axis=1)


def _find_outliers(looks: Looks) -> np.ndarray:
    """Mark looks further from zero than the noise and the priors of a good pixel allow."""
    offset, response = looks.sigma_offset * looks.inverse, looks.sigma_response * looks.local
    return looks.residual**2 > OUTLIER**2 * (1 + offset**2 + response**2)


def _split(looks: Looks) -> np.ndarray:
    """Split the values of each pixel in two groups of least scatter; the outer one is bad."""
    z = np.clip(looks.residual, -50, 50)
    if len(z) < 2:
        return np.ones(z.shape, bool)
    evidence = looks.inverse > 0
    ordered = np.sort(np.where(evidence, z, np.inf), axis=0)
    total = np.cumsum(np.where(np.isfinite(ordered), ordered, 0), axis=0)
    n = evidence.sum(axis=0)
    count = np.arange(1, len(z))[:, None]
    weight = np.maximum(count * (n - count), 1e-9)
    between = np.where(count < n, (total[:-1] * n - total[-1] * count) ** 2 / weight, -1)
    cut = between.argmax(axis=0)[None]
    threshold = np.take_along_axis(ordered, cut, axis=0)
    below = np.take_along_axis(total, cut, axis=0)
    lower = below / (cut + 1)
    upper = (total[-1] - below) / np.maximum(n - 1 - cut, 1)
    above = z > threshold
    return np.where(np.abs(upper) > np.abs(lower), above, ~above)
