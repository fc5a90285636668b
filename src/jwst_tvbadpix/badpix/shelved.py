"""Looks whose evidence lies on disk: what is absent there is made from the exposures."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol

import numpy as np

from ..errors import StoreError
from ..parallel import ROWS, THREADS, Engine

__all__ = [
    "LookStack",
    "Shelf",
    "ShelvedLooks",
    "count_pixels",
    "hash_looks",
    "hash_parts",
]

log = logging.getLogger(__name__)

# Name of the array that counts the looks with evidence.
_COUNT = "count"


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

    def has_joint(self, name: str, origin: str) -> bool:
        """Tell whether an array of many looks is there; parts of it may be damaged."""

    def has_room(self, n_bytes: int) -> bool:
        """Tell whether an array of this size may be put."""

    def make_joint(
        self, name: str, origin: str, shape: tuple[int, ...], dtype: Any, chunks: tuple[int, ...]
    ) -> AbstractContextManager[str]:
        """Make an array of many looks that is filled meanwhile, under the name that this gives."""

    def fill_joint(self, name: str, start: int, values: np.ndarray) -> None:
        """Put part of an array of many looks, whole chunks along its last axis."""

    def drop(self, looks: Sequence[int], name: str) -> None:
        """Remove an array of looks."""


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
        for first in np.unique(y // ROWS) * ROWS:
            own = (y >= first) & (y < first + ROWS)
            rows = self.read(look, slice(int(first), int(first) + ROWS))
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
