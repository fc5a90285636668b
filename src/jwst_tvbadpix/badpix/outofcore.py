"""The search with the evidence of each look on disk: memory does not grow with their number.

What depends on what:

* On all looks together, the calibration block: usability, noise as a function of level and the
  widths of the pattern (from sample strips), the surroundings of each pixel (from 15 looks spread
  in time: who is nobody's neighbour, where local models never agree), and what decoys say of
  scores (threshold, odds).
* Given the block, on one look alone: residual, local level, variance of every pixel. They are
  computed for a whole look at once, without the halo that blocks of rows need, and kept.
* Given these, on one pixel alone: the quick tests, levels and states. Rows of all looks are read
  back in tiles that fit into the memory given, and kept pixel by pixel (`columns`). Only scores
  look at neighbours, among candidates.

All of it is the arithmetic of `inmemory`, element by element in the same order, so the result is
that of the search in memory, bit for bit. What still grows with the looks: the sample
strips (two rows of each, at most 12 strips), and the candidates, 20 bytes per pixel and look.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from ..parallel import ROWS, THREADS, Engine
from .candidates import (
    Candidates,
    Control,
    Pixels,
    Surroundings,
    choose_looks,
    choose_some,
    compute_priors,
    divide_time,
    measure_surroundings,
    split_pixels,
    weigh_looks,
)
from .columns import Columns
from .histories import join_pixels
from .noise import NoiseModel
from .regression import BackgroundFit
from .shelved import LookStack, Shelf, ShelvedLooks, count_pixels
from .solver import Solved, Solver

__all__ = [
    "Search",
    "cut_tiles",
    "search_shelf",
    "shelve_looks",
    "split_piece",
    "survey_surroundings",
]

# Size of one array of a block of rows from which the surroundings are measured.
_BLOCK_BYTES = 12_000_000
# Bytes per pixel and look: of a tile as it is read, and of all that the quick tests make of it.
_TILE_BYTES, _TEST_BYTES = 12, 100


@dataclass(frozen=True, slots=True)
class Search:
    """What the quick tests of every pixel found.

    Attributes
    ----------
    solved : Solved
        Candidates that are bad at some look, or may be.
    control : Control
    n_evidence : ndarray of int32, shape of the window
        Number of looks with evidence.
    n_pixels, n_hidden : ndarray of int64, shape (n_looks,)
        Pixels with evidence, and those that a mask hid, each look.
    levels : ndarray of float32, shape (2, *window), optional
        Offset [DN/s] and response of every pixel, where they were kept.
    """

    solved: Solved
    control: Control
    n_evidence: np.ndarray
    n_pixels: np.ndarray
    n_hidden: np.ndarray
    levels: np.ndarray | None = None


def survey_surroundings(
    stack: LookStack,
    noise: NoiseModel,
    used: np.ndarray,
    halo: int,
    axes: dict[str, Any],
    engine: Engine = THREADS,
    keep: np.ndarray | None = None,
) -> Surroundings:
    """Measure the surroundings of every pixel from looks spread in time, in blocks of rows.

    The residuals of these looks (see `choose_some`) are put into `keep`, float32 (3, n_some, ny,
    nx), where it is given; the engine is then that of this process.
    """
    some, part = choose_some(len(used)), divide_time(len(used))
    y0, y1, x0, x1 = stack.window
    step = max(8, _BLOCK_BYTES // (4 * len(some) * (x1 - x0)))

    def measure(start: int) -> Surroundings:
        stop, first = min(y1, start + step), max(y0, start - halo)
        rate = stack.read_rows(first, min(y1, stop + halo), some.tolist())
        rate[~used[some]] = np.nan
        core = slice(start - first, stop - first)
        own = choose_looks(noise, some)
        around, found = measure_surroundings(rate, core, own, axes, some, part)
        if keep is not None:
            for plane, f in zip(keep, fields(found), strict=True):
                plane[:, start - y0 : stop - y0] = getattr(found, f.name)
        return around

    parts = list(engine.map(measure, range(y0, y1, step)))
    planes = (
        np.concatenate([getattr(p, f.name) for p in parts], axis=-2) for f in fields(Surroundings)
    )
    return Surroundings(*planes)


def split_piece(
    start: int,
    values: np.ndarray,
    noise: NoiseModel,
    surroundings: Surroundings,
    window: tuple[int, int, int, int],
) -> tuple[Candidates, Control, BackgroundFit]:
    """Split pixels of the window, from the start-th on, as `split_pixels` does.

    Parameters
    ----------
    start : int
    values : ndarray of float32, shape (n_looks, 3, n_pixels)
        Their evidence, see `weigh_looks`.
    noise : NoiseModel
    surroundings : Surroundings
    window : tuple of int
        (y0, y1, x0, x1) in the full frame.
    """
    y0, _, x0, x1 = window
    own = np.arange(start, start + values.shape[-1])
    priors = compute_priors(
        noise, surroundings.structure.flat[own], surroundings.relative.flat[own]
    )
    residual, local, variance = (np.ascontiguousarray(values[:, k]) for k in range(3))
    y, x = np.divmod(own, x1 - x0)
    return split_pixels(Pixels(residual, local, variance, *priors), y + y0, x + x0)


def shelve_looks(
    stack: LookStack,
    shelf: Shelf,
    noise: NoiseModel,
    surroundings: Surroundings,
    axes: dict[str, Any],
) -> ShelvedLooks:
    """Make looks known to the shelf, of which noise and surroundings were measured."""
    part = divide_time(len(noise.n_used))

    def weigh(look: int, rate: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        own = np.array([look])
        one = {**axes, "dispersion_axes": [axes["dispersion_axes"][look]]}
        (values,) = weigh_looks(rate[None], choose_looks(noise, own), one, surroundings, part[own])
        return {"values": values}, {}

    return ShelvedLooks(stack, shelf, weigh)


def search_shelf(
    looks: ShelvedLooks,
    used: np.ndarray,
    noise: NoiseModel,
    surroundings: Surroundings,
    solver: Solver,
    *,
    max_bytes: int,
    progress: Callable[[int, int], None] | None = None,
    engine: Engine = THREADS,
) -> Search:
    """Complete the shelf, then search it in tiles of rows.

    Parameters
    ----------
    looks : ShelvedLooks
        Of all exposures, in order of time.
    used : ndarray of bool, shape (n_looks,)
        Looks that are evidence.
    noise : NoiseModel
    surroundings : Surroundings
    solver : Solver
    max_bytes : int
        Memory for tiles and what is made of them; a tile has one row at least.
    progress : callable, optional
        Called with (rows done, rows in all).
    engine : Engine
        Where it is computed; `max_bytes` are of each process of a cluster.

    Returns
    -------
    Search
    """
    y0, y1, x0, x1 = looks.stack.window
    facts = looks.complete(len(used), engine)
    n_evidence = looks.count(np.flatnonzero(used).tolist(), keep=True)
    n_pixels, n_hidden = count_pixels(facts, used)

    def test(piece: tuple[int, np.ndarray]) -> tuple[Candidates, Control, np.ndarray]:
        candidates, control, fit = split_piece(*piece, noise, surroundings, looks.stack.window)
        return candidates, control, np.stack([fit.offset, fit.response])

    controls, levels = [], []
    own = np.flatnonzero(used).tolist()
    columns = Columns(looks, own, range(len(own)), tuple(looks.shelf.identities[k] for k in own))

    def find(name: str) -> Iterator[Candidates]:
        cut, done = partial(cut_tiles, columns, len(used), name), 0
        for candidates, control, level in engine.map_rows(test, cut, y1 - y0, max_bytes):
            controls.append(control)
            levels.append(level)
            done += level.shape[1]
            if progress:
                progress(done // (x1 - x0), y1 - y0)
            yield candidates

    with columns.open() as name:
        solved = solver.keep(find(name), engine, acquitted=True)
    return Search(
        solved,
        join_pixels(controls),
        n_evidence,
        n_pixels,
        n_hidden,
        np.concatenate(levels, axis=1).reshape(2, *n_evidence.shape),
    )


def cut_tiles(
    columns: Columns, n_looks: int, name: str, first_row: int, end_row: int, max_bytes: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Read tiles of rows, NaN for looks that are not used, and cut them into pieces.

    Yields
    ------
    int
        Number of the first pixel in the window.
    ndarray of float32, shape (n_looks, 3, n_pixels)
    """
    y0, y1, x0, x1 = columns.looks.stack.window
    ny, nx = y1 - y0, x1 - x0
    # A third for the tile; three pieces are worked on at a time. Chunks are read and written whole.
    rows = min(ny, max_bytes // 3 // (_TILE_BYTES * n_looks * nx))
    step = ROWS if rows >= ROWS else columns.n_rows
    rows = max(step, rows // step * step)
    for start in range(first_row, end_row, rows):
        stop = min(end_row, start + rows)
        tile = np.full((n_looks, 3, stop - start, nx), np.nan, np.float32)
        columns.supply(tile, start, name)
        flat = tile.reshape(n_looks, 3, -1)
        n_pieces = -(-_TEST_BYTES * n_looks * flat.shape[-1] // (max_bytes // 4))
        edges = np.linspace(0, flat.shape[-1], min(n_pieces, flat.shape[-1]) + 1).astype(int)
        for first, last in pairwise(edges):
            yield start * nx + int(first), flat[..., first:last].copy()
