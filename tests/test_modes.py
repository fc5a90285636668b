"""Every mode that is simulated goes through the step, and its bright defects come back in time."""

from dataclasses import dataclass

import numpy as np
import pytest
from astropy.time import Time
from scipy.ndimage import binary_dilation

from jwst_tvbadpix.detectors import get_detector
from jwst_tvbadpix.refmodels import compose_dq
from jwst_tvbadpix.simulate import (
    Defects,
    ExposureSpec,
    Region,
    draw_specs,
    find_region,
    make_defects,
    simulate_programme,
)
from jwst_tvbadpix.steps import TimeVariableBadPixel

START, END = "2023-01-01", "2026-01-01"
SEED = 5
N_EXPOSURES = 9
# Defects stand alone, a cell of this many pixels for each.
CELL = 12


@dataclass(frozen=True)
class Case:
    """A mode on little data; amplitude is the median of the defects [DN/s]."""

    mode: str
    detector: str
    region: Region
    amplitude: float
    most_false: int = 10


CASES = {
    "slitless": Case("slitless", "MIRIMAGE", find_region("SLITLESSPRISM"), 10.0),
    "imaging": Case("imaging", "MIRIMAGE", find_region("SUB256"), 10.0),
    # The MRS reads full frames only: a cut with both channels and the gap between them.
    "mrs-short": Case("mrs", "MIRIFUSHORT", Region("FULL", 450, 400, 160, 240), 2.0),
    # Each band has its slices elsewhere, which bends the surroundings of a pixel differently: some
    # pixels of the bright channel 4 are taken for warm ones.
    "mrs-long": Case("mrs", "MIRIFULONG", Region("FULL", 450, 400, 160, 240), 8.0, 30),
    "nirspec": Case("nirspec", "NRS1", Region("SUBS200A1", 890, 0, 64, 2048), 6.0),
    "nircam-long": Case("nircam", "NRCALONG", Region("SUB320", 0, 0, 320, 320), 2.0),
    "nircam-short": Case("nircam", "NRCB2", Region("SUB160", 1888, 0, 160, 160), 2.0),
}


@dataclass(frozen=True)
class Outcome:
    """What was put in, and what the mask of each exposure holds."""

    defects: Defects
    state: np.ndarray  # (n_exposures, n) whether each defect is bad
    found: np.ndarray  # (n_exposures, n) whether each is flagged
    n_false: np.ndarray  # (n_exposures,) other flagged pixels, neighbours of defects left out
    most_false: int


def draw_isolated(case: Case, specs: tuple[ExposureSpec, ...]) -> Defects:
    """A third bad from the start, the others from the middle between two exposures on."""
    rng = np.random.default_rng(SEED)
    region, middles = case.region, np.array([spec.mid_mjd for spec in specs])
    rows = np.arange(region.y_start + 8, region.y_start + region.ny - 8, CELL)
    columns = np.arange(region.x_start + 8, region.x_start + region.nx - 8, CELL)
    cells = np.stack(np.meshgrid(rows, columns), axis=-1).reshape(-1, 2)
    y, x = rng.permutation(cells)[:150].T
    first = rng.integers(2, len(specs) - 2, y.size)
    onset = 0.5 * (middles[first - 1] + middles[first])
    onset[: y.size // 3] = -np.inf
    amplitude = case.amplitude * 10 ** rng.normal(0, 0.2, y.size)
    return make_defects(case.detector, y, x, amplitude=amplitude, onset_mjd=onset)


def run_case(case: Case, folder) -> Outcome:
    """Simulate, run the step as a user does, compare with the truth."""
    settings = {"mode": case.mode, "detector": case.detector, "region": case.region}
    dates = {"start_mjd": Time(START).mjd, "end_mjd": Time(END).mjd}
    specs = draw_specs(**settings, **dates, n_exposures=N_EXPOSURES, seed=SEED)
    defects = draw_isolated(case, specs)
    programme = simulate_programme(
        folder,
        **settings,
        n_exposures=N_EXPOSURES,
        start=START,
        end=END,
        seed=SEED,
        defects=defects,
    )
    assert programme.specs == specs
    history, *_ = TimeVariableBadPixel.call(str(programme.association))
    at = defects.y, defects.x
    near = np.zeros(get_detector(case.detector).shape, bool)
    near[at] = True
    near = binary_dilation(near)  # crosstalk: real counts, no defect
    near |= get_detector(case.detector).reference_pixels()
    flagged = [compose_dq(history, spec.mid_mjd) & 1 != 0 for spec in specs]
    return Outcome(
        defects,
        np.stack([defects.state(spec.mid_mjd) for spec in specs]),
        np.stack([one[at] for one in flagged]),
        np.array([(one & ~near).sum() for one in flagged]),
        case.most_false,
    )


@pytest.fixture(scope="module", params=CASES)
def outcome(request, tmp_path_factory):
    return run_case(CASES[request.param], tmp_path_factory.mktemp(request.param))


def test_bright_defects_are_found(outcome):
    assert len(outcome.defects) > 100
    assert outcome.found[outcome.state].mean() > 0.9
    assert outcome.n_false.max() <= outcome.most_false


def test_they_turn_on_when_they_did(outcome):
    turned_on = ~outcome.defects.initially_bad
    first_true = outcome.state.argmax(axis=0)
    first_found = outcome.found.argmax(axis=0)
    dated = turned_on & outcome.found.any(axis=0)
    assert dated.sum() > 0.9 * turned_on.sum()
    assert (np.abs(first_found - first_true)[dated] <= 1).mean() > 0.95
    assert (first_found == first_true)[dated].mean() > 0.8
    # Nor is anything flagged before it turned on, but by a rare one.
    assert outcome.found[~outcome.state].mean() < 0.02
