"""Two-state model in time: the odds that a pixel is bad at each look."""

from dataclasses import dataclass

import numpy as np

__all__ = [
    "StateOdds",
    "Transitions",
    "compute_probability",
    "compute_transitions",
    "infer_states",
    "stretch_time",
]

_DAYS_PER_YEAR = 365.25
# How long the rates are raised around an event: what an anneal or a storm did shows within a month.
_EVENT_DAYS = 30.0


@dataclass(frozen=True, slots=True)
class Transitions:
    """Prior probabilities of the two-state chain.

    Attributes
    ----------
    start_bad : float
        Probability that a pixel is bad at the first look.
    onset, recovery : ndarray of float64, shape (n_looks - 1,)
        Probability to turn bad, or good, between consecutive looks.
    """

    start_bad: float
    onset: np.ndarray
    recovery: np.ndarray


@dataclass(frozen=True, slots=True)
class StateOdds:
    """What the chain says of each pixel.

    Attributes
    ----------
    bad : ndarray of float64, shape (n_looks, n_pixels)
        Posterior probability to be bad at each look.
    log_evidence : ndarray of float64, shape (n_pixels,)
        Log of the mean likelihood ratio over all histories, relative to always good.
    """

    bad: np.ndarray
    log_evidence: np.ndarray


def compute_transitions(
    mid_mjd: np.ndarray, *, start_bad: float, onset_per_year: float, recovery_per_year: float
) -> Transitions:
    """Turn rates per year into probabilities between irregular looks.

    Parameters
    ----------
    mid_mjd : ndarray of float64, shape (n_looks,)
        Times of the looks [MJD], increasing; for rates that dated events raise, the times that
        `stretch_time` makes of them.
    start_bad, onset_per_year, recovery_per_year : float
        Probability at the first look, and rates [1/yr].

    Notes
    -----
    Changes are a Poisson process: within t days one happens with probability
    ``1 - exp(-rate t)``. An event raises both rates by the factor `event_boost` for 30 days, so
    that its gap gets ``1 - exp(-rate (t + 30 (event_boost - 1)))``; a factor of one changes
    nothing. All 30 days count for the gap that holds the event, however short it is: what
    changed did so then, and the looks on either side say whether it did.
    """
    days = np.diff(mid_mjd)
    return Transitions(
        start_bad,
        compute_probability(onset_per_year, days),
        compute_probability(recovery_per_year, days),
    )


def stretch_time(mid_mjd: np.ndarray, event_mjd: np.ndarray, *, event_boost: float) -> np.ndarray:
    """Lengthen the gaps that hold an event, by the time in which as much would have changed.

    Parameters
    ----------
    mid_mjd : ndarray of float64, shape (n_looks,)
        Mid-times of the looks [MJD], increasing.
    event_mjd : ndarray of float64, shape (n_events,)
        Dates of events [MJD]; those before the first look and after the last change nothing.
    event_boost : float
        Factor by which an event raises the rates for 30 days, >= 1.

    Returns
    -------
    ndarray of float64, shape (n_looks,)
        Operational time [d]: in it the rates are constant. A copy of `mid_mjd` where nothing is
        raised.

    Notes
    -----
    An event at the very time of a look belongs to the gap before it. Two events in one gap add.

    References
    ----------
    Cox & Isham 1980, Point Processes, chapter 4 (operational time of a Poisson process).
    """
    looks_before = np.searchsorted(mid_mjd, event_mjd, side="left")
    held = (looks_before > 0) & (looks_before < mid_mjd.size)
    events = np.bincount(looks_before[held], minlength=mid_mjd.size)
    return mid_mjd + _EVENT_DAYS * (event_boost - 1) * np.cumsum(events)


def compute_probability(rate_per_year: float, days: np.ndarray) -> np.ndarray:
    """Probability that something which happens at a rate [1/yr] happens within some days."""
    return -np.expm1(-rate_per_year * (days / _DAYS_PER_YEAR))


def infer_states(log_ratio: np.ndarray, transitions: Transitions) -> StateOdds:
    """Run the forward-backward recursion for many pixels at once.

    Parameters
    ----------
    log_ratio : ndarray of float64, shape (n_looks, n_pixels)
        Log-likelihood ratio bad/good of each look; 0 = no evidence.
    transitions : Transitions

    Returns
    -------
    StateOdds

    References
    ----------
    Rabiner 1989, Proc. IEEE 77, 257, section III (scaled recursions), here on the likelihood
    ratio, so that the good state has weight one.
    """
    gain = np.exp(log_ratio)
    gain -= 1
    predicted, total, filtered = (np.empty(gain.shape) for _ in range(3))
    predicted[:1] = transitions.start_bad
    stay = 1 - transitions.onset - transitions.recovery
    rows = zip(predicted, gain, total, filtered, strict=True)
    for k, (before, more, sum_, after) in enumerate(rows):
        if k:
            np.multiply(filtered[k - 1], stay[k - 1], out=before)
            before += transitions.onset[k - 1]
        np.multiply(before, more, out=sum_)
        np.add(before, sum_, out=after)
        sum_ += 1
        after /= sum_
    log_evidence = np.log(total, out=total).sum(axis=0)
    # Back: the arrays that are not needed any more take what the next look does to each.
    recovery = transitions.recovery[:, None]
    from_good, from_bad = gain[:-1], total[:-1]
    for weight, probability in ((from_good, 1 - predicted[1:]), (from_bad, predicted[1:])):
        np.maximum(probability, np.finfo(float).tiny, out=weight)
        np.divide(filtered[:-1], weight, out=weight)
    from_good *= recovery
    from_bad *= 1 - recovery
    from_bad -= from_good
    bad = filtered
    for k in range(len(bad) - 2, -1, -1):
        np.multiply(bad[k + 1], from_bad[k], out=bad[k])
        bad[k] += from_good[k]
    return StateOdds(bad, log_evidence)
