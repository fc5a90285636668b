"""How well a mode repeats: the scatter of stars about f(t), split into formal and excess."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .results import FluxFit

__all__ = ["Repeatability", "measure_repeatability"]


@dataclass(frozen=True, slots=True)
class Repeatability:
    """Scatter of visits about each star's own mean and the throughput f(t).

    Attributes
    ----------
    mode, subset, name : str
        Label of the mode; 'all', 'star' or 'class' (and 'detector' for all modes of a detector);
        and which of these.
    n_rows, n_stars, n_visits : int
        Of stars seen more than once, except where nothing is.
    rms, rms_formal, rms_excess : float
        Scatter [1], that expected from the stated errors, and the root of the difference of their
        squares (0 where negative); NaN where no star was seen twice.
    """

    mode: str
    subset: str
    name: str
    n_rows: int
    n_stars: int
    n_visits: int
    rms: float
    rms_formal: float
    rms_excess: float


def measure_repeatability(fit: FluxFit) -> tuple[Repeatability, ...]:
    """Measure how well each mode repeats, over all, by star, by class and by detector.

    Parameters
    ----------
    fit : FluxFit

    Returns
    -------
    tuple of Repeatability
        By mode, then 'all', 'class', 'star'; the detectors last.

    Notes
    -----
    The mean of each star in each filter or wavelength bin and subarray is taken away, so that
    errors of models and subarrays do not count; the degrees of freedom lost are made up for. What
    f(t) took is not.
    """
    rows = fit.rows
    star, visit = rows.take("star").astype(str), rows.take("visit").astype(str)
    star_class = rows.take("star_class").astype(str)
    keys = np.array(
        ["\n".join(k) for k in zip(star, rows.unit.astype(str), rows.take("subarray"), strict=True)]
    )
    _, which, counts = np.unique(keys, return_inverse=True, return_counts=True)
    residual = fit.residual[rows.index]
    left = residual - (np.bincount(which, residual) / counts)[which]
    n = counts[which]
    square = np.where(n > 1, left**2 * n / np.maximum(n - 1, 1), np.nan)
    label = np.array([u.band.mode.label for u in rows.units])[rows.unit]

    def measure(mode: str, subset: str, name: str, mine: np.ndarray) -> Repeatability:
        again = mine & (n > 1)
        shown = again if again.any() else mine
        rms = formal = np.nan
        if again.any():
            rms = float(np.sqrt(np.mean(square[again])))
            formal = float(np.sqrt(np.mean(rows.sigma[again] ** 2)))
        excess = float(np.sqrt(max(rms**2 - formal**2, 0.0))) if again.any() else np.nan
        stars, visits = len(set(star[shown])), len(set(visit[shown]))
        return Repeatability(
            mode, subset, name, int(shown.sum()), stars, visits, rms, formal, excess
        )

    out = []
    for mode, mine in _split(label):
        out.append(measure(mode, "all", "", mine))
        out += [
            measure(mode, "class", k, mine & m)
            for k, m in _split(star_class)
            if k and (mine & m).any()
        ]
        out += [measure(mode, "star", k, mine & m) for k, m in _split(star) if (mine & m).any()]
    return (*out, *(measure("", "detector", k, m) for k, m in _split(rows.detector)))


def _split(keys: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    for key in sorted(set(map(str, keys))):
        yield key, keys == key
