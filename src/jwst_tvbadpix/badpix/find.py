"""From row blocks of exposures to the history of every pixel."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np

from ..errors import EvidenceError, TvBadPixError
from ..parallel import THREADS, Engine
from .block import CalibrationBlock
from .candidates import (
    CORNER_REACH,
    Candidates,
    Control,
    Surroundings,
    compute_sigma,
    divide_time,
    find_images,
    make_decoys,
)
from .histories import PixelStates, join_pixels
from .inmemory import search_in_memory
from .noise import NoiseModel, fit_noise
from .odds import Calibration, calibrate_scores
from .outofcore import Search, search_shelf, shelve_looks, survey_surroundings
from .recall import KEPT, count_together
from .residuals import (
    AxisResiduals,
    LocalResiduals,
    combine_axes,
    compute_halo,
    subtract_medians,
)
from .scores import compute_scores, find_pending
from .shelved import LookStack, Shelf, hash_looks, hash_parts
from .solver import Solved, Solver
from .states import compute_transitions
from .usability import Usability, assess_looks

__all__ = ["PixelHistories", "Settings", "find_histories", "make_solver"]

log = logging.getLogger(__name__)

# Values in the sample that the noise is measured from, of each look and of all; strips of each
# range of rows, and their least and largest height.
_LOOK_VALUES, _SAMPLE_VALUES, _N_STRIPS, _STRIP_ROWS = 60_000, 4_000_000, 12, (2, 16)
# Looks of a strip that are held at once.
_LOOKS_AT_ONCE = 64
# Decoys made: twice the pixels, within these limits.
_N_DECOYS = (60_000, 300_000)
# A candidate of this score is bad beyond doubt, and no example of a good pixel.
_BEYOND_DOUBT = 12.0
# Looks that are closer than this may see the same sources on the same pixels [day].
_VISIT_DAYS = 0.5
# A candidate whose score is less than this below the threshold is watched.
_NEARLY = 2.0


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
    min_noise_ratio : float
        Scatter over the noise from which a pixel is bad without a shift.
    fdr : float
        Share of false flags that is allowed among all.
    start_bad, onset_per_year, recovery_per_year : float
        Prior: probability to be bad at the first look, rates [1/yr].
    telegraph_transitions : int
        Changes of state from which a pixel is telegraph.
    """

    window_along: int = 11
    window_across: int = 9
    llr_cap: float = 10.0
    min_effect: float = 1.0
    min_noise_ratio: float = 4.0
    fdr: float = 0.02
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


class _Stack(LookStack, Protocol):
    """What is asked of a stack of exposures (`jwst_tvbadpix.exposures.ExposureStack`)."""

    @property
    def row_ranges(self) -> tuple[tuple[int, int], ...]:
        """Ranges of rows (first, last + 1) that were read out together, each once."""


@dataclass(frozen=True, slots=True)
class PixelHistories:
    """All that is known of the pixels of a detector.

    Attributes
    ----------
    candidates : Candidates
        Pixels that were solved.
    control : Control
        Good pixels to compare with.
    states : PixelStates
        Their best histories.
    score : ndarray of float64, shape (n_pixels,)
        How much speaks for each of them, see `compute_scores`.
    bad : ndarray of bool, shape (n_looks, n_pixels)
        Whether each candidate is bad at each look: its score reaches the threshold.
    calibration : Calibration
        The threshold, and what scores are worth.
    expected_false : ndarray of float64, shape (n_looks,)
        False flags expected at each look.
    noise : NoiseModel
    n_evidence : ndarray of int32, shape of the window
        Number of looks with evidence, all pixels.
    n_pixels, n_hidden : ndarray of int64, shape (n_looks,)
        Number of pixels with evidence, and of those that a mask hid, each look.
    usability : Usability
        What each look is worth.
    window : tuple of int
        (y0, y1, x0, x1) of `n_evidence` in the full frame.
    mid_mjd : ndarray of float64, shape (n_looks,)
    settings : Settings
    block : CalibrationBlock, optional
        What later looks can be added to; only where the evidence was kept.
    """

    candidates: Candidates
    control: Control
    states: PixelStates
    score: np.ndarray
    bad: np.ndarray
    calibration: Calibration
    expected_false: np.ndarray
    noise: NoiseModel
    n_evidence: np.ndarray
    n_pixels: np.ndarray
    n_hidden: np.ndarray
    usability: Usability
    window: tuple[int, int, int, int]
    mid_mjd: np.ndarray
    settings: Settings
    block: CalibrationBlock | None = None


def find_histories(
    stack: _Stack,
    mid_mjd: np.ndarray,
    dispersion_axes: Sequence[int | None],
    *,
    settings: Settings | None = None,
    progress: Callable[[int, int], None] | None = None,
    open_shelf: Callable[[str], Shelf] | None = None,
    max_bytes: int = 2_000_000_000,
    engine: Engine = THREADS,
) -> PixelHistories:
    """Find which pixel was bad at which look.

    Parameters
    ----------
    stack : object with `window`, `row_ranges`, `read_rows` and `read_look`
        Exposures of one detector, see `jwst_tvbadpix.exposures.ExposureStack`.
    mid_mjd : ndarray of float64, shape (n_looks,)
        Mid-times of the looks [MJD], increasing; all equal for looks that have no order.
    dispersion_axes : sequence of int or None, length n_looks
        DISPAXIS of each look.
    settings : Settings, optional
    progress : callable, optional
        Called with (rows done, rows in all).
    open_shelf : callable, optional
        Given a hash of what the evidence depends on, opens the shelf on which it is kept; see
        `outofcore`. Without it all is done in memory, a tile of rows at a time.
    max_bytes : int
        Memory for tiles of rows and what is made of them.
    engine : Engine
        Where it is computed; only with a shelf may it be elsewhere than in this process.

    Returns
    -------
    PixelHistories

    Raises
    ------
    EvidenceError
        Nothing in the exposures can be used, or fewer than two looks hold evidence.
    """
    settings = settings or Settings()
    windows = {"window_along": settings.window_along, "window_across": settings.window_across}
    axes = {"dispersion_axes": tuple(dispersion_axes), **windows}
    strips = _choose_strips(stack, len(dispersion_axes))
    noise, sample, usability = _measure(stack, strips, axes, engine)
    solver = make_solver(mid_mjd, usability, settings)
    found, shelf, around = _search(
        stack,
        noise,
        usability.used,
        solver,
        axes,
        settings,
        open_shelf,
        max_bytes,
        progress,
        engine,
    )
    candidates, states = found.solved.candidates, found.solved.states
    n_pixels = _require_looks(found, usability)
    score = compute_scores(candidates, states, settings.min_noise_ratio)
    doubtless = _place(candidates, score > _BEYOND_DOUBT, stack, strips)
    images = find_images(axes)
    calibration, expected_false = _calibrate(
        found.solved, score, sample, doubtless, noise, mid_mjd, images, solver, settings, n_pixels
    )
    bad = (states.bad > 0.5) & (score >= calibration.threshold)
    log.info("%d pixels bad at some look, %d at the last", bad.any(axis=0).sum(), bad[-1].sum())
    histories = PixelHistories(
        candidates,
        found.control,
        states,
        score,
        bad,
        calibration,
        expected_false,
        noise,
        found.n_evidence,
        found.n_pixels,
        found.n_hidden,
        usability,
        stack.window,
        mid_mjd,
        settings,
    )
    if shelf is None or around is None or found.levels is None:
        return histories
    block = _freeze(histories, found.solved.acquitted, shelf, strips, around, found.levels)
    return replace(histories, block=block)


def _require_looks(found: Search, usability: Usability) -> int:
    """Count the pixels with evidence; raise where fewer than two looks hold some."""
    n_looks = (found.n_pixels > 0).sum()
    if n_looks < 2:
        raise EvidenceError(
            "expected at least two independent looks with usable pixels, found "
            f"{n_looks}{_tell(usability)}; give more exposures"
        )
    n_pixels = int((found.n_evidence > 0).sum())
    n_kept = found.solved.candidates.y.size
    log.info("%d of %d pixels with evidence are bad at some look, or nearly", n_kept, n_pixels)
    return n_pixels


def _search(
    stack: _Stack,
    noise: NoiseModel,
    used: np.ndarray,
    solver: Solver,
    axes: dict[str, Any],
    settings: Settings,
    open_shelf: Callable[[str], Shelf] | None,
    max_bytes: int,
    progress: Callable[[int, int], None] | None,
    engine: Engine,
) -> tuple[Search, Shelf | None, Surroundings | None]:
    """Search in memory or on a shelf; that, and the surroundings, where there is one."""
    halo = _find_halo(settings)
    if open_shelf is None:
        found = search_in_memory(
            stack, noise, used, solver, halo, axes, max_bytes=max_bytes // 4, progress=progress
        )
        return found, None, None
    around = survey_surroundings(stack, noise, used, halo, axes, engine)
    shelf = open_shelf(hash_parts(noise, around, used, settings, axes))
    looks = shelve_looks(stack, shelf, noise, around, axes)
    found = search_shelf(
        looks, used, noise, around, solver, max_bytes=max_bytes, progress=progress, engine=engine
    )
    return found, shelf, around


def _find_halo(settings: Settings) -> int:
    """Rows that a block needs on either side."""
    return compute_halo(settings.window_along, settings.window_across) + CORNER_REACH


def _freeze(
    histories: PixelHistories,
    acquitted: Candidates,
    shelf: Shelf,
    strips: Sequence[tuple[int, int]],
    surroundings: Surroundings,
    levels: np.ndarray,
) -> CalibrationBlock:
    """Freeze what the looks say together, and put what they say of watched pixels by itself."""
    y0, _, x0, _ = histories.window
    mjd, score = histories.mid_mjd, histories.score
    watch = score > histories.calibration.threshold - _NEARLY
    watch |= histories.states.log_odds > 0
    watch = np.concatenate([watch, np.zeros(acquitted.y.size, bool)])
    candidates = join_pixels([histories.candidates, acquitted])
    planes = np.zeros((2, *histories.n_evidence.shape), bool)
    for plane, chosen in zip(planes, (watch, ~watch), strict=True):
        plane[candidates.y[chosen] - y0, candidates.x[chosen] - x0] = True
    block = CalibrationBlock(
        shelf.key,
        shelf.identities,
        histories.window,
        np.array(strips),
        mjd[1:][np.diff(divide_time(len(mjd))) > 0],
        histories.noise,
        histories.usability,
        histories.expected_false,
        histories.calibration,
        surroundings,
        levels,
        planes[0],
        planes[1],
        histories.control.y,
        histories.control.x,
    )
    _keep(candidates, histories.control, histories.usability.used, block, shelf, watch)
    log.info("%d pixels are watched: bad at some look, or nearly; %d doubtful", *planes.sum((1, 2)))
    return block


def _keep(
    candidates: Candidates,
    control: Control,
    used: np.ndarray,
    block: CalibrationBlock,
    shelf: Shelf,
    watch: np.ndarray,
) -> None:
    """Put together what all looks say of the pixels that an update may ask for."""
    used = np.flatnonzero(used)
    own = candidates.residual, candidates.local, candidates.variance
    # Nobody asks for the level of the control sample.
    drawn = control.residual, np.zeros_like(control.residual), control.variance
    n, order = watch.size, np.lexsort((candidates.x, candidates.y))
    columns = np.concatenate(
        [order[watch[order]], n + np.arange(control.y.size), order[~watch[order]]]
    )
    size = count_together(used.size)

    def list_blocks() -> Iterator[np.ndarray]:
        for start in range(0, columns.size, size):
            chosen = columns[start : start + size]
            inside = chosen < n
            values = np.empty((used.size, 3, chosen.size), np.float32)
            for k in range(3):
                values[:, k, inside] = own[k][np.ix_(used, chosen[inside])]
                values[:, k, ~inside] = drawn[k][np.ix_(used, chosen[~inside] - n)]
            yield values

    if columns.size:
        origin = hash_looks(shelf, used.tolist(), block.list_kept())
        shelf.put_joint(KEPT, origin, list_blocks(), columns.size)


def _measure(
    stack: _Stack,
    strips: Sequence[tuple[int, int]],
    axes: dict[str, Any],
    engine: Engine,
) -> tuple[NoiseModel, LocalResiduals, Usability]:
    """Measure noise and pattern on the strips, and what each look is worth."""
    medians = _sample(stack, strips, axes, engine)
    rough = combine_axes(medians)
    sample = combine_axes(medians, compute_sigma(fit_noise(rough, n_iterations=1), rough))
    noise = fit_noise(sample)
    usability = assess_looks(sample, noise)
    if not usability.used.any():
        raise EvidenceError(f"expected usable exposures, found none{_tell(usability)}; give others")
    if not usability.used.all():
        sample.residual[~usability.used] = np.nan
        noise = fit_noise(sample)
    return noise, sample, usability


def _tell(usability: Usability) -> str:
    """Say why looks are not used."""
    reasons = {
        reason for reason, used in zip(usability.reason, usability.used, strict=True) if not used
    }
    return f" ({'; '.join(sorted(reasons))})" if reasons else ""


def _place(
    candidates: Candidates,
    chosen: np.ndarray,
    stack: _Stack,
    strips: Sequence[tuple[int, int]],
) -> np.ndarray:
    """Mark chosen candidates among the pixels of the sample: bool (n_rows, n_columns)."""
    y0, y1, x0, x1 = stack.window
    columns = _choose_columns(stack, strips, len(candidates.residual))
    plane = np.zeros((y1 - y0, x1 - x0), bool)
    plane[candidates.y[chosen] - y0, candidates.x[chosen] - x0] = True
    return np.concatenate([plane[start - y0 : stop - y0, columns] for start, stop in strips])


def _calibrate(
    solved: Solved,
    score: np.ndarray,
    sample: LocalResiduals,
    doubtless: np.ndarray,
    noise: NoiseModel,
    mid_mjd: np.ndarray,
    images: np.ndarray,
    solver: Solver,
    settings: Settings,
    n_pixels: int,
) -> tuple[Calibration, np.ndarray]:
    """Count on decoys what passes for bad: the threshold, and false flags per look."""
    candidates, states = solved.candidates, solved.states
    wanted = np.clip(2 * n_pixels, *_N_DECOYS)
    # Looks without an order in time are visits of their own.
    visits = np.cumsum(np.diff(mid_mjd, prepend=mid_mjd[0] - 1) > _VISIT_DAYS) - 1
    if not visits.any():
        visits = np.arange(len(mid_mjd))
    usable = np.isfinite(sample.residual).any(axis=0) & ~doubtless
    made, n_decoys = make_decoys(
        sample,
        doubtless,
        noise,
        visits,
        images,
        n_copies=max(1, round(float(wanted) / max(int(usable.sum()), 1))),
    )
    others = solver.keep([made])
    decoys, decoy_states = others.candidates, others.states
    decoy_score = compute_scores(decoys, decoy_states, settings.min_noise_ratio, neighbours=False)
    flags = _count_flags(candidates, states)
    decoy_flags = _count_flags(decoys, decoy_states)
    calibration = calibrate_scores(
        score,
        flags.sum(axis=0),
        (states.amplitude < 0) & ~states.multiplicative,
        decoy_score,
        decoy_flags.sum(axis=0),
        (decoy_states.amplitude < 0) & ~decoy_states.multiplicative,
        undecided=np.where(flags, 1 - states.bad, 0).sum(axis=0),
        n_pixels=n_pixels,
        n_decoys=n_decoys,
        fdr=settings.fdr,
    )
    log.info(
        "score >= %.1f keeps the share of false flags within %.3g: %.1f expected among %d "
        "(%d decoys, excess %.2f)",
        calibration.threshold,
        settings.fdr,
        calibration.expected_false,
        calibration.n_flags,
        n_decoys,
        calibration.excess,
    )
    at_look = decoy_flags[:, np.argsort(decoy_score)[-500:]].sum(axis=1)
    share = at_look / max(at_look.sum(), 1)
    return calibration, share * calibration.expected_false


def _count_flags(candidates: Candidates, states: PixelStates) -> np.ndarray:
    """Mark looks that each candidate would flag, the pending ones left out."""
    bad = (states.bad > 0.5) & np.isfinite(candidates.residual)
    return bad & ~find_pending(bad, np.isfinite(candidates.residual))


def _choose_strips(stack: _Stack, n_looks: int) -> list[tuple[int, int]]:
    """Choose strips (first row, last + 1) in the middle of equal parts of each range of rows.

    Subarrays get strips of their own, and many looks get thin strips rather than few: every look
    and every level must be met.
    """
    x0, x1 = stack.window[2:]
    rows = min(_LOOK_VALUES, _SAMPLE_VALUES // n_looks) // ((x1 - x0) * _N_STRIPS)
    height = int(np.clip(rows, *_STRIP_ROWS))
    strips = set()
    for first, last in stack.row_ranges:
        n = max(1, min(_N_STRIPS, (last - first) // height))
        middles = first + (np.arange(n) + 0.5) * (last - first) / n
        for start in (middles - height / 2).astype(int):
            strips.add((max(first, int(start)), min(last, int(start) + height)))
    return sorted(strips)


def _choose_columns(stack: _Stack, strips: Sequence[tuple[int, int]], n_looks: int) -> slice:
    """Choose columns of the strips, all or every n-th: so many looks need fewer pixels of each."""
    x0, x1 = stack.window[2:]
    values = n_looks * (x1 - x0) * sum(stop - start for start, stop in strips)
    return slice(None, None, max(1, values // _SAMPLE_VALUES))


def _sample(
    stack: _Stack,
    strips: Sequence[tuple[int, int]],
    axes: dict[str, Any],
    engine: Engine,
) -> AxisResiduals:
    """Subtract the medians from sample strips; of many looks, of some columns."""
    y0, y1 = stack.window[:2]
    halo = max(axes["window_along"], axes["window_across"]) // 2
    n_looks = len(axes["dispersion_axes"])
    columns = _choose_columns(stack, strips, n_looks)

    def compute(strip: tuple[int, int]) -> list[np.ndarray]:
        start, stop = strip
        first = max(y0, start - halo)
        core = slice(start - first, stop - first)
        parts = []
        for looks in np.array_split(np.arange(n_looks), -(-n_looks // _LOOKS_AT_ONCE)):
            rate = stack.read_rows(first, min(y1, stop + halo), looks.tolist())
            own = {**axes, "dispersion_axes": [axes["dispersion_axes"][k] for k in looks]}
            nobody = np.zeros(rate.shape[1:], bool)
            medians = subtract_medians(rate, nobody, **own, rows=core, columns=columns)
            parts.append([getattr(medians, f.name) for f in fields(medians)])
        return [np.concatenate(planes) for planes in zip(*parts, strict=True)]

    parts = zip(*engine.map(compute, strips), strict=True)
    return AxisResiduals(*(np.concatenate(planes, axis=1) for planes in parts))


def make_solver(mid_mjd: np.ndarray, usability: Usability, settings: Settings) -> Solver:
    """Make what solves candidates."""
    transitions = compute_transitions(
        mid_mjd,
        start_bad=settings.start_bad,
        onset_per_year=settings.onset_per_year,
        recovery_per_year=settings.recovery_per_year,
    )
    caps = settings.llr_cap * usability.score
    return Solver(transitions, caps, settings.min_effect, settings.min_noise_ratio)
