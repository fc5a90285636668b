"""How much each look is worth as evidence: sources, background and noise."""

from dataclasses import dataclass

import bottleneck as bn
import numpy as np

from .noise import NoiseModel, compute_variance
from .residuals import LocalResiduals

__all__ = ["OUTLIER", "Usability", "assess_looks", "judge_looks"]

# A residual of this many sigma that most looks do not share is a source or a cosmic ray.
OUTLIER = 5.0
# Share of such pixels at which a look is worth nothing: one pixel in four is no local minority.
_MOST_SOURCES = 0.25
# Background, and noise, over the median of the looks, up to which a look counts in full.
_BRIGHT, _NOISY = 5.0, 10.0
# A look of less than this share of the median noise is no measurement, nor is one of less [DN/s].
_QUIET, _NO_NOISE = 0.005, 1.1e-4
# Looks of a lower score are left out.
_LOWEST_SCORE = 0.1


@dataclass(frozen=True, slots=True)
class Usability:
    """What was found out about each look; all arrays of shape (n_looks,).

    Attributes
    ----------
    source_fraction : ndarray of float64
        Share of sampled pixels beyond 5 sigma that are good at most looks.
    background, noise : ndarray of float64
        Median local level, and median sigma of a residual [DN/s]; NaN without evidence.
    score : ndarray of float64
        Weight of the look, 0 to 1.
    reason : tuple of str
        Why a look counts for less than half; empty for the others.
    """

    source_fraction: np.ndarray
    background: np.ndarray
    noise: np.ndarray
    score: np.ndarray
    reason: tuple[str, ...]

    @property
    def used(self) -> np.ndarray:
        """Looks that are evidence: bool (n_looks,)."""
        return self.score >= _LOWEST_SCORE


def assess_looks(sample: LocalResiduals, noise: NoiseModel) -> Usability:
    """Weigh each look by its sources, its background and its noise.

    Parameters
    ----------
    sample : LocalResiduals
        Residuals of sample rows of all looks.
    noise : NoiseModel
        Measured on them.

    Returns
    -------
    Usability

    Notes
    -----
    The score is ``max(0, 1 - f / 0.25) min(1, 5 B / b) min(1, 10 S / s)`` with f the share of
    sources, b and s background and noise of the look, B and S their medians over the looks; zero
    for a look without noise.
    """
    evidence = np.isfinite(sample.residual)
    variance = compute_variance(noise, sample.local)
    out = np.abs(sample.residual) > OUTLIER * np.sqrt(variance + noise.pattern(sample.local))
    often = out.sum(axis=0) > 0.5 * evidence.sum(axis=0)
    n = evidence.sum(axis=(1, 2))
    fraction = (out & ~often).sum(axis=(1, 2)) / np.maximum(n, 1)
    level = _take_medians(np.where(evidence, sample.local, np.nan))
    sigma = np.sqrt(_take_medians(np.where(evidence, variance, np.nan)))
    return judge_looks(fraction, level, sigma, n > 0, usual=(level, sigma))


def judge_looks(
    fraction: np.ndarray,
    level: np.ndarray,
    sigma: np.ndarray,
    seen: np.ndarray,
    *,
    usual: tuple[np.ndarray, np.ndarray],
) -> Usability:
    """Weigh looks by their sources, background and noise.

    Parameters
    ----------
    fraction, level, sigma : ndarray of float64, shape (n_looks,)
        Share of sources, background and noise [DN/s].
    seen : ndarray of bool, shape (n_looks,)
        Looks with evidence.
    usual : tuple of ndarray of float64
        Background and noise of the looks that they are compared with.
    """
    usual_level, usual_sigma = (float(bn.nanmedian(values)) for values in usual)
    # A background that is nothing but noise has no ratio.
    usual_level = max(usual_level, 3 * usual_sigma)
    parts = {
        "sources cover {:.0%} of it": (fraction, np.clip(1 - fraction / _MOST_SOURCES, 0, 1)),
        "its background is {:.3g} times the median": _compare(level, usual_level, _BRIGHT),
        "its noise is {:.3g} times the median": _compare(sigma, usual_sigma, _NOISY),
        "its noise is {:.3g} DN/s, that of no real exposure": (
            sigma,
            _require_noise(sigma, usual_sigma),
        ),
    }
    score = np.where(seen, np.prod([weight for _, weight in parts.values()], axis=0), 0.0)
    reasons = []
    for k in range(len(seen)):
        worst = min(parts, key=lambda text: float(parts[text][1][k]))
        told = worst.format(parts[worst][0][k]) if score[k] < 0.5 else ""
        reasons.append(told if seen[k] else "no pixel with evidence")
    return Usability(fraction, level, sigma, score, tuple(reasons))


def _take_medians(values: np.ndarray) -> np.ndarray:
    """Median of each look; NaN where there is no value."""
    flat = values.reshape(len(values), -1)
    return np.asarray(bn.nanmedian(flat, axis=1) if flat.shape[1] else np.full(len(flat), np.nan))


def _require_noise(sigma: np.ndarray, usual: float) -> np.ndarray:
    """Weight of each look by its having noise at all: 0 or 1."""
    with np.errstate(invalid="ignore"):
        return np.where((sigma > _NO_NOISE) & (sigma > _QUIET * usual), 1.0, 0.0)


def _compare(values: np.ndarray, usual: float, allowed: float) -> tuple[np.ndarray, np.ndarray]:
    """Ratio to what is usual, and the weight that it leaves."""
    ratio = np.nan_to_num(values / max(usual, 1e-30))
    return ratio, np.minimum(1, allowed / np.maximum(ratio, allowed))
