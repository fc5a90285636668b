"""The search with the evidence of each look on disk: memory does not grow with their number.

What depends on what:

* On all looks together, the calibration block: usability, noise as a function of level and the
  widths of the pattern (from sample strips), the surroundings of each pixel (from 15 looks spread
  in time: who is nobody's neighbour, where local models never agree), and what decoys say of
  scores (threshold, odds).
* Given the block, on one look alone: residual, local level, variance of every pixel. They are
  computed for a whole look at once, without the halo that blocks of rows need, and kept.
* Given these, on one pixel alone: the quick tests, levels and states. Rows of all looks are read
  back in tiles that fit into the memory given. Only scores look at neighbours, among candidates.

All of it is the arithmetic of `inmemory`, element by element in the same order, so the result is
that of the search in memory, bit for bit. What still grows with the looks: the sample
strips (two rows of each, at most 12 strips), and the candidates, 20 bytes per pixel and look.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from ..errors import StoreError
from ..parallel import THREADS, Engine
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
from .histories import join_pixels
from .noise import NoiseModel
from .regression import BackgroundFit
from .solver import Solved, Solver

__all__ = [
    "KEPT",
    "KEPT_BYTES",
    "LookStack",
    "Search",
    "Shelf",
    "ShelvedLooks",
    "count_pixels",
    "cut_tiles",
    "hash_looks",
    "hash_parts",
    "search_shelf",
    "shelve_looks",
    "split_piece",
    "survey_surroundings",
]

log = logging.getLogger(__name__)

# Name of the array of the pixels that an update may ask for, see `CalibrationBlock`, and the size
# of its blocks of pixels, of which it asks for some.
KEPT, KEPT_BYTES = "kept", 1_000_000
# Name of the array that counts the looks with evidence.
_COUNT = "count"
# Size of one array of a block of rows from which the surroundings are measured.
_BLOCK_BYTES = 12_000_000
# Bytes per pixel and look: of a tile as it is read, and of all that the quick tests make of it.
_TILE_BYTES, _TEST_BYTES = 12, 100
# Rows read at once where only some pixels are asked for.
_GATHER_ROWS = 16


class LookStack(Protocol):
    """What is asked of a stack of exposures (`jwst_tvbadpix.exposures.ExposureStack`)."""

    @property
    def window(self) -> tuple[int, int, int, int]:
        """Bounding box (y0, y1, x0, x1) of all that was read out."""

    def read_rows(self, start: int, stop: int, looks: Sequence[int] | None = None) -> np.ndarray:
        """Read full-frame rows of some looks."""

    def read_look(
        self, look: int, rows: slice | None = None, core: slice | None = None
    ) -> tuple[np.ndarray, int]:
        """Read one look: rows of the full frame, and what a mask hid in `core` of them."""


class Shelf(Protocol):
    """Where the evidence of looks lies (`jwst_tvbadpix.store.EvidenceShelf`)."""

    @property
    def key(self) -> str:
        """Hash of what the evidence depends on."""

    @property
    def identities(self) -> tuple[str, ...]:
        """Checksum of the exposure behind each look."""

    def read_facts(self, look: int) -> dict[str, Any] | None:
        """Read what was put beside the arrays; None: absent or damaged."""

    def read(self, look: int, rows: slice, name: str = "values") -> np.ndarray | None:
        """Read rows of an array of a look; None: absent or damaged."""

    def put(self, look: int, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Write a look, in place of what was there."""

    def read_joint(self, name: str, origin: str) -> np.ndarray | None:
        """Read an array of many looks; None: absent, damaged or of another origin."""

    def visit_joint(
        self,
        name: str,
        origin: str,
        pixels: np.ndarray,
        put: Callable[[slice, np.ndarray], None],
    ) -> bool:
        """Put pixels of an array of many looks block by block; False: as above."""

    def put_joint(self, name: str, origin: str, blocks: Iterable[np.ndarray], n: int) -> None:
        """Write an array of many looks, whose blocks are joined along the last axis."""


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


def hash_parts(*parts: Any) -> str:
    """Hash settings and arrays, and dataclasses of these, in hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(part.tobytes())
        elif is_dataclass(part):
            own = [getattr(part, f.name) for f in fields(part)]
            digest.update(hash_parts(type(part).__name__, *own).encode())
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()


def hash_looks(shelf: Shelf, looks: Sequence[int], *parts: Any) -> str:
    """Identify some looks of a shelf, and parts that go with them, as `hash_parts` does."""
    identities = shelf.identities
    return hash_parts([identities[k] for k in looks], *parts)


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


@dataclass(frozen=True, slots=True)
class ShelvedLooks:
    """Looks on a shelf; what is absent there is made from the exposures.

    Attributes
    ----------
    stack : LookStack
    shelf : Shelf
    weigh : callable
        Given the number of a look and its rates, float32 (ny, nx), gives its evidence as
        `weigh_looks` does, ``values`` (3, ny, nx), other arrays, and facts to be kept beside them.
    """

    stack: LookStack
    shelf: Shelf
    weigh: Callable[[int, np.ndarray], tuple[dict[str, np.ndarray], dict[str, Any]]]

    def make(self, look: int) -> dict[str, Any]:
        """Compute and put one look; its facts."""
        rate, n_hidden = self.stack.read_look(look)
        arrays, facts = self.weigh(look, rate)
        evidence = np.isfinite(rate)
        arrays = {**arrays, "evidence": np.packbits(evidence, axis=-1)[None]}
        facts = {"n_hidden": n_hidden, "n_pixels": int(evidence.sum()), **facts}
        self.shelf.put(look, arrays, facts)
        return facts

    def supply(self, look: int) -> dict[str, Any]:
        """Make one look unless it is there, as it is where a task is done again; its facts."""
        return self.shelf.read_facts(look) or self.make(look)

    def complete(self, n_looks: int, engine: Engine = THREADS) -> list[dict[str, Any]]:
        """Make the looks that are absent, and list the facts of all."""
        facts = [self.shelf.read_facts(k) for k in range(n_looks)]
        absent = [k for k, own in enumerate(facts) if own is None]
        n_absent = len(absent)
        for done, (look, own) in enumerate(
            zip(absent, engine.map(self.supply, absent), strict=True), start=1
        ):
            facts[look] = own
            if done * 4 // n_absent > (done - 1) * 4 // n_absent:
                log.info("%d of %d new exposures are in the store", done, n_absent)
        return [own for own in facts if own is not None]

    def refuse(self, look: int) -> StoreError:
        """Make the error for what cannot be read back."""
        return StoreError(
            f"expected to read what was just written of look {look + 1}, found it damaged; check "
            "the disk of the store"
        )

    def count(self, looks: Sequence[int], *, keep: bool = False) -> np.ndarray:
        """Count the looks with evidence: int32 (ny, nx); `keep`: so that it is known next time."""
        origin = hash_looks(self.shelf, looks)
        if keep and (known := self.shelf.read_joint(_COUNT, origin)) is not None:
            return known
        y0, y1, x0, x1 = self.stack.window
        n_evidence = np.zeros((y1 - y0, x1 - x0), np.int32)
        for k in looks:
            bits = self.read(k, slice(None), "evidence")[0]
            n_evidence += np.unpackbits(bits, axis=-1, count=x1 - x0)
        if keep:
            self.shelf.put_joint(_COUNT, origin, [n_evidence], x1 - x0)
        return n_evidence

    def gather(self, look: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Read some pixels of a look, in row-major order in the window: float32 (3, n_pixels)."""
        values = np.empty((3, y.size), np.float32)
        for first in np.unique(y // _GATHER_ROWS) * _GATHER_ROWS:
            own = (y >= first) & (y < first + _GATHER_ROWS)
            rows = self.read(look, slice(int(first), int(first) + _GATHER_ROWS))
            values[:, own] = rows[:, y[own] - first, x[own]]
        return values

    def read(self, look: int, rows: slice, name: str = "values") -> np.ndarray:
        """Read rows of a look; what is absent or damaged is made again."""
        found = self.shelf.read(look, rows, name)
        if found is None:
            self.make(look)
            found = self.shelf.read(look, rows, name)
        if found is None:
            raise self.refuse(look)
        return found


def count_pixels(
    facts: Sequence[Mapping[str, Any]], used: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels with evidence, of looks that are used, and pixels that a mask hid, each look."""
    n_pixels, n_hidden = (
        np.array([own[n] for own in facts], np.int64) for n in ("n_pixels", "n_hidden")
    )
    return np.where(used, n_pixels, 0), n_hidden


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
    chosen = [int(k) if use else None for k, use in enumerate(used)]

    def find() -> Iterator[Candidates]:
        cut, done = partial(cut_tiles, looks, chosen), 0
        for candidates, control, level in engine.map_rows(test, cut, y1 - y0, max_bytes):
            controls.append(control)
            levels.append(level)
            done += level.shape[1]
            if progress:
                progress(done // (x1 - x0), y1 - y0)
            yield candidates

    return Search(
        solver.keep(find(), engine, acquitted=True),
        join_pixels(controls),
        n_evidence,
        n_pixels,
        n_hidden,
        np.concatenate(levels, axis=1).reshape(2, *n_evidence.shape),
    )


def cut_tiles(
    looks: ShelvedLooks, chosen: Sequence[int | None], first_row: int, end_row: int, max_bytes: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Read tiles of rows of looks, NaN for None, and cut them into pieces.

    Yields
    ------
    int
        Number of the first pixel in the window.
    ndarray of float32, shape (n_chosen, 3, n_pixels)
    """
    y0, y1, x0, x1 = looks.stack.window
    ny, nx, n = y1 - y0, x1 - x0, len(chosen)
    # A third for the tile; three pieces are worked on at a time.
    rows = int(np.clip(max_bytes // 3 // (_TILE_BYTES * n * nx), 1, ny))
    for start in range(first_row, end_row, rows):
        stop = min(end_row, start + rows)
        tile = np.full((n, 3, stop - start, nx), np.nan, np.float32)
        for values, look in zip(tile, chosen, strict=True):
            if look is not None:
                values[...] = looks.read(look, slice(start, stop))
        flat = tile.reshape(n, 3, -1)
        n_pieces = -(-_TEST_BYTES * n * flat.shape[-1] // (max_bytes // 4))
        edges = np.linspace(0, flat.shape[-1], min(n_pieces, flat.shape[-1]) + 1).astype(int)
        for first, last in pairwise(edges):
            yield start * nx + int(first), flat[..., first:last].copy()
