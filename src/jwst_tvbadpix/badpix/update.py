"""Looks added to a search whose calibration block is frozen.

With the block frozen, what one look says depends on that look alone, so that only new looks are
computed. Of the pixels, those watched are solved again, with all their looks. Those that are
doubtful, which quick tests chose and the solution acquitted, are solved when a later look speaks
against them; all others, good in the block's own looks, when at least two of them do (one alone
is PENDING at most, and in no mask). So the result is a function of the block and of the set of
looks, whatever the order in which they came.

What is asked of all looks of the block lies together on the shelf: how many of them have evidence
of each pixel, and the evidence of the pixels that may be solved. Of a later look there is also,
in a byte per pixel, how much it speaks against it.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from ..errors import EvidenceError
from ..parallel import THREADS, Engine, map_in_threads
from .block import CalibrationBlock, measure_look
from .candidates import Candidates, Control, choose_looks, compute_priors, probe_later, weigh_looks
from .find import PixelHistories, Settings, make_solver
from .noise import NoiseModel
from .outofcore import KEPT, KEPT_BYTES, LookStack, Shelf, ShelvedLooks, count_pixels, hash_looks
from .scores import compute_scores
from .usability import Usability

__all__ = ["update_histories"]

log = logging.getLogger(__name__)

# Name of the array of what a later look says against each pixel: sigmas, in steps of this size,
# up to this many; and where it says nothing.
_AGAINST, _STEP, _MOST, _NOTHING = "against", 0.04, 5.0, -128
# Sigmas of a later look from which a doubtful pixel is solved.
_LOUD = 3.5
# Name of the array of pixels that were good in the block and are solved now.
_OTHERS = "others"
# Bytes of a value (pixel, look) of the tests of later looks.
_TEST_BYTES = 40


def update_histories(
    stack: LookStack,
    mid_mjd: np.ndarray,
    dispersion_axes: Sequence[int | None],
    block: CalibrationBlock,
    shelf: Shelf,
    *,
    settings: Settings,
    max_bytes: int = 2_000_000_000,
    engine: Engine = THREADS,
) -> PixelHistories:
    """Find which pixel was bad at which look, given a calibration block.

    Parameters
    ----------
    stack : object with `window` and `read_look`
        All looks; only those that the shelf does not have are read.
    mid_mjd : ndarray of float64, shape (n_looks,)
        Mid-times of the looks [MJD], increasing.
    dispersion_axes : sequence of int or None, length n_looks
        DISPAXIS of each look.
    block : CalibrationBlock
    shelf : Shelf
        That of the block.
    settings : Settings
        Those of the search that the block comes from.
    max_bytes : int
        Memory for the rows of new looks.
    engine : Engine
        Where it is computed.

    Returns
    -------
    PixelHistories

    Raises
    ------
    EvidenceError
        Fewer than two looks hold evidence.
    """
    looks, known = _shelve(stack, mid_mjd, dispersion_axes, block, shelf, settings)
    facts = looks.complete(len(mid_mjd), engine)
    noise, usability = _collect(block, known, facts)
    used = usability.used
    n_pixels, n_hidden = count_pixels(facts, used)
    if (n_pixels > 0).sum() < 2:
        raise EvidenceError(
            f"expected at least two independent looks with usable pixels, found "
            f"{(n_pixels > 0).sum()}; give more exposures"
        )
    is_later = np.array(known) < 0
    later = np.flatnonzero(used & is_later).tolist()
    own = np.flatnonzero(used & ~is_later).tolist()
    earlier = looks.count(own, keep=True)
    n_evidence = earlier + looks.count(later)
    promoted = _promote(looks, block, later, earlier, max_bytes, engine)
    log.info(
        "%d looks added to %d; %d pixels watched, %d more speak up",
        len(later),
        len(mid_mjd) - len(later),
        block.watched.sum(),
        promoted.sum(),
    )
    candidates, control = _gather(looks, block, own, later, promoted, noise, max_bytes)
    states = make_solver(mid_mjd, usability, settings).solve(candidates, engine)
    score = compute_scores(candidates, states, settings.min_noise_ratio)
    bad = (states.bad > 0.5) & (score >= block.calibration.threshold)
    usual = float(np.median(block.expected_false[block.usability.used]))
    expected = [block.expected_false[k] if k >= 0 else usual for k in known]
    log.info("%d pixels bad at some look, %d at the last", bad.any(axis=0).sum(), bad[-1].sum())
    return PixelHistories(
        candidates=candidates,
        control=control,
        states=states,
        score=score,
        bad=bad,
        calibration=block.calibration,
        expected_false=np.where(used, expected, 0.0),
        noise=noise,
        n_evidence=n_evidence,
        n_pixels=n_pixels,
        n_hidden=n_hidden,
        usability=usability,
        window=block.window,
        mid_mjd=mid_mjd,
        settings=settings,
        block=block,
    )


def _shelve(
    stack: LookStack,
    mid_mjd: np.ndarray,
    dispersion_axes: Sequence[int | None],
    block: CalibrationBlock,
    shelf: Shelf,
    settings: Settings,
) -> tuple[ShelvedLooks, list[int]]:
    """Make looks known to the shelf, and list their numbers in the block, -1 for later ones."""
    numbers = {identity: k for k, identity in enumerate(block.identities)}
    known = [numbers.get(identity, -1) for identity in shelf.identities]
    part = np.searchsorted(block.part_mjd, mid_mjd, side="right")
    windows = {"window_along": settings.window_along, "window_across": settings.window_across}

    kept = block.list_kept()

    def weigh(look: int, rate: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        own = {"dispersion_axes": [dispersion_axes[look]], **windows}
        facts: dict[str, Any] = {}
        if known[look] >= 0:
            noise = choose_looks(block.noise, np.array([known[look]]))
        else:
            noise, usability = measure_look(block, rate[None], own)
            facts["noise"] = {n: getattr(noise, n)[0].tolist() for n in ("level", "sigma")}
            facts["noise"]["n_used"] = int(noise.n_used[0])
            facts["usability"] = {n: v[0] for n, v in asdict(usability).items()}
            for name, value in facts["usability"].items():
                facts["usability"][name] = value if name == "reason" else float(value)
        (values,) = weigh_looks(rate[None], noise, own, block.surroundings, part[look : look + 1])
        arrays = {"values": values}
        if known[look] < 0:
            arrays[KEPT] = values.reshape(3, 1, -1)[:, :, kept]
            arrays[_AGAINST] = _measure_against(values, block.levels)[None]
        return arrays, facts

    return ShelvedLooks(stack, shelf, weigh), known


def _collect(
    block: CalibrationBlock, known: Sequence[int], facts: Sequence[dict[str, Any]]
) -> tuple[NoiseModel, Usability]:
    """Collect noise and worth of all looks: from the block, or from what was kept of them."""

    def pick(name: str, group: str, values: Any) -> list[Any]:
        return [
            values[k] if k >= 0 else own[group][name] for k, own in zip(known, facts, strict=True)
        ]

    tables = [
        np.array(pick(n, "noise", getattr(block.noise, n))) for n in ("level", "sigma", "n_used")
    ]
    noise = NoiseModel(
        tables[0], tables[1], block.noise.sigma_offset, block.noise.sigma_response, tables[2]
    )
    worth = {n: pick(n, "usability", v) for n, v in asdict(block.usability).items()}
    reason = tuple(worth.pop("reason"))
    return noise, Usability(**{n: np.array(v, float) for n, v in worth.items()}, reason=reason)


def _measure_against(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Compare a look with the levels of the pixels: int8, in steps of `_STEP` sigma."""
    residual, local, variance = values
    sigmas = (residual - levels[0] - levels[1] * local) / np.sqrt(variance)
    steps = np.rint(np.clip(sigmas, -_MOST, _MOST) / _STEP)
    return np.where(np.isfinite(residual), steps, _NOTHING).astype(np.int8)


def _cut_later(
    looks: ShelvedLooks, later: Sequence[int], first_row: int, end_row: int, max_bytes: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Read what later looks say against pixels, tile by tile: number of the first, and int8."""
    x0, x1 = looks.stack.window[2:]
    rows = max(1, max_bytes // 3 // (_TEST_BYTES * len(later) * (x1 - x0)))
    for start in range(first_row, end_row, rows):
        tile = slice(start, min(end_row, start + rows))
        against = np.stack([looks.read(k, tile, _AGAINST).ravel() for k in later])
        yield start * (x1 - x0), against


def _promote(
    looks: ShelvedLooks,
    block: CalibrationBlock,
    later: Sequence[int],
    earlier: np.ndarray,
    max_bytes: int,
    engine: Engine,
) -> np.ndarray:
    """Mark pixels that are not watched and that later looks speak against: bool (ny, nx)."""
    promoted = np.zeros(earlier.size, bool)
    if not later:
        return promoted.reshape(earlier.shape)

    def test(piece: tuple[int, np.ndarray]) -> tuple[slice, np.ndarray]:
        start, against = piece
        own = slice(start, start + against.shape[1])
        z = np.where(against == _NOTHING, np.float32(np.nan), against * np.float32(_STEP))
        found = block.doubtful.flat[own] & (np.abs(z) > _LOUD).any(axis=0)
        return own, found | probe_later(z, earlier.flat[own]) if len(z) > 1 else found

    for own, found in engine.map_rows(
        test, partial(_cut_later, looks, later), len(earlier), max_bytes
    ):
        promoted[own] = found
    return promoted.reshape(earlier.shape) & ~block.watched


def _gather(
    looks: ShelvedLooks,
    block: CalibrationBlock,
    own: Sequence[int],
    later: Sequence[int],
    promoted: np.ndarray,
    noise: NoiseModel,
    max_bytes: int,
) -> tuple[Candidates, Control]:
    """Read all looks of the pixels that are solved, and of the control sample."""
    kept = block.list_kept()
    solved = np.flatnonzero(block.watched | promoted)
    n_watched = np.count_nonzero(block.watched)
    control = kept[n_watched : n_watched + block.control_y.size]
    drawn = np.flatnonzero(~promoted.flat[control])
    place = np.full(promoted.size, -1)
    place[kept] = np.arange(kept.size)
    place[control] = -1  # without levels: one that is solved is read like others
    read = partial(_read_planes, looks, own, later, kept, len(noise.n_used), max_bytes)
    y0, _, x0, x1 = block.window
    y, x = np.divmod(solved, x1 - x0)
    around = block.surroundings
    residual, local, variance = read(solved, place[solved], (0, 1, 2))
    candidates = Candidates(
        (y + y0).astype(np.int16),
        (x + x0).astype(np.int16),
        residual,
        local,
        variance,
        *compute_priors(noise, around.structure.flat[solved], around.relative.flat[solved]),
    )
    residual, variance = read(control[drawn], n_watched + drawn, (0, 2))
    return candidates, Control(block.control_y[drawn], block.control_x[drawn], residual, variance)


def _read_planes(
    looks: ShelvedLooks,
    own: Sequence[int],
    later: Sequence[int],
    kept: np.ndarray,
    n_looks: int,
    max_bytes: int,
    pixels: np.ndarray,
    place: np.ndarray,
    planes: tuple[int, ...],
) -> np.ndarray:
    """Read all looks of some pixels, whose place among those kept is given, -1 for others.

    Returns
    -------
    ndarray of float32, shape (n_planes, n_looks, n_pixels)
        NaN for looks that are neither the block's own nor later ones.
    """
    values = np.empty((len(planes), n_looks, pixels.size), np.float32)
    values[:, np.setdiff1d(np.arange(n_looks), [*own, *later])] = np.nan
    in_order = bool(own) and own[-1] - own[0] + 1 == len(own)
    rows = slice(own[0], own[-1] + 1) if in_order else list(own)

    def put(columns: Any, part: np.ndarray) -> None:
        for plane, k in zip(values, planes, strict=True):
            plane[rows, columns] = part[:, k]

    _read_kept(looks, own, kept, place, put, max_bytes)
    known, others = np.flatnonzero(place >= 0), np.flatnonzero(place < 0)
    for column, part in zip(others, _read_others(looks, own, pixels[others]).T, strict=True):
        put(column, part.T)
    for look in later:
        found = looks.read(look, slice(None), KEPT)[:, 0, place[known]]
        more = _gather_some(looks, look, pixels[others])
        for plane, k in zip(values, planes, strict=True):
            plane[look, known], plane[look, others] = found[k], more[k]
    return values


def _gather_some(looks: ShelvedLooks, look: int, pixels: np.ndarray) -> np.ndarray:
    """Read some pixels of a look: float32 (3, n_pixels)."""
    x0, x1 = looks.stack.window[2:]
    return looks.gather(look, *np.divmod(pixels, x1 - x0))


def _gather_all(looks: ShelvedLooks, own: Sequence[int], pixels: np.ndarray) -> np.ndarray:
    """Read some pixels of some looks: float32 (n_own, 3, n_pixels)."""
    values = np.empty((len(own), 3, pixels.size), np.float32)
    parts = map_in_threads(lambda look: _gather_some(looks, look, pixels), own)
    for row, part in zip(values, parts, strict=True):
        row[...] = part
    return values


def _read_kept(
    looks: ShelvedLooks,
    own: Sequence[int],
    kept: np.ndarray,
    place: np.ndarray,
    put: Callable[[slice, np.ndarray], None],
    max_bytes: int,
) -> None:
    """Read the block's looks of those of the pixels `kept` that are wanted, see `Shelf`."""
    if not own:
        return
    origin = hash_looks(looks.shelf, own, kept)
    if looks.shelf.visit_joint(KEPT, origin, place, put):
        return
    size = max(1, KEPT_BYTES // (12 * len(own)))
    at_once = size * max(1, max_bytes // 2 // KEPT_BYTES)

    def list_blocks() -> Iterator[np.ndarray]:
        for start in range(0, kept.size, at_once):
            values = _gather_all(looks, own, kept[start : start + at_once])
            for first in range(0, values.shape[-1], size):
                yield values[..., first : first + size]

    looks.shelf.put_joint(KEPT, origin, list_blocks(), kept.size)
    if not looks.shelf.visit_joint(KEPT, origin, place, put):
        raise looks.refuse(own[0])


def _read_others(looks: ShelvedLooks, own: Sequence[int], pixels: np.ndarray) -> np.ndarray:
    """Read the block's looks of pixels that were good in them: (n_own, 3, n).

    They are kept together as far as they were asked for before; the first row has their numbers.
    """
    if not pixels.size:
        return np.empty((len(own), 3, 0), np.float32)
    origin = hash_looks(looks.shelf, own)
    known = looks.shelf.read_joint(_OTHERS, origin)
    if known is None:
        known = np.empty((len(own) + 1, 3, 0), np.float32)
    numbers = known[0, 0].view(np.int32)
    new = np.setdiff1d(pixels, numbers)
    if new.size:
        numbers = np.concatenate([numbers, new.astype(np.int32)])
        first = np.broadcast_to(numbers[-new.size :].view(np.float32), (1, 3, new.size))
        more = np.concatenate([first, _gather_all(looks, own, new)])
        known = np.concatenate([known, more], axis=2)
        looks.shelf.put_joint(_OTHERS, origin, [known], numbers.size)
    order = np.argsort(numbers)
    return known[1:, :, order[np.searchsorted(numbers, pixels, sorter=order)]]
