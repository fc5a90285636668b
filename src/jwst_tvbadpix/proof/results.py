"""What the proof found, in sum: for each way to a result, and for each requirement."""

from dataclasses import dataclass

__all__ = ["Check", "Total"]


@dataclass(frozen=True, slots=True)
class Total:
    """Sums over the dates of a mode, for one way of extraction.

    Attributes
    ----------
    mode, extraction, replacement : str
    static, dated : float
        Features that defects made, in excess of noise, with each mask.
    added : int
        Features that the dated series shows and the static mask does not.
    expected : float
        Features that noise alone makes near the defects.
    largest_static, largest_dated : float
        Largest feature, as a fraction of the continuum.
    rms_static, rms_dated : float
        Root mean square of extracted / true - 1.
    """

    mode: str
    extraction: str
    replacement: str
    static: float
    dated: float
    added: int
    expected: float
    largest_static: float
    largest_dated: float
    rms_static: float
    rms_dated: float

    @property
    def removed(self) -> float:
        """Share of the features of the static mask that the dated series removes."""
        return 1 - max(self.dated, 0.0) / self.static if self.static > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Check:
    """A requirement and whether it holds."""

    name: str
    found: str
    wanted: str
    holds: bool
