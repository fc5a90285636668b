"""One plane of the sky for all exposures, their pointings corrected by the stars themselves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..errors import EvidenceError
from .matching import MatchedStars
from .stars import SkyOfPixel

__all__ = ["SkyPlane", "compute_scale", "make_plane"]

# Exposures further apart than this [deg] are on planes of their own.
_APART_DEG = 0.5
# Distance of such planes from each other [pixel]: more than any field.
_STEP = 1e6
# Stars from which a roll is corrected beside the shift.
_N_FOR_ROLL = 10

PixelOfSky = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, slots=True)
class SkyPlane:
    """Pixels of each exposure on a tangent plane, as `Pointings` asks for it.

    Attributes
    ----------
    planes : tuple of WCS
        Tangent plane of each exposure; the same object for those near each other.
    start : ndarray, shape (n_exp, 2)
        Where its plane begins among all (u, v) [pixel].
    matrix, shift : ndarray, shape (n_exp, 2, 2) and (n_exp, 2)
        What its stars turn and move the plane coordinates by.
    scale_arcsec : float
        Side of a pixel of the plane.
    """

    skies: tuple[SkyOfPixel, ...]
    pixels: tuple[PixelOfSky, ...]
    planes: tuple[WCS, ...]
    start: np.ndarray
    matrix: np.ndarray
    shift: np.ndarray
    scale_arcsec: float

    @property
    def number(self) -> np.ndarray:
        """Number of the plane of each exposure: int (n_exp,)."""
        return np.rint(self.start[:, 0] / _STEP).astype(int)

    def to_sky(self, index: int, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project pixels (x, y) of an exposure to (u, v) on the plane."""
        raw = self._project(index, x, y)
        u, v = self.matrix[index] @ raw + (self.shift[index] + self.start[index])[:, None]
        return u, v

    def to_detector(
        self, index: int, u: np.ndarray, v: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Project (u, v) on the plane to pixels (x, y) of an exposure; NaN on other planes."""
        moved = np.stack([np.ravel(u), np.ravel(v)]) - self.start[index][:, None]
        own = np.abs(moved).max(axis=0, initial=0) < _STEP / 2
        x, y = np.full(own.shape, np.nan), np.full(own.shape, np.nan)
        if own.any():
            raw = self.matrix[index].T @ (moved[:, own] - self.shift[index][:, None])
            ra, dec = self.planes[index].wcs_pix2world(*raw, 0)
            x[own], y[own] = self.pixels[index](ra, dec)
        return x, y

    def _project(self, index: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Project without the stars' correction: shape (2, n)."""
        ra, dec = self.skies[index](np.ravel(x), np.ravel(y))
        return np.stack(self.planes[index].wcs_world2pix(ra, dec, 0))


def compute_scale(sky: SkyOfPixel, shape: tuple[int, int]) -> float:
    """Compute the side of a pixel in the middle of a detector [arcsec]."""
    y, x = (n / 2 for n in shape)
    ra, dec = sky(np.array([x, x + 1, x]), np.array([y, y, y + 1]))
    at = SkyCoord(ra, dec, unit="deg")
    east, north = at[0].spherical_offsets_to(at[1:])
    (a, b), (c, d) = east.arcsec, north.arcsec
    return float(np.sqrt(abs(a * d - b * c)))


def make_plane(
    skies: Sequence[SkyOfPixel],
    pixels: Sequence[PixelOfSky],
    shape: tuple[int, int],
    stars: MatchedStars | None,
) -> SkyPlane:
    """Make the plane that all exposures share.

    Parameters
    ----------
    skies, pixels : sequence of callable, length n_exp
        ra, dec [deg] of x, y [pixel, 0-based], and back.
    shape : tuple of int
        Of the exposures.
    stars : MatchedStars or None
        The same stars in all of them, by which each is shifted and (with ten stars) turned; None
        or no stars = the WCS as it is.

    Returns
    -------
    SkyPlane

    Raises
    ------
    EvidenceError
        When a WCS gives no coordinates in the middle of its exposure.
    """
    middle = np.array([(shape[1] - 1) / 2]), np.array([(shape[0] - 1) / 2])
    centre = np.array([np.ravel(sky(*middle)) for sky in skies])
    lost = np.flatnonzero(~np.isfinite(centre).all(axis=1))
    if lost.size:
        raise EvidenceError(
            f"expected a WCS that gives coordinates in the middle of each exposure, found none for "
            f"exposures {lost.tolist()}; leave them out or correct the WCS"
        )
    at = SkyCoord(*centre.T, unit="deg")
    near = at[:, None].separation(at[None]).deg < _APART_DEG
    n_planes, number = connected_components(coo_array(near), directed=False)
    scale = compute_scale(skies[0], shape)
    planes = [_make_wcs(at[number == k], scale) for k in range(n_planes)]
    plane = SkyPlane(
        tuple(skies),
        tuple(pixels),
        tuple(planes[k] for k in number),
        np.column_stack([_STEP * number, np.zeros(len(number))]),
        np.tile(np.eye(2), (len(skies), 1, 1)),
        np.zeros((len(skies), 2)),
        scale,
    )
    if stars is None:
        return plane
    for k in range(len(skies)):
        mine = stars.observations.exposure == k
        if not mine.any():
            continue
        here = plane._project(k, stars.observations.x[mine], stars.observations.y[mine])
        known = stars.observations.star[mine]
        there = np.stack(plane.planes[k].wcs_world2pix(stars.ra[known], stars.dec[known], 0))
        plane.matrix[k], plane.shift[k] = _fit_motion(here, there)
    return plane


def _make_wcs(at: SkyCoord, scale: float) -> WCS:
    """Make a tangent plane about the mean of directions."""
    mean = at.cartesian.mean()
    middle = SkyCoord(mean, representation_type="cartesian").represent_as("unitspherical")
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = middle.lon.deg, middle.lat.deg
    wcs.wcs.crpix = 1.0, 1.0
    wcs.wcs.cdelt = -scale / 3600, scale / 3600
    wcs.wcs.set()
    return wcs


def _fit_motion(here: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit the turn and the shift that bring points (2, n) to others: matrix and vector."""
    turn = np.eye(2)
    if here.shape[1] >= _N_FOR_ROLL:
        one, two = (p - np.median(p, axis=1, keepdims=True) for p in (here, there))
        cross, along = (one[0] * two[1] - one[1] * two[0]).sum(), (one * two).sum()
        angle = np.arctan2(cross, along)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turn, np.median(there - turn @ here, axis=1)
