"""Looks added to a search whose calibration block is frozen.

With the block frozen, what one look says depends on that look alone, so that only new looks are
computed. Of the pixels, those watched are solved again, with all their looks. Those that are
doubtful, which quick tests chose and the solution acquitted, are solved when a later look speaks
against them; all others, good in the block's own looks, when at least two of them do (one alone
is PENDING at most, and in no mask). So the result is a function of the block and of the set of
looks, whatever the order in which they came.

What is asked of all looks of the block lies together on the shelf: how many of them have evidence
of each pixel, and the evidence, pixel by pixel. Of a later look there is also, in a byte per
pixel, how much it speaks against it.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from ..errors import EvidenceError
from ..parallel import THREADS, Engine
from .block import CalibrationBlock, measure_look
from .candidates import Candidates, Control, choose_looks, compute_priors, probe_later, weigh_looks
from .columns import Columns
from .find import PixelHistories, Settings, make_solver
from .noise import NoiseModel
from .recall import KEPT, Recall
from .scores import compute_scores
from .shelved import LookStack, Shelf, ShelvedLooks, count_pixels
from .usability import Usability

__all__ = ["update_histories"]

log = logging.getLogger(__name__)

# Name of the array of what a later look says against each pixel: sigmas, in steps of this size,
# up to this many; and where it says nothing.
_AGAINST, _STEP, _MOST, _NOTHING = "against", 0.04, 5.0, -128
# Sigmas of a later look from which a doubtful pixel is solved.
_LOUD = 3.5
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
    if (n_seen := np.count_nonzero(n_pixels)) < 2:
        raise EvidenceError(
            "expected at least two independent looks with usable pixels, found "
            f"{n_seen}; give more exposures"
        )
    is_own = np.array(known) >= 0
    own, later = (np.flatnonzero(used & such).tolist() for such in (is_own, ~is_own))
    earlier = looks.count(own, keep=True)
    n_evidence = earlier + looks.count(later)
    promoted = _promote(looks, block, later, earlier, max_bytes, engine)
    numbers = len(later), len(known) - len(later), block.watched.sum(), promoted.sum()
    log.info("%d looks added to %d; %d pixels watched, %d more speak up", *numbers)
    columns = _find_columns(looks, own, known, block)
    recall = Recall(columns, later, len(known), block.list_kept(), max_bytes)
    candidates, control = _gather(recall, block, promoted, noise)
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


def _find_columns(
    looks: ShelvedLooks, own: list[int], known: Sequence[int], block: CalibrationBlock
) -> Columns:
    """Find what the block's looks that are still there say of its pixels."""
    used = np.flatnonzero(block.usability.used).tolist()
    ranks = np.searchsorted(used, [known[k] for k in own]).tolist()
    return Columns(looks, own, ranks, tuple(block.identities[k] for k in used))


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
    recall: Recall, block: CalibrationBlock, promoted: np.ndarray, noise: NoiseModel
) -> tuple[Candidates, Control]:
    """Read all looks of the pixels that are solved, and of the control sample."""
    kept = recall.kept
    solved = np.flatnonzero(block.watched | promoted)
    n_watched = np.count_nonzero(block.watched)
    control = kept[n_watched : n_watched + block.control_y.size]
    drawn = np.flatnonzero(~promoted.flat[control])
    place = np.full(promoted.size, -1)
    place[kept] = np.arange(kept.size)
    place[control] = -1  # without levels: one that is solved is read like others
    y0, _, x0, x1 = block.window
    y, x = np.divmod(solved, x1 - x0)
    around = block.surroundings
    residual, local, variance = recall.read(solved, place[solved], (0, 1, 2))
    candidates = Candidates(
        (y + y0).astype(np.int16),
        (x + x0).astype(np.int16),
        residual,
        local,
        variance,
        *compute_priors(noise, around.structure.flat[solved], around.relative.flat[solved]),
    )
    residual, variance = recall.read(control[drawn], n_watched + drawn, (0, 2))
    return candidates, Control(block.control_y[drawn], block.control_x[drawn], residual, variance)
