"""What else the exposures of a flat tell of: stability of flat, PSF core and distortion."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import EvidenceError
from .distortion import Distortion, find_distortion_drifts, measure_distortion
from .drifts import Drifts, Epochs, make_epochs
from .observations import StarObservations
from .psf_core import CoreDrifts, CoreTable, find_core_drifts
from .stability import find_flat_drifts
from .starflat import StarFlat, solve_star_flat
from .stars import SkyOfPixel

__all__ = ["Monitors", "run_monitors"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Monitors:
    """Changes in time, by what changes.

    Attributes
    ----------
    drifts : dict of str to Drifts
        'flat' [ln flux], 'PSF core' [relative], 'distortion' and 'distortion, linear' [arcsec]:
        those that can be told.
    reasons : dict of str to str
        Why the others cannot.
    cores : CoreDrifts or None
    distortion : Distortion or None
    """

    drifts: dict[str, Drifts] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    cores: CoreDrifts | None = None
    distortion: Distortion | None = None

    @property
    def flat_drifts(self) -> bool:
        """Whether the flat changes from visit to visit."""
        return "flat" in self.drifts and self.drifts["flat"].verdict == "DRIFT"

    def describe(self) -> list[str]:
        """Give the verdict on each, in a line."""
        lines = [f"Stability of the {name}: {found.verdict}" for name, found in self.drifts.items()]
        return lines + [
            f"Stability of the {name}: NOT MEASURABLE ({why})" for name, why in self.reasons.items()
        ]


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
    result = find_core_drifts(
        [cores[int(k)] for k in given.rows], given.mid_mjd, given.visit, given.lit
    )
    found["cores"] = result
    return {"PSF core": result.drifts}


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
