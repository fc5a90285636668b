"""What a score is worth: false alarms counted on decoys, the threshold and the odds they give."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

__all__ = ["LOWEST_SCORE", "Calibration", "calibrate_scores", "shuffle_looks"]

# Decoys of highest score that the exponential tail is fitted to.
_TAIL = 80
# Scores above the tail's beginning in which negative shifts of candidates help to fit it.
_REACH = 8.0
# Lowest score that can be bad, whatever share of false flags is allowed.
LOWEST_SCORE = -3.0
# Pixels per bin in which the density of scores is measured.
_PIXELS_PER_BIN = 60
# Largest share of false ones that a bin can support.
_MOST_FALSE = 0.98
# Scores in which the shifts to negative values, which few defects have, are all taken for false,
# and the number of pixels that weighs as much as what is counted.
_MIRROR, _PRIOR_PIXELS = (-2.0, 6.0), 10.0
# Limits of the calibrated log-odds: nothing measured supports more.
_LIMITS = (-12.0, 30.0)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What scores mean in these exposures.

    Attributes
    ----------
    fdr : float
        Share of false flags that was asked for.
    threshold : float
        Score from which a pixel is bad; inf where no score keeps to `fdr`.
    expected_false : float
        False flags (pixel, look) expected at and above the threshold.
    n_flags : int
        Flags found there.
    n_decoys : int
        Decoys behind it.
    excess : float
        False alarms over those of the decoys, from the shifts to negative values.
    score, log_odds : ndarray of float64, shape (n_bins,)
        Calibrated natural log of the odds (true over false) at some scores, both increasing.
    slope : float
        Increase of the log-odds per unit of score above the last.
    """

    fdr: float
    threshold: float
    expected_false: float
    n_flags: int
    n_decoys: int
    excess: float
    score: np.ndarray
    log_odds: np.ndarray
    slope: float

    def compute_log_odds(self, score: np.ndarray) -> np.ndarray:
        """Translate scores into calibrated log-odds, within -12 and 30."""
        if not self.score.size:
            return np.clip(score, *_LIMITS)
        inside = np.interp(score, self.score, self.log_odds)
        above = np.maximum(score - self.score[-1], 0) * self.slope
        return np.clip(inside + above, *_LIMITS)


@dataclass(frozen=True, slots=True)
class _Tail:
    """Number of false flags above a score: counted, and exponential where decoys are few."""

    score: np.ndarray
    above: np.ndarray
    start: float
    scale: float

    @classmethod
    def fit(cls, score: np.ndarray, weight: np.ndarray, mirrored: np.ndarray) -> "_Tail":
        """Fit to decoys of some weight, and to the scores of candidates that count as false."""
        order = np.argsort(score)
        score, weight = score[order], weight[order]
        above = np.cumsum(weight[::-1])[::-1]
        if not score.size:
            return cls(score, above, 0.0, 1.0)
        top = score[-_TAIL:]
        more = mirrored[(mirrored > top[0]) & (mirrored < top[0] + _REACH)]
        # One unit of log-odds is worth one decoy: a single one says nothing of the width.
        scale = (1 + (top - top[0]).sum() + (more - top[0]).sum()) / (top.size + more.size)
        return cls(score, above, float(top[0]), float(np.clip(scale, 0.2, 5.0)))

    def __call__(self, score: np.ndarray) -> np.ndarray:
        if not self.score.size:
            return np.zeros(np.shape(score))
        at = np.searchsorted(self.score, np.minimum(score, self.start))
        counted = self.above[np.minimum(at, self.above.size - 1)]
        return np.asarray(counted * np.exp(-np.maximum(score - self.start, 0) / self.scale))


def calibrate_scores(
    score: np.ndarray,
    n_flags: np.ndarray,
    negative: np.ndarray,
    decoy_score: np.ndarray,
    decoy_flags: np.ndarray,
    decoy_negative: np.ndarray,
    *,
    undecided: np.ndarray,
    n_pixels: int,
    n_decoys: int,
    fdr: float,
) -> Calibration:
    """Choose the threshold that keeps the share of false flags, and translate scores into odds.

    Parameters
    ----------
    score : ndarray of float64, shape (n,)
        Scores of the candidates.
    n_flags : ndarray of int, shape (n,)
        Looks that each would flag.
    negative : ndarray of bool, shape (n,)
        Those that lie lower while bad, by an offset.
    decoy_score, decoy_flags, decoy_negative : ndarray, shape (m,)
        The same of the decoys that passed the same selection.
    undecided : ndarray of float64, shape (n,)
        Sum over the flagged looks of each candidate of the probability that it is good then.
    n_pixels, n_decoys : int
        Pixels searched, and decoys made.
    fdr : float
        Share of false flags allowed, 0 to 1.

    Returns
    -------
    Calibration

    Notes
    -----
    E(t) = k n_pixels / n_decoys times the decoys' flags at scores >= t, continued by an
    exponential fitted to the 80 highest and to the negative shifts among the candidates (see
    below), plus the looks at which bad pixels are flagged too early
    or too late; N(t) the candidates' flags. What the decoys know nothing of (a level that is not
    quite the pixel's, noise along rows) shifts pixels up and down alike, while almost all defects
    shift up: k is the ratio of negative shifts of scores -2 to 6, candidates over decoys. The
    threshold is the lowest t >= -3 with E(t) <= fdr N(t). Odds are those of densities, (n - e) / e,
    in bins of 60 candidates, made to increase by isotonic regression.

    References
    ----------
    Elias & Gygi 2007, Nature Methods 4, 207 (target and decoy); Efron 2004, JASA 99, 96 (local
    false-discovery rate).
    """
    share = n_pixels / max(n_decoys, 1)
    prior = _PRIOR_PIXELS * float(n_flags.max(initial=1))
    seen = _count_mirror(score, n_flags, negative)
    excess = (seen + prior) / (
        share * _count_mirror(decoy_score, decoy_flags, decoy_negative) + prior
    )
    share *= excess
    mirrored = score[negative & (n_flags > 0)]
    # A decoy that would flag nothing is no false alarm, however many there are at low scores.
    alarm = decoy_flags > 0
    tail = _Tail.fit(decoy_score[alarm], decoy_flags[alarm] * share, mirrored)
    order = np.argsort(score)
    ordered, flags = score[order], n_flags[order]
    found = np.cumsum(flags[::-1])[::-1]
    false = tail(ordered) + np.cumsum(undecided[order][::-1])[::-1]
    allowed = (ordered >= LOWEST_SCORE) & (found > 0) & (false <= fdr * found)
    first = int(allowed.argmax()) if allowed.any() else ordered.size
    threshold = float(ordered[first]) if allowed.any() else np.inf
    pixels = _Tail.fit(decoy_score[alarm], np.full(alarm.sum(), share), mirrored)
    at, odds = _measure_odds(ordered[(flags > 0) & (ordered >= LOWEST_SCORE)], pixels)
    return Calibration(
        fdr=fdr,
        threshold=threshold,
        expected_false=float(false[first]) if allowed.any() else 0.0,
        n_flags=int(found[first]) if allowed.any() else 0,
        n_decoys=n_decoys,
        excess=excess,
        score=at,
        log_odds=odds,
        slope=1 / pixels.scale,
    )


def _count_mirror(score: np.ndarray, n_flags: np.ndarray, negative: np.ndarray) -> float:
    chosen = negative & (score >= _MIRROR[0]) & (score < _MIRROR[1])
    return float(n_flags[chosen].sum())


def _measure_odds(ordered: np.ndarray, false: _Tail) -> tuple[np.ndarray, np.ndarray]:
    """Compare the density of candidates with that of decoys, from low scores to high."""
    # Above the decoys there is nothing to compare with: the exponential says it.
    limit = false.start + 5 * false.scale
    inside = ordered[np.isfinite(ordered) & (ordered < limit)]
    n_bins = inside.size // _PIXELS_PER_BIN
    if n_bins < 1:
        return np.empty(0), np.empty(0)
    edges = np.unique(inside[np.arange(n_bins + 1) * (inside.size - 1) // n_bins])
    n = np.histogram(inside, edges)[0]
    e = np.maximum(false(edges[:-1]) - false(edges[1:]), 1e-3)
    # The decreasing share that fits best: a running extreme would follow the noise upwards.
    share = np.minimum(isotonic_regression(e / n, weights=n, increasing=False).x, _MOST_FALSE)
    return (edges[:-1] + edges[1:]) / 2, np.log((1 - share) / share)


def shuffle_looks(
    standardised: np.ndarray, usable: np.ndarray, visits: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Give each pixel, look by look, the error of another pixel.

    Looks of one visit keep together, so that a source that stays on its pixels stays.

    Parameters
    ----------
    standardised : ndarray of float32, shape (n_looks, n_pixels)
        Errors in units of sigma.
    usable : ndarray of bool, shape (n_looks, n_pixels)
        Which of them are evidence, of pixels that are not bad beyond doubt.
    visits : ndarray of int, shape (n_looks,)
        Number of the visit that each look belongs to.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of float32, shape (n_looks, n_pixels)
        0 where not usable.
    """
    shift = rng.random(int(visits.max()) + 1)
    shuffled = np.zeros_like(standardised)
    for out, z, use, visit in zip(shuffled, standardised, usable, visits, strict=True):
        values = z[use]
        out[use] = np.roll(values, int(shift[visit] * values.size))
    return shuffled
