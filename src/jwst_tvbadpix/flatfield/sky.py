"""What lights the detector between the stars: smooth background, and what fades in time."""

from collections.abc import Sequence
from dataclasses import dataclass

import bottleneck as bn
import numpy as np
from numpy.polynomial import legendre

__all__ = ["Background", "Transients", "find_transients", "fit_background", "list_terms"]

# Side of the cells whose means are fitted [pixel], and the least share of a cell that is good.
_CELL, _LEAST_GOOD = 16, 0.2
# Cells further than this from the fit [sigma of all cells] are left out.
_N_SIGMA = 4.0
# Cells wanted for each term of the background; with fewer the order is lowered.
_CELLS_PER_TERM = 8
# Time constants of a decay that are tried, in units of the median span of a set: the level has
# settled by its end, or it is a trend and no transient.
_TIME_CONSTANTS = np.geomspace(0.05, 0.5, 24)
# Smallest scatter of sky levels about a decay, as a fraction of the level: steps of the real sky
# between dithers (MIRI F770W and F560W of programme 1040: 0.3-1 %).
_LEVEL_SCATTER = 0.003
# Exposures of a set from which a decay can be told.
_LEAST_SET = 4


@dataclass(frozen=True, slots=True)
class Background:
    """Smooth background of one exposure: ``level * (1 + sum coefficients * terms)``.

    Attributes
    ----------
    level : float
        Mean over the detector [unit of the image].
    coefficients : ndarray of float64, shape (n_terms,)
        Of the Legendre products that `list_terms` lists, relative to `level`.
    order : int
        Total degree.
    """

    level: float
    coefficients: np.ndarray
    order: int

    def evaluate(self, shape: tuple[int, int]) -> np.ndarray:
        """Evaluate on all pixels of a detector: float32 `shape`."""
        matrix = np.zeros((self.order + 1, self.order + 1))
        matrix[0, 0] = 1
        for (i, j), value in zip(list_terms(self.order), self.coefficients, strict=True):
            matrix[i, j] = value
        y, x = (legendre.legvander(np.linspace(-1, 1, n), self.order) for n in shape)
        return ((self.level * (y @ matrix)).astype(np.float32)) @ x.T.astype(np.float32)


def list_terms(order: int) -> list[tuple[int, int]]:
    """List the degrees (in y, in x) of Legendre products, the constant left out."""
    return [(n - j, j) for n in range(1, order + 1) for j in range(n + 1)]


def fit_background(image: np.ndarray, good: np.ndarray, *, order: int = 2) -> Background:
    """Fit the smooth background of one exposure to the means of cells.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        Flat-fielded image, stars subtracted [any unit].
    good : ndarray of bool, shape (ny, nx)
        Pixels that show sky; the others are ignored.
    order : int
        Total degree of the polynomial; lowered where fewer than eight good cells per term are
        left.

    Returns
    -------
    Background
        Level NaN when no cell is good.
    """
    cell = max(4, min(_CELL, min(image.shape) // 8))
    weight = _sum_cells(good.astype(np.float32), cell)
    total = _sum_cells(np.where(good, image, 0), cell)
    used = weight > _LEAST_GOOD * cell**2
    while order and used.sum() < _CELLS_PER_TERM * (1 + len(list_terms(order))):
        order -= 1
    if not used.any():
        return Background(np.nan, np.zeros(len(list_terms(order))), order)
    value = total[used] / weight[used]
    y, x = (
        legendre.legvander(2 * (np.arange(n) * cell + (cell - 1) / 2) / (size - 1) - 1, order)
        for n, size in zip(weight.shape, image.shape, strict=True)
    )
    terms = [(0, 0), *list_terms(order)]
    design = np.stack([np.outer(y[:, i], x[:, j])[used] for i, j in terms], axis=1)
    root = np.sqrt(weight[used])
    kept = np.ones(value.size, bool)
    model = np.full(value.size, bn.median(value))
    for _ in range(4):
        distance = np.abs(value - model)
        spread = 1.4826 * float(bn.median(distance[kept]))
        near = distance <= _N_SIGMA * max(spread, 1e-7 * abs(float(bn.median(value))))
        kept = near if near.sum() >= len(terms) else kept
        rows = root[kept, None]
        found = np.linalg.lstsq(design[kept] * rows, value[kept] * rows[:, 0], rcond=None)[0]
        model = design @ found
    level = float(found[0])
    return Background(level, found[1:] / level if level else found[1:], order)


def _sum_cells(image: np.ndarray, cell: int) -> np.ndarray:
    """Sum square cells, what is left over at the upper edges ignored."""
    ny, nx = (n // cell for n in image.shape)
    cut = image[: ny * cell, : nx * cell]
    # Rows first: whole rows are added at once.
    rows = cut.reshape(ny, cell, nx * cell).sum(axis=1, dtype=np.float64)
    return rows.reshape(ny, nx, cell).sum(axis=2)


@dataclass(frozen=True, slots=True)
class Transients:
    """Exposures in which the level still falls after something brighter.

    Attributes
    ----------
    excess : ndarray of float64, shape (n_exp,)
        Fitted decaying part over the settled level; 0 in sets without a decay.
    rejected : ndarray of bool, shape (n_exp,)
        Whether `excess` is above `tolerance`.
    amplitude, amplitude_err, time_constant : ndarray of float64, shape (n_exp,)
        Excess at the first exposure of each exposure's set, its error, and the e-folding time
        [unit of `time`]; 0, its error and NaN where there is no decay, all NaN in sets that are
        too short to tell.
    tolerance : float
    """

    excess: np.ndarray
    rejected: np.ndarray
    amplitude: np.ndarray
    amplitude_err: np.ndarray
    time_constant: np.ndarray
    tolerance: float


def find_transients(
    level: np.ndarray,
    time: np.ndarray,
    sets: Sequence[int] | np.ndarray,
    *,
    tolerance: float = 0.02,
    n_sigma: float = 5.0,
) -> Transients:
    """Find levels that decay within a set of exposures, as after long-wave filters.

    Parameters
    ----------
    level : ndarray of float64, shape (n_exp,)
        Sky level of each exposure [any one unit]; NaN = unknown.
    time : ndarray of float64, shape (n_exp,)
        When [any one unit], such as MJD.
    sets : sequence of int, length n_exp
        Number of the set of each exposure: taken one after the other without a change of filter
        or of pointing by more than the dither.
    tolerance : float
        Decaying part over the settled level from which an exposure is rejected.
    n_sigma : float
        Significance of the amplitude from which a decay is believed.

    Returns
    -------
    Transients

    Notes
    -----
    Each set of four or more is fitted with ``c + A exp(-(t - t0) / tau)``, ``A >= 0``, with one
    tau for all, at most half of the median span of a set. The decay of a set is believed when A
    is significant against the scatter about the fits (pooled, at least 0.3 % of the level) and a
    straight line fits worse; rising levels and slow trends are sky.
    """
    level, time, sets = (np.asarray(a) for a in (level, time, sets))
    excess, amplitude, amplitude_err = (np.full(level.shape, np.nan) for _ in range(3))
    time_constant = np.full(level.shape, np.nan)
    groups = []
    for number in np.unique(sets):
        members = np.flatnonzero((sets == number) & np.isfinite(level) & np.isfinite(time))
        if members.size >= _LEAST_SET and np.ptp(time[members]) > 0:
            groups.append(members)
    if groups:
        span = float(np.median([np.ptp(time[members]) for members in groups]))
        tries = [
            [_fit_decay(level[members], time[members], tau) for members in groups]
            for tau in _TIME_CONSTANTS * span
        ]
        decays = min(tries, key=lambda fits: sum(fit.chi2 for fit in fits))
        freedom = sum(members.size - 2 for members in groups) - 1
        pooled = np.sqrt(sum(fit.chi2 for fit in decays) / freedom)
        scatter = max(_LEVEL_SCATTER, float(pooled))
        for members, decay in zip(groups, decays, strict=True):
            error = scatter * decay.unit_err
            believed = (
                decay.amplitude > max(n_sigma * error, tolerance) and decay.chi2 < decay.line_chi2
            )
            amplitude[members] = decay.amplitude if believed else 0.0
            amplitude_err[members] = error
            time_constant[members] = decay.time_constant if believed else np.nan
            excess[members] = decay.excess if believed else 0.0
    excess = np.nan_to_num(excess)
    return Transients(
        excess, excess > tolerance, amplitude, amplitude_err, time_constant, tolerance
    )


@dataclass(frozen=True, slots=True)
class _Decay:
    """Decay of one set, relative to its settled level; chi2 in units of that level squared."""

    amplitude: float
    unit_err: float
    time_constant: float
    excess: np.ndarray
    chi2: float
    line_chi2: float


def _fit_decay(level: np.ndarray, time: np.ndarray, tau: float) -> _Decay:
    """Fit a decay of known time constant to one set; without decay where it would rise."""
    since = time - time.min()
    fall = np.exp(-since / tau)
    settled, drop = _fit_line(level, fall)[0]
    if drop <= 0:
        settled, drop = level.mean(), 0.0
    scale = abs(settled) or 1.0
    chi2 = ((level - settled - drop * fall) ** 2).sum() / scale**2
    unit_err = 1 / np.sqrt(((fall - fall.mean()) ** 2).sum())
    line = _fit_line(level, since)[1] / scale**2
    share = drop / scale
    return _Decay(float(share), float(unit_err), tau, share * fall, float(chi2), float(line))


def _fit_line(y: np.ndarray, x: np.ndarray) -> tuple[tuple[float, float], float]:
    """Fit constant and slope: both, and the sum of squares that is left."""
    centred = x - x.mean()
    slope = float((centred * y).sum() / (centred**2).sum())
    constant = float(y.mean() - slope * x.mean())
    return (constant, slope), float(((y - constant - slope * x) ** 2).sum())
