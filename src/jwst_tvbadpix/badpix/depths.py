"""Depth classes: exposures of like sensitivity, each with a series of masks of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..errors import InputError

__all__ = ["DEPTHS", "NGROUPS_END", "DepthClass", "group_depths"]

DEPTHS = ("SHALLOW", "MEDIUM", "DEEP")
# Above every NGROUPS that there is.
NGROUPS_END = 100000
# FASTR1 from this NGROUPS on is MEDIUM and SLOWR1 is DEEP: the classes of the MRS masks in CRDS.
_FASTR1_MEDIUM = 50


@dataclass(frozen=True, slots=True)
class DepthClass:
    """Exposures of one depth.

    Attributes
    ----------
    depth : str
        One of `DEPTHS`.
    readpatt : str
        READPATT.
    ngroups : tuple of int
        Lowest NGROUPS, and the first above them.
    """

    depth: str
    readpatt: str
    ngroups: tuple[int, int]


def group_depths(readpatt: Sequence[str], ngroups: Sequence[int]) -> tuple[DepthClass, ...]:
    """Group exposures by depth.

    Parameters
    ----------
    readpatt : sequence of str, length n_exp
        READPATT of each exposure.
    ngroups : sequence of int, length n_exp
        NGROUPS of each exposure.

    Returns
    -------
    tuple of DepthClass
        The classes that occur, by READPATT and NGROUPS. Those of one READPATT cover every
        NGROUPS from 1 on, each once: where a class does not occur, its neighbour covers it.

    Raises
    ------
    InputError
        When an exposure has no READPATT or no NGROUPS.

    Notes
    -----
    FASTR1 below 50 groups is SHALLOW, from 50 on MEDIUM, SLOWR1 is DEEP, as the masks of the MRS
    are. No such rule is published for other patterns: the terciles of the NGROUPS of their own
    exposures divide them. Two groups are SHALLOW and DEEP, one is MEDIUM.
    """
    for pattern, number in zip(readpatt, ngroups, strict=True):
        if not pattern or pattern in ("N/A", "UNKNOWN") or number < 1:
            raise InputError(
                f"expected READPATT and NGROUPS of every exposure for depth=auto, found "
                f"{pattern!r} and {number}; complete the headers or use depth=single"
            )
    classes: list[DepthClass] = []
    for pattern in sorted(set(readpatt)):
        own = np.sort([n for p, n in zip(readpatt, ngroups, strict=True) if p == pattern])
        names, bounds = _divide(pattern, own)
        edges = [1, *bounds, NGROUPS_END]
        classes += [
            DepthClass(name, pattern, (low, high))
            for name, (low, high) in zip(names, pairwise(edges), strict=True)
        ]
    return tuple(classes)


def _divide(pattern: str, ngroups: np.ndarray) -> tuple[list[str], list[int]]:
    """Name the classes of one READPATT, and the NGROUPS at which all but the first begin."""
    if pattern == "SLOWR1":
        return ["DEEP"], []
    if pattern == "FASTR1":
        deep = ngroups >= _FASTR1_MEDIUM
        names = [name for name, is_in in zip(DEPTHS, (~deep, deep), strict=False) if is_in.any()]
        return names, [_FASTR1_MEDIUM] * (len(names) - 1)
    terciles = np.quantile(ngroups, [1 / 3, 2 / 3], method="higher")
    bounds = sorted({int(n) for n in terciles if n > ngroups[0]})
    return list({0: ("MEDIUM",), 1: ("SHALLOW", "DEEP"), 2: DEPTHS}[len(bounds)]), bounds
