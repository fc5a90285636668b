"""What else the exposures of a flat tell of: stability of flat, PSF core and distortion."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.spatial import KDTree

from ..errors import EvidenceError
from .background import BackgroundTrend, find_background_trend
from .distortion import Distortion, find_distortion_drifts, measure_distortion
from .drifts import Drifts, Epochs, make_epochs
from .observations import StarObservations
from .psf_core import CoreDrifts, CoreTable, find_core_drifts
from .stability import PixelDrift, find_flat_drifts
from .starflat import StarFlat, solve_star_flat
from .stars import SkyOfPixel

__all__ = ["Change", "Monitors", "add_background", "add_pixels", "run_monitors"]

log = logging.getLogger(__name__)


# Error of a sky level, over the level: what its exposures scatter beyond that is found.
_LEVEL_ERROR = 1e-3
# Rolls within which blends look alike [deg]; distance of two centres of one star [pixel].
_ALIKE_DEG, _SAME_PIXEL = 10.0, 1.0


@dataclass(frozen=True, slots=True)
class Change:
    """One kind of change of one thing; numbers as in `Term`."""

    what: str
    term: str
    series: str
    value: float
    err: float
    upper_limit: float
    significant: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Monitors:
    """Changes in time, by what changes.

    Attributes
    ----------
    drifts : dict of str to Drifts
        'flat' [ln flux], 'PSF core' [relative], 'distortion' [arcsec] and 'distortion, linear'
        [1: scale, turn and shears]: those that can be told.
    reasons : dict of str to str
        Why the others cannot.
    cores : CoreDrifts or None
    distortion : Distortion or None
    background : BackgroundTrend or None
    pixels : PixelDrift or None
        Single pixels between an early and a late half.
    """

    drifts: dict[str, Drifts] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    cores: CoreDrifts | None = None
    distortion: Distortion | None = None
    background: BackgroundTrend | None = None
    pixels: PixelDrift | None = None

    @property
    def flat_drifts(self) -> bool:
        """Whether the flat changes from visit to visit."""
        return "flat" in self.drifts and self.drifts["flat"].verdict == "DRIFT"

    @property
    def verdicts(self) -> dict[str, str]:
        """Verdict on each, as `Drifts` gives it; of the background the believed terms."""
        found = {name: drifts.verdict for name, drifts in self.drifts.items()}
        if self.background is not None:
            believed = [term.name for term in self.background.terms if term.significant]
            told = any(not term.reason for term in self.background.terms)
            quiet = "STABLE" if told else "NOT MEASURABLE"
            found["background"] = ", ".join(believed).upper() or quiet
        if self.pixels is not None:
            found["pixels"] = "DRIFT" if self.pixels.drifts else "STABLE"
        return found | dict.fromkeys(self.reasons, "NOT MEASURABLE")

    def describe(self) -> list[str]:
        """Give the verdict on each, in a line."""
        return [
            f"Stability of the {name}: {verdict}"
            + (f" ({self.reasons[name]})" if name in self.reasons else "")
            for name, verdict in self.verdicts.items()
        ]

    def list_changes(self) -> Iterator[Change]:
        """List every term of every series."""
        for name, drifts in self.drifts.items():
            for term in drifts.terms:
                for k, series in enumerate(drifts.names):
                    yield Change(
                        name,
                        term.name,
                        series,
                        float(term.value[k]),
                        float(term.err[k]),
                        float(term.upper_limit[k]),
                        bool(term.significant[k]),
                        term.reason,
                    )
        if self.pixels is not None:
            yield from _list_pixels(self.pixels)
        for one in self.background.terms if self.background is not None else ():
            numbers = (float(one.value), float(one.err), float(one.upper_limit))
            yield Change(
                "background", one.name, "level", *numbers, bool(one.significant), one.reason
            )


def _list_pixels(drift: PixelDrift) -> Iterator[Change]:
    """List what single pixels do: all of them together, and how many of them changed."""
    term = "between halves"
    numbers = (drift.rms, drift.rms_err, drift.rms_limit)
    yield Change("pixels", term, "rms of all", *numbers, drift.all_drift, "")
    numbers = (float(drift.n_changed), drift.expected_false, np.nan)
    yield Change("pixels", term, "number changed", *numbers, drift.n_changed > 0, "")


def add_pixels(monitors: Monitors, drift: PixelDrift | None, reason: str) -> Monitors:
    """Add the change of single pixels, or why it cannot be told."""
    if drift is None:
        return replace(monitors, reasons=monitors.reasons | {"pixels": reason})
    return replace(monitors, pixels=drift)


def add_background(
    monitors: Monitors,
    level: np.ndarray,
    mid_mjd: np.ndarray,
    visit: np.ndarray,
    field_number: np.ndarray,
    sets: np.ndarray,
) -> Monitors:
    """Add the trend of the sky level; each of the arguments is an array of length n_exp."""
    try:
        trend = find_background_trend(
            level,
            _LEVEL_ERROR * np.abs(level),
            mid_mjd,
            visit.tolist(),
            field=field_number.tolist(),
            sets=sets.tolist(),
        )
    except EvidenceError as error:
        return replace(monitors, reasons=monitors.reasons | {"background": str(error)})
    return replace(monitors, background=trend)


@dataclass(frozen=True, slots=True)
class _Given:
    """What all monitors look at."""

    observations: StarObservations
    skies: Sequence[SkyOfPixel]
    rows: np.ndarray
    mid_mjd: np.ndarray
    visit: np.ndarray
    epochs: Epochs
    number: dict[int, int]
    lit: np.ndarray


def run_monitors(
    observations: StarObservations,
    cores: Sequence[CoreTable],
    skies: Sequence[SkyOfPixel],
    rows: np.ndarray,
    mid_mjd: np.ndarray,
    visit: np.ndarray,
    lit: np.ndarray,
    *,
    star: StarFlat,
    zero_point_scatter: float | None,
    fwhm: float,
) -> Monitors:
    """Run every monitor on the stars of exposures.

    Parameters
    ----------
    observations : StarObservations
        Of the exposures that count, by their numbers.
    cores : sequence of CoreTable, length n_exp
        By number of the exposure.
    skies : sequence of callable, length n_exp
        WCS of each exposure.
    rows : ndarray of int
        Numbers of the exposures that count.
    mid_mjd, visit : ndarray, shape (n_exp,)
        Mid-times [MJD] and numbers of the visits.
    lit : ndarray of bool, shape (ny, nx)
        Field of the star flat.
    star : StarFlat
        Of all exposures: its order is that of the flat by epoch.
    zero_point_scatter : float or None
        See `solve_star_flat`.
    fwhm : float
        Of a star [pixel].

    Returns
    -------
    Monitors
        What cannot be told is named, with the reason.
    """
    epochs = make_epochs(mid_mjd[rows], visit[rows].tolist())
    number = {int(row): int(n) for row, n in zip(rows, epochs.number, strict=True)}
    given = _Given(observations, skies, rows, mid_mjd[rows], visit[rows], epochs, number, lit)
    drifts: dict[str, Drifts] = {}
    reasons: dict[str, str] = {}

    def attempt(name: str, monitor: Callable[[], dict[str, Drifts]]) -> None:
        try:
            if len(epochs.mid_mjd) < 2:
                raise EvidenceError("expected two epochs or more, found one; add visits")
            drifts.update(monitor())
        except EvidenceError as error:
            reasons[name] = str(error)

    found: dict[str, CoreDrifts | Distortion] = {}
    attempt("flat", lambda: {"flat": _judge_flat(given, star, zero_point_scatter)})
    attempt("PSF core", lambda: _judge_cores(given, cores, found))
    attempt("distortion", lambda: _judge_distortion(given, fwhm, found))
    core, distortion = found.get("cores"), found.get("distortion")
    return Monitors(
        drifts,
        reasons,
        core if isinstance(core, CoreDrifts) else None,
        distortion if isinstance(distortion, Distortion) else None,
    )


def _judge_flat(given: _Given, star: StarFlat, zero_point_scatter: float | None) -> Drifts:
    """Solve the star flat with modes of each epoch, and look how they change."""
    flat = solve_star_flat(
        given.observations,
        given.lit,
        order=star.order,
        zero_point_scatter=zero_point_scatter,
        epoch=given.number,
    )
    kept = flat.epoch_id.astype(int)
    return find_flat_drifts(flat, given.epochs.mid_mjd[kept], given.epochs.visit[kept])


def _judge_cores(
    given: _Given, cores: Sequence[CoreTable], found: dict[str, CoreDrifts | Distortion]
) -> dict[str, Drifts]:
    """Look how the cores of stars change."""
    tables = [cores[int(k)] for k in given.rows]
    numbers = [_number_stars(given, int(k), cores[int(k)]) for k in given.rows]
    result = find_core_drifts(tables, given.mid_mjd, given.visit, given.lit, star=numbers)
    found["cores"] = result
    return {"PSF core": result.drifts}


def _number_stars(given: _Given, row: int, table: CoreTable) -> np.ndarray:
    """Give stars numbers, one for each roll that they are seen at: blends turn with it."""
    mine = given.observations.exposure == row
    if not mine.any() or not len(table.x):
        return np.full(len(table.x), -1)
    places = np.column_stack([given.observations.x[mine], given.observations.y[mine]])
    distance, nearest = KDTree(places).query(np.column_stack([table.x, table.y]))
    ny, nx = given.lit.shape
    ra, dec = given.skies[row](np.full(2, nx / 2), ny / 2 + np.array([-0.5, 0.5]))
    angle = np.arctan2((ra[1] - ra[0]) * np.cos(np.deg2rad(dec[0])), dec[1] - dec[0])
    roll = int(np.rint(np.rad2deg(angle) / _ALIKE_DEG)) % round(360 / _ALIKE_DEG)
    number = given.observations.star[mine][nearest] * round(360 / _ALIKE_DEG) + roll
    return np.where(distance < _SAME_PIXEL, number, -1)


def _judge_distortion(
    given: _Given, fwhm: float, found: dict[str, CoreDrifts | Distortion]
) -> dict[str, Drifts]:
    """Look how the distortion changes, its linear terms apart."""
    result = measure_distortion(
        given.observations, given.skies, given.lit, fwhm=fwhm, epoch=given.number
    )
    found["distortion"] = result
    kept = result.epoch_id.astype(int)
    place = {int(row): n for n, row in enumerate(given.rows)}
    exposures = [place[int(k)] for k in result.exposure_id]
    shape, linear = find_distortion_drifts(
        result,
        (given.epochs.mid_mjd[kept], given.epochs.visit[kept]),
        (given.mid_mjd[exposures], given.visit[exposures]),
    )
    return {"distortion": shape, "distortion, linear": linear}
