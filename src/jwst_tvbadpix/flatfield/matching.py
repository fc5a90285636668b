"""The same stars in many exposures, matched on the sky."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from scipy.spatial import KDTree

from ..errors import EvidenceError
from .observations import StarObservations
from .stars import SkyOfPixel, StarTable

__all__ = ["MatchedStars", "match_stars"]

log = logging.getLogger(__name__)

# Stars that an offset is searched with, the brightest; fewest pairs that make one believed.
_N_BRIGHT, _FEWEST = 200, 4
# Pairs of the right offset must outnumber those of the next best, chance one by this factor.
_CLEARLY = 1.5
# Stars from which a roll is fitted beside the shift.
_N_FOR_ROLL = 10


@dataclass(frozen=True, slots=True)
class MatchedStars:
    """Stars of all exposures under common numbers.

    Attributes
    ----------
    observations : StarObservations
        `exposure` is the place of the exposure in the input, `star` a row of `ra`.
    ra, dec : ndarray of float64, shape (n_stars,)
        Mean position [deg], in the frame of the best populated exposure of each part of the sky.
    offset_arcsec : ndarray, shape (n_exposures, 2)
        What was added to the coordinates (ra cos dec, dec) of each exposure at its mean star.
    roll_deg : ndarray, shape (n_exposures,)
        What its stars were turned by, position angle positive from north to east.
    n_matched : ndarray of int, shape (n_exposures,)
        Stars that were known from exposures before it; 0 where it begins a part of the sky.
    """

    observations: StarObservations
    ra: np.ndarray
    dec: np.ndarray
    offset_arcsec: np.ndarray
    roll_deg: np.ndarray
    n_matched: np.ndarray


def match_stars(
    tables: Sequence[StarTable],
    skies: Sequence[SkyOfPixel],
    *,
    radius_arcsec: float = 0.15,
    max_offset_arcsec: float = 3.0,
) -> MatchedStars:
    """Match stars across exposures, correcting the pointing of each by its own stars.

    Parameters
    ----------
    tables : sequence of StarTable
        One per exposure; stars without a flux are left out.
    skies : sequence of callable
        WCS of each exposure: ra, dec [deg] of x, y [pixel, 0-based].
    radius_arcsec : float
        Largest distance of two measurements of a star.
    max_offset_arcsec : float
        Largest error of the pointing: JWST's is 0.1", and 1.4" after another guide star.

    Returns
    -------
    MatchedStars

    Raises
    ------
    EvidenceError
        When the lists differ in length, or there is no measured star.

    Notes
    -----
    From the exposure with most stars on, each next one is that with most of the known stars where
    it should be. Its offset is the place where most pairs of bright stars agree, then the median
    of the matched ones, then with their roll. Matches are mutual nearest neighbours; a star with
    another within the radius in its exposure is left out.
    """
    if len(tables) != len(skies):
        raise EvidenceError(
            f"expected one WCS per exposure, found {len(skies)} for {len(tables)}; give as many"
        )
    rows = [_select_measured(table) for table in tables]
    if not sum(map(len, rows)):
        raise EvidenceError(
            f"expected measured stars, found none in {len(tables)} exposures; lower the threshold "
            "or check the masks"
        )
    coordinates = [
        sky(table.x[row], table.y[row]) for table, sky, row in zip(tables, skies, rows, strict=True)
    ]
    rows, coordinates = _drop_undefined(rows, coordinates)
    centre = _find_centre(coordinates)
    planes = [_project(centre, *c) for c in coordinates]
    catalogue = _Catalogue(radius_arcsec, max_offset_arcsec)
    fluxes = [table.flux[row] for table, row in zip(tables, rows, strict=True)]
    numbers: list[np.ndarray] = [np.empty(0, int)] * len(tables)
    offset, roll = np.zeros((len(tables), 2)), np.zeros(len(tables))
    n_matched = np.zeros(len(tables), int)
    left = {k for k in range(len(tables)) if len(rows[k])}
    while left:
        k = max(left, key=lambda k: (catalogue.count_near(planes[k]), len(rows[k]), -k))
        left.remove(k)
        planes[k], offset[k], roll[k] = catalogue.register(planes[k], fluxes[k])
        numbers[k], n_matched[k] = catalogue.add(planes[k], fluxes[k])
    log.info(
        "%d stars in %d exposures; largest correction of the pointing %.2f arcsec",
        *(len(catalogue.position), len(tables), np.hypot(*offset.T).max()),
    )
    ra, dec = _deproject(centre, catalogue.position)
    counts = [len(row) for row in rows]
    columns = {
        name: np.concatenate(
            [getattr(table, name)[row] for table, row in zip(tables, rows, strict=True)]
        )
        for name in ("x", "y", "flux", "flux_err")
    }
    observations = StarObservations(
        exposure=np.repeat(np.arange(len(tables)), counts), star=np.concatenate(numbers), **columns
    )
    alone = observations.star >= 0
    return MatchedStars(
        StarObservations(
            *(getattr(observations, name)[alone] for name in StarObservations.__slots__)
        ),
        ra,
        dec,
        offset,
        roll,
        n_matched,
    )


class _Catalogue:
    """Stars known so far, on a plane [arcsec]; grows by one exposure at a time."""

    def __init__(self, radius: float, max_offset: float) -> None:
        self.radius, self.max_offset = radius, max_offset
        self.position = np.empty((0, 2))
        self.flux = np.empty(0)
        self._n = np.empty(0)
        self._tree: KDTree | None = None

    def count_near(self, plane: np.ndarray) -> int:
        """Known stars in the box that the stars of an exposure span."""
        if self._tree is None:
            return 0
        low, high = plane.min(axis=0), plane.max(axis=0)
        return int(np.all((self.position >= low) & (self.position <= high), axis=1).sum())

    def register(self, plane: np.ndarray, flux: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Move an exposure onto the known stars: positions, shift [arcsec], roll [deg]."""
        shift = self._search_shift(plane, flux)
        if self._tree is None or shift is None:
            return plane, np.zeros(2), 0.0
        middle = plane.mean(axis=0)
        moved, angle = plane + shift, 0.0
        for reach in (4 * self.radius, 2 * self.radius, self.radius):
            mine, known = self._pair(moved, reach)
            if len(mine) < _FEWEST:
                break
            moved = moved + np.median(self.position[known] - moved[mine], axis=0)
            if len(mine) < _N_FOR_ROLL:
                continue
            here = moved[mine] - moved[mine].mean(axis=0)
            there = self.position[known] - self.position[known].mean(axis=0)
            cross = here[:, 0] * there[:, 1] - here[:, 1] * there[:, 0]
            turn = np.arctan2(np.sum(cross), np.sum(here * there))
            angle += turn
            pivot = moved[mine].mean(axis=0)
            rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            moved = pivot + (moved - pivot) @ rotation.T
        # The plane's x points east, so turning from x to y is turning from east to north.
        return moved, moved.mean(axis=0) - middle, -float(np.rad2deg(angle))

    def add(self, plane: np.ndarray, flux: np.ndarray) -> tuple[np.ndarray, int]:
        """Give the stars of an exposure numbers (-1 = blended), and count those that were known."""
        number = np.full(len(plane), -1)
        crowded = KDTree(plane).query_pairs(self.radius, output_type="ndarray").ravel()
        alone = np.setdiff1d(np.arange(len(plane)), crowded)
        mine, known = self._pair(plane[alone], self.radius)
        number[alone[mine]] = known
        weight = self._n[known, None]
        self.position[known] = (weight * self.position[known] + plane[alone[mine]]) / (weight + 1)
        self._n[known] += 1
        new = np.setdiff1d(alone, alone[mine])
        number[new] = len(self._n) + np.arange(len(new))
        self.position = np.concatenate([self.position, plane[new]])
        self.flux = np.concatenate([self.flux, flux[new]])
        self._n = np.concatenate([self._n, np.ones(len(new))])
        self._tree = KDTree(self.position)
        return number, len(mine)

    def _pair(self, plane: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
        """Mutual nearest neighbours within reach: rows of the exposure and of the catalogue."""
        if self._tree is None or not len(plane):
            return np.empty(0, int), np.empty(0, int)
        distance, nearest = self._tree.query(plane, distance_upper_bound=reach)
        mine = np.flatnonzero(np.isfinite(distance))
        back = KDTree(plane).query(self.position[nearest[mine]])[1]
        mine = mine[back == mine]
        return mine, nearest[mine]

    def _search_shift(self, plane: np.ndarray, flux: np.ndarray) -> np.ndarray | None:
        """Shift at which most pairs of bright stars agree; None where none stands out."""
        if self._tree is None:
            return None
        low, high = plane.min(axis=0) - self.max_offset, plane.max(axis=0) + self.max_offset
        near = np.flatnonzero(np.all((self.position >= low) & (self.position <= high), axis=1))
        bright = np.argsort(-flux, kind="stable")[:_N_BRIGHT]
        known = near[np.argsort(-self.flux[near], kind="stable")[: 2 * _N_BRIGHT]]
        if not len(known):
            return None
        pairs = KDTree(plane[bright]).query_ball_tree(
            KDTree(self.position[known]), self.max_offset * np.sqrt(2)
        )
        mine = np.repeat(np.arange(len(bright)), [len(p) for p in pairs])
        if len(mine) < _FEWEST:
            return None
        other = np.concatenate([np.array(p, int) for p in pairs])
        shifts = self.position[known[other]] - plane[bright[mine]]
        votes = KDTree(shifts).query_ball_point(shifts, 2 * self.radius, return_length=True)
        best = int(np.argmax(votes))
        apart = np.hypot(*(shifts - shifts[best]).T) > 4 * self.radius
        if votes[best] < max(_FEWEST, _CLEARLY * votes[apart].max(initial=0)):
            return None
        agreeing = np.hypot(*(shifts - shifts[best]).T) <= 2 * self.radius
        return np.median(shifts[agreeing], axis=0)


def _select_measured(table: StarTable) -> np.ndarray:
    """Rows of the stars that were measured."""
    return np.flatnonzero(np.isfinite(table.flux) & np.isfinite(table.flux_err))


def _drop_undefined(
    rows: list[np.ndarray], coordinates: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[list[np.ndarray], list[tuple[np.ndarray, np.ndarray]]]:
    """Leave out stars where the WCS is not defined."""
    kept = [np.isfinite(ra) & np.isfinite(dec) for ra, dec in coordinates]
    return (
        [row[keep] for row, keep in zip(rows, kept, strict=True)],
        [(ra[keep], dec[keep]) for (ra, dec), keep in zip(coordinates, kept, strict=True)],
    )


def _find_centre(coordinates: list[tuple[np.ndarray, np.ndarray]]) -> SkyCoord:
    """Direction of the mean of all stars."""
    ra, dec = (np.concatenate(values) for values in zip(*coordinates, strict=True))
    if not len(ra):
        raise EvidenceError(
            "expected a WCS that gives coordinates, found none at any star; check the WCS"
        )
    mean = SkyCoord(ra, dec, unit="deg").cartesian.mean()
    return SkyCoord(mean, representation_type="cartesian").represent_as("unitspherical")


def _project(centre: SkyCoord, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Equal-distance offsets east and north of the centre: shape (n, 2) [arcsec]."""
    origin = SkyCoord(centre.lon, centre.lat)
    stars = SkyCoord(ra, dec, unit="deg")
    distance = origin.separation(stars).arcsec
    angle = origin.position_angle(stars).rad
    return np.column_stack([distance * np.sin(angle), distance * np.cos(angle)])


def _deproject(centre: SkyCoord, plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of offsets from the centre: ra, dec [deg]."""
    origin = SkyCoord(centre.lon, centre.lat)
    there = origin.directional_offset_by(
        np.arctan2(plane[:, 0], plane[:, 1]) * u.rad, np.hypot(*plane.T) * u.arcsec
    )
    return there.ra.deg, there.dec.deg
