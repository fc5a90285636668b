"""The evidence of the looks of a block turned round: all that they say of one pixel together.

A search has all looks of some rows in memory, and puts them by as it goes. Later a few pixels are
read in a moment, which would otherwise lie in most chunks of every look; so what each look says
by itself is not needed any more.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ..parallel import ROWS, map_in_threads
from .shelved import ShelvedLooks, hash_parts

__all__ = ["Columns", "choose_rows"]

# Name of the array, and about the size of a chunk, part of a row or whole rows [byte].
_NAME, _CHUNK_BYTES = "columns", 1_000_000


def choose_rows(numbers: Sequence[int]) -> slice | list[int]:
    """Choose rows of an array: by a slice where they follow each other."""
    start, stop = (numbers[0], numbers[0] + len(numbers)) if numbers else (0, 0)
    return slice(start, stop) if list(numbers) == list(range(start, stop)) else list(numbers)


@dataclass(frozen=True, slots=True)
class Columns:
    """All that looks of a block say of its pixels.

    Attributes
    ----------
    looks : ShelvedLooks
    own : sequence of int
        Numbers of the looks that are asked for.
    ranks : sequence of int
        Their places among those that were put together.
    identities : tuple of str
        Checksums of the exposures behind these.
    """

    looks: ShelvedLooks
    own: Sequence[int]
    ranks: Sequence[int]
    identities: tuple[str, ...]

    @property
    def _nx(self) -> int:
        x0, x1 = self.looks.stack.window[2:]
        return x1 - x0

    @property
    def _row_bytes(self) -> int:
        return 12 * len(self.identities) * self._nx

    @property
    def _width(self) -> int:
        """Pixels of a row that a chunk takes."""
        return -(-self._nx // -(-self._row_bytes // _CHUNK_BYTES))

    @property
    def _pitch(self) -> int:
        """Pixels from one row to the next: the last chunk of a row is filled up."""
        return -(-self._nx // self._width) * self._width

    @property
    def n_rows(self) -> int:
        """Rows that a chunk takes, a power of two."""
        most = int(np.clip(_CHUNK_BYTES // self._row_bytes, 1, ROWS))
        return 1 << most.bit_length() - 1

    def identify(self, *parts: np.ndarray) -> str:
        """Hash the looks that were put together, and arrays that go with them."""
        return hash_parts(list(self.identities), *parts)

    @contextmanager
    def open(self) -> Iterator[str]:
        """Find the array, or make it, its name meanwhile; then looks need not have their own.

        The name is empty, and looks keep what they have, where the disk has no room for both.
        """
        shelf = self.looks.shelf
        y0, y1 = self.looks.stack.window[:2]
        shape = (len(self.identities), 3, (y1 - y0) * self._pitch)
        if shelf.has_joint(_NAME, self.identify()):
            yield _NAME
        elif shelf.has_room(4 * math.prod(shape)):
            chunks = (*shape[:2], self.n_rows * self._width)
            with shelf.make_joint(_NAME, self.identify(), shape, np.float32, chunks) as name:
                yield name
        else:
            yield ""
            return
        shelf.drop(self.own, "values")

    def supply(self, tile: np.ndarray, start: int, name: str) -> None:
        """Read rows from the array, or look by look and put them there.

        Parameters
        ----------
        tile : ndarray of float32, shape (n_looks, 3, n_rows, nx)
            The looks `own` are filled.
        start : int
            First row, in the window.
        name : str
            That of the array, see `open`.
        """
        n_rows, nx = tile.shape[2:]
        flat, own = tile.reshape(*tile.shape[:2], -1), choose_rows(self.own)

        def put(columns: slice, part: np.ndarray) -> None:
            flat[own, :, columns] = part

        pixels = np.arange(start * nx, (start + n_rows) * nx)
        if name == _NAME and self._visit(pixels, put):
            return
        for look in self.own:
            tile[look] = self.looks.read(look, slice(start, start + n_rows))
        if not name:
            return
        for first in range(0, n_rows, self.n_rows):
            rows = tile[own, :, first : first + self.n_rows]
            filled = np.zeros((*rows.shape[:3], self._pitch), np.float32)
            filled[..., :nx] = rows
            place = (start + first) * self._pitch
            self.looks.shelf.fill_joint(name, place, filled.reshape(*filled.shape[:2], -1))

    def gather(self, pixels: np.ndarray) -> np.ndarray:
        """Read some pixels, numbered along the rows of the window: float32 (n_own, 3, n)."""
        values = np.empty((len(self.own), 3, pixels.size), np.float32)

        def put(columns: slice, part: np.ndarray) -> None:
            values[..., columns] = part

        if not self._visit(pixels, put):
            y, x = np.divmod(pixels, self._nx)
            parts = map_in_threads(lambda look: self.looks.gather(look, y, x), self.own)
            for row, part in zip(values, parts, strict=True):
                row[...] = part
        return values

    def _visit(self, pixels: np.ndarray, put: Callable[[slice, np.ndarray], None]) -> bool:
        """Put what the looks say of pixels run by run; False: absent or damaged."""
        ranks = choose_rows(self.ranks)
        places = pixels // self._nx * self._pitch + pixels % self._nx
        return self.looks.shelf.visit_joint(
            _NAME, self.identify(), places, lambda columns, part: put(columns, part[ranks])
        )
