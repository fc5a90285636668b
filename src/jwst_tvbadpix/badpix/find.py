"""From row blocks of exposures to the history of every pixel."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import bottleneck as bn
import numpy as np

from ..errors import EvidenceError, TvBadPixError
from .histories import PixelStates, solve_states
from .noise import NoiseModel, compute_variance, fit_noise
from .regression import fit_background
from .residuals import LocalResiduals, compute_halo, compute_residuals
from .states import compute_transitions

__all__ = ["Candidates", "PixelHistories", "Settings", "find_histories"]

log = logging.getLogger(__name__)

_In = TypeVar("_In")
_Out = TypeVar("_Out")

# A pixel is looked at closely when one of these is exceeded: twice the log-likelihood ratio of
# one step in time, offset over its prior width, second largest |z|, median z against the pattern.
_STEP, _OFFSET, _SECOND, _MEDIAN = 12.0, 2.5, 4.5, 4.0
# Pixels whose median z exceeds this do not count as anybody's neighbour.
_EXCLUDE = 6.0
# Values in the sample that the noise is measured from; strips of each range of rows, and their
# least and largest height.
_SAMPLE_VALUES, _N_STRIPS, _STRIP_ROWS = 4_000_000, 12, (2, 16)
# The medians and the algebra run outside Python's lock; more threads cost memory, not time.
_N_THREADS = 2
_PIXELS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Settings:
    """What the search for bad pixels can be told.

    Attributes
    ----------
    window_along, window_across : int
        Widths of the running medians along and across the dispersion [pixel].
    llr_cap : float
        Most that one look can count, in log-likelihood ratio.
    min_effect : float
        Smallest shift that is bad, in sigma of one look.
    min_significance : float
        Smallest ratio of a shift to its own error.
    min_noise_ratio : float
        Scatter over the noise from which a pixel is bad without a shift.
    min_log_odds : float
        Log-odds against always good below which a candidate is good.
    start_bad, onset_per_year, recovery_per_year : float
        Prior: probability to be bad at the first look, rates [1/yr].
    telegraph_transitions : int
        Changes of state from which a pixel is telegraph.
    """

    window_along: int = 11
    window_across: int = 9
    llr_cap: float = 10.0
    min_effect: float = 2.0
    min_significance: float = 4.5
    min_noise_ratio: float = 4.0
    min_log_odds: float = 6.0
    start_bad: float = 3e-3
    onset_per_year: float = 5e-4
    recovery_per_year: float = 0.09
    telegraph_transitions: int = 3

    def __post_init__(self) -> None:
        """Require odd windows: the median of an even one belongs to no pixel."""
        for name in ("window_along", "window_across"):
            if getattr(self, name) % 2 == 0:
                raise TvBadPixError(
                    f"expected an odd number of pixels for {name}, found {getattr(self, name)}; "
                    "add one"
                )


class _Block(Protocol):
    """Rows of all looks (`jwst_tvbadpix.exposures.RowBlock`)."""

    @property
    def rate(self) -> np.ndarray: ...

    @property
    def y(self) -> int: ...

    @property
    def x(self) -> int: ...

    @property
    def core(self) -> slice: ...


class _Stack(Protocol):
    """What is asked of a stack of exposures (`jwst_tvbadpix.exposures.ExposureStack`)."""

    @property
    def window(self) -> tuple[int, int, int, int]: ...

    @property
    def row_ranges(self) -> tuple[tuple[int, int], ...]: ...

    def read_rows(self, start: int, stop: int) -> np.ndarray: ...

    def row_blocks(self, *, halo: int) -> Iterator[Any]: ...


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pixels worth a closer look; axis 0 = look, last axis = pixel, in row-major order.

    Attributes
    ----------
    y, x : ndarray of int16, shape (n_pixels,)
        0-based full-frame position.
    residual, local, variance : ndarray of float32, shape (n_looks, n_pixels)
        Residual and local level [DN/s], variance of the residual [(DN/s)^2]; NaN residual =
        no evidence.
    sigma_offset, sigma_response : ndarray of float32, shape (n_pixels,)
        Prior widths of the good state.
    """

    y: np.ndarray
    x: np.ndarray
    residual: np.ndarray
    local: np.ndarray
    variance: np.ndarray
    sigma_offset: np.ndarray
    sigma_response: np.ndarray


@dataclass(frozen=True, slots=True)
class PixelHistories:
    """All that is known of the pixels of a detector.

    Attributes
    ----------
    candidates : Candidates
        Pixels that were solved.
    states : PixelStates
        Their best histories.
    bad : ndarray of bool, shape (n_looks, n_pixels)
        Whether each candidate is bad at each look, after the thresholds of `settings`.
    noise : NoiseModel
    n_evidence : ndarray of int32, shape of the window
        Number of looks with evidence, all pixels.
    n_pixels : ndarray of int64, shape (n_looks,)
        Number of pixels with evidence, each look.
    window : tuple of int
        (y0, y1, x0, x1) of `n_evidence` in the full frame.
    mid_mjd : ndarray of float64, shape (n_looks,)
    settings : Settings
    """

    candidates: Candidates
    states: PixelStates
    bad: np.ndarray
    noise: NoiseModel
    n_evidence: np.ndarray
    n_pixels: np.ndarray
    window: tuple[int, int, int, int]
    mid_mjd: np.ndarray
    settings: Settings


def find_histories(
    stack: _Stack,
    mid_mjd: np.ndarray,
    dispersion_axes: Sequence[int | None],
    *,
    settings: Settings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PixelHistories:
    """Find which pixel was bad at which look.

    Parameters
    ----------
    stack : object with `window`, `read_rows` and `row_blocks`
        Exposures of one detector, see `jwst_tvbadpix.exposures.ExposureStack`.
    mid_mjd : ndarray of float64, shape (n_looks,)
        Mid-times of the looks [MJD], increasing; all equal for looks that have no order.
    dispersion_axes : sequence of int or None, length n_looks
        DISPAXIS of each look.
    settings : Settings, optional
    progress : callable, optional
        Called with (rows done, rows in all).

    Returns
    -------
    PixelHistories

    Raises
    ------
    EvidenceError
        Nothing in the exposures can be used, or fewer than two looks hold evidence.
    """
    settings = settings or Settings()
    halo = compute_halo(settings.window_along, settings.window_across)
    windows = {"window_along": settings.window_along, "window_across": settings.window_across}
    axes = {"dispersion_axes": tuple(dispersion_axes), **windows}
    noise = _measure_noise(stack, halo, axes)
    y0, y1, x0, x1 = stack.window
    n_evidence = np.zeros((y1 - y0, x1 - x0), np.int32)
    n_pixels = np.zeros(len(dispersion_axes), np.int64)
    parts = []

    def select(block: _Block) -> tuple[int, np.ndarray, Candidates]:
        evidence = np.isfinite(block.rate[:, block.core])
        return block.y + block.core.start - y0, evidence, _select_candidates(block, noise, axes)

    for first, evidence, part in _map_in_threads(select, stack.row_blocks(halo=halo)):
        last = first + evidence.shape[1]
        n_evidence[first:last] = evidence.sum(axis=0)
        n_pixels += evidence.sum(axis=(1, 2))
        parts.append(part)
        if progress:
            progress(last, y1 - y0)
    if (n_pixels > 0).sum() < 2:
        raise EvidenceError(
            "expected at least two independent looks with usable pixels, found "
            f"{(n_pixels > 0).sum()}; give more exposures"
        )
    candidates = _join(Candidates, parts)
    log.info(
        "%d of %d pixels with evidence looked at closely", candidates.y.size, (n_evidence > 0).sum()
    )
    states = _solve(candidates, mid_mjd, settings)
    bad = _decide(candidates, states, settings)
    log.info("%d pixels bad at some look, %d at the last", bad.any(axis=0).sum(), bad[-1].sum())
    return PixelHistories(
        candidates, states, bad, noise, n_evidence, n_pixels, stack.window, mid_mjd, settings
    )


def _measure_noise(stack: _Stack, halo: int, axes: dict[str, Any]) -> NoiseModel:
    """Measure noise and pattern on strips of rows spread over all that was read out."""
    strips = _choose_strips(stack, len(axes["dispersion_axes"]))
    noise = fit_noise(_sample(stack, strips, halo, axes, None))
    return fit_noise(_sample(stack, strips, halo, axes, noise))


def _choose_strips(stack: _Stack, n_looks: int) -> list[tuple[int, int]]:
    """Choose strips (first row, last + 1) in the middle of equal parts of each range of rows.

    Subarrays get strips of their own, and many looks get thin strips rather than few: every look
    and every level must be met.
    """
    x0, x1 = stack.window[2:]
    rows = _SAMPLE_VALUES // (n_looks * (x1 - x0) * _N_STRIPS)
    height = int(np.clip(rows, *_STRIP_ROWS))
    strips = set()
    for first, last in stack.row_ranges:
        n = max(1, min(_N_STRIPS, (last - first) // height))
        middles = first + (np.arange(n) + 0.5) * (last - first) / n
        for start in (middles - height / 2).astype(int):
            strips.add((max(first, int(start)), min(last, int(start) + height)))
    return sorted(strips)


def _sample(
    stack: _Stack,
    strips: Sequence[tuple[int, int]],
    halo: int,
    axes: dict[str, Any],
    noise: NoiseModel | None,
) -> LocalResiduals:
    """Compute the residuals of sample strips, halo removed."""
    y0, y1 = stack.window[:2]

    def compute(strip: tuple[int, int]) -> list[np.ndarray]:
        start, stop = strip
        first = max(y0, start - halo)
        rate = stack.read_rows(first, min(y1, stop + halo))
        bad = np.zeros(rate.shape[1:], bool)
        residuals = compute_residuals(rate, bad, **axes)
        if noise is not None:
            residuals = compute_residuals(rate, bad, sigma=_sigma(noise, residuals), **axes)
        core = slice(start - first, stop - first)
        return [getattr(residuals, f.name)[:, core] for f in fields(residuals)]

    parts = zip(*_map_in_threads(compute, strips), strict=True)
    return LocalResiduals(*(np.concatenate(planes, axis=1) for planes in parts))


def _sigma(noise: NoiseModel, residuals: LocalResiduals) -> np.ndarray:
    """Scatter expected of a clean pixel, pattern included."""
    return np.sqrt(compute_variance(noise, residuals.local) + noise.pattern(residuals.local))


def _select_candidates(block: _Block, noise: NoiseModel, axes: dict[str, Any]) -> Candidates:
    """Compute the residuals of a block and keep the pixels worth a closer look."""
    nothing = np.zeros(block.rate.shape[1:], bool)
    rough = compute_residuals(block.rate, nothing, **axes)
    sigma = _sigma(noise, rough)
    outcast = np.abs(bn.nanmedian(rough.residual / sigma, axis=0)) > _EXCLUDE
    found = compute_residuals(block.rate, outcast, sigma=sigma, **axes)
    residual, local, spread = (
        np.ascontiguousarray(getattr(found, f.name)[:, block.core]) for f in fields(found)
    )
    variance = compute_variance(noise, local)
    sigma = np.sqrt(variance + noise.pattern(local))
    structure = np.maximum(
        np.nan_to_num(bn.nanmedian(spread, axis=0) - 2 * bn.nanmedian(sigma, axis=0)), 0
    )
    variance = compute_variance(noise, local, spread, structure)
    middle = np.abs(np.nan_to_num(bn.nanmedian(local, axis=0)))
    sigma_offset = np.full(structure.shape, noise.sigma_offset, np.float32)
    sigma_response = np.hypot(
        noise.sigma_response, 0.5 * structure / np.maximum(np.maximum(middle, structure), 1e-6)
    ).astype(np.float32)
    fit = fit_background(
        residual, local, variance, sigma_offset=sigma_offset, sigma_response=sigma_response
    )
    pattern = sigma_offset**2 + (sigma_response * local) ** 2
    chosen = _largest_step(fit.standardised, np.isfinite(residual)) > _STEP
    chosen |= np.abs(fit.offset) > _OFFSET * sigma_offset
    chosen |= _second_largest(np.abs(fit.standardised)) > _SECOND
    chosen |= np.abs(bn.nanmedian(residual / np.sqrt(variance + pattern), axis=0)) > _MEDIAN
    y, x = np.nonzero(chosen)
    return Candidates(
        (y + block.y + block.core.start).astype(np.int16),
        (x + block.x).astype(np.int16),
        residual[:, y, x],
        local[:, y, x],
        variance[:, y, x],
        sigma_offset[y, x],
        sigma_response[y, x],
    )


def _largest_step(z: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Twice the log-likelihood ratio of the best single step in time, values clipped at 4.

    Looks without evidence (z = 0) do not count.
    """
    total = np.cumsum(np.clip(z, -4, 4), axis=0)
    seen = np.cumsum(evidence, axis=0, dtype=z.dtype)
    best = np.zeros(z.shape[1:], z.dtype)
    for before, count in zip(total[:-1], seen[:-1], strict=True):
        weight = seen[-1] * count * (seen[-1] - count)
        gap = before * seen[-1] - total[-1] * count
        np.maximum(best, gap * gap / np.maximum(weight, 1), out=best)
    return best


def _second_largest(values: np.ndarray) -> np.ndarray:
    """Second largest along axis 0, so that one look alone decides nothing."""
    return np.partition(values, -2, axis=0)[-2]


def _join(kind: type[_Out], parts: Sequence[_Out]) -> _Out:
    """Join results along their pixels."""
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    return kind(*(np.concatenate([getattr(p, n) for p in parts], axis=-1) for n in names))


def _solve(candidates: Candidates, mid_mjd: np.ndarray, settings: Settings) -> PixelStates:
    """Solve the candidates in float64, some thousands at a time."""
    transitions = compute_transitions(
        mid_mjd,
        start_bad=settings.start_bad,
        onset_per_year=settings.onset_per_year,
        recovery_per_year=settings.recovery_per_year,
    )

    def solve(start: int) -> PixelStates:
        chosen = slice(start, start + _PIXELS_AT_ONCE)
        return solve_states(
            *(
                getattr(candidates, key)[:, chosen].astype(float)
                for key in ("residual", "local", "variance")
            ),
            sigma_offset=candidates.sigma_offset[chosen].astype(float),
            sigma_response=candidates.sigma_response[chosen].astype(float),
            transitions=transitions,
            llr_cap=settings.llr_cap,
            min_effect=settings.min_effect,
            min_noise_ratio=settings.min_noise_ratio,
        )

    starts = range(0, max(candidates.y.size, 1), _PIXELS_AT_ONCE)
    return _join(PixelStates, list(_map_in_threads(solve, starts)))


def _map_in_threads(function: Callable[[_In], _Out], items: Iterable[_In]) -> Iterator[_Out]:
    """Apply a function in threads, in order, with only a few items in memory."""
    with ThreadPoolExecutor(_N_THREADS) as pool:
        waiting: deque[Future[_Out]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > _N_THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _decide(candidates: Candidates, states: PixelStates, settings: Settings) -> np.ndarray:
    """Apply the thresholds: bool (n_looks, n_pixels)."""
    significant = np.abs(states.amplitude) > settings.min_significance * states.amplitude_err
    significant |= states.variance_ratio > settings.min_noise_ratio**2
    significant &= states.log_odds > settings.min_log_odds
    return (states.bad > 0.5) & significant
