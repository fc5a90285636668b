"""What adds to measurements at random: stars, their slopes, visits, pieces of spectra."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from .rows import SPECTRAL, Rows

__all__ = ["Effects", "Family", "find_star_effects", "make_effects"]


@dataclass(frozen=True, slots=True)
class Family:
    """Effects that share a width.

    Attributes
    ----------
    name : str
        'star', 'slope', 'star in group', 'visit MIRI imaging', ...
    width : float
        First guess of the width [ln], the scale of Student's t where it is one; counts as
        `weight` effects when the width is found.
    weight : float
    nu : float
        Degrees of freedom of Student's t; inf for a Gaussian.
    members : tuple of str
        Name of each effect.
    """

    name: str
    width: float
    weight: float
    nu: float
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Effects:
    """Design of the random effects.

    Attributes
    ----------
    design : sparse matrix
        (n_rows, n_effects).
    families : tuple of Family
    family : ndarray
        Family of each effect, (n_effects,) int64.
    wave0 : float
        Wavelength at which the slopes add nothing [um].
    """

    design: sparse.csr_matrix
    families: tuple[Family, ...]
    family: np.ndarray
    wave0: float

    def find(self, name: str) -> slice:
        """Find the columns of a family; an empty slice where there is none."""
        start = 0
        for family in self.families:
            if family.name == name:
                return slice(start, start + len(family.members))
            start += len(family.members)
        return slice(0, 0)


# Standard deviations first guessed: published scatter between stars 1-4 %, repeatability 0.1-1.2 %
# (Gordon et al. 2025); slope per unit of ln(wavelength).
_STAR, _SLOPE, _OTHER = 0.01, 0.005, 0.003
_NU_STAR, _NU_VISIT = 4.0, 5.0
_WEIGHT = 3.0
# Least range of ln(wavelength) that tells a slope.
_LEAST_SPAN = 0.1


def make_effects(rows: Rows) -> Effects:
    """Lay out the random effects that a set of rows can have.

    Parameters
    ----------
    rows : Rows

    Returns
    -------
    Effects
        Offset and slope with ln(wavelength) of each star (Student's t, so that one bad star does
        not move the rest), the star in each group of modes where there are several, in each
        filter or piece of spectrum; offset of each visit, and for spectra of each piece.
    """
    star = rows.take("star").astype(str)
    visit = _join(star, rows.take("visit"))
    x = np.log(rows.wave)
    wave0 = float(np.exp(np.mean([np.log(u.band.wave) for u in rows.units])))
    blocks: list[sparse.csr_matrix] = []
    families: list[Family] = []

    def add(
        name: str,
        keys: np.ndarray,
        width: float,
        nu: float,
        where: np.ndarray | None = None,
        value: np.ndarray | None = None,
    ) -> None:
        index = np.arange(len(keys)) if where is None else np.flatnonzero(where)
        members, column = np.unique(keys[index], return_inverse=True)
        values = np.ones(len(index)) if value is None else value[index]
        kept = np.unique(column[values != 0])
        if not len(kept):
            return
        shape = (len(keys), len(members))
        block = sparse.csr_matrix((values, (index, column)), shape)[:, kept]
        block.eliminate_zeros()
        blocks.append(block)
        scale = width * (np.sqrt((nu - 2) / nu) if np.isfinite(nu) else 1.0)
        families.append(Family(name, scale, _WEIGHT, nu, tuple(map(str, members[kept]))))

    add("star", star, _STAR, _NU_STAR)
    sloped = np.isin(star, [s for s in set(star) if np.ptp(x[star == s]) > _LEAST_SPAN])
    add("slope", star, _SLOPE, _NU_STAR, sloped, x - np.log(wave0))
    if len(set(rows.group)) > 1:
        add("star in group", _join(star, rows.group), _OTHER, np.inf)
    spectral = np.array([rows.units[k].band.mode.kind in SPECTRAL for k in rows.unit])
    for group in sorted(set(rows.group)):
        mine = rows.group == group
        add(f"visit {group}", visit, _OTHER, _NU_VISIT, mine)
        add(f"star in filter {group}", _join(star, rows.cell), _OTHER, np.inf, mine)
    # Slit losses, fringes and edges: each piece of a spectrum has a width of its own.
    for cell in sorted(set(rows.cell[spectral])):
        add(f"visit in {cell}", visit, _OTHER, np.inf, rows.cell == cell)
    return Effects(
        sparse.hstack(blocks, format="csr"),
        tuple(families),
        np.repeat(np.arange(len(families)), [len(f.members) for f in families]),
        wave0,
    )


def find_star_effects(
    effects: Effects, stars: Collection[str], *, every: bool = False
) -> np.ndarray:
    """Find offsets and slopes of some stars, (n_effects,) bool; `every`: in each filter too."""
    families = ("star", "slope", "star in group")
    chosen = [
        (f.name in families or (every and f.name.startswith("star"))) and m.split("|")[0] in stars
        for f in effects.families
        for m in f.members
    ]
    return np.array(chosen, bool)


def _join(*keys: np.ndarray) -> np.ndarray:
    return np.array(["|".join(parts) for parts in zip(*map(_as_list, keys), strict=True)])


def _as_list(keys: np.ndarray) -> Sequence[str]:
    return [str(k) for k in keys]
