"""Candidates solved as they are found, some at a time; those that may be bad are kept."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..parallel import THREADS, Engine
from ..processes import map_in_processes
from .candidates import Candidates
from .histories import PixelStates, join_pixels, solve_states, take_pixels
from .odds import LOWEST_SCORE
from .states import Transitions

__all__ = ["Solved", "Solver"]

# Values (pixel, look) solved at once, and fewest pixels: the chain goes look by look.
_VALUES_AT_ONCE, _LEAST_PIXELS = 20_000, 384


@dataclass(frozen=True, slots=True)
class Solved:
    """Candidates and their best histories.

    Attributes
    ----------
    candidates : Candidates
        Those that are bad at some look, or may be.
    states : PixelStates
        Theirs.
    acquitted : Candidates
        The others, where they were asked for.
    """

    candidates: Candidates
    states: PixelStates
    acquitted: Candidates


@dataclass(frozen=True, slots=True)
class Solver:
    """What the histories of candidates depend on beside themselves, see `solve_states`.

    Attributes
    ----------
    transitions : Transitions
    llr_caps : ndarray of float64, shape (n_looks,)
    min_effect, min_noise_ratio : float
    """

    transitions: Transitions
    llr_caps: np.ndarray
    min_effect: float
    min_noise_ratio: float

    def solve(self, candidates: Candidates, engine: Engine = THREADS) -> PixelStates:
        """Solve candidates, in float64."""
        pieces = list(self._cut([candidates]))
        if engine is THREADS:
            return join_pixels(map_in_processes(self._solve, pieces))
        return join_pixels(list(engine.map(self._solve, pieces)))

    def keep(
        self, found: Iterable[Candidates], engine: Engine = THREADS, *, acquitted: bool = False
    ) -> Solved:
        """Solve candidates as they come; those stay that are bad at some look, or may be.

        No score exceeds the log-odds of the history, and none below the lowest makes a pixel bad.
        """
        return join_pixels(
            list(engine.map(partial(self._keep, acquitted=acquitted), self._cut(found)))
        )

    def _cut(self, found: Iterable[Candidates]) -> Iterator[Candidates]:
        """Join what comes, and cut it into pieces; one at least, which may be empty."""
        n = max(_LEAST_PIXELS, _VALUES_AT_ONCE // len(self.llr_caps))
        waiting: list[Candidates] = []
        for some in found:
            waiting.append(some)
            if sum(one.y.size for one in waiting) >= n:
                joined = join_pixels(waiting)
                whole = joined.y.size // n * n
                for start in range(0, whole, n):
                    yield take_pixels(joined, slice(start, start + n))
                waiting = [take_pixels(joined, slice(whole, None))]
        yield join_pixels(waiting)

    def _keep(self, some: Candidates, *, acquitted: bool) -> Solved:
        states = self._solve(some)
        stays = (states.log_odds >= LOWEST_SCORE) | (states.bad > 0.5).any(axis=0)
        others = take_pixels(some, ~stays & acquitted)
        return Solved(take_pixels(some, stays), take_pixels(states, stays), others)

    def _solve(self, some: Candidates) -> PixelStates:
        # Sums over the looks of a single pixel are added in another order than those of several.
        twice = join_pixels([some, some]) if some.y.size == 1 else some
        states = solve_states(
            *(getattr(twice, key).astype(float) for key in ("residual", "local", "variance")),
            sigma_offset=twice.sigma_offset.astype(float),
            sigma_response=twice.sigma_response.astype(float),
            transitions=self.transitions,
            llr_caps=self.llr_caps,
            min_effect=self.min_effect,
            min_noise_ratio=self.min_noise_ratio,
        )
        return take_pixels(states, slice(0, some.y.size))
