"""Real NIRCam maps of two dates, injected in simulated exposures: do they come back?

The numbers that `benchmarks/bench_nircam_maps.py` prints for the full frame are judged here for
a window of 640 x 640 pixels.
"""

import sys
from pathlib import Path

import pytest

from jwst_tvbadpix.simulate import Region
from jwst_tvbadpix.steps import TimeVariableBadPixel

ROOT = Path(__file__).resolve().parents[1]
MAPS = ROOT.parent / "shared" / "realdata" / "nircam_badpix"
sys.path.insert(0, str(ROOT / "benchmarks"))

import bench_nircam_maps as bench  # noqa: E402  # benchmarks are scripts, not a package

pytestmark = pytest.mark.skipif(
    not MAPS.is_dir(), reason="the NIRCam maps of ../shared/realdata are absent"
)
WINDOW = Region("SUB640", 700, 700, 640, 640)


@pytest.fixture(scope="module", params=["NRCALONG", "NRCBLONG"])
def scores(request, tmp_path_factory):
    exposures = bench.simulate(
        tmp_path_factory.mktemp("maps"),
        MAPS,
        detector=request.param,
        region=WINDOW,
        n_exposures=12,
        seed=240627,
    )
    history, *_ = TimeVariableBadPixel.call([str(path) for path in exposures.paths])
    return bench.score(exposures, history)


def test_maps_are_those_of_the_readme():
    first, last = (
        bench.read_map(MAPS, date, "NRCALONG") for date in (bench.FIRST_MAP, bench.LAST_MAP)
    )
    assert (first.sum(), last.sum()) == (2051, 3103)
    assert not (first & ~last).any()


def test_the_right_pixels_come_back(scores):
    assert min(scores.n_true) > 100
    assert min(scores.precision) > 0.95
    assert min(scores.recall) > 0.9
    # Clusters of adjacent bad pixels included.
    assert min(scores.recall_bright) > 0.97
    assert sum(n for size, (n, _) in scores.recall_by_size.items() if size > 1) > 30


def test_at_the_right_dates(scores):
    assert scores.n_onsets > 40
    assert scores.n_dated > 0.9 * scores.n_onsets
    assert scores.n_within_one > 0.95 * scores.n_dated
    assert scores.n_early < 0.05 * scores.n_dated
