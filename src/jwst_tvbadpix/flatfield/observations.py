"""Measured stars as the star flat takes them: checked, counted, in an order of their own."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..errors import EvidenceError
from .basis import FieldBasis

__all__ = ["PreparedObservations", "StarObservations", "prepare_observations"]

# Rows of the design matrix that are held at once.
_ROWS_AT_ONCE = 40_000


@dataclass(frozen=True, slots=True)
class StarObservations:
    """One row per measurement of a star in an exposure.

    Attributes
    ----------
    exposure, star : ndarray of int, shape (n_obs,)
        Number of the exposure and of the star, any integers.
    x, y : ndarray of float, shape (n_obs,)
        Position on the detector [pixel, 0-based].
    flux, flux_err : ndarray of float, shape (n_obs,)
        Total flux of the star [DN/s] and its 1-sigma error, which should hold the photon and
        read-out noise; what it lacks is found. Rows that are not finite, or whose error is not
        positive, are left out.
    """

    exposure: np.ndarray
    star: np.ndarray
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    flux_err: np.ndarray

    def __post_init__(self) -> None:
        """Require columns of one length."""
        columns = (self.exposure, self.star, self.x, self.y, self.flux, self.flux_err)
        shapes = {np.shape(column) for column in columns}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise EvidenceError(
                "expected exposure, star, x, y, flux and flux_err to be columns of one length, "
                f"found shapes {sorted(shapes)}; give one row per measurement"
            )


@dataclass(frozen=True, slots=True)
class PreparedObservations:
    """Usable rows, sorted by fold, star and exposure, so that the order of the input is lost.

    Attributes
    ----------
    exposure, star : ndarray of intp, shape (n_used,)
        Row of `exposure_id`, row of `star_id`.
    x, y, flux, flux_err : ndarray of float64, shape (n_used,)
    exposure_id, star_id : ndarray
        What the caller calls them.
    fold : ndarray of intp, shape (n_stars,)
        Group of stars for cross-validation; rising.
    start : ndarray of intp, shape (n_stars + 1,)
        Where the rows of each star begin.
    component : ndarray of intp, shape (n_exposures,)
        Exposures of one component are linked by stars; others share none with them.
    n_left_out : dict
        Reason -> rows that are not used.
    """

    exposure: np.ndarray
    star: np.ndarray
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    flux_err: np.ndarray
    exposure_id: np.ndarray
    star_id: np.ndarray
    fold: np.ndarray
    start: np.ndarray
    component: np.ndarray
    n_left_out: dict[str, int]

    @property
    def n_used(self) -> int:
        """Number of rows."""
        return len(self.flux)

    @property
    def n_stars(self) -> int:
        """Number of stars."""
        return len(self.star_id)

    @property
    def n_exposures(self) -> int:
        """Number of exposures."""
        return len(self.exposure_id)

    @property
    def n_folds(self) -> int:
        """Number of groups of stars."""
        return int(self.fold[-1]) + 1

    @property
    def n_components(self) -> int:
        """Number of parts of the sky without a star in common."""
        return int(self.component.max()) + 1

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """Yield (rows, stars) of blocks that hold whole stars of one fold."""
        first = 0
        while first < self.n_stars:
            end_of_fold = int(np.searchsorted(self.fold, self.fold[first], side="right"))
            last = int(np.searchsorted(self.start, self.start[first] + _ROWS_AT_ONCE, "right")) - 1
            last = min(max(last, first + 1), end_of_fold)
            yield slice(int(self.start[first]), int(self.start[last])), slice(first, last)
            first = last

    def sum_by_star(self, values: np.ndarray) -> np.ndarray:
        """Sum values (n_used, ...) over the rows of each star: (n_stars, ...)."""
        return np.add.reduceat(values, self.start[:-1], axis=0)

    def select_stars(self, chosen: np.ndarray) -> "PreparedObservations":
        """Keep some stars (bool, n_stars) and every exposure."""
        rows = chosen[self.star]
        counts = np.diff(self.start)[chosen]
        renumber = np.cumsum(chosen) - 1
        return replace(
            self,
            **{k: getattr(self, k)[rows] for k in ("exposure", "x", "y", "flux", "flux_err")},
            star=renumber[self.star[rows]],
            star_id=self.star_id[chosen],
            fold=self.fold[chosen],
            start=np.concatenate([[0], np.cumsum(counts)]),
        )


def prepare_observations(
    observations: StarObservations, basis: FieldBasis, *, least_snr: float, n_folds: int
) -> PreparedObservations:
    """Leave out what is useless, number what is left, deal the stars into folds.

    Parameters
    ----------
    observations : StarObservations
    basis : FieldBasis
        Of the field that positions must lie in.
    least_snr : float
        Stars whose median signal-to-noise ratio is lower are left out whole: a cut on single
        measurements would keep the high ones of a faint star.
    n_folds : int
        Number of groups of stars.

    Returns
    -------
    PreparedObservations

    Raises
    ------
    EvidenceError
        When no star is left that was measured twice.
    """
    columns = {
        name: np.asarray(getattr(observations, name), np.float64)
        for name in ("x", "y", "flux", "flux_err")
    }
    finite = np.all([np.isfinite(column) for column in columns.values()], axis=0)
    finite &= columns["flux_err"] > 0
    inside = basis.contains(*(np.where(finite, columns[k], -np.inf) for k in ("x", "y")))
    left_out = {
        "not finite or without error": int(np.sum(~finite)),
        "outside the field": int(np.sum(finite & ~inside)),
    }
    keep = finite & inside
    exposure, star = np.asarray(observations.exposure), np.asarray(observations.star)
    for reason in ("faint star", "star measured once"):
        _, number, counts = np.unique(star[keep], return_inverse=True, return_counts=True)
        if reason == "faint star":
            snr = columns["flux"][keep] / columns["flux_err"][keep]
            bad = _take_medians(snr, number, counts) < least_snr
        else:
            bad = counts < 2
        left_out[reason] = int(np.sum(bad[number]))
        keep[keep] = ~bad[number]
    if not keep.any():
        raise EvidenceError(
            f"expected stars measured at two positions or more, found none among {len(keep)} "
            f"rows ({_list_counts(left_out)}); give dithered exposures of a field with stars, "
            "matched on the sky"
        )
    star_id, number = np.unique(star[keep], return_inverse=True)
    exposure_id, exposure_number = np.unique(exposure[keep], return_inverse=True)
    columns = {name: column[keep] for name, column in columns.items()}
    information = np.bincount(number, (columns["flux"] / columns["flux_err"]) ** 2)
    rank = np.empty(len(star_id), np.intp)
    rank[np.lexsort((star_id, -information))] = np.arange(len(star_id))
    by_fold = np.lexsort((star_id, rank % n_folds))
    place = np.empty_like(by_fold)
    place[by_fold] = np.arange(len(by_fold))
    star_number = place[number]
    order = np.lexsort((columns["flux"], columns["x"], columns["y"], exposure_number, star_number))
    counts = np.bincount(star_number)
    _, fold = np.unique((rank % n_folds)[by_fold], return_inverse=True)
    return PreparedObservations(
        exposure=exposure_number[order],
        star=star_number[order],
        **{name: column[order] for name, column in columns.items()},
        exposure_id=exposure_id,
        star_id=star_id[by_fold],
        fold=fold,
        start=np.concatenate([[0], np.cumsum(counts)]),
        component=_find_components(exposure_number, number),
        n_left_out=left_out,
    )


def _take_medians(values: np.ndarray, number: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Lower median of the values of each star: shape of `counts`."""
    ordered = values[np.lexsort((values, number))]
    return ordered[np.cumsum(counts) - counts + (counts - 1) // 2] if len(counts) else values


def _find_components(exposure: np.ndarray, star: np.ndarray) -> np.ndarray:
    """Find the component of each exposure."""
    n = int(exposure.max()) + 1
    size = n + int(star.max()) + 1
    graph = coo_array((np.ones(len(star), bool), (exposure, n + star)), shape=(size, size))
    return connected_components(graph, directed=False)[1][:n]


def _list_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in counts.items() if n) or "none left out"
