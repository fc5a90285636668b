"""All looks of some pixels, read from the shelf for an update."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .columns import Columns, choose_rows
from .shelved import hash_looks

__all__ = ["KEPT", "Recall", "count_together"]

# Name of the array of the pixels that are most often asked for, see `CalibrationBlock`, and the
# size of its blocks of pixels.
KEPT, _KEPT_BYTES = "kept", 1_000_000


def count_together(n_looks: int) -> int:
    """Count the pixels of a block of the array `KEPT`."""
    return max(1, _KEPT_BYTES // (12 * n_looks))


@dataclass(frozen=True, slots=True)
class Recall:
    """Looks of a block, and later ones, of which some pixels are asked for.

    Attributes
    ----------
    columns : Columns
        What the block's own looks say.
    later : sequence of int
        Numbers of the looks that came later.
    n_looks : int
        Looks in all; those that are neither own nor later are NaN.
    kept : ndarray of int, shape (n_kept,)
        Pixels that lie together on the shelf, numbered along the rows of the window.
    max_bytes : int
        Memory.
    """

    columns: Columns
    later: Sequence[int]
    n_looks: int
    kept: np.ndarray
    max_bytes: int

    def read(self, pixels: np.ndarray, place: np.ndarray, planes: tuple[int, ...]) -> np.ndarray:
        """Read all looks of some pixels.

        Parameters
        ----------
        pixels : ndarray of int, shape (n_pixels,)
            Numbered along the rows of the window, increasing.
        place : ndarray of int, shape (n_pixels,)
            Their places among those kept, -1 for others.
        planes : tuple of int
            Which of residual, local level and variance are wanted.

        Returns
        -------
        ndarray of float32, shape (n_planes, n_looks, n_pixels)
        """
        own, looks = self.columns.own, self.columns.looks
        values = np.full((len(planes), self.n_looks, pixels.size), np.nan, np.float32)
        rows = choose_rows(own)

        def put(columns: slice, part: np.ndarray) -> None:
            for plane, k in zip(values, planes, strict=True):
                plane[rows, columns] = part[:, k]

        known, others = np.flatnonzero(place >= 0), np.flatnonzero(place < 0)
        y, x = np.divmod(pixels[others], looks.stack.window[3] - looks.stack.window[2])
        if own and known.size:
            self._read_kept(place, put)
        if own and others.size:
            found = self.columns.gather(pixels[others])
            for k, column in enumerate(others.tolist()):
                put(slice(column, column + 1), found[..., k : k + 1])
        for look in self.later:
            found = looks.read(look, slice(None), KEPT)[:, 0, place[known]]
            more = looks.gather(look, y, x)
            for plane, k in zip(values, planes, strict=True):
                plane[look, known], plane[look, others] = found[k], more[k]
        return values

    def _read_kept(self, place: np.ndarray, put: Callable[[slice, np.ndarray], None]) -> None:
        """Read the block's looks of the pixels that are kept, or put these together again."""
        columns, kept, shelf = self.columns, self.kept, self.columns.looks.shelf

        def visit(origin: str, ranks: slice | list[int]) -> bool:
            return shelf.visit_joint(KEPT, origin, place, lambda at, part: put(at, part[ranks]))

        origin = hash_looks(shelf, columns.own, kept)
        if visit(columns.identify(kept), choose_rows(columns.ranks)) or visit(origin, slice(None)):
            return
        size = count_together(len(columns.own))
        at_once = size * max(1, self.max_bytes // 2 // _KEPT_BYTES)

        def list_blocks() -> Iterator[np.ndarray]:
            for start in range(0, kept.size, at_once):
                values = columns.gather(kept[start : start + at_once])
                for first in range(0, values.shape[-1], size):
                    yield values[..., first : first + size]

        shelf.put_joint(KEPT, origin, list_blocks(), kept.size)
        if not visit(origin, slice(None)):
            raise columns.looks.refuse(columns.own[0])
