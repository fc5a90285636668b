"""What the proof found, in sum: for each way to a result, and for each requirement."""

import math
from dataclasses import dataclass

__all__ = ["Check", "Total"]


@dataclass(frozen=True, slots=True)
class Total:
    """Sums over the dates of a mode, for one way of extraction; means over draws of the noise.

    Attributes
    ----------
    mode, extraction, replacement : str
    static, dated : float
        Features that defects made, in excess of noise, with each mask.
    added : float
        Features that the dated series shows and the static mask does not.
    expected : float
        Features that noise alone makes near the defects.
    largest_static, largest_dated : float
        Largest feature, as a fraction of the continuum.
    rms_static, rms_dated : float
        Root mean square of extracted / true - 1.
    n_draws : int
        Draws of the noise per date.
    perfect : float or None
        As `dated`, with a mask of just the pixels that are bad; None where it was not tried.
    """

    mode: str
    extraction: str
    replacement: str
    static: float
    dated: float
    added: float
    expected: float
    largest_static: float
    largest_dated: float
    rms_static: float
    rms_dated: float
    n_draws: int = 1
    perfect: float | None = None

    @property
    def removed(self) -> float:
        """Share of the features of the static mask that the dated series removes."""
        return 1 - max(self.dated, 0.0) / self.static if self.static > 0 else 0.0

    @property
    def allowed(self) -> float:
        """Added features that noise alone may make: its mean and two standard deviations."""
        return self.expected + 2 * math.sqrt(self.expected / self.n_draws)


@dataclass(frozen=True, slots=True)
class Check:
    """A requirement and whether it holds."""

    name: str
    found: str
    wanted: str
    holds: bool
