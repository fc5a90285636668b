"""Which stars depart from their models, in level, in slope with wavelength, or in time."""

import logging
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .effects import Effects, Family
from .rows import Rows
from .solver import Inverse, Problem, Solution, Widths

__all__ = ["CHANCE", "N_SIGMA", "StarResult", "judge_stars"]

log = logging.getLogger(__name__)

# Departures beyond this many sigma are named; chance of a constant star to be called variable.
N_SIGMA = 3.0
CHANCE = 1e-3
_LEAST_VISITS = 3


@dataclass(frozen=True, slots=True)
class StarResult:
    """One star in one group of modes, against all other stars.

    Attributes
    ----------
    name, star_class, group : str
        Star, class, and modes: 'MIRI imaging'.
    n_visits, n_rows : int
    offset, offset_err : float
        ln(observed/model) of the star relative to the others, at the mean wavelength of its rows
        in the group; NaN where there is no other star to compare with.
    slope_per_um, slope_err : float
        d ln(observed/model) / d wavelength [1/um]; NaN likewise, or with one wavelength.
    offset_scatter, slope_scatter : float
        1-sigma scatter of the other stars, in the same units.
    chi2 : float
        Of its visits about their mean, per degree of freedom; NaN with one visit.
    weight : float
        Robust weight of its offset; 1 typical, 0 ignored.
    verdict : str
        'ok', 'offset', 'slope' or 'variable'.
    reason : str
        '' where it is ok.
    """

    name: str
    star_class: str
    group: str
    n_visits: int
    n_rows: int
    offset: float
    offset_err: float
    slope_per_um: float
    slope_err: float
    offset_scatter: float
    slope_scatter: float
    chi2: float
    weight: float
    verdict: str
    reason: str


def judge_stars(
    rows: Rows, problem: Problem, solution: Solution, widths: Widths, inverse: Inverse
) -> tuple[StarResult, ...]:
    """Judge each star in each group of modes.

    Parameters
    ----------
    rows : Rows
    problem : Problem
    solution : Solution
    widths : Widths
        Weights that `inverse` was made with.
    inverse : callable
        Solves with the normal matrix of the solution, all unknowns.

    Returns
    -------
    tuple of StarResult

    Notes
    -----
    The prior of a star's own offset and slope is divided out of their posterior, so that they are
    those of the star against all others and not drawn to the mean. The verdict is 'slope', then
    'offset', where ``|value| > 3 sqrt(err^2 + scatter^2)`` with the scatter of the other stars.
    """
    begin = problem.linear.shape[1] + len(problem.time.names)
    star = rows.take("star").astype(str)
    keys = sorted({(s, str(g)) for s, g in zip(star, rows.group, strict=True)})
    probes = np.zeros((len(solution.values), 2 * len(keys)))
    for k, (name, group) in enumerate(keys):
        probes[begin:, 2 * k : 2 * k + 2] = _make_probe(rows, problem.effects, star, name, group)
    images = inverse(probes)
    prior = widths.family[problem.effects.family] ** 2 / widths.effect_weight
    free = []
    for k in range(len(keys)):
        own = slice(2 * k, 2 * k + 2)
        own_prior = probes[begin:, own].T @ (prior[:, None] * probes[begin:, own])
        mean = probes[:, own].T @ solution.values
        free.append(_divide_out(mean, probes[:, own].T @ images[:, own], own_prior))
    out = []
    for k, (name, group) in enumerate(keys):
        mine = (star == name) & (rows.group == group)
        others = [j for j, key in enumerate(keys) if key[1] == group and j != k]
        out.append(_judge(rows, problem, solution, mine, free[k], [free[j] for j in others]))
    return tuple(out)


def _make_probe(
    rows: Rows, effects: Effects, star: np.ndarray, name: str, group: str
) -> np.ndarray:
    """Make the combinations of effects that are a star's offset and slope in a group."""
    probe = np.zeros((len(effects.family), 2))
    mine = (star == name) & (rows.group == group)
    middle = float(np.mean(np.unique(np.log(rows.wave[mine]))))
    _set(probe, effects, "star", name, 0, 1.0)
    _set(probe, effects, "star in group", f"{name}|{group}", 0, 1.0)
    _set(probe, effects, "slope", name, 0, middle - np.log(effects.wave0))
    _set(probe, effects, "slope", name, 1, 1.0)
    return probe


def _set(
    probe: np.ndarray, effects: Effects, family: str, name: str, column: int, value: float
) -> None:
    part = effects.find(family)
    members = _find_members(effects, family)
    if name in members:
        probe[part.start + members.index(name), column] = value


def _find_members(effects: Effects, family: str) -> tuple[str, ...]:
    found: list[Family] = [f for f in effects.families if f.name == family]
    return found[0].members if found else ()


def _divide_out(mean: np.ndarray, covariance: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Offset, its error, slope, its error without the star's own prior; NaN where undetermined."""
    out = np.full(4, np.nan)
    active = np.diag(prior) > 0
    if not active[0]:
        return out
    use = np.flatnonzero(active)
    posterior = np.linalg.inv(covariance[np.ix_(use, use)])
    gain = posterior - np.linalg.inv(prior[np.ix_(use, use)])
    scaled = gain * prior[np.ix_(use, use)].diagonal().mean()
    if np.linalg.eigvalsh(0.5 * (scaled + scaled.T)).min() < 1e-4:
        # Without the slope it may be determined.
        if len(use) == 1 or 1.0 / covariance[0, 0] <= 1.001 / prior[0, 0]:
            return out
        use = use[:1]
        posterior = np.array([[1.0 / covariance[0, 0]]])
        gain = posterior - 1.0 / prior[0, 0]
    free = np.linalg.inv(gain)
    value = free @ posterior @ mean[use]
    error = np.sqrt(np.diag(free))
    for k, which in enumerate(use):
        out[2 * which : 2 * which + 2] = value[k], error[k]
    return out


def _judge(
    rows: Rows,
    problem: Problem,
    solution: Solution,
    mine: np.ndarray,
    own: np.ndarray,
    others: list[np.ndarray],
) -> StarResult:
    name, group = str(rows.take("star")[mine][0]), str(rows.group[mine][0])
    wave = rows.wave[mine]
    per_um = _convert_slope(wave)
    offset_scatter = _find_scatter(problem.effects, "star", [o[0] for o in others])
    slope_scatter = _find_scatter(problem.effects, "slope", [o[2] for o in others])
    chi2, n_visits, chance = _measure_variability(rows, problem, solution, mine)
    members = _find_members(problem.effects, "star")
    weight = solution.widths.effect_weight[problem.effects.find("star")][members.index(name)]
    verdict, reason = "ok", ""
    if abs(own[2]) > N_SIGMA * np.hypot(own[3], slope_scatter):
        verdict = "slope"
        reason = f"{100 * own[2] * per_um:+.2f} %/um from the others, who scatter by "
        reason += f"{100 * slope_scatter * per_um:.2f} %/um"
    elif abs(own[0]) > N_SIGMA * np.hypot(own[1], offset_scatter):
        verdict = "offset"
        reason = f"{100 * own[0]:+.1f} % from the others, who scatter by "
        reason += f"{100 * offset_scatter:.1f} %"
    elif n_visits >= _LEAST_VISITS and chance < CHANCE:
        verdict, reason = "variable", f"its {n_visits} visits have chi2 {chi2:.1f} a degree"
    if verdict != "ok":
        log.info("%s in %s: %s, %s", name, group, verdict, reason)
    if np.isnan(own[0]):
        reason = "no other star to compare with"
    return StarResult(
        name,
        str(rows.take("star_class")[mine][0]),
        group,
        n_visits,
        int(mine.sum()),
        float(own[0]),
        float(own[1]),
        float(own[2] * per_um),
        float(own[3] * per_um),
        float(offset_scatter),
        float(slope_scatter * per_um),
        chi2,
        float(weight),
        verdict,
        reason,
    )


def _convert_slope(wave: np.ndarray) -> float:
    """D ln(wave) / d wave over the rows [1/um]; NaN at one wavelength."""
    x, y = wave - wave.mean(), np.log(wave) - np.log(wave).mean()
    return float(np.sum(x * y) / np.sum(x * x)) if np.ptp(wave) > 0 else np.nan


def _find_scatter(effects: Effects, family: str, values: list[float]) -> float:
    """Find the standard deviation of other stars about zero, robustly."""
    found = [f for f in effects.families if f.name == family]
    if not found:
        return np.nan
    f = found[0]
    u = np.array([v for v in values if np.isfinite(v)])
    width = f.width
    for _ in range(50):
        weight = (f.nu + 1) / (f.nu + (u / width) ** 2)
        width = np.sqrt((np.sum(weight * u**2) + f.weight * f.width**2) / (len(u) + f.weight))
    return float(width * np.sqrt(f.nu / (f.nu - 2)))


def _measure_variability(
    rows: Rows, problem: Problem, solution: Solution, mine: np.ndarray
) -> tuple[float, int, float]:
    """chi2 per degree of a star's visits about their mean, their number, and its chance."""
    visit = rows.take("visit").astype(str)[mine]
    names, which = np.unique(visit, return_inverse=True)
    n = len(names)
    if n < 2:
        return np.nan, n, 1.0
    begin = problem.linear.shape[1] + len(problem.time.names)
    effects, family = solution.values[begin:], problem.effects.family
    of_visit = np.array([f.name.startswith("visit") for f in problem.effects.families])[family]
    kept = np.where(of_visit, effects, 0.0)
    left = solution.residual[mine] + (problem.effects.design[np.flatnonzero(mine)] @ kept)
    variance = problem.sigma[mine] ** 2 + solution.widths.jitter[problem.jitter[mine]] ** 2
    cell = rows.cell[mine]
    for k, f in enumerate(problem.effects.families):
        if f.name.startswith("visit in "):
            # Rows of a piece move together.
            piece = cell == f.name.removeprefix("visit in ")
            count = piece.sum() / max(n, 1)
            variance = variance + piece * count * solution.widths.family[k] ** 2
    weight = 1.0 / variance
    total = np.bincount(which, weight)
    mean = np.bincount(which, weight * left) / total
    group = str(rows.group[mine][0])
    width = 0.0
    for k, f in enumerate(problem.effects.families):
        if f.name == f"visit {group}":
            width = float(solution.widths.family[k] ** 2 * f.nu / (f.nu - 2))
    inverse = 1.0 / (1.0 / total + width)
    middle = np.sum(inverse * mean) / inverse.sum()
    chi2 = float(np.sum(inverse * (mean - middle) ** 2))
    return chi2 / (n - 1), n, float(stats.chi2.sf(chi2, n - 1))
