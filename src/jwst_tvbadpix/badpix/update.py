"""Looks added to a search whose calibration block is frozen.

With the block frozen, what one look says depends on that look alone, so that only new looks are
computed. Of the pixels, those watched are solved again, with all their looks. Every other pixel
was good in the block's own looks: it is solved when the looks since then say otherwise, at least
two of them (one alone is PENDING at most, and in no mask). So the result is a function of the
block and of the set of looks, whatever the order in which they came.
"""

import logging
from collections.abc import Callable, Sequence
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
from .outofcore import KEPT, LookStack, Shelf, ShelvedLooks, cut_tiles
from .scores import compute_scores
from .usability import Usability

__all__ = ["update_histories"]

log = logging.getLogger(__name__)


def update_histories(
    stack: LookStack,
    mid_mjd: np.ndarray,
    dispersion_axes: Sequence[int | None],
    block: CalibrationBlock,
    shelf: Shelf,
    *,
    settings: Settings,
    max_bytes: int = 2_000_000_000,
    progress: Callable[[int, int], None] | None = None,
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
    progress : callable, optional
        Called with (looks done, looks in all).
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
    n_evidence, n_pixels = looks.count(used)
    if (n_pixels > 0).sum() < 2:
        raise EvidenceError(
            f"expected at least two independent looks with usable pixels, found "
            f"{(n_pixels > 0).sum()}; give more exposures"
        )
    later = [k for k, use in enumerate(used) if use and known[k] < 0]
    earlier = n_evidence - looks.count(used & (np.array(known) < 0))[0]
    promoted = _promote(looks, block, later, earlier, max_bytes, engine)
    log.info(
        "%d looks added to %d; %d pixels watched, %d more speak up",
        len(later),
        len(mid_mjd) - len(later),
        block.watched.sum(),
        promoted.sum(),
    )
    candidates, control = _gather(looks, block, used, promoted, noise, progress)
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
        n_hidden=np.array([own["n_hidden"] for own in facts], np.int64),
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

    def weigh(look: int, rate: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
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
        return values, facts

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
    if len(later) < 2:
        return promoted.reshape(earlier.shape)
    offset, response = block.levels.reshape(2, -1)

    def test(piece: tuple[int, np.ndarray]) -> tuple[slice, np.ndarray]:
        start, values = piece
        own = slice(start, start + values.shape[-1])
        error = values[:, 0] - offset[own] - response[own] * values[:, 1]
        return own, probe_later(error / np.sqrt(values[:, 2]), earlier.flat[own])

    cut, n_rows = partial(cut_tiles, looks, later), len(earlier)
    for own, found in engine.map_rows(test, cut, n_rows, max_bytes):
        promoted[own] = found
    return promoted.reshape(earlier.shape) & ~block.watched


def _gather(
    looks: ShelvedLooks,
    block: CalibrationBlock,
    used: np.ndarray,
    promoted: np.ndarray,
    noise: NoiseModel,
    progress: Callable[[int, int], None] | None,
) -> tuple[Candidates, Control]:
    """Read all looks of the pixels that are solved, and of the control sample."""
    y0, _, x0, _ = block.window
    (wy, wx), (py, px) = np.nonzero(block.watched), np.nonzero(promoted)
    cy, cx = block.control_y - y0, block.control_x - x0
    ky, kx = np.concatenate([wy, cy]), np.concatenate([wx, cx])
    values = np.full((len(used), 3, ky.size + py.size), np.nan, np.float32)

    def read(look: int) -> None:
        kept = looks.shelf.read(look, slice(None), KEPT)
        if kept is None or kept.shape != (3, 1, ky.size):
            kept = looks.gather(look, ky, kx)[:, None]
            looks.shelf.add(look, KEPT, kept)
        values[look] = np.concatenate([kept[:, 0], looks.gather(look, py, px)], axis=1)

    for done, _ in enumerate(map_in_threads(read, np.flatnonzero(used).tolist()), start=1):
        if progress:
            progress(done, int(used.sum()))
    y, x = np.concatenate([wy, py]), np.concatenate([wx, px])
    order = np.lexsort((x, y))
    solved = np.r_[: wy.size, ky.size : ky.size + py.size][order]
    around = block.surroundings
    y, x = y[order], x[order]
    residual, local, variance = (np.ascontiguousarray(values[:, k, solved]) for k in range(3))
    candidates = Candidates(
        (y + y0).astype(np.int16),
        (x + x0).astype(np.int16),
        residual,
        local,
        variance,
        *compute_priors(noise, around.structure[y, x], around.relative[y, x]),
    )
    others = np.flatnonzero(~promoted[cy, cx])
    drawn = values[:, :, wy.size + others]
    control = Control(
        block.control_y[others], block.control_x[others], drawn[:, 0].copy(), drawn[:, 2].copy()
    )
    return candidates, control
