"""The search with nothing kept on disk: tiles of rows of all looks, made when they are needed.

The arithmetic is that of `outofcore`, and so is the result, bit for bit. Memory is that of a tile,
of the sample strips, of the looks that stand for all and of the candidates; rows at the edges of
tiles are read twice.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from threading import Lock
from typing import Any

import numpy as np

from ..parallel import map_in_threads
from .candidates import (
    Candidates,
    Surroundings,
    choose_looks,
    choose_some,
    compare_looks,
    divide_time,
    find_images,
    weigh_residuals,
)
from .histories import join_pixels
from .noise import NoiseModel
from .outofcore import Search, split_piece, survey_surroundings
from .residuals import LocalResiduals
from .shelved import LookStack
from .solver import Solver

__all__ = ["search_in_memory"]

# Most rows of a tile, and values (pixel, look) of a piece of it that is tested at once: more are
# not quicker. Fewest pixels of a piece; columns of a power of two share few places of the cache.
_TILE_ROWS, _PIECE_VALUES, _PIECE_PIXELS = 128, 1_000_000, 1000
# Rows beyond a window that the evidence of a pixel depends on: an image may show a star there.
_STAR_ROWS = 1


def _make_room(
    n_looks: int, shape: tuple[int, int], max_bytes: int
) -> tuple[dict[int, int], np.ndarray]:
    """Make room for the residuals of the looks that stand for all: place of each, and the array.

    They are compared with their surroundings once where that fits into memory: of the largest
    detectors it does not.
    """
    some = choose_some(n_looks)
    if 12 * len(some) * shape[0] * shape[1] > max_bytes:
        return {}, np.empty((3, 0, *shape), np.float32)
    places = {int(look): k for k, look in enumerate(some)}
    return places, np.empty((3, len(some), *shape), np.float32)


def _list_tiles(
    window: tuple[int, int, int, int], n_looks: int, max_bytes: int
) -> Iterator[tuple[int, int]]:
    """List the first row of each tile of a window, and its last + 1."""
    y0, y1, x0, x1 = window
    n_rows = int(np.clip(max_bytes // (12 * n_looks * (x1 - x0)), 8, _TILE_ROWS))
    for start in range(y0, y1, n_rows):
        yield start, min(y1, start + n_rows)


def _cut_tile(tile: np.ndarray, start: int) -> Iterator[tuple[int, np.ndarray]]:
    """Cut a tile, whose first pixel has the number `start`, into pieces."""
    flat = tile.reshape(*tile.shape[:2], -1)
    step = max(_PIECE_PIXELS, _PIECE_VALUES // len(tile))
    for first in range(0, flat.shape[-1], step):
        # A copy: a piece that is still worked on shall not hold the tile.
        yield start + first, flat[..., first : first + step].copy()


def _cut_rows(around: Surroundings, rows: slice) -> Surroundings:
    return Surroundings(*(getattr(around, f.name)[..., rows, :] for f in fields(around)))


def _weigh(
    rate: np.ndarray,
    look: int,
    core: slice,
    before: LocalResiduals | None,
    noise: NoiseModel,
    around: Surroundings,
    axes: dict[str, Any],
    part: np.ndarray,
) -> np.ndarray:
    """Compute the evidence of the core rows of a look, from its residuals if it has some."""
    own = np.array([look])
    its_noise = choose_looks(noise, own)
    one = {**axes, "dispersion_axes": [axes["dispersion_axes"][look]]}
    if before is None:
        before = compare_looks(rate[None], its_noise, one, around.outcast, core)
    near = _cut_rows(around, core)
    (found,) = weigh_residuals(before, its_noise, find_images(one), near, part[own])
    return np.asarray(found)


def search_in_memory(
    stack: LookStack,
    noise: NoiseModel,
    used: np.ndarray,
    solver: Solver,
    halo: int,
    axes: dict[str, Any],
    *,
    max_bytes: int,
    progress: Callable[[int, int], None] | None = None,
) -> Search:
    """Search tile by tile.

    Parameters
    ----------
    stack : LookStack
    noise : NoiseModel
        Of all looks.
    used : ndarray of bool, shape (n_looks,)
        Looks that are evidence.
    solver : Solver
    halo : int
        Rows around a block that the surroundings of its pixels depend on.
    axes : dict
        Dispersion axes of all looks and windows, for `compute_residuals`.
    max_bytes : int
        Memory for a tile, which has eight rows at least, and as much for the residuals of the looks
        that stand for all; where these need more, they are made twice.
    progress : callable, optional
        Called with (rows done, rows in all).

    Returns
    -------
    Search
    """
    y0, y1, x0, x1 = stack.window
    known, kept = _make_room(len(used), (y1 - y0, x1 - x0), max_bytes)
    around = survey_surroundings(stack, noise, used, halo, axes, keep=kept if known else None)
    n_evidence = np.zeros((y1 - y0, x1 - x0), np.int32)
    n_pixels, n_hidden = np.zeros((2, len(used)), np.int64)
    part, lock, controls = divide_time(len(used)), Lock(), []
    reach = max(axes["window_along"], axes["window_across"]) // 2 + _STAR_ROWS

    def fill(tile: np.ndarray, start: int, stop: int, look: int) -> None:
        """Put the evidence of a look into its place of a tile."""
        first, last = max(y0, start - reach), min(y1, stop + reach)
        core = slice(start - first, stop - first)
        rate, hidden = stack.read_look(look, slice(first, last), core)
        n_hidden[look] += hidden
        if not used[look]:
            return
        evidence = np.isfinite(rate[core])
        n_pixels[look] += np.count_nonzero(evidence)
        with lock:
            n_evidence[start - y0 : stop - y0] += evidence
        # Evidence of the core, and of the rows beyond that it depends on.
        low, high = max(y0, start - _STAR_ROWS), min(y1, stop + _STAR_ROWS)
        its_own = kept[:, [known[look]], low - y0 : high - y0] if look in known else None
        before = None if its_own is None else LocalResiduals(*its_own)
        near = _cut_rows(around, slice(first - y0, last - y0))
        own = slice(low - first, high - first)
        found = _weigh(rate, look, own, before, noise, near, axes, part)
        tile[look] = found[:, start - low : stop - low]

    def cut() -> Iterator[tuple[int, np.ndarray]]:
        """Make tiles, and cut them into pieces: number of the first pixel, and evidence."""
        for start, stop in _list_tiles(stack.window, len(used), max_bytes):
            tile = np.full((len(used), 3, stop - start, x1 - x0), np.nan, np.float32)
            for _ in map_in_threads(partial(fill, tile, start, stop), range(len(used))):
                pass
            yield from _cut_tile(tile, (start - y0) * (x1 - x0))
            del tile
            if progress:
                progress(stop - y0, y1 - y0)

    def find() -> Iterator[Candidates]:
        test = partial(split_piece, noise=noise, surroundings=around, window=stack.window)
        for candidates, control, _ in map_in_threads(lambda piece: test(*piece), cut()):
            controls.append(control)
            yield candidates

    counts = n_evidence, n_pixels, n_hidden
    return Search(solver.keep(find()), join_pixels(controls), *counts)
