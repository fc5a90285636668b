"""Intervals in which a pixel is bad: brackets, class, amplitude and odds."""

from dataclasses import dataclass

import bottleneck as bn
import numpy as np

from .find import PixelHistories
from .scores import find_pending, measure_scale
from .states import compute_probability

__all__ = ["CLASSES", "Intervals", "extract_intervals"]

# Classes by the pipeline's mnemonics.
CLASSES = (
    "HOT",
    "WARM",
    "DEAD",
    "LOW_QE",
    "TELEGRAPH",
    "UNRELIABLE_SLOPE",
    "OTHER_BAD_PIXEL",
)
# Response below which a pixel is DEAD, and up to which it is LOW_QE (jwst_reffiles'
# badpix_from_flats for MIRI and NIRSpec).
_DEAD, _LOW_QE = 0.05, 0.5
# An excess of at least this many sigma of one look, pattern included, is HOT; below, WARM.
_HOT = 5.0
# Shift over its error from which a pixel is more than noisy.
_SHIFTED = 4.0
# Smallest probability of a transition, for looks that have no order in time.
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Intervals:
    """One row per pixel and interval; all arrays of shape (n_rows,).

    Attributes
    ----------
    pixel : ndarray of intp
        Index into the candidates.
    y, x : ndarray of int16
        0-based full-frame position.
    name : ndarray of str
        One of `CLASSES`.
    first, last : ndarray of intp
        First and last look that is bad.
    before, after : ndarray of intp
        Last good look before and first good look after; -1 = none (open).
    amplitude, amplitude_err : ndarray of float32
        Shift of the bad state at the pixel's median level [DN/s].
    response : ndarray of float32
        Relative response while bad (1 = normal).
    log_odds : ndarray of float32
        Log-odds that the pixel was bad in this interval against good throughout it, calibrated
        on decoys: of intervals with log-odds L a share 1 / (1 + e^L) is false.
    n_looks : ndarray of int16
        Looks with evidence in the interval.
    pending : ndarray of bool
        The last look alone says bad: reported, but in no mask.
    """

    pixel: np.ndarray
    y: np.ndarray
    x: np.ndarray
    name: np.ndarray
    first: np.ndarray
    last: np.ndarray
    before: np.ndarray
    after: np.ndarray
    amplitude: np.ndarray
    amplitude_err: np.ndarray
    response: np.ndarray
    log_odds: np.ndarray
    n_looks: np.ndarray
    pending: np.ndarray


def extract_intervals(histories: PixelHistories) -> Intervals:
    """Cut the histories into intervals between looks that hold evidence.

    Parameters
    ----------
    histories : PixelHistories

    Returns
    -------
    Intervals
        Rows in row-major order of the pixels, then in order of time. What happened between two
        looks with evidence is open: the brackets `before`-`first` and `last`-`after` may span
        looks that did not read the pixel out.
    """
    evidence = np.isfinite(histories.candidates.residual)
    pending = _find_pending(histories, evidence)
    runs = _list_runs(histories.bad | pending, evidence)
    owner, first, last = runs.pixel, runs.first, runs.last
    names = _classify(histories, evidence, pending)
    states = histories.states
    scale = measure_scale(histories.candidates, states)[owner]
    return Intervals(
        pixel=owner,
        y=histories.candidates.y[owner],
        x=histories.candidates.x[owner],
        name=names[owner],
        first=first,
        last=last,
        before=runs.before,
        after=runs.after,
        amplitude=(states.amplitude[owner] * scale).astype(np.float32),
        amplitude_err=(states.amplitude_err[owner] * np.abs(scale)).astype(np.float32),
        response=np.where(states.multiplicative, 1 + states.amplitude, 1.0)[owner].astype(
            np.float32
        ),
        log_odds=histories.calibration.compute_log_odds(
            np.minimum(histories.score[owner], _sum_odds(histories, runs))
        ).astype(np.float32),
        n_looks=runs.n_looks.astype(np.int16),
        pending=pending[first, owner],
    )


@dataclass(frozen=True, slots=True)
class _Runs:
    """Looks in succession that are bad; all arrays of intp, shape (n_rows,), see `Intervals`."""

    pixel: np.ndarray
    first: np.ndarray
    last: np.ndarray
    before: np.ndarray
    after: np.ndarray
    n_looks: np.ndarray


def _list_runs(bad: np.ndarray, evidence: np.ndarray) -> _Runs:
    """List the bad runs among the looks with evidence, pixel by pixel, in order of time.

    Look by look, all pixels at once: the list of all that has evidence is hundreds of times as
    long as that of the runs.
    """
    n_pixels = bad.shape[1]
    was_bad = np.zeros(n_pixels, bool)
    # Of each pixel: its last look with evidence, the number of these so far, and both, with the
    # look before, at the beginning of the run that is open.
    last, count = np.full(n_pixels, -1), np.zeros(n_pixels, int)
    begun = np.zeros((3, n_pixels), int)
    rows = []

    def close(ended: np.ndarray, after: int) -> None:
        first, before, number = begun[:, ended]
        n_looks = count[ended] - number
        rows.append((ended, first, last[ended], before, np.full(ended.size, after), n_looks))

    for look, (is_bad, seen) in enumerate(zip(bad, evidence, strict=True)):
        changed = np.flatnonzero(seen & (is_bad != was_bad))
        if changed.size:
            ends = was_bad[changed]
            close(changed[ends], look)
            begins = changed[~ends]
            begun[:, begins] = np.full(begins.size, look), last[begins], count[begins]
            was_bad[changed] = ~ends
        np.copyto(last, look, where=seen)
        count += seen
    close(np.flatnonzero(was_bad), -1)
    columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
    order = np.lexsort((columns[1], columns[0]))
    return _Runs(*(column[order] for column in columns))


def _find_pending(histories: PixelHistories, evidence: np.ndarray) -> np.ndarray:
    """Mark last looks that alone say that a pixel turned bad: bool (n_looks, n_pixels).

    Either the pixel was good at the look before, or it is good altogether and this is the only
    look that speaks against it, as loudly as one look can.
    """
    if not evidence.size or np.ptp(histories.mid_mjd) == 0:
        return np.zeros_like(evidence)
    pending = find_pending(histories.bad, evidence)
    states = histories.states
    against = ((states.log_ratio > 0) & evidence).sum(axis=0)
    once = ~histories.bad.any(axis=0) & (against == 1) & (evidence.sum(axis=0) > 1)
    last = len(evidence) - 1 - evidence[::-1].argmax(axis=0)
    columns = np.arange(evidence.shape[1])
    caps = histories.settings.llr_cap * histories.usability.score
    says_all = states.log_ratio[last, columns] >= caps[last] * (1 - 1e-6)  # kept as float32
    chosen = once & says_all
    pending[last[chosen], columns[chosen]] = True
    return pending


def _classify(histories: PixelHistories, evidence: np.ndarray, pending: np.ndarray) -> np.ndarray:
    """Name the class of each candidate from its levels and transitions."""
    states, settings = histories.states, histories.settings
    candidates = histories.candidates
    variance = candidates.variance + candidates.sigma_offset**2
    variance = variance + (candidates.sigma_response * candidates.local) ** 2
    variance = np.where(evidence, variance, np.nan)
    sigma = np.sqrt(bn.nanmedian(variance, axis=0)) if variance.size else np.empty(0)
    response = 1 + states.amplitude  # where multiplicative
    shifted = np.abs(states.amplitude) > _SHIFTED * states.amplitude_err
    transitions = _count_transitions(histories.bad & ~pending, evidence)
    return np.select(
        [
            transitions >= settings.telegraph_transitions,
            ~shifted,
            states.multiplicative & (response < _DEAD),
            states.multiplicative & (response < _LOW_QE),
            states.multiplicative | (states.amplitude < 0),
            states.amplitude >= _HOT * sigma,
        ],
        ["TELEGRAPH", "UNRELIABLE_SLOPE", "DEAD", "LOW_QE", "OTHER_BAD_PIXEL", "HOT"],
        "WARM",
    )


def _count_transitions(bad: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Count the changes of state between looks with evidence, per pixel.

    A pixel that is bad at its first look turned bad before, which counts too: bad, good and bad
    again is three changes.
    """
    runs = _list_runs(bad, evidence)
    changes = np.concatenate([runs.pixel, runs.pixel[runs.after >= 0]])
    return np.bincount(changes, minlength=bad.shape[1])


def _sum_odds(histories: PixelHistories, runs: _Runs) -> np.ndarray:
    """Sum the evidence of an interval and the prices of its transitions."""
    settings, ratio = histories.settings, histories.states.log_ratio
    total = np.zeros((len(ratio) + 1, ratio.shape[1]))
    np.cumsum(ratio, axis=0, dtype=float, out=total[1:])
    odds = total[runs.last + 1, runs.pixel] - total[runs.first, runs.pixel]

    def price(start: np.ndarray, stop: np.ndarray, rate: float) -> np.ndarray:
        days = histories.mid_mjd[stop] - histories.mid_mjd[start]
        return np.log(np.maximum(compute_probability(rate, days), _TINY))

    start_bad = np.log(settings.start_bad / (1 - settings.start_bad))
    onset = price(runs.before, runs.first, settings.onset_per_year)
    recovery = price(runs.last, runs.after, settings.recovery_per_year)
    odds = odds + np.where(runs.before < 0, start_bad, onset)
    odds = odds + np.where(runs.after < 0, 0.0, recovery)
    return np.asarray(odds)
